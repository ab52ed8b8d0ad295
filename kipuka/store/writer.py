"""The writer: one thread, one connection, one transaction for all units that wait.

In the room: the queue, the batch, replay, commit, and answering the callers. Not in the room: asyncio tasks, engines, tables.

A unit is a pure function of its transaction. All that wait are run in one transaction and answered after its commit (group
commit). When anything goes wrong in a batch it is rolled back, and each unit is run again, alone, in a transaction of its own, so
that only the one at fault fails; savepoints are never used. When it is the database that went wrong, every unit of the batch
is told `BackendUnavailable`, and the writer goes on with the next.

What can be tried again is, a few times: over a new connection where one was lost, and alone where another transaction came
first. A COMMIT that was not answered is looked up before anything is run again (`kipuka.store.journal`); what cannot be looked up is not
run again.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

import structlog
from sqlalchemy import (
    Connection,
    CursorResult,
    Delete,
    Engine,
    Executable,
    ForeignKey,
    Insert,
    Select,
    Table,
    TextClause,
    Update,
    insert,
)
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.sql import visitors

from kipuka.api.errors import BackendFault, BackendUnavailable
from kipuka.api.events import AuditEvent
from kipuka.api.storage import ReadTx, Tx
from kipuka.store.context import AuditContext
from kipuka.store.dialect import COMMIT_LIMIT, Dialect, NodeLost, OutcomeUnknown
from kipuka.store.events import PendingEvent, Seal, append

__all__ = ["Answer", "ReadTransaction", "Writer"]

log = structlog.get_logger(__name__)

_BATCH = 64
_RETRY_AFTER = timedelta(seconds=5)
_ATTEMPTS = 4
"""How often units are run at most, for what can be tried again."""


@dataclass(frozen=True, slots=True)
class _Failure:
    error: Exception


class Answer:
    """Where the outcome of work in another thread goes: a future of an event loop that may be gone by then."""

    __slots__ = ("_loop", "future")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self._loop.create_future()

    def give(self, outcome: object) -> None:
        """Answer, from any thread. An outcome that nobody waits for any more is dropped; a failure is logged then."""
        _call(self._loop, self._settle, outcome)

    def _settle(self, outcome: object) -> None:
        if self.future.done():
            if isinstance(outcome, _Failure):
                log.warning("store_failure_not_awaited", error=str(outcome.error))
        elif isinstance(outcome, _Failure):
            self.future.set_exception(outcome.error)
        else:
            self.future.set_result(outcome)

    @staticmethod
    def failure(error: BaseException) -> object:
        """An outcome that is an exception. What a future cannot carry, or must not, is wrapped."""
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            return _Failure(error)
        fault = BackendFault("a unit of the store broke off", reason="store_unit_broke_off")
        fault.__cause__ = error
        return _Failure(fault)


@dataclass(frozen=True, slots=True)
class _Unit:
    fn: Callable[[Tx], Any]
    context: AuditContext
    answer: Answer
    handed_in: float  # monotonic


class ReadTransaction(ReadTx):
    """A read-only transaction; its time stands still."""

    def __init__(self, connection: Connection, now: datetime) -> None:
        self._connection = connection
        self._now = now

    @property
    def now(self) -> datetime:
        """When the transaction began."""
        return self._now

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None, /
    ) -> CursorResult[Any]:
        """Run one statement."""
        return cast("CursorResult[Any]", self._connection.execute(statement, parameters))


class _Batch:
    """What the units of one transaction have left to write: rows by table and columns, and events."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.rows: dict[Table, list[Mapping[str, Any]]] = {}
        self.events: list[PendingEvent] = []

    def flush(self, tables: set[Table] | None = None) -> None:
        """Insert the rows that wait, of all tables or of some; a referenced table before those that refer to it."""
        waiting = [table for table in self.rows if tables is None or table in tables]
        for table in sorted(waiting, key=_depth):
            rows = self.rows.pop(table)
            by_columns: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
            for row in rows:
                by_columns.setdefault(tuple(sorted(row)), []).append(row)
            for alike in by_columns.values():
                self.connection.execute(insert(table), alike)


class _WriteTransaction(ReadTransaction, Tx):
    """One unit's view of the batch. It ends with its unit: a reference that was kept is of no use."""

    def __init__(self, batch: _Batch, dialect: Dialect, *, node: str, now: datetime, context: AuditContext) -> None:
        super().__init__(batch.connection, now)
        self._dialect = dialect
        self._batch: _Batch | None = batch
        self._node = node
        self._context = context

    @property
    def node(self) -> str:
        """The name of this server among those that share the database."""
        return self._node

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None, /
    ) -> CursorResult[Any]:
        """Run one statement, after the rows it may depend on."""
        batch = self._open()
        if batch.rows:
            batch.flush(_needed_by(statement, batch.rows))
        return super().execute(statement, parameters)

    def add(self, table: Table, row: Mapping[str, Any], /) -> None:
        """Insert a row, later in the batch."""
        self._open().rows.setdefault(table, []).append(dict(row))

    def lock(self, name: str, /) -> None:
        """Hold that name to the end of the batch."""
        self._dialect.lock(self._open().connection, name)

    def audit(self, event: AuditEvent, /) -> None:
        """Record an event, at the end of the batch."""
        self._open().events.append(PendingEvent(time=self.now, event=event, context=self._context))

    def end(self) -> None:
        """The unit is over."""
        self._batch = None

    def _open(self) -> _Batch:
        if self._batch is None:
            msg = "a transaction was used after its function had returned"
            raise RuntimeError(msg)
        return self._batch


