"""RULES H3: what readiness is found out from, that nobody waits for long, and that a flood of questions costs one answer."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from functools import partial

import pytest

from kipuka.audit.chain import seal
from kipuka.audit.gate import GRACE, AuditGate
from kipuka.readiness import Condition, ReadinessPace, open_readiness
from kipuka.store import events
from kipuka.store.database import open_store
from kipuka.store.schema import upgrade
from kipuka.testing.clock import FakeClock

WELL = Condition()
ALWAYS_ANEW = ReadinessPace(hold=timedelta(0))
IMPATIENT = ReadinessPace(
    hold=timedelta(0), patience=timedelta(milliseconds=200), ca_patience=timedelta(milliseconds=50)
)
FOR_LONG = ReadinessPace(hold=timedelta(hours=1))


class CA:
    """A backend that can say how it does, and counts how often it was asked."""

    def __init__(self):
        self.problem: str | None = None
        self.raises: Exception | None = None
        self.gate: asyncio.Event | None = None
        self.asked = 0

    async def health(self):
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.raises is not None:
            raise self.raises
        return self.problem


class Silent:
    """A backend without the ability."""


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory):
    path = tmp_path_factory.mktemp("template") / "kipuka.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(empty_database, tmp_path):
    return shutil.copy(empty_database, tmp_path / "kipuka.db")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
async def store(database, clock):
    async with open_store(f"sqlite:///{database}", node="alpha", clock=clock, seal=seal) as store:
        yield store


@asynccontextmanager
async def watched(store, *, pace=ALWAYS_ANEW, sinks=(), others=None, **backends):
    gate = AuditGate(store, sinks, recheck=timedelta(0))
    async with open_readiness(store=store, backends=backends, audit_gate=gate, others=others, pace=pace) as readiness:
        yield readiness


@pytest.fixture
def writes(store, database):
    """How many writes were tried: the database itself counts them."""
    with closing(sqlite3.connect(database)) as direct:
        direct.execute("CREATE TABLE tried (name TEXT)")
        direct.execute("CREATE TRIGGER tally AFTER INSERT ON jobs BEGIN INSERT INTO tried VALUES (new.name); END")

    def count():
        with closing(sqlite3.connect(database)) as direct:
            return direct.execute("SELECT count(*) FROM tried").fetchone()[0]

    return count


async def until(condition):
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_all_is_well_with_a_store_that_writes_a_ca_and_no_strict_sink(store):
    async with watched(store, issuing=CA(), silent=Silent()) as readiness:
        assert await readiness.conditions() == {"store": WELL, "ca": WELL, "audit": WELL, "plugins": WELL}


# --- the store ---


async def test_a_store_that_is_locked_by_another_is_given_up_after_the_patience_and_is_well_when_it_is_free(
    store, database
):
    async with watched(store, pace=IMPATIENT, issuing=CA()) as readiness:
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            found = await readiness.conditions()  # the lock is held until after this
            assert found["store"] == Condition(text="no answer in time", hinders=True)
            other.execute("ROLLBACK")

        async def well():
            return (await readiness.conditions())["store"] == WELL

        await until(well)


async def test_while_a_write_is_stuck_no_second_one_is_tried(store, database, writes):
    async with watched(store, pace=IMPATIENT) as readiness:
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(20):
                await readiness.conditions()
            other.execute("ROLLBACK")
        await store.write(lambda tx: None)  # after whatever waited
        assert writes() == 1


async def test_a_store_whose_file_is_gone_is_not_writable_until_it_is_back(store, database):
    async with watched(store) as readiness:
        away = database.rename(database.with_suffix(".away"))
        assert (await readiness.conditions())["store"] == Condition(text="not writable", hinders=True)
        away.rename(database)
        assert (await readiness.conditions())["store"] == WELL


async def test_a_store_that_refuses_rows_is_not_writable(store, database):
    with closing(sqlite3.connect(database)) as direct:
        direct.execute("CREATE TRIGGER full BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END")
    async with watched(store) as readiness:
        assert (await readiness.conditions())["store"] == Condition(text="not writable", hinders=True)


# --- the CAs ---


@pytest.mark.parametrize("fault", [None, ValueError("10.0.0.7 says no")])
async def test_a_ca_that_is_ill_or_cannot_say_how_it_does_hinders_and_its_words_stay_inside(store, fault):
    ca = CA()
    async with watched(store, issuing=ca) as readiness:
        ca.problem, ca.raises = "the token in slot 3 is gone", fault
        assert (await readiness.conditions())["ca"] == Condition(text="not usable", hinders=True)
        ca.problem = ca.raises = None
        assert (await readiness.conditions())["ca"] == WELL


async def test_one_ca_of_two_that_is_ill_or_hangs_does_not_hinder_the_other(store):
    ill, well = CA(), CA()
    async with watched(store, pace=IMPATIENT, ill=ill, well=well) as readiness:
        ill.problem = "no"
        assert (await readiness.conditions())["ca"] == Condition(text="partly usable")
        ill.problem, ill.gate = None, asyncio.Event()
        assert (await readiness.conditions())["ca"] == Condition(text="partly usable")
        well.problem = "neither"
        assert (await readiness.conditions())["ca"] == Condition(text="not usable", hinders=True)


# --- methods and sinks ---


async def test_a_method_that_is_ill_or_hangs_is_told_and_hinders_nobody(store):
    """Who has a certificate renews, whatever becomes of a directory."""
    directory = CA()
    async with watched(store, pace=IMPATIENT, others={"ldap": directory, "silent": Silent()}) as readiness:
        assert (await readiness.conditions())["plugins"] == WELL
        directory.problem = "ldaps://ldap.example.com: server_down"
        assert (await readiness.conditions())["plugins"] == Condition(text="failing")
        directory.problem, directory.gate = None, asyncio.Event()
        assert (await readiness.conditions())["plugins"] == Condition(text="failing")
        directory.gate = None
        assert (await readiness.conditions())["plugins"] == WELL


# --- the sinks ---


async def test_a_sink_that_enrolments_wait_for_hinders_once_it_has_failed_for_longer_than_the_grace(store, clock):
    async with watched(store, sinks=["strict"], issuing=CA()) as readiness:
        note = partial(events.set_failing, node=store.node, sink="strict")
        await store.write(partial(note, since=clock()))
        assert (await readiness.conditions())["audit"] == WELL
        clock.advance(GRACE)
        assert (await readiness.conditions())["audit"] == Condition(text="not available", hinders=True)
        await store.write(partial(note, since=None))
        assert (await readiness.conditions())["audit"] == WELL


# --- many who ask ---


async def test_a_crowd_that_asks_at_once_gets_one_answer(store, writes):
    ca = CA()
    async with watched(store, pace=FOR_LONG, issuing=ca) as readiness:
        found = await asyncio.gather(*(readiness.conditions() for _ in range(300)))
        found += [await readiness.conditions() for _ in range(300)]
        assert all(one == {"store": WELL, "ca": WELL, "audit": WELL, "plugins": WELL} for one in found)
        assert ca.asked == 1
        assert writes() == 1


async def test_an_answer_is_good_for_a_while_and_then_found_out_anew(store):
    ca = CA()
    async with watched(store, pace=ReadinessPace(hold=timedelta(milliseconds=50)), issuing=ca) as readiness:
        await readiness.conditions()
        ca.problem = "no"

        async def ill():
            return (await readiness.conditions())["ca"].hinders

        await until(ill)


async def test_whoever_stops_waiting_takes_the_answer_from_nobody(store):
    ca = CA()
    ca.gate = asyncio.Event()
    async with watched(store, pace=FOR_LONG, issuing=ca) as readiness:
        first = asyncio.create_task(readiness.conditions())
        second = asyncio.create_task(readiness.conditions())
        await until(lambda: asyncio.sleep(0, ca.asked == 1))
        first.cancel()
        ca.gate.set()
        assert (await second)["ca"] == WELL


async def test_the_end_of_the_block_leaves_no_task(store):
    ca = CA()
    ca.gate = asyncio.Event()
    before = asyncio.all_tasks()
    async with watched(store, pace=IMPATIENT, issuing=ca) as readiness:
        asking = asyncio.create_task(readiness.conditions())
        await until(lambda: asyncio.sleep(0, ca.asked == 1))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    assert asyncio.all_tasks() == before
