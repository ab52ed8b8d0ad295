"""What the store needs of a database, and which one a URL means.

In the room: the protocol, and the choice. Not in the room: any database's own ways; those have a module each (`sqlite`).

A database across a network adds a module here. It also has to look up a commit whose answer was lost before it
replays anything, which SQLite never needs: there a COMMIT that failed is known not to have happened.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from sqlalchemy import Engine

from kipuka.api.errors import StartupError

__all__ = ["Dialect", "dialect_for"]


class Dialect(Protocol):
    """One database, opened by one process."""

    def create(self) -> None:
        """Make the database where it is missing. Raises `StartupError`."""
        ...

    def exists(self) -> bool:
        """Whether there is a database at all."""
        ...

    def open(self) -> None:
        """Take what is held as long as the store is open. Raises `StartupError`."""
        ...

    def close(self) -> None:
        """Give back what `open` and `claim_node` took."""
        ...

    def claim_node(self, node: str) -> None:
        """Be the only server of that node until `close`. Raises `AlreadyRunning`."""
        ...

    def writer_engine(self) -> Engine:
        """An engine with one connection, whose transactions are writing ones from their begin."""
        ...

    def reader_engine(self, connections: int) -> Engine:
        """An engine whose transactions see one state and cannot write."""
        ...

    def turn(self) -> AbstractContextManager[None]:
        """Hold this process's turn to write."""
        ...

    def is_away(self, error: BaseException) -> bool:
        """Whether the database cannot be used at the moment, as against a statement that is wrong."""
        ...


def dialect_for(url: str) -> Dialect:
    """The database at `[db] url`. Raises `StartupError` for one that this version cannot use."""
    scheme = url.partition(":")[0].partition("+")[0]
    if scheme in {"postgresql", "postgres"}:
        msg = "[db] url: PostgreSQL is not available in this version; write sqlite:///PATH"
        raise StartupError(msg)
    if scheme == "sqlite":
        from kipuka.store.sqlite import SQLite  # a dialect's driver is imported when it is used

        return SQLite(url)
    msg = "[db] url: the URL of an SQLite file is needed, as in sqlite:///kipuka.db"
    raise StartupError(msg)
