"""PostgreSQL: one database that several nodes share.

In the room: connections and what is set on them, whose node is whose, what PostgreSQL's errors mean. Not in the room: tables, and
what became of a COMMIT without an answer (`kipuka.store.journal`).

Time is bounded on both ends of a connection. The server gives up a statement, or the wait for a lock, after the limit. Where it
does not answer at all, because its machine is away or it was stopped, the client gives up a little later, and closes.

A node belongs to the start of a server that claimed it last. While the database can see a server, nobody else can claim its name:
each of its writers' connections holds a shared advisory lock. A server that the database has lost sight of can be followed by
another; that one removes the rows that the writers of the first would need (`writers`), so that of two servers of one name
only the later can write. Claiming takes one connection for a moment: the process that forks workers keeps none.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, unquote, urlsplit

import psycopg
import structlog
from psycopg import errors, pq
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from sqlalchemy import Connection, Engine, create_engine, event, func, select
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from kipuka.api.errors import AlreadyRunning, BackendUnavailable, SchemaError, StartupError
from kipuka.api.storage import timestamp
from kipuka.store.dialect import COMMIT_LIMIT, NodeLost, OutcomeUnknown
from kipuka.store.journal import WriterJournal

__all__ = ["PostgreSQL", "lock_key"]

log = structlog.get_logger(__name__)

RV = TypeVar("RV")

_OLDEST = 130000
_CONNECT_LIMIT = 5
"""Seconds to connect, for each address, unless the URL says otherwise (`connect_timeout`)."""
_GRACE = timedelta(seconds=2)
"""How much longer than the server the client waits: its answer says more than a closed connection."""
_KEEP_ALIVE = {"idle": 10, "interval": 5, "count": 3}
"""A peer that has vanished is noticed within half a minute, by either end."""
_DEAD_SERVERS_LOCK = timedelta(seconds=5)
"""How long after a server's death the database may take to notice that its connections are closed."""
_ABANDONED = timedelta(days=1)
"""A command's writer that is older has ended without removing its row."""

# Classes of SQLSTATE, and single ones, that say that the database cannot be used now.
_AWAY = (
    "08",  # connection
    "25006",  # read-only: a standby
    "25P03",  # idle in transaction for too long
    "28",  # not let in
    "3D000",  # no such database
    "42501",  # not permitted
    "40",  # another transaction came first, again and again
    "53",  # disk, memory or connections used up
    "55P03",  # a lock was not to be had in time
    "57014",  # the statement took too long
    "57P",  # it is stopping, or starting
    "58",  # the system under it failed
    "F0",
    "XX",
)
_CONFLICT = ("40001", "40P01", "23505")
"""Serialization, deadlock, and a row that somebody else has added since we looked: the unit looks again."""


