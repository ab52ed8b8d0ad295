"""What only PostgreSQL can do to a writer: break off, not answer, deadlock, and serve several nodes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, select, text, update

from kipuka.api import (
    AlreadyRunning,
    BackendFault,
    BackendUnavailable,
    DenialKind,
    LockoutPolicy,
    MalformedRequest,
    SchemaError,
    ServerStopped,
    StartupError,
)
from kipuka.audit.chain import seal
from kipuka.audit.verify import verify_store
from kipuka.store import certificates, events, lockouts
from kipuka.store.database import hold_node, open_store
from kipuka.store.dialect import dialect_for
from kipuka.testing.postgresql import PostgreSQLServer
from kipuka.testing.wire import Wire

pytestmark = pytest.mark.needs("postgres")

things = Table(
    "demo_things", MetaData(), Column("name", String, primary_key=True), Column("number", Integer, nullable=False)
)
SHORT = timedelta(seconds=3)  # and yet enough for what a busy machine does meanwhile


@pytest.fixture(autouse=True)
def demo_table(postgresql):
    postgresql.execute("CREATE TABLE demo_things (name TEXT PRIMARY KEY, number INTEGER NOT NULL)")


@pytest.fixture
def wire(postgresql):
    with Wire(postgresql.server.port) as wire:
        yield wire


@pytest.fixture
def over_wire(postgresql, wire):
    """The database's URL, through the wire."""
    return postgresql.url.replace(f":{postgresql.server.port}/", f":{wire.port}/") + "?sslmode=disable"


@pytest.fixture
def opened(postgresql, clock):
    def opened(node="alpha", *, url=postgresql.url, **options):
        return open_store(url, **{"node": node, "clock": clock, "seal": seal, **options})

    return opened


def add(tx, name, number=0):
    tx.add(things, {"name": name, "number": number})
    tx.audit(ServerStopped(pid=number))
    return name


def raise_number(tx, name):
    return tx.execute(
        update(things).where(things.c.name == name).values(number=things.c.number + 1).returning(things.c.number)
    ).scalar_one()


def names_in(database):
    return [name for (name,) in database.execute("SELECT name FROM demo_things ORDER BY name")]


def raised(outcomes, kind=Exception):
    return [outcome for outcome in outcomes if isinstance(outcome, kind)]


# --- connections that break ---


async def test_a_writer_whose_idle_connection_was_closed_connects_again_and_nobody_notices(opened, postgresql):
    async with opened() as store:
        for name in ("a", "b", "c"):
            assert await store.write(partial(add, name=name)) == name
            assert postgresql.terminate_backends() >= 1
            assert await store.read(lambda tx: tx.execute(select(things.c.name)).scalars().all())
            postgresql.terminate_backends()
    assert names_in(postgresql) == ["a", "b", "c"]


async def test_units_of_a_transaction_that_breaks_off_before_its_commit_are_run_again(opened, postgresql):
    runs = []

    def unit(tx):
        add(tx, "a")
        tx.execute(select(things.c.name))  # the row is out
        runs.append(1)
        if len(runs) == 1:
            postgresql.terminate_backends()
        return tx.execute(select(things.c.name)).scalars().all()

    async with opened() as store:
        assert await store.write(unit) == ["a"]
    assert len(runs) == 2
    assert names_in(postgresql) == ["a"]


async def test_a_unit_that_always_loses_its_connection_is_given_up(opened, postgresql):
    def unit(tx):
        postgresql.terminate_backends()
        tx.execute(select(things.c.name))

    async with opened() as store:
        with pytest.raises(BackendUnavailable) as caught:
            await store.write(unit)
        assert caught.value.reason == "store_unavailable"
        assert await store.write(partial(add, name="a")) == "a"


# --- a COMMIT without an answer ---


