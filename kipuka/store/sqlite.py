"""SQLite: one file, write-ahead log, every commit on disk before it is answered.

In the room: pragmas, file modes, whose turn it is, what SQLite's errors mean. Not in the room: tables.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote, unquote

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from kipuka.api.errors import AlreadyRunning, StartupError
from kipuka.store.dialect import COMMIT_LIMIT
from kipuka.store.journal import NoJournal
from kipuka.store.turnstile import Turnstile, TurnstileBlocked, lock_file

__all__ = ["DatabaseReplaced", "SQLite"]

_PREFIX = "sqlite:///"
_AWAY = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)


class DatabaseReplaced(Exception):
    """The file was moved, removed or replaced while it was in use."""


class SQLite:
    """The database of a `sqlite:///PATH` URL. Beside the file stand its `-wal` and `-shm`, and the lock files."""

    def __init__(self, url: str, *, limit: timedelta = COMMIT_LIMIT) -> None:
        path = url.removeprefix(_PREFIX)
        if not url.startswith(_PREFIX) or not path or path.startswith(":memory:"):
            msg = "[db] url: the URL of an SQLite file is needed, as in sqlite:///kipuka.db"
            raise StartupError(msg)
        if sqlite3.sqlite_version_info < (3, 35):
            msg = f"SQLite 3.35 or newer is needed, this Python has {sqlite3.sqlite_version}"
            raise StartupError(msg)
        self.path = Path(path)
        self._limit = limit
        self._turnstile: Turnstile | None = None
        self._node_locks: list[int] = []
        self._file: tuple[int, int] | None = None

    def exists(self) -> bool:
        """Whether the file is there and has anything in it."""
        try:
            return self.path.stat().st_size > 0
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._startup_error(error) from error

    def create(self) -> None:
        """Make an empty file for its owner only; SQLite gives its log the same mode."""
        try:
            # Only a new file is opened here: closing another descriptor of a database in use drops SQLite's locks on it.
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return
        except OSError as error:
            raise self._startup_error(error) from error

    def open(self, *, node: str = "", run: str | None = None) -> None:
        """Note which file it is, and take a place at the turnstile."""
        del node, run  # the lock of `claim_node` tells servers from one another
        try:
            self._file = self._which_file()
            self._turnstile = Turnstile(self.path, limit=self._limit)
        except OSError as error:
            raise self._startup_error(error) from error

    def close(self) -> None:
        """Let go of the locks."""
        if self._turnstile is not None:
            self._turnstile.close()
            self._turnstile = None
        while self._node_locks:
            os.close(self._node_locks.pop())

    def claim_node(self, node: str, run: str) -> None:
        """Lock `<file>-node-<node>.lock` until `close`, or the end of the process."""
        del run  # a lock that is held needs no name
        self._lock_node(node)

    def claim_every_node(self, node: str) -> None:
        """Lock that node's file and those of all nodes that ever worked on this database, as `claim_node` does. Raises `AlreadyRunning`."""
        before, after = f"{self.path.name}-node-", ".lock"
        try:
            names = [path.name for path in self.path.parent.iterdir()]
        except OSError as error:
            raise self._startup_error(error) from error
        found = {
            unquote(name.removeprefix(before).removesuffix(after))
            for name in names
            if name.startswith(before) and name.endswith(after)
        }
        for one in sorted({node, *found}):
            self._lock_node(one)

    def _lock_node(self, node: str) -> None:
        name = f"{self.path.name}-node-{quote(node, safe='')}.lock"
        try:
            descriptor = lock_file(self.path.with_name(name))
        except OSError as error:
            raise self._startup_error(error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            msg = f"another kipuka server with [server] node = {node!r} works on {self.path}"
            raise AlreadyRunning(msg) from None
        self._node_locks.append(descriptor)

    @contextmanager
    def turn(self) -> Generator[None]:
        """Hold this process's turn to write.

        Raises `DatabaseReplaced` when the path is another file's by now: an open connection would write to the old one for ever,
        which nobody sees again.
        """
        if self._turnstile is None:
            msg = "the database is not open"
            raise RuntimeError(msg)
        with self._turnstile.turn():
            if self._which_file() != self._file:
                msg = f"{self.path} is not the file that was opened: it was moved, removed or replaced"
                raise DatabaseReplaced(msg)
            yield

    def writer_engine(self) -> Engine:
        """One connection; transactions take SQLite's write lock at once."""
        return self._engine(begin="BEGIN IMMEDIATE", connections=1, query_only=False)

    def reader_engine(self, connections: int) -> Engine:
        """Connections that refuse to write."""
        return self._engine(begin="BEGIN", connections=connections, query_only=True)

    def schema_engine(self) -> Engine:
        """The writer's: whoever has the turn is alone."""
        return self.writer_engine()

    def journal(self) -> NoJournal:
        """None is needed."""
        return NoJournal()

    def lock(self, connection: Connection, name: str) -> None:
        """Whoever writes is alone anyway."""

    def is_cut(self, error: BaseException) -> bool:
        """Never: there is no connection to a file that could be lost."""
        del error
        return False

    def is_conflict(self, error: BaseException) -> bool:
        """Never: whoever writes is alone."""
        del error
        return False

    def explained(self, error: BaseException) -> Exception | None:
        """What SQLite says is told as it is."""
        del error
        return None

    def is_away(self, error: BaseException) -> bool:
        """Disk full, read-only, unreadable, locked for too long."""
        if isinstance(error, TurnstileBlocked | DatabaseReplaced):
            return True
        original = error.orig if isinstance(error, DBAPIError) else error
        code = getattr(original, "sqlite_errorcode", None) if isinstance(original, sqlite3.Error) else None
        return code is not None and code & 0xFF in _AWAY

    def _engine(self, *, begin: str, connections: int, query_only: bool) -> Engine:
        # mode=rw: a database that has gone away is an error, not a new and empty one.
        uri = f"file:{quote(str(self.path.absolute()))}?mode=rw"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                uri,
                uri=True,
                timeout=self._limit.total_seconds(),
                isolation_level=None,  # the driver begins nothing by itself; see begin_transaction below
                check_same_thread=False,
            )
            try:
                self._prepare(connection, query_only=query_only)
            except BaseException:
                connection.close()
                raise
            return connection

        engine = create_engine(
            "sqlite://",
            creator=connect,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
        )

        def begin_transaction(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        event.listen(engine, "begin", begin_transaction)
        return engine

    def _prepare(self, connection: sqlite3.Connection, *, query_only: bool) -> None:
        connection.text_factory = _text  # what somebody else wrote may be no text; whoever verifies has to see it
        connection.execute(f"PRAGMA busy_timeout={self._limit // timedelta(milliseconds=1)}").close()
        if connection.execute("PRAGMA journal_mode=WAL").fetchall() != [("wal",)]:
            msg = f"the database {self.path}: its file system does not allow a write-ahead log"
            raise StartupError(msg)
        for pragma in ("synchronous=FULL", "foreign_keys=ON", f"query_only={'ON' if query_only else 'OFF'}"):
            connection.execute(f"PRAGMA {pragma}").close()

    def _which_file(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def _startup_error(self, error: OSError) -> StartupError:
        return StartupError(f"the database {self.path}: {error.strerror}")


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "surrogateescape")
