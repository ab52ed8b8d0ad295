"""Carrying audit events from the store to the sinks (guarantee 7).

In the room: one feeder per sink, with a cursor of its own in the store, and the note there that a sink takes nothing. Not in the room:
sinks, when events are recorded, and what follows from a failure (`kipuka.audit.gate`).

The store is the outbox: an event is durable there before anybody hears of it, and a sink that is down loses nothing. A sink is given
the events of this node in order, at least once: its cursor moves after its `write` has returned. A new sink is given all there are.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog

from kipuka.api.errors import BackendError
from kipuka.api.protocols import AuditSink
from kipuka.api.storage import ReadTx
from kipuka.store import events
from kipuka.store.database import Store

__all__ = ["Outbox", "OutboxPace", "SinkState", "open_outbox"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutboxPace:
    """How events are carried. Tests make it faster; the defaults are the server's."""

    batch: int = 500  # records in one `write`
    gather: timedelta = timedelta(milliseconds=50)  # after a commit, for others to come along
    poll: timedelta = timedelta(seconds=2)  # commands write beside the server and cannot wake it
    write_limit: timedelta = timedelta(seconds=30)
    first_retry: timedelta = timedelta(milliseconds=500)
    last_retry: timedelta = timedelta(seconds=60)
    drain_limit: timedelta = timedelta(seconds=10)

    def urgent(self) -> OutboxPace:
        """For a sink that enrolments wait for: found out sooner, and asked again sooner."""
        limits = timedelta(seconds=10), timedelta(seconds=3)
        write_limit, last_retry = min(self.write_limit, limits[0]), min(self.last_retry, limits[1])
        return replace(self, write_limit=write_limit, last_retry=last_retry)


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkState:
    """How a sink does: the last event it has, and what is wrong with it, None while it works."""

    sequence: int
    problem: str | None


class Outbox:
    """The feeders. Made by `open_outbox`; of the outboxes of one node and sink at most one may be at work at a time."""

    def __init__(self, store: Store, feeders: Sequence[_Feeder], pace: OutboxPace) -> None:
        self._store = store
        self._feeders = tuple(feeders)
        self._pace = pace
        self._tasks: list[asyncio.Task[None]] = []
        self._stop_listening: Callable[[], None] = _nothing

    def states(self) -> Mapping[str, SinkState]:
        """How each sink does, by its id."""
        return {one.sink_id: SinkState(sequence=one.sequence, problem=one.problem) for one in self._feeders}

    def wake(self) -> None:
        """There may be new events."""
        for feeder in self._feeders:
            feeder.woken.set()

    def begin(self) -> None:
        """Feed the sinks from now on, each from where it was left."""
        if not self._feeders:
            return
        self._stop_listening = self._store.on_events(self.wake)
        self._tasks = [asyncio.create_task(one.feed(), name=f"kipuka-sink-{one.sink_id}") for one in self._feeders]

    async def end(self) -> None:
        """Give the sinks what is left, as far as they take it within `pace.drain_limit`, and feed them no more.

        What a sink has not taken waits in the store for who feeds it next. Where nothing was begun, nothing is done.
        """
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        self._stop_listening()
        for feeder in self._feeders:
            feeder.stopped.set()
        try:
            await asyncio.wait(tasks, timeout=self._pace.drain_limit.total_seconds())
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        for feeder, end in zip(self._feeders, ends, strict=True):
            if end is not None:
                log.warning("audit_sink_not_drained", sink=feeder.sink_id, sequence=feeder.sequence)


def _nothing() -> None:
    """Nobody listens yet."""


@asynccontextmanager
async def open_outbox(
    store: Store,
    sinks: Mapping[str, AuditSink],
    *,
    urgent: Collection[str] = (),
    pace: OutboxPace | None = None,
    begin: bool = True,
) -> AsyncGenerator[Outbox]:
    """Feed the sinks, by their ids, until the end of the block (`Outbox.end`).

    `urgent` are those that enrolments wait for while they fail. Without `begin` nothing is fed before `Outbox.begin` is called:
    another outbox may still be at work.
    """
    pace = pace or OutboxPace()
    feeders = [
        _Feeder(store, sink_id, sink, pace.urgent() if sink_id in urgent else pace) for sink_id, sink in sinks.items()
    ]
    outbox = Outbox(store, feeders, pace)
    if begin:
        outbox.begin()
    try:
        yield outbox
    finally:
        await outbox.end()