async def test_a_commit_that_was_carried_out_but_not_answered_is_not_repeated(opened, postgresql, wire, over_wire):
    """Guarantee 2: what became of it is looked up."""
    async with opened(url=over_wire) as store:
        await store.write(partial(add, name="a"))
        wire.next_commit("unanswered")
        assert await store.write(partial(raise_number, name="a")) == 1
        assert await store.write(partial(raise_number, name="a")) == 2
        await store.audit(ServerStopped(pid=2))
        assert (await verify_store(store)).intact
    assert postgresql.execute("SELECT number FROM demo_things") == [(2,)]


async def test_a_commit_that_never_arrived_is_repeated_once(opened, postgresql, wire, over_wire):
    async with opened(url=over_wire) as store:
        await store.write(partial(add, name="a"))
        wire.next_commit("lost")
        assert await store.write(partial(raise_number, name="a")) == 1
        assert await store.write(partial(raise_number, name="a")) == 2
    assert postgresql.execute("SELECT number FROM demo_things") == [(2,)]


async def test_a_commit_that_is_still_under_way_is_waited_for(opened, postgresql, wire, over_wire):
    """The row of the writer is locked as long as its transaction may still be committed."""
    postgresql.execute(
        "CREATE FUNCTION held() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END'"
    )
    postgresql.execute(
        "CREATE CONSTRAINT TRIGGER held AFTER UPDATE ON demo_things DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION held()"
    )
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    async with opened(url=over_wire) as store:
        await store.write(partial(add, name="a"))
        wire.next_commit("unfinished")
        with postgresql.transaction() as other:
            other.execute("SELECT pg_advisory_lock(42)")
            written = asyncio.create_task(store.write(partial(raise_number, name="a")))
            async with asyncio.timeout(15):
                # The COMMIT waits for us, and whoever asks what became of it for the COMMIT.
                while await asyncio.to_thread(postgresql.execute, waiting, postgresql.name) != [(2,)]:
                    await asyncio.sleep(0.02)
        assert await written == 1
    assert postgresql.execute("SELECT number FROM demo_things") == [(1,)]


@pytest.mark.parametrize("fate", ["unanswered", "lost"])
async def test_a_commit_that_cannot_be_looked_up_is_neither_a_success_nor_repeated(
    opened, postgresql, wire, over_wire, fate
):
    async with opened(url=over_wire) as store:
        await store.write(partial(add, name="a"))
        wire.next_commit(fate, then=wire.refuse)
        with pytest.raises(BackendUnavailable) as caught:
            await store.write(partial(raise_number, name="a"))
        assert caught.value.reason == "store_outcome_unknown"
        wire.refuse(False)
        done = int(fate == "unanswered")
        assert postgresql.execute("SELECT number FROM demo_things") == [(done,)]
        # The writer goes on, whatever became of it.
        assert await store.write(partial(raise_number, name="a")) == done + 1


# --- a database that is away ---


async def test_a_database_that_does_not_answer_is_given_up_in_time_and_found_again(opened, postgresql):
    """Item 2: the latency of a commit is bounded, also where the server's own limits do not help."""
    async with opened(commit_limit=SHORT) as store:
        await store.write(partial(add, name="a"))
        await store.read(lambda tx: tx.execute(select(things.c.name)).all())
        with postgresql.server.frozen():
            async with asyncio.timeout(45):  # and not for ever
                outcomes = await asyncio.gather(
                    store.write(partial(add, name="b")),
                    store.read(lambda tx: tx.execute(select(things.c.name)).all()),
                    return_exceptions=True,
                )
        assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 2
        assert await store.write(partial(add, name="c")) == "c"
    assert {"a", "c"} <= set(names_in(postgresql))


async def test_what_waited_too_long_behind_others_is_told_so_and_not_run(opened, postgresql):
    runs = []
    async with opened(commit_limit=SHORT) as store:
        await store.write(partial(add, name="a"))
        with postgresql.server.frozen():
            stuck = asyncio.create_task(store.write(partial(add, name="stuck")))
            await asyncio.sleep(0)  # handed in ...
            while store._writer._units:  # ... and begun
                await asyncio.sleep(0.01)
            late = asyncio.create_task(store.write(lambda _: runs.append(1)))
            outcomes = await asyncio.gather(stuck, late, return_exceptions=True)
    assert [outcome.reason for outcome in outcomes][1] == "store_too_slow"
    assert runs == []


