"""What the store needs of a database, and which one a URL means.

In the room: the protocols, and the choice. Not in the room: any database's own ways; those have a module each (`sqlite`,
`postgresql`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol

from sqlalchemy import Connection, Engine

from kipuka.api.errors import StartupError

__all__ = ["COMMIT_LIMIT", "Dialect", "Journal", "NodeLost", "OutcomeUnknown", "dialect_for"]

COMMIT_LIMIT = timedelta(seconds=20)
"""How long a transaction may take or wait for its turn, unless `[db] commit_timeout` says otherwise."""


class NodeLost(Exception):
    """Another server has been started under this server's name: the database takes nothing of this one any more."""


class OutcomeUnknown(Exception):
    """A COMMIT was not answered, and the database cannot be asked what became of it."""


class Journal(Protocol):
    """Which transaction of a writer was the last to be committed, for one whose COMMIT is not answered."""

    def begin(self, connection: Connection) -> None:
        """The first thing in a transaction: it follows the last that is known. Raises `NodeLost`."""
        ...

    def done(self) -> None:
        """The transaction was committed."""
        ...

    def is_unanswered(self, error: BaseException) -> bool:
        """Whether an error of COMMIT leaves open what became of the transaction."""
        ...

    def look_up(self, engine: Engine) -> bool:
        """Whether the transaction whose COMMIT was not answered did happen, which then counts as done; if not, it cannot happen any more.

        Raises what the database raises when it cannot be asked, and `NodeLost`.
        """
        ...

    def leave(self, engine: Engine) -> None:
        """The writer ends."""
        ...


class Dialect(Protocol):
    """One database, opened by one process."""

    def create(self) -> None:
        """Make the database where it is missing and that can be done. Raises `StartupError`, or `BackendUnavailable`."""
        ...

    def exists(self) -> bool:
        """Whether there is a database at all. Raises `StartupError` for one that cannot be used, or `BackendUnavailable`."""
        ...

    def open(self, *, node: str = "", run: str | None = None) -> None:
        """Take what is held as long as the store is open. Raises `StartupError`.

        `run` is what the node was claimed with; None for a command, which writes beside the server.
        """
        ...

    def close(self) -> None:
        """Give back what `open` and `claim_node` took."""
        ...

    def claim_node(self, node: str, run: str) -> None:
        """Be the only server of that node until `close`, under a name for this start that was never used before.

        Raises `AlreadyRunning`, `StartupError`, or `BackendUnavailable`.
        """
        ...

    def writer_engine(self) -> Engine:
        """An engine with one connection, whose transactions are writing ones from their begin."""
        ...

    def reader_engine(self, connections: int) -> Engine:
        """An engine whose transactions see one state and cannot write."""
        ...

    def schema_engine(self) -> Engine:
        """An engine with one connection, whose transactions change the schema, one after the other, and may take their time."""
        ...

    def journal(self) -> Journal:
        """The journal of this process's writer."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """Hold this process's turn to write."""
        ...

    def lock(self, connection: Connection, name: str) -> None:
        """Wait until no other transaction has locked that name, and hold it until this one ends."""
        ...

    def is_away(self, error: BaseException) -> bool:
        """Whether the database cannot be used at the moment, as against a statement that is wrong."""
        ...

    def is_cut(self, error: BaseException) -> bool:
        """Whether the connection was lost, so that the same may work over a new one."""
        ...

    def is_conflict(self, error: BaseException) -> bool:
        """Whether it failed over what another transaction did meanwhile, so that the same may work now."""
        ...

    def explained(self, error: BaseException) -> Exception | None:
        """The error as an administrator is told it, where it is the database's or its administrator's to mend; else None."""
        ...


def dialect_for(url: str, *, limit: timedelta = COMMIT_LIMIT) -> Dialect:
    """The database at `[db] url`. Raises `StartupError` for one that cannot be used."""
    # A dialect's driver is imported when it is used.
    if url.startswith("postgresql:"):
        try:
            from kipuka.store.postgresql import PostgreSQL
        except ImportError as error:
            msg = "[db] url: PostgreSQL needs its driver: pip install 'kipuka[postgresql]'"
            raise StartupError(msg) from error
        return PostgreSQL(url, limit=limit)
    if url.startswith("sqlite:"):
        from kipuka.store.sqlite import SQLite

        return SQLite(url, limit=limit)
    msg = "[db] url: write sqlite:///PATH, as in sqlite:///kipuka.db, or postgresql://USER@HOST/DATABASE"
    raise StartupError(msg)
