"""`on_failure = "block"`: when a failing sink turns enrolments away, and when no longer."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from kipuka.api import AuditUnavailable, ServerStopped
from kipuka.audit.chain import seal
from kipuka.audit.gate import GRACE, AuditGate
from kipuka.audit.pipeline import OutboxPace, open_outbox
from kipuka.store import events
from kipuka.store.database import open_store

PACE = OutboxPace(
    gather=timedelta(milliseconds=1),
    poll=timedelta(milliseconds=20),
    first_retry=timedelta(milliseconds=10),
    last_retry=timedelta(milliseconds=20),
    drain_limit=timedelta(seconds=0.2),
)


class Sink:
    def __init__(self):
        self.failing = self.hanging = False
        self.written = 0

    async def write(self, records):
        if self.hanging:
            await asyncio.sleep(60)
        if self.failing:
            raise OSError("away")
        self.written += len(records)


@pytest.fixture
def gate(store):
    return AuditGate(store, ["strict"], recheck=timedelta(0))


async def until(condition):
    async with asyncio.timeout(30):
        while not await condition():
            await asyncio.sleep(0.005)


def noted(store, *sinks, state=True):
    async def look():
        found = await store.read(partial(events.failing, node=store.node, sinks=sinks))
        return bool(found) is state

    return look


async def test_it_is_open_while_the_sink_works_and_shut_once_it_has_failed_for_longer_than_the_grace(
    store, gate, clock
):
    sink = Sink()
    async with open_outbox(store, {"strict": sink}, urgent=["strict"], pace=PACE):
        await store.audit(ServerStopped(pid=1))
        await gate.require()
        sink.failing = True
        await store.audit(ServerStopped(pid=2))
        await until(noted(store, "strict"))
        clock.advance(GRACE.total_seconds() - 1)
        await gate.require()
        clock.advance(2)
        with pytest.raises(AuditUnavailable) as refused:
            await gate.require()
        assert refused.value.retry_after > timedelta(0)
        sink.failing = False
        await until(noted(store, "strict", state=False))
        await gate.require()
    assert sink.written == 2


async def test_a_sink_that_hangs_is_one_that_fails(store, gate, clock):
    sink = Sink()
    sink.hanging = True
    quick = OutboxPace(write_limit=timedelta(milliseconds=30), drain_limit=timedelta(seconds=0.2))
    async with open_outbox(store, {"strict": sink}, urgent=["strict"], pace=quick):
        await store.audit(ServerStopped(pid=1))
        await until(noted(store, "strict"))
        clock.advance(GRACE.total_seconds() + 1)
        with pytest.raises(AuditUnavailable):
            await gate.require()


async def test_a_sink_that_may_fail_shuts_nothing(store, gate, clock):
    strict, other = Sink(), Sink()
    other.failing = True
    async with open_outbox(store, {"strict": strict, "other": other}, urgent=["strict"], pace=PACE):
        await store.audit(ServerStopped(pid=1))
        await until(noted(store, "other"))
        clock.advance(3600)
        await gate.require()


async def test_every_process_and_the_next_start_know_of_a_failure(store, url, clock):
    """The answer comes from the store: it does not matter which process feeds the sink, and a restart opens nothing."""
    sink = Sink()
    sink.failing = True
    async with open_outbox(store, {"strict": sink}, urgent=["strict"], pace=PACE):
        await store.audit(ServerStopped(pid=1))
        await until(noted(store, "strict"))
    clock.advance(3600)
    async with open_store(url, node="alpha", clock=clock, seal=seal) as other:
        gate = AuditGate(other, ["strict"], recheck=timedelta(0))
        with pytest.raises(AuditUnavailable):
            await gate.require()
        sink.failing = False
        async with open_outbox(other, {"strict": sink}, urgent=["strict"], pace=PACE):
            await until(noted(other, "strict", state=False))
            await gate.require()


async def test_another_nodes_sink_is_none_of_its_business(store, url, clock, gate):
    async with open_store(url, node="beta", clock=clock, seal=seal) as other:
        await other.write(partial(events.set_failing, node="beta", sink="strict", since=clock()))
    clock.advance(3600)
    await gate.require()


async def test_the_first_failure_of_an_outage_is_the_one_that_counts(store, clock):
    began = clock()
    for _ in range(3):
        await store.write(partial(events.set_failing, node="alpha", sink="strict", since=clock()))
        clock.advance(10)
    look = partial(events.failing, node="alpha", sinks=["strict", "other"])
    assert await store.read(look) == {"strict": began}
    await store.write(partial(events.advance, node="alpha", sink="strict", sequence=3))
    assert await store.read(look) == {"strict": began}
    await store.write(partial(events.set_failing, node="alpha", sink="strict", since=None))
    assert await store.read(look) == {}
    assert await store.read(partial(events.cursor, node="alpha", sink="strict")) == 3


async def test_an_answer_holds_for_a_moment(store, clock):
    gate = AuditGate(store, ["strict"], recheck=timedelta(seconds=60))
    await gate.require()
    await store.write(partial(events.set_failing, node="alpha", sink="strict", since=clock()))
    clock.advance(3600)
    await gate.require()


async def test_a_sink_that_enrolments_wait_for_is_given_up_and_asked_again_sooner():
    slow = OutboxPace()
    assert slow.urgent().write_limit < slow.write_limit
    assert slow.urgent().last_retry < slow.last_retry
    assert PACE.urgent() == PACE.urgent().urgent()