async def test_a_server_that_was_killed_and_started_again_is_found_again(opened, postgresql):
    async with opened() as store:
        await store.write(partial(add, name="a"))
        postgresql.server.kill()
        try:
            for work in (store.write(partial(add, name="b")), store.read(lambda tx: tx.execute(select(things)).all())):
                with pytest.raises(BackendUnavailable) as caught:
                    await work
                assert caught.value.reason == "store_unavailable"
        finally:
            postgresql.server.start()
        assert await store.write(partial(add, name="c")) == "c"
        assert await store.read(lambda tx: len(tx.execute(select(things)).all())) == 2
        assert (await verify_store(store)).intact


async def test_a_full_queue_of_locks_is_unavailable(opened, postgresql):
    async with opened(commit_limit=SHORT) as store:
        await store.write(partial(add, name="a"))
        with postgresql.transaction() as other:
            other.execute("SELECT * FROM demo_things FOR UPDATE")
            with pytest.raises(BackendUnavailable):
                await store.write(partial(raise_number, name="a"))
        assert await store.write(partial(raise_number, name="a")) == 1


# --- several writers ---


async def test_two_nodes_that_block_each_other_both_come_to_their_end(opened, postgresql):
    """A deadlock ends one of the two batches, which is run again unit by unit."""
    met = [asyncio.Event(), asyncio.Event()]
    loop = asyncio.get_running_loop()
    tries = []

    async with opened("alpha") as alpha, opened("beta") as beta:
        for name in ("a", "b"):
            await alpha.write(partial(add, name=name))

        def crosswise(tx, mine, own, other):
            tries.append(mine)
            raise_number(tx, own)
            loop.call_soon_threadsafe(met[mine].set)
            if tries.count(mine) == 1:
                asyncio.run_coroutine_threadsafe(met[1 - mine].wait(), loop).result(20)
            return raise_number(tx, other)

        await asyncio.gather(
            alpha.write(partial(crosswise, mine=0, own="a", other="b")),
            beta.write(partial(crosswise, mine=1, own="b", other="a")),
        )
    assert len(tries) == 3
    assert postgresql.execute("SELECT number FROM demo_things") == [(2,), (2,)]


async def test_of_two_nodes_that_add_the_same_row_the_second_sees_the_first(opened, postgresql):
    """A unit that looks and then adds is right without a word about other nodes."""

    def once(tx):
        if tx.execute(select(things.c.name).where(things.c.name == "a")).first() is None:
            add(tx, "a")
            return "added"
        return "there"

    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(f"n{number}")) for number in range(4)]
        for _ in range(20):
            outcomes = await asyncio.gather(*(store.write(once) for store in stores))
            assert sorted(outcomes) == ["added", *["there"] * 3]
            await stores[0].write(lambda tx: tx.execute(things.delete()))


async def test_a_row_that_is_there_is_the_units_fault_in_the_end(opened):
    async with opened() as store:
        await store.write(partial(add, name="a"))
        with pytest.raises(BackendFault) as caught:
            await store.write(partial(add, name="a"))
        assert caught.value.reason == "store_constraint"


async def test_a_locked_name_is_one_transactions_on_every_node(opened, postgresql):
    """`Tx.lock`: a decision that rests on a number of rows."""

    def one_more_of_three(tx, name):
        tx.lock("demo")
        if len(tx.execute(select(things.c.name)).all()) < 3:
            tx.execute(text("SELECT pg_sleep(0.02)"))
            add(tx, name)

    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(opened(f"n{number}")) for number in range(4)]
        await asyncio.gather(
            *(
                store.write(partial(one_more_of_three, name=f"{store.node}-{number}"))
                for store in stores
                for number in range(5)
            )
        )
    assert len(names_in(postgresql)) == 3


