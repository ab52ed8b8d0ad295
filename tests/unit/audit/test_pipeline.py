"""Delivery: at least once, in order, from the durable store (DESIGN guarantee 7)."""

from __future__ import annotations

import asyncio
import math
from datetime import timedelta
from functools import partial

import pytest

from kipuka.api import ServerStopped
from kipuka.audit.chain import seal
from kipuka.audit.pipeline import OutboxPace, open_outbox
from kipuka.store import events
from kipuka.store.database import open_store


def pace(**changes) -> OutboxPace:
    fast = {
        "batch": 10,
        "gather": timedelta(milliseconds=1),
        "poll": timedelta(milliseconds=50),
        "write_limit": timedelta(seconds=30),
        "first_retry": timedelta(milliseconds=10),
        "last_retry": timedelta(milliseconds=40),
        "drain_limit": timedelta(seconds=30),
    }
    return OutboxPace(**{**fast, **changes})


class RecordingSink:
    """Takes everything, unless it is told to fail."""

    def __init__(self):
        self.numbers = []
        self.writes = []
        self.attempts = 0
        self.failing = False
        self.hanging = False

    async def write(self, records):
        self.attempts += 1
        if self.hanging:
            await asyncio.sleep(60)
        if self.failing:
            raise OSError("the sink is away")
        self.numbers += [record.data["pid"] for record in records]
        self.writes.append(len(records))


@pytest.fixture
def audited(store):
    async def audited(*numbers):
        await asyncio.gather(*(store.audit(ServerStopped(pid=number)) for number in numbers))

    return audited


async def until(condition, *, limit=30):
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.005)


async def cursors(store):
    return await store.read(partial(events.cursors, node=store.node))


async def test_every_sink_gets_every_event_in_order(store, audited):
    one, other = RecordingSink(), RecordingSink()
    async with open_outbox(store, {"one": one, "other": other}, pace=pace()):
        for start in range(0, 50, 5):
            await audited(*range(start, start + 5))
    assert one.numbers == other.numbers == list(range(50))
    assert await cursors(store) == {"one": 50, "other": 50}
    assert max(one.writes) <= 10


async def test_a_new_event_is_carried_without_waiting_for_the_next_poll(store, audited):
    sink = RecordingSink()
    async with open_outbox(store, {"s": sink}, pace=pace(poll=timedelta(seconds=60))):
        await asyncio.sleep(0.05)
        await audited(1)
        await until(lambda: sink.numbers == [1])


async def test_events_of_commands_beside_the_server_are_carried_too(store, url, clock):
    """RULES K7: another process cannot wake the outbox."""
    sink = RecordingSink()
    async with open_outbox(store, {"s": sink}, pace=pace()):
        async with open_store(url, node="alpha", clock=clock, seal=seal) as command:
            await command.audit(ServerStopped(pid=7))
        await until(lambda: sink.numbers == [7])


async def test_another_nodes_events_are_its_own_outboxs_work(store, url, clock):
    sink = RecordingSink()
    async with open_outbox(store, {"s": sink}, pace=pace()):
        async with open_store(url, node="beta", clock=clock, seal=seal) as other:
            await other.audit(ServerStopped(pid=7))
        await asyncio.sleep(0.15)
    assert sink.numbers == []


async def test_an_event_that_somebody_moved_is_not_carried_in_circles(store, audited, sql):
    """RULES I1: the verification names it. The sink gets what comes after it, each once, and no flood of repeats."""
    sink = RecordingSink()
    for number in range(1, 5):
        await audited(number)
    sql("UPDATE audit_events SET sequence = 1000 WHERE sequence = 2")
    async with open_outbox(store, {"s": sink}, pace=pace()):
        await until(lambda: 4 in sink.numbers)
        await audited(5)
        await until(lambda: 5 in sink.numbers)
    assert sink.numbers == [1, 3, 4, 5]
    assert await cursors(store) == {"s": 5}