class PostgreSQL:
    """The database of a `postgresql://` URL, as libpq reads it."""

    def __init__(self, url: str, *, limit: timedelta = COMMIT_LIMIT) -> None:
        self._limit = limit
        self._conninfo, self.name = _read(url)
        self._node = ""
        self._run: str | None = None
        self._writer = secrets.token_hex(16)
        self._warned = False

    # --- what is there ---

    def exists(self) -> bool:
        """Connect, and see that the server keeps what it says it keeps."""
        with self._short():
            return True

    def create(self) -> None:
        """A database is made by whoever administers the server: see that it is there."""
        self.exists()

    def open(self, *, node: str = "", run: str | None = None) -> None:
        """Note who writes. Connections are made when they are needed."""
        self._node, self._run = node, run

    def close(self) -> None:
        """Nothing is held but by connections, which their engines close."""

    def claim_node(self, node: str, run: str) -> None:
        """Write down that the node belongs to `run`, unless a living server has it; afterwards no connection is left."""
        with self._short() as connection:
            key = lock_key("node", node)
            patience = time.monotonic() + _DEAD_SERVERS_LOCK.total_seconds()
            while not _single(connection, "SELECT pg_try_advisory_lock(%s)", key):
                if time.monotonic() >= patience:
                    msg = f"another kipuka server with [server] node = {node!r} works on {self.name}"
                    raise AlreadyRunning(msg)
                time.sleep(0.05)
            now = datetime.now(UTC)
            try:
                with connection.transaction():
                    connection.execute(
                        "INSERT INTO nodes (name, run, since) VALUES (%s, %s, %s)"
                        " ON CONFLICT (name) DO UPDATE SET run = excluded.run, since = excluded.since",
                        (node, run, timestamp(now)),
                    )
                    connection.execute(
                        "DELETE FROM writers WHERE node = %s AND (run IS NOT NULL OR since < %s)",
                        (node, timestamp(now - _ABANDONED)),
                    )
            except errors.UndefinedTable as error:
                msg = f"{self.name} has not the tables that this version needs: run `kipuka db upgrade`"
                raise SchemaError(msg) from error
            # Before the connection is closed: its end may take a moment, and the workers want the lock at once.
            connection.execute("SELECT pg_advisory_unlock(%s)", (key,))

    # --- engines ---

    def writer_engine(self) -> Engine:
        """READ COMMITTED; every row that a decision rests on is locked, or changed under a condition."""
        return self._engine(connections=1, writes=True, limit=self._limit)

    def reader_engine(self, connections: int) -> Engine:
        """REPEATABLE READ, READ ONLY: one state, of the moment of the first statement."""
        return self._engine(connections=connections, writes=False, limit=self._limit)

    def schema_engine(self) -> Engine:
        """Without limits of time; one upgrade waits for the other."""
        engine = self._engine(connections=1, writes=True, limit=None)

        def begin(connection: Connection) -> None:
            connection.execute(select(func.pg_advisory_xact_lock(lock_key("schema"))))

        event.listen(engine, "begin", begin)
        return engine

    def journal(self) -> WriterJournal:
        """The row of this process's writer."""
        return WriterJournal(self._writer)

    def turn(self) -> nullcontext[None]:
        """Everybody writes at once."""
        return nullcontext()

    def lock(self, connection: Connection, name: str) -> None:
        """An advisory lock to the end of the transaction."""
        connection.execute(select(func.pg_advisory_xact_lock(lock_key("tx", name))))

    # --- errors ---

    def is_away(self, error: BaseException) -> bool:
        """Connection lost or refused, server starting or stopping, read-only, full, too slow, node taken over."""
        if isinstance(error, NodeLost | OutcomeUnknown | StartupError):
            return True
        original = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(original, psycopg.Error):
            return False
        if original.sqlstate is None:  # it comes from the client's end
            return isinstance(original, psycopg.OperationalError | psycopg.InterfaceError)
        return original.sqlstate.startswith(_AWAY)

    def is_cut(self, error: BaseException) -> bool:
        """A connection that had stood was closed by the other end."""
        if not isinstance(error, DBAPIError) or not error.connection_invalidated:
            return False
        return not isinstance(error.orig, _NoAnswer)  # that would only take as long again

    def is_conflict(self, error: BaseException) -> bool:
        """Deadlock, serialization failure, a row that is there already."""
        original = error.orig if isinstance(error, DBAPIError) else error
        return isinstance(original, psycopg.Error) and original.sqlstate in _CONFLICT

    def explained(self, error: BaseException) -> Exception | None:
        """As at the start: what to mend, or that it is away."""
        original = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(original, psycopg.Error) and self.is_away(error):
            return self._explain(original)
        return None

    def _explain(self, error: psycopg.Error) -> Exception:
        """Not let in, no such database, not permitted: that is to be mended. The rest may pass."""
        text = _one_line(error)
        state = error.sqlstate or ""
        if state.startswith("42501"):
            return StartupError(
                f"{self.name}: {text}; let the user of [db] url do it, for instance by owning the database"
            )
        told = (
            "does not exist",
            "authentication failed",
            "no password supplied",
            "certificate verify failed",
            "invalid ",
        )
        if state.startswith(("28", "3D000")) or (not state and any(part in text for part in told)):
            return StartupError(f"{self.name}: {text}")
        return BackendUnavailable(f"{self.name}: {text}", reason="store_unavailable")

    # --- connections ---

    @contextmanager
    def _short(self) -> Generator[_Connection]:
        """A connection for a moment, outside of any engine, each statement a transaction of its own."""
        try:
            connection = self._connect(application="kipuka", limit=self._limit)
        except psycopg.Error as error:
            raise self._explain(error) from error
        try:
            with connection:
                yield connection
        except psycopg.Error as error:
            raise (self.explained(error) or error) from error

    def _connect(self, *, application: str, limit: timedelta | None) -> _Connection:
        """Connect, and set what a connection of kipuka needs. Raises psycopg's errors, and `StartupError`."""
        conninfo = make_conninfo(self._conninfo, fallback_application_name=application)
        connection = _Connection.connect(conninfo, autocommit=True)
        try:
            self._prepare(connection, limit)
        except BaseException:
            connection.close()
            raise
        connection.limit = None if limit is None else (limit + _GRACE).total_seconds()
        return connection

    def _prepare(self, connection: _Connection, limit: timedelta | None) -> None:
        milliseconds = 0 if limit is None else limit // timedelta(milliseconds=1)
        settings = {
            "statement_timeout": milliseconds,
            "lock_timeout": milliseconds,
            "idle_in_transaction_session_timeout": 2 * milliseconds,
            **{f"tcp_keepalives_{name}": value for name, value in _KEEP_ALIVE.items()},
        }
        columns = ", ".join("set_config(%s, %s, false)" for _ in settings)
        values = [text for name, value in settings.items() for text in (name, str(value))]
        connection.execute(
            cast("Any", f"SELECT {columns}"),  # names and values are parameters
            values,
        )
        asked = (
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'), current_setting('server_encoding')"
        )
        fsync, synchronous, encoding = cast("tuple[str, str, str]", connection.execute(asked).fetchone())
        if connection.info.server_version < _OLDEST:
            raise StartupError(f"{self.name}: PostgreSQL 13 or newer is needed")
        if encoding != "UTF8":
            raise StartupError(f"{self.name}: its encoding is {encoding}; make the database with ENCODING 'UTF8'")
        if fsync != "on":
            msg = f"{self.name}: the server runs with fsync = {fsync}, and may lose what it has said is kept; set it on"
            raise StartupError(msg)
        if synchronous not in {"on", "remote_apply"}:
            # RULES: an answer comes after the commit is durable.
            connection.execute("SET synchronous_commit = on")
            if not self._warned:
                self._warned = True
                log.warning("synchronous_commit_set_on", database=self.name, default=synchronous)

    def _engine(self, *, connections: int, writes: bool, limit: timedelta | None) -> Engine:
        role = "writer" if writes else "reader"

        def connect() -> _Connection:
            connection = self._connect(application=f"kipuka {self._node} {role}".replace("  ", " "), limit=limit)
            try:
                if writes and self._node:
                    self._register(connection)
                connection.autocommit = False
                if writes:
                    connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
                else:
                    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                    connection.read_only = True
            except BaseException:
                connection.close()
                raise
            return connection

        return create_engine(
            f"postgresql+{PGDialect_psycopg.driver}://",  # imported here, so that a process that forks has it already
            creator=connect,
            poolclass=QueuePool,
            pool_size=connections,
            max_overflow=0,
            hide_parameters=True,  # an error goes to the log
            use_native_hstore=False,
        )

    def _register(self, connection: _Connection) -> None:
        """Hold the node's name as far as the database can see, and have a row in `writers`, unless it was taken over."""
        row = {"id": self._writer, "node": self._node, "run": self._run, "since": timestamp(datetime.now(UTC))}
        if self._run is None:
            connection.execute(
                "INSERT INTO writers (id, node, run, number, since) VALUES (%(id)s, %(node)s, NULL, 0, %(since)s)"
                " ON CONFLICT DO NOTHING",
                row,
            )
            return
        if not _single(connection, "SELECT pg_try_advisory_lock_shared(%s)", lock_key("node", self._node)):
            msg = f"another server is being started with [server] node = {self._node!r}"
            raise psycopg.OperationalError(msg)
        connection.execute(
            "INSERT INTO writers (id, node, run, number, since)"
            " SELECT %(id)s, name, run, 0, %(since)s FROM nodes WHERE name = %(node)s AND run = %(run)s FOR SHARE"
            " ON CONFLICT DO NOTHING",
            row,
        )