class Writer:
    """The thread and its queue. `committed` is called in the thread after each commit that added events."""

    def __init__(
        self,
        dialect: Dialect,
        *,
        node: str,
        clock: Callable[[], datetime],
        seal: Seal,
        limit: int,
        committed: Callable[[], None],
        patience: timedelta = COMMIT_LIMIT,
    ) -> None:
        self._dialect = dialect
        self._journal = dialect.journal()
        self._patience = patience.total_seconds()
        self._node = node
        self._clock = clock
        self._seal = seal
        self._limit = limit
        self._committed = committed
        self._units: deque[_Unit] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._connected = False
        self._engine: Engine = dialect.writer_engine()
        # A daemon, so that a process whose event loop broke down can still end: the database survives that at any point.
        self._thread = threading.Thread(target=self._run, name="kipuka-writer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, fn: Callable[[Tx], Any], context: AuditContext, *, under_way: bool = False) -> asyncio.Future[Any]:
        """Hand in a unit; the future is resolved in the running loop after the commit.

        `under_way`: it ends what an earlier unit began, and is taken though the queue is full: there are no more of them than were
        let in. Raises `BackendUnavailable` when the queue is full or the writer is closed.
        """
        answer = Answer()
        with self._wake:
            if self._closing:
                raise BackendUnavailable("the server is stopping", retry_after=_RETRY_AFTER, reason="store_closed")
            if len(self._units) >= self._limit and not under_way:
                raise BackendUnavailable("the server is too busy", retry_after=_RETRY_AFTER, reason="store_queue_full")
            self._units.append(_Unit(fn, context, answer, time.monotonic()))
            self._wake.notify()
        return answer.future

    def close(self) -> None:
        """Take no more units, finish those that wait, end the thread. May be called again."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while units := self._take():
                try:
                    outcomes = self._settle(units)
                except BaseException as error:
                    log.exception("store_writer_fault")
                    outcomes = [Answer.failure(error)] * len(units)
                for unit, outcome in zip(units, outcomes, strict=True):
                    unit.answer.give(outcome)
        finally:
            self._leave()
            self._engine.dispose()

    def _leave(self) -> None:
        if not self._connected:
            return
        try:
            self._journal.leave(self._engine)
        except Exception as error:  # noqa: BLE001 - the row is removed with the next start at the latest
            log.debug("writer_not_removed", error=str(error))

    def _take(self) -> list[_Unit]:
        """The next units. Those that have waited too long are told so: their callers get an answer in time."""
        while True:
            with self._wake:
                while not self._units and not self._closing:
                    self._wake.wait()
                if not self._units:
                    return []
                taken = [self._units.popleft() for _ in range(min(_BATCH, len(self._units)))]
            oldest = time.monotonic() - self._patience
            in_time = [unit for unit in taken if unit.handed_in >= oldest]
            late = len(taken) - len(in_time)
            if late:
                log.error("store_too_slow", units=late)
                for unit in taken:
                    if unit.handed_in < oldest:
                        unit.answer.give(_Failure(_too_slow()))
            if in_time:
                return in_time

    def _settle(self, units: list[_Unit]) -> list[object]:
        """The outcome of each unit, in order."""
        try:
            return self._insist(units)
        except BaseException as error:  # noqa: BLE001 - it is told to whoever handed the unit in
            if self._is_away(error, alone=len(units) == 1):
                return self._away(error, units)
            if len(units) == 1:
                return [_refusal(error)]
        outcomes: list[object] = []
        for unit in units:
            try:
                outcomes += self._insist([unit])
            except BaseException as error:  # noqa: BLE001 - it is told to whoever handed the unit in
                if self._is_away(error, alone=True):
                    # Each further attempt could wait as long again: the rest is told at once.
                    return outcomes + self._away(error, units[len(outcomes) :])
                outcomes.append(_refusal(error))
        return outcomes

    def _is_away(self, error: BaseException, *, alone: bool) -> bool:
        """A batch that others came before is run again one by one."""
        return self._dialect.is_away(error) and (alone or not self._dialect.is_conflict(error))

    def _away(self, error: BaseException, units: Sequence[_Unit]) -> list[object]:
        name = "node_lost" if isinstance(error, NodeLost) else "store_unavailable"
        told = getattr(error, "orig", None) or error  # without what SQLAlchemy adds
        log.error(name, units=len(units), error=" ".join(str(told).split()))
        self._disconnect()  # the next batch tries with a connection of its own
        return [_unavailable(error) for _ in units]

    def _disconnect(self) -> None:
        self._connected = False
        self._engine.dispose()

    def _insist(self, units: Sequence[_Unit]) -> list[object]:
        """Run units in one transaction, several times where that may help."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._transaction(units)
            except BaseException as error:
                cut = self._dialect.is_cut(error)
                if attempt == _ATTEMPTS or not (cut or (len(units) == 1 and self._dialect.is_conflict(error))):
                    raise
                if cut:
                    self._disconnect()
                log.info("store_transaction_repeated", units=len(units), error=type(error).__name__)
        raise AssertionError

    def _transaction(self, units: Sequence[_Unit]) -> list[object]:
        """Run units in one transaction: their outcomes, after its commit. Whatever it raises was not committed.

        The one exception is `OutcomeUnknown`.
        """
        results: list[object] = []
        batch: _Batch | None = None
        committing = committed = False
        try:
            with self._dialect.turn(), self._engine.connect() as connection:
                self._connected = True
                with connection.begin():
                    self._journal.begin(connection)
                    batch = _Batch(connection)
                    results = [self._perform(unit, batch) for unit in units]
                    batch.flush()
                    if batch.events:
                        append(connection, self._node, batch.events, self._seal)
                    committing = True
                committed = True
                self._journal.done()
                self._tell(batch)
        except BaseException as error:
            if not committing or batch is None:
                raise
            if committed:
                # To raise it would have committed units run again.
                log.exception("store_fault_after_commit")
            elif self._was_committed(error):
                self._tell(batch)
            else:
                raise
        return results

    def _tell(self, batch: _Batch) -> None:
        if batch.events:
            self._committed()

    def _was_committed(self, error: BaseException) -> bool:
        """Whether a transaction whose COMMIT failed so did happen. Raises `OutcomeUnknown`."""
        if not self._journal.is_unanswered(error):
            return False
        self._disconnect()
        try:
            happened = self._journal.look_up(self._engine)
        except Exception as problem:
            msg = f"a COMMIT was not answered ({error}), and what became of it cannot be asked: {problem}"
            raise OutcomeUnknown(msg) from problem
        log.warning("commit_looked_up", happened=happened)
        return happened

    def _perform(self, unit: _Unit, batch: _Batch) -> object:
        tx = _WriteTransaction(batch, self._dialect, node=self._node, now=self._clock(), context=unit.context)
        try:
            result = unit.fn(tx)
        finally:
            tx.end()
        if inspect.iscoroutine(result):
            cast("Coroutine[Any, Any, Any]", result).close()
            msg = "a function of a transaction must not be asynchronous"
            raise TypeError(msg)
        return result


def _call(loop: asyncio.AbstractEventLoop, fn: Callable[..., None], *arguments: object) -> None:
    """Call in a loop's thread. A loop that was closed has nobody left who waits."""
    try:
        loop.call_soon_threadsafe(fn, *arguments)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _unavailable(error: BaseException) -> object:
    reason = "store_unavailable"
    if isinstance(error, NodeLost):
        reason = "node_lost"
    elif isinstance(error, OutcomeUnknown):
        reason = "store_outcome_unknown"
    unavailable = BackendUnavailable("the server's store is not available", retry_after=_RETRY_AFTER, reason=reason)
    unavailable.__cause__ = error
    return _Failure(unavailable)


def _too_slow() -> BackendUnavailable:
    return BackendUnavailable("the server's store is too slow", retry_after=_RETRY_AFTER, reason="store_too_slow")


def _refusal(error: BaseException) -> object:
    """A constraint that a unit ran into, or a value that a column does not take, is a fault of the unit: it is to check before it writes."""
    if isinstance(error, IntegrityError | DataError):
        fault = BackendFault("the server's store refused what it was given", reason="store_constraint")
        fault.__cause__ = error
        return _Failure(fault)
    return Answer.failure(error)


def _depth(table: Table, seen: frozenset[Table] = frozenset()) -> int:
    """How many tables stand above this one along its foreign keys."""
    above = {key.column.table for key in table.foreign_keys} - seen - {table}
    return max((_depth(one, seen | {table}) + 1 for one in above), default=0)


def _needed_by(statement: Executable, waiting: Iterable[Table]) -> set[Table] | None:
    """Of the tables with rows that wait, those whose rows must be there before the statement; None for all of them.

    They are the tables it mentions, and for one that writes also those that a foreign key ties to its target, in either
    direction, unless the database looks at that key at the commit only.
    """
    if not isinstance(statement, Select | Insert | Update | Delete):
        return None
    mentioned: set[Table] = set()
    for element in visitors.iterate(cast("visitors.ExternallyTraversible", statement)):
        if isinstance(element, Table):
            mentioned.add(cast("Table", element))
        elif isinstance(element, TextClause):
            return None
    if isinstance(statement, Select):
        return mentioned
    target = cast("object", statement.table)
    if not isinstance(target, Table):
        return None
    target = cast("Table", target)
    mentioned.add(target)
    mentioned.update(key.column.table for key in target.foreign_keys if not _is_deferred(key))
    for table in waiting:
        if any(key.column.table is target and not _is_deferred(key) for key in table.foreign_keys):
            mentioned.add(table)
    return mentioned


def _is_deferred(key: ForeignKey) -> bool:
    return key.constraint is not None and (key.constraint.initially or "").upper() == "DEFERRED"