class _Feeder:
    """One sink and how far it has come."""

    def __init__(self, store: Store, sink_id: str, sink: AuditSink, pace: OutboxPace) -> None:
        self.sink_id = sink_id
        self.sequence = 0  # the last event the sink has safely
        self._saved = 0  # the same, as the store knows it
        self.problem: str | None = None
        self.woken = asyncio.Event()
        self.stopped = asyncio.Event()
        self._store = store
        self._sink = sink
        self._pace = pace
        self._attempted_at: datetime = store.clock()
        self._noted = False  # the store has a note that the sink takes nothing

    async def feed(self) -> None:
        """Carry events until told to stop, and then until none is left or the sink fails."""
        pause = self._pace.first_retry
        begun = False
        while True:
            self.woken.clear()
            last_round = self.stopped.is_set()
            self._attempted_at = self._store.clock()
            try:
                if not begun:
                    self.sequence, self._noted = await self._store.read(self._last_state)
                    self._saved = self.sequence
                    begun = True
                await self._catch_up()
                await self._works()
            except Exception as error:  # noqa: BLE001 - a sink is a plugin, and may raise anything
                await self._failed(error, pause)
                if last_round:
                    log.warning("audit_sink_not_drained", sink=self.sink_id, sequence=self.sequence)
                    return
                await _first_of(self.stopped, limit=pause)  # not woken by events, of which each would be an attempt
                pause = min(pause * 2, self._pace.last_retry)
                continue
            pause = self._pace.first_retry
            if last_round:
                return
            await _first_of(self.woken, self.stopped, limit=self._pace.poll)
            if self.woken.is_set():
                await _first_of(self.stopped, limit=self._pace.gather)

    def _last_state(self, tx: ReadTx) -> tuple[int, bool]:
        node = self._store.node
        return events.cursor(tx, node, self.sink_id), bool(events.failing(tx, node, [self.sink_id]))

    async def _catch_up(self) -> None:
        node, batch = self._store.node, self._pace.batch
        while True:
            if self._saved < self.sequence:
                # Should this fail, the worst is that the sink is given the same again after a restart.
                await self._store.write(partial(events.advance, node=node, sink=self.sink_id, sequence=self.sequence))
                self._saved = self.sequence
            records = await self._store.read(partial(events.after, node=node, sequence=self.sequence, limit=batch))
            if not records:
                return
            async with asyncio.timeout(self._pace.write_limit.total_seconds()):
                await self._sink.write(records)
            self.sequence = records[-1].sequence
            await self._works()
            self._attempted_at = self._store.clock()

    async def _failed(self, error: Exception, pause: timedelta) -> None:
        problem = "it did not answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
        if self.problem is None:
            where = "store" if isinstance(error, BackendError) else "sink"
            log.warning(
                "audit_sink_failed",
                sink=self.sink_id,
                sequence=self.sequence,
                problem=problem,
                where=where,
                retry_in=pause.total_seconds(),
            )
        self.problem = problem
        if not self._noted:
            try:
                await self._note(self._attempted_at)
            except BackendError as away:  # then nobody can enrol anyway
                log.warning("audit_sink_failure_not_noted", sink=self.sink_id, reason=away.reason)

    async def _works(self) -> None:
        if self.problem is not None:
            log.info("audit_sink_works_again", sink=self.sink_id, sequence=self.sequence)
        self.problem = None
        if self._noted:
            await self._note(None)

    async def _note(self, since: datetime | None) -> None:
        """Tell every process of this node, and the next after a restart, whether the sink takes its events."""
        await self._store.write(partial(events.set_failing, node=self._store.node, sink=self.sink_id, since=since))
        self._noted = since is not None


async def _first_of(*signals: asyncio.Event, limit: timedelta) -> None:
    """Wait until one of the events is set, or for `limit`."""
    waits = [asyncio.ensure_future(one.wait()) for one in signals]
    try:
        await asyncio.wait(waits, timeout=limit.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