async def test_failures_of_one_address_that_two_nodes_count_at_once_are_two(opened, postgresql):
    """RULES C4: none is counted without the other, though neither is committed when both look."""
    policy = LockoutPolicy(max_failures=1, window=timedelta(minutes=5), duration=timedelta(minutes=5))
    count = partial(lockouts.count_failure, counter="otp", address="192.0.2.1", policy=policy)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
    counted, go_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def count_and_wait(tx):
        denied = count(tx)
        loop.call_soon_threadsafe(counted.set)
        assert go_on.wait(20)
        return denied

    async with opened("alpha") as alpha, opened("beta") as beta:
        first = asyncio.create_task(alpha.write(count_and_wait))
        await counted.wait()
        second = asyncio.create_task(beta.write(count))
        async with asyncio.timeout(15):
            while not second.done() and await asyncio.to_thread(postgresql.execute, waiting, postgresql.name) == [(0,)]:
                await asyncio.sleep(0.02)
        go_on.set()
        assert await first is None
        assert (await second).kind is DenialKind.LOCKED


async def test_the_chain_of_a_node_is_whole_though_several_processes_write_it(opened):
    """Guarantee 7: the head is locked last, and one after the other."""
    async with opened() as one, opened() as two, opened("beta") as three:
        stores = (one, two, three)
        await asyncio.gather(*(store.audit(ServerStopped(pid=number)) for number in range(60) for store in stores))
        report = await verify_store(one)
        assert report.intact
        heads = {head.node: head.sequence for head in await one.read(events.heads)}
        assert heads == {"alpha": 120, "beta": 60}


# --- whose node it is ---


async def test_a_name_is_free_again_when_its_server_has_ended(opened):
    for _ in range(2):
        async with opened(exclusive=True), opened("beta", exclusive=True):
            pass


async def test_a_server_that_the_database_lost_sight_of_is_followed_and_writes_no_more(opened, postgresql):
    """Of two servers of one name the later writes: a number of the audit log is given once."""
    async with opened(exclusive=True) as first:
        await first.write(partial(add, name="a"))
        postgresql.terminate_backends()
        async with opened(exclusive=True) as second:
            for _ in range(2):
                with pytest.raises(BackendUnavailable) as caught:
                    await first.write(partial(add, name="b"))
                assert caught.value.reason == "node_lost"
            assert await second.write(partial(add, name="c")) == "c"
            assert await first.read(lambda tx: len(tx.execute(select(things)).all())) == 2
    assert names_in(postgresql) == ["a", "c"]


async def test_a_command_writes_beside_the_server_and_after_its_restart(opened):
    """RULES K7."""
    async with opened() as command:
        for _ in range(2):
            async with opened(exclusive=True) as server:
                await command.audit(ServerStopped(pid=1))
                await server.audit(ServerStopped(pid=2))


def test_claiming_a_node_leaves_no_connection_behind(postgresql):
    """The process that forks workers has none: each worker would have it."""
    with hold_node(postgresql.url, node="alpha", run="r1"):
        count = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND application_name LIKE 'kipuka%%'"
        assert postgresql.execute(count, postgresql.name) == [(0,)]
        assert postgresql.execute("SELECT name, run FROM nodes") == [("alpha", "r1")]


async def test_a_worker_of_a_start_that_was_followed_does_not_start(opened, postgresql):
    with hold_node(postgresql.url, node="alpha", run="r1"), hold_node(postgresql.url, node="alpha", run="r2"):
        with pytest.raises(BackendUnavailable) as caught:
            async with opened(run="r1"):
                pass
        assert caught.value.reason == "node_lost"
        async with opened(run="r2"), opened(run="r2"):
            with pytest.raises(AlreadyRunning, match="alpha"), hold_node(postgresql.url, node="alpha", run="r3"):
                pass


