"""The store as the rest of kipuka sees it: read, write, audit.

In the room: opening and closing, the readers, and the check that the schema is the one this version needs. Not in the room: the
writer's loop (`writer`), what a database is like (`dialect`), and what is stored (one module per table).
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime, timedelta
from typing import Any, TypeVar

from sqlalchemy.exc import DataError, DBAPIError

from kipuka.api.errors import BackendUnavailable, MalformedRequest, SchemaError
from kipuka.api.events import AuditEvent
from kipuka.api.storage import ReadTx, Storage, Tx
from kipuka.store.context import audit_context
from kipuka.store.debts import Debts
from kipuka.store.dialect import COMMIT_LIMIT, Dialect, dialect_for
from kipuka.store.events import Seal
from kipuka.store.revisions import disagreements
from kipuka.store.writer import Answer, ReadTransaction, Writer

__all__ = ["Store", "hold_node", "is_of_store", "is_unknown", "open_store"]

T = TypeVar("T")

_READERS = 4
_OF_STORE = frozenset(
    {"store_unavailable", "store_outcome_unknown", "store_too_slow", "store_queue_full", "store_closed", "node_lost"}
)


class Store:
    """The open store. Made by `open_store`; every method is called in an event loop."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        node: str,
        clock: Callable[[], datetime],
        seal: Seal,
        storages: Sequence[Storage],
        queue_limit: int,
        commit_limit: timedelta = COMMIT_LIMIT,
    ) -> None:
        self._dialect = dialect
        self._node = node
        self._clock = clock
        self._storages = tuple(storages)
        self._queue_limit = queue_limit
        self._listeners: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
        self._writer = Writer(
            dialect,
            node=node,
            clock=clock,
            seal=seal,
            limit=queue_limit,
            committed=self._events_were_added,
            patience=commit_limit,
        )
        self._debts = Debts(self._writer, limit=queue_limit)
        self._reader_engine = dialect.reader_engine(_READERS)
        self._readers = ThreadPoolExecutor(max_workers=_READERS, thread_name_prefix="kipuka-reader")
        self._reads = 0
        self._reads_lock = threading.Lock()
        self._closed = False

    @property
    def node(self) -> str:
        """The name of this server among those that share the database; its audit chain has the same."""
        return self._node

    @property
    def clock(self) -> Callable[[], datetime]:
        """The host's clock."""
        return self._clock

    async def read(self, fn: Callable[[ReadTx], T], /) -> T:
        """Run `fn` in a reader thread on one consistent state, which has all that was committed before the call.

        `fn` may be run again, where a connection was lost, and is therefore a pure function of the transaction and its arguments.
        Raises what `fn` raises, and `BackendUnavailable` when the store is away or too many reads wait.
        """
        with self._reads_lock:
            if self._closed:
                raise BackendUnavailable("the server is stopping", reason="store_closed")
            if self._reads >= self._queue_limit:
                raise BackendUnavailable(
                    "the server is too busy", retry_after=timedelta(seconds=5), reason="store_queue_full"
                )
            answer = Answer()
            self._readers.submit(self._read, fn, answer)
            self._reads += 1
        return await answer.future

    async def write(self, fn: Callable[[Tx], T], /, *, under_way: bool = False) -> T:
        """Run `fn` in the writer's next transaction; returns its answer after the commit is durable.

        `fn` runs in the writer's thread, may be run again after a rollback, and is therefore a pure function of the transaction and
        its arguments. Its events carry the `audit_context` of this call. Raises what `fn` raises, its transaction being rolled
        back then; `BackendUnavailable` when the store is away or its queue is full; `BackendFault` for a broken constraint. When
        the caller is cancelled the transaction still ends as it would. `under_way` is for what ends something that an earlier write
        began: a full queue takes it too.
        """
        return await self._writer.submit(fn, audit_context.get(), under_way=under_way)

    def write_later(self, fn: Callable[[Tx], Any], /) -> bool:
        """Write as soon as the store takes it, however long it is away. False where too much is owed already.

        What is owed is lost with the process, so it is for what would be found and done after a crash as well, only later.
        """
        return self._debts.add(fn, audit_context.get())

    async def audit(self, event: AuditEvent, /) -> None:
        """Record an event in a transaction of its own; returns when it is durable."""
        await self.write(lambda tx: tx.audit(event))

    def on_events(self, callback: Callable[[], None], /) -> Callable[[], None]:
        """Call `callback` in this event loop after every commit of this store that added events.

        Other processes' commits are not noticed. Returns a function that ends it.
        """
        entry = (asyncio.get_running_loop(), callback)
        self._listeners.append(entry)

        def stop() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)

        return stop

    async def check_schema(self) -> None:
        """Raise `SchemaError`, naming `kipuka db upgrade`, unless every table is as this version needs it."""
        await asyncio.to_thread(self._check_schema)

    def _check_schema(self) -> None:
        if not self._dialect.exists():
            raise _no_database()
        try:
            self._find_disagreements()
        except DBAPIError as error:
            raise (self._dialect.explained(error) or error) from error

    def _find_disagreements(self) -> None:
        with self._reader_engine.connect() as connection, connection.begin():
            problems = disagreements(connection, self._storages)
        if problems:
            raise SchemaError("; ".join(problems))

    def _read(self, fn: Callable[[ReadTx], Any], answer: Answer) -> None:
        try:
            try:
                outcome = self._read_once(fn)
            except BaseException as error:
                if not self._dialect.is_cut(error):
                    raise
                outcome = self._read_once(fn)  # the pool has dropped its other connections, which are as old
        except BaseException as error:  # noqa: BLE001 - whatever it is belongs to the caller
            outcome = Answer.failure(self._public(error))
        finally:
            with self._reads_lock:
                self._reads -= 1
        answer.give(outcome)

    def _read_once(self, fn: Callable[[ReadTx], Any]) -> object:
        with self._reader_engine.connect() as connection, connection.begin():
            return fn(ReadTransaction(connection, self._clock()))

    def _public(self, error: BaseException) -> BaseException:
        if isinstance(error, DataError):
            # No text that is stored has what was asked for in it, such as a NUL character.
            return MalformedRequest("a value has characters that cannot be stored", reason="invalid_value")
        if not self._dialect.is_away(error):
            return error
        unavailable = BackendUnavailable(
            "the server's store is not available", retry_after=timedelta(seconds=5), reason="store_unavailable"
        )
        unavailable.__cause__ = error
        return unavailable

    def _events_were_added(self) -> None:
        for loop, callback in tuple(self._listeners):
            try:
                loop.call_soon_threadsafe(callback)
            except RuntimeError:
                if not loop.is_closed():
                    raise
                self._listeners.remove((loop, callback))  # nobody is left in it

    def start(self) -> None:
        """Begin to write."""
        self._writer.start()

    def forgive(self) -> None:
        """Try no more to write what is owed."""
        self._debts.end()

    def close(self) -> None:
        """Finish what waits, then end the threads. Blocks."""
        with self._reads_lock:
            self._closed = True
        self._writer.close()
        self._readers.shutdown(wait=True)
        self._reader_engine.dispose()