class _NoAnswer(psycopg.OperationalError):
    """The server did not answer within the limit; the connection is closed."""


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that waits for each answer no longer than `limit`."""

    limit: float | None = None  # seconds

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Wait for an answer. Raises `_NoAnswer`."""
        if self.limit is None:
            return super().wait(gen, *args, **kwargs)
        try:
            return super().wait(_bounded(gen, self.limit), *args, **kwargs)
        except _NoAnswer:
            self.close()
            raise


def _bounded(gen: PQGen[RV], limit: float) -> PQGen[RV]:
    """The same steps as `gen`, as long as they do not take too long. Between two steps psycopg looks every tenth of a second."""
    end = time.monotonic() + limit
    try:
        state = next(gen)
        while True:
            ready = yield state
            if not ready and time.monotonic() > end:
                msg = f"no answer within {limit:g} s"
                raise _NoAnswer(msg)
            state = gen.send(ready)
    except StopIteration as stop:
        return cast("RV", stop.value)


def lock_key(*parts: str) -> int:
    """The number of an advisory lock: the same in every process, and shared with no other purpose but by chance."""
    digest = hashlib.sha256("\0".join(("kipuka", *parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def _single(connection: _Connection, query: str, *parameters: object) -> object:
    row = connection.execute(cast("Any", query), parameters).fetchone()
    return None if row is None else row[0]


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


def _read(url: str) -> tuple[str, str]:
    """The URL for libpq, and how the database is called in messages: without a password. Raises `StartupError`."""
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        options, parts = [], None
    # What libpq says of a URL that it cannot read may quote a password: it is asked where nothing is left to say.
    known = {default.keyword.decode() for default in pq.Conninfo.get_defaults()}
    for name, _ in options:
        if name not in known and name != "ssl":
            raise StartupError(f"[db] url: PostgreSQL has no option {name}")
    try:
        given = conninfo_to_dict(url) if parts is not None else None
    except psycopg.Error:
        given = None
    if parts is None or given is None or not given.get("dbname"):
        msg = "[db] url: the URL of a PostgreSQL database is needed, as in postgresql://USER@HOST/DATABASE"
        raise StartupError(msg)
    defaults: dict[str, Any] = {
        "connect_timeout": _CONNECT_LIMIT,
        "tcp_user_timeout": 25_000,
        "keepalives_idle": _KEEP_ALIVE["idle"],
        "keepalives_interval": _KEEP_ALIVE["interval"],
        "keepalives_count": _KEEP_ALIVE["count"],
    }
    conninfo = make_conninfo("", **(defaults | given))
    host = str(given.get("host") or os.environ.get("PGHOST") or "the local socket")
    return conninfo, f"the PostgreSQL database {given['dbname']} at {unquote(host)}"
