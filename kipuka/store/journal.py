"""What became of a transaction whose COMMIT was not answered, and whether its server may still write.

In the room: the row that each writer has in the table `writers`, on databases where a connection can break between COMMIT and its
answer. Not in the room: how a writer gets its row, and loses it (`kipuka.store.postgresql`).

Every transaction begins by raising the number in its writer's row from that of the last transaction. So the row tells which was
committed last; it is locked as long as a transaction may still be committed, so that whoever asks waits for its end; and a
transaction that follows one that was thought lost, but was not, changes no row. A server whose node was taken over has no
row: nothing it writes is taken.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, bindparam, delete, select, update
from sqlalchemy.exc import DBAPIError

from kipuka.store.dialect import NodeLost
from kipuka.store.tables import writers

__all__ = ["NoJournal", "WriterJournal"]

_FOLLOW = (
    update(writers)
    .where(writers.c.id == bindparam("of_writer"), writers.c.number == bindparam("last"))
    .values(number=bindparam("next"))
)
_LAST = select(writers.c.number).where(writers.c.id == bindparam("of_writer")).with_for_update()


class NoJournal:
    """For a database in this machine's files: a COMMIT that failed did not happen."""

    def begin(self, connection: Connection) -> None:
        """Nothing is kept."""

    def done(self) -> None:
        """Nothing is kept."""

    def is_unanswered(self, error: BaseException) -> bool:
        """Never."""
        del error
        return False

    def look_up(self, engine: Engine) -> bool:
        """Nothing is ever open."""
        del engine
        return False

    def leave(self, engine: Engine) -> None:
        """Nothing is kept."""


class WriterJournal:
    """One writer's row. For one thread."""

    def __init__(self, writer: str) -> None:
        self._writer = writer
        self._last = 0  # the number of the last transaction that is known to be committed
        self._open = False  # what became of the one after it was never learned

    def begin(self, connection: Connection) -> None:
        """Raise the number. Raises `NodeLost` where the row has gone, or is another transaction's."""
        if self._open:
            self._learn(connection)
        numbers = {"of_writer": self._writer, "last": self._last, "next": self._last + 1}
        if connection.execute(_FOLLOW, numbers).rowcount != 1:
            raise _node_lost()

    def done(self) -> None:
        """The next transaction follows this one."""
        self._last += 1

    def is_unanswered(self, error: BaseException) -> bool:
        """Anything but an answer of the database over a connection that still stands."""
        self._open = not isinstance(error, DBAPIError) or error.connection_invalidated
        return self._open

    def look_up(self, engine: Engine) -> bool:
        """Ask the row, over a new connection; waits while the transaction may still be committed."""
        before = self._last
        with engine.connect() as connection, connection.begin():
            self._learn(connection)
        return self._last > before

    def _learn(self, connection: Connection) -> None:
        number = connection.execute(_LAST, {"of_writer": self._writer}).scalar_one_or_none()
        if number is None:
            raise _node_lost()
        self._last, self._open = number, False

    def leave(self, engine: Engine) -> None:
        """Remove the row. Raises what the database raises."""
        with engine.connect() as connection, connection.begin():
            connection.execute(delete(writers).where(writers.c.id == self._writer))


def _node_lost() -> NodeLost:
    return NodeLost("another server was started with this [server] node: this one writes no more")