@asynccontextmanager
async def open_store(
    url: str,
    *,
    node: str,
    clock: Callable[[], datetime],
    seal: Seal,
    storages: Sequence[Storage] = (),
    queue_limit: int = 1000,
    commit_limit: timedelta = COMMIT_LIMIT,
    run: str | None = None,
    exclusive: bool = False,
) -> AsyncGenerator[Store]:
    """Open the database at `[db] url`, whose tables must be there already.

    `seal` is `kipuka.audit.chain.seal`; `storages` are those of the plugins in use; `queue_limit` bounds units and reads that wait,
    `commit_limit` the time a unit waits and the time it takes. `run` is for workers, whose supervisor has claimed the node with it
    (`hold_node`); `exclusive` for a server of one process, which claims it here. Without either it is a command's store, which is
    written to beside a server. Raises `StartupError` for a URL that cannot be used, `AlreadyRunning`, `SchemaError`, and
    `BackendUnavailable`.
    """
    dialect = dialect_for(url, limit=commit_limit)
    if not await asyncio.to_thread(dialect.exists):
        raise _no_database()
    if exclusive:
        run = run or secrets.token_hex(8)
    dialect.open(node=node, run=run)
    try:
        if exclusive and run is not None:
            await asyncio.to_thread(dialect.claim_node, node, run)
        store = Store(
            dialect,
            node=node,
            clock=clock,
            seal=seal,
            storages=storages,
            queue_limit=queue_limit,
            commit_limit=commit_limit,
        )
        store.start()
        try:
            await store.check_schema()
            if run is not None:
                await store.write(_nothing)  # a server that cannot write does not start; from now on its name is taken
            yield store
        finally:
            store.forgive()
            await _to_the_end(asyncio.ensure_future(asyncio.to_thread(store.close)))
    finally:
        dialect.close()


@contextmanager
def hold_node(url: str, *, node: str, run: str) -> Generator[None]:
    """Be the one server of a node until the end of the block, for a process that opens no store itself.

    `run` names this start, and is given to the workers (`open_store`). Processes that are forked in the block hold the node with it:
    it is free when the last of them has ended. Nothing that a forked process could disturb stays open, such as a connection. Raises
    `StartupError`, `SchemaError` where there is no database, `AlreadyRunning`, and `BackendUnavailable`.
    """
    dialect = dialect_for(url)
    if not dialect.exists():
        raise _no_database()
    try:
        dialect.claim_node(node, run)
        yield
    finally:
        dialect.close()


def _nothing(_tx: Tx) -> None:
    """Write nothing."""


def is_of_store(error: BaseException) -> bool:
    """Whether it says that the store itself takes nothing now, so that to write down the error would fail or wait in turn."""
    return isinstance(error, BackendUnavailable) and error.reason in _OF_STORE


def is_unknown(error: BaseException) -> bool:
    """Whether what was to be written may have been written all the same: its COMMIT was not answered and cannot be looked up yet.

    What is written next finds out: this writer's transactions come after that one, or it never happens.
    """
    return isinstance(error, BackendUnavailable) and error.reason == "store_outcome_unknown"


def _no_database() -> SchemaError:
    return SchemaError("there is no database yet: run `kipuka db upgrade`")


async def _to_the_end(work: asyncio.Future[None]) -> None:
    """Wait for `work` whatever happens: what was handed in still becomes durable, and the locks are held until then."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    work.result()