async def test_a_sink_that_was_down_gets_everything_once_it_is_back(store, audited):
    """DESIGN guarantee 7: a sink that is down loses nothing."""
    down, up = RecordingSink(), RecordingSink()
    down.failing = True
    async with open_outbox(store, {"down": down, "up": up}, pace=pace()) as outbox:
        for number in range(25):
            await audited(number)
        await until(lambda: up.numbers == list(range(25)))
        assert down.numbers == []
        assert "the sink is away" in outbox.states()["down"].problem
        assert outbox.states()["up"].problem is None
        down.failing = False
        await until(lambda: down.numbers == list(range(25)))
        await until(lambda: outbox.states()["down"].problem is None)
        assert outbox.states()["down"].sequence == 25


async def test_a_failing_sink_is_asked_again_with_growing_pauses_not_for_every_event(store, audited):
    sink = RecordingSink()
    sink.failing = True
    slow = pace(first_retry=timedelta(milliseconds=50), last_retry=timedelta(hours=1))
    loop = asyncio.get_running_loop()
    async with open_outbox(store, {"s": sink}, pace=slow):
        began = loop.time()
        for number in range(60):
            await audited(number)
            await asyncio.sleep(0.01)
        await until(lambda: sink.attempts >= 2)
        # 0, 50, 150, 350, 750 ms ...: 60 events within some 0.7 s wake nobody, and take longer than that on a busy machine.
        took = loop.time() - began
        assert sink.attempts <= 2 + math.log2(1 + took / 0.05)
        assert sink.attempts < 20
        sink.failing = False
    assert sink.numbers == list(range(60)), "the stop ends a pause"


async def test_a_sink_that_hangs_is_given_up_and_asked_again(store, audited):
    sink = RecordingSink()
    sink.hanging = True
    async with open_outbox(store, {"s": sink}, pace=pace(write_limit=timedelta(milliseconds=30))) as outbox:
        await audited(1)
        await until(lambda: sink.attempts >= 2)
        assert "in time" in outbox.states()["s"].problem
        sink.hanging = False
        await until(lambda: sink.numbers == [1])


async def test_what_is_left_is_carried_at_the_stop(store, audited):
    sink = RecordingSink()
    slow = pace(poll=timedelta(seconds=60), gather=timedelta(seconds=60))
    async with open_outbox(store, {"s": sink}, pace=slow):
        await asyncio.sleep(0.05)
        await audited(*range(30))
    assert sink.numbers == list(range(30))
    assert await cursors(store) == {"s": 30}


@pytest.mark.parametrize("trouble", ["failing", "hanging"])
async def test_a_sink_in_trouble_does_not_hold_up_the_stop_and_nothing_is_lost(store, audited, trouble):
    sink, well = RecordingSink(), RecordingSink()
    setattr(sink, trouble, True)
    loop = asyncio.get_running_loop()
    async with open_outbox(store, {"s": sink, "well": well}, pace=pace(drain_limit=timedelta(seconds=0.3))):
        await audited(1, 2, 3)
        await until(lambda: sink.attempts and well.numbers == [1, 2, 3])
        began = loop.time()
    assert loop.time() - began < 30  # half of what it hangs for
    assert well.numbers == [1, 2, 3]
    setattr(sink, trouble, False)
    async with open_outbox(store, {"s": sink}, pace=pace()):
        pass
    assert sink.numbers == [1, 2, 3]


async def test_a_restart_goes_on_after_what_the_sink_has(store, audited):
    sink = RecordingSink()
    async with open_outbox(store, {"s": sink}, pace=pace()):
        await audited(1, 2)
    async with open_outbox(store, {"s": sink}, pace=pace()):
        await audited(3)
    assert sink.numbers == [1, 2, 3]


async def test_a_new_sink_gets_what_was_recorded_before_it(store, audited):
    await audited(1, 2)
    sink = RecordingSink()
    async with open_outbox(store, {"s": sink}, pace=pace()):
        pass
    assert sink.numbers == [1, 2]


async def test_a_cursor_never_goes_back(store):
    for number in (5, 3):
        await store.write(partial(events.advance, node="alpha", sink="s", sequence=number))
    assert await cursors(store) == {"s": 5}


async def test_without_sinks_there_is_nothing_to_do(store, audited):
    async with open_outbox(store, {}, pace=pace()) as outbox:
        await audited(1)
    assert outbox.states() == {}