def test_a_node_of_a_database_without_tables_is_not_claimed(kipuka_postgresql):
    empty = kipuka_postgresql.create_database()
    with pytest.raises(SchemaError, match="kipuka db upgrade"), hold_node(empty.url, node="alpha", run="r1"):
        pytest.fail("it was claimed")
    kipuka_postgresql.drop_database(empty.name)


async def test_writers_leave_no_row_behind(opened, postgresql):
    async with opened(exclusive=True), opened() as command:
        await command.audit(ServerStopped(pid=1))
        assert len(postgresql.execute("SELECT id FROM writers")) == 2
    assert postgresql.execute("SELECT id FROM writers") == []


# --- what it is to be trusted with ---


async def test_commits_are_on_disk_though_the_database_says_they_need_not_be(opened, postgresql):
    """Guarantee 1: an answer comes after the commit is durable."""
    postgresql.execute(f"ALTER DATABASE {postgresql.name} SET synchronous_commit = off")
    assert postgresql.execute("SHOW synchronous_commit") == [("off",)]
    async with opened() as store:
        assert await store.write(lambda tx: tx.execute(text("SHOW synchronous_commit")).scalar_one()) == "on"


def test_a_server_that_does_not_sync_is_refused():
    with PostgreSQLServer(settings={"fsync": "off"}) as server:
        url = server.create_database().url
        with pytest.raises(StartupError, match="fsync = off"):
            dialect_for(url).exists()


def test_a_database_in_another_encoding_is_refused(kipuka_postgresql):
    server = kipuka_postgresql
    server._maintain("CREATE DATABASE latin TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc")
    try:
        with pytest.raises(StartupError, match="UTF8"):
            dialect_for(server.database("latin").url).exists()
    finally:
        server.drop_database("latin")


async def test_text_that_postgresql_cannot_hold_is_the_askers_fault(opened):
    async with opened() as store:
        with pytest.raises(MalformedRequest):
            await store.read(partial(certificates.find, id="ma\0in/ab"))
        with pytest.raises(BackendFault):
            await store.write(partial(add, name="a\0"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(
            lambda url, secret: url.replace(secret, "wrong-horse"), "password authentication failed", id="password"
        ),
        pytest.param(lambda url, _: url + "nowhere", "does not exist", id="no such database"),
        pytest.param(lambda url, _: url + "?sslmod=require", "no option sslmod", id="unknown option"),
        pytest.param(lambda url, _: url + "?sslmode=perhaps", "sslmode", id="unknown value"),
        pytest.param(lambda url, secret: url.replace(secret, "wrong%zz-horse"), "URL", id="broken escape"),
        pytest.param(lambda url, _: url.rpartition("/")[0], "postgresql://USER@HOST/DATABASE", id="no database"),
    ],
)
def test_what_is_wrong_with_the_url_is_said_without_the_password(postgresql, change, told):
    """Guarantee 8."""
    url = change(postgresql.url, postgresql.server.password)
    with pytest.raises(StartupError) as caught:
        dialect_for(url).exists()
    assert told in str(caught.value)
    assert "horse" not in str(caught.value)
    assert postgresql.server.password not in str(caught.value)


def test_a_server_that_is_away_may_come_back(postgresql):
    url = postgresql.url.replace(f":{postgresql.server.port}/", ":1/")
    with pytest.raises(BackendUnavailable) as caught:
        dialect_for(url).exists()
    assert postgresql.server.password not in caught.value.detail


def test_a_unix_socket_will_do(postgresql):
    server = postgresql.server
    url = f"postgresql://kipuka:{server.password}@/{postgresql.name}?host={server.socket_folder}&port={server.port}"
    assert dialect_for(url).exists()


def test_a_missing_driver_is_one_line_with_the_remedy():
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from kipuka.store.dialect import dialect_for\n"
        "try: dialect_for('postgresql://h/d')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, timeout=30, capture_output=True, text=True)
    assert done.stdout == "StartupError [db] url: PostgreSQL needs its driver: pip install 'kipuka[postgresql]'\n"
