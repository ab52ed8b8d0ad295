"""The writer: group commit, replay, and what befalls callers, loops and disks."""

from __future__ import annotations

import asyncio
import re
import threading
from functools import partial

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, event, func, insert, select, text, update

from kipuka.api import BackendFault, BackendUnavailable, ServerStopped
from kipuka.store import events
from kipuka.store.context import AuditContext, audit_context

metadata = MetaData()
parents = Table("demo_parents", metadata, Column("id", Integer, primary_key=True), Column("name", String, unique=True))
children = Table(
    "demo_children",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("parent", ForeignKey("demo_parents.id")),
    Column("note", String),
)
tokens = Table(
    "demo_tokens", metadata, Column("id", String, primary_key=True), Column("max", Integer), Column("used", Integer)
)


@pytest.fixture(autouse=True)
def demo_tables(sql, url):
    key = "INTEGER PRIMARY KEY" if url.startswith("sqlite") else "SERIAL PRIMARY KEY"
    sql(
        f"CREATE TABLE demo_parents (id {key}, name TEXT UNIQUE)",
        f"CREATE TABLE demo_children (id {key}, parent INTEGER REFERENCES demo_parents(id) ON DELETE CASCADE, note TEXT)",
        "CREATE TABLE demo_tokens (id TEXT PRIMARY KEY, max INTEGER, used INTEGER)",
    )


def add_parent(tx, name, *, fail=None):
    tx.add(parents, {"name": name})
    if fail is not None:
        raise fail
    return name


def names(tx):
    return sorted(tx.execute(select(parents.c.name)).scalars())


class Gate:
    """A unit that holds the writer up, so that others gather behind it into one batch."""

    def __init__(self, store):
        self.entered = asyncio.Event()
        self._open = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._store = store

    def _wait(self, _tx):
        self._loop.call_soon_threadsafe(self.entered.set)
        assert self._open.wait(20)

    async def __aenter__(self):
        self._task = asyncio.create_task(self._store.write(self._wait))
        await self.entered.wait()
        return self

    async def __aexit__(self, *_):
        self._open.set()
        await self._task

    def open(self):
        self._open.set()


class Statements:
    """What the writer's connection was asked to do."""

    def __init__(self, store):
        self.seen = []
        event.listen(store._writer._engine, "before_cursor_execute", self._note)
        event.listen(store._writer._engine, "commit", lambda _: self.seen.append("COMMIT"))

    def _note(self, _connection, _cursor, statement, parameters, _context, _many):
        self.seen.append(statement)

    def count(self, start):
        return sum(statement.startswith(start) for statement in self.seen)


async def gathered(gate, *units):
    """Hand units in while the gate is shut, so that they share a batch; their outcomes."""
    tasks = [asyncio.ensure_future(unit) for unit in units]
    await asyncio.sleep(0.05)
    gate.open()
    return await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_answer_comes_after_the_commit_is_durable(store, sql):
    """DESIGN guarantee 1: another process sees the row at the moment the caller has its answer."""
    assert await store.write(partial(add_parent, name="a")) == "a"
    assert sql("SELECT name FROM demo_parents") == [("a",)]


async def test_the_writers_connection_syncs_every_commit(store, database):
    """DESIGN, the store: WAL, synchronous=FULL, foreign_keys, busy_timeout."""

    def pragmas(tx):
        wanted = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        return [tx.execute(text(f"PRAGMA {name}")).scalar_one() for name in wanted]

    assert await store.write(pragmas) == ["wal", 2, 1, 20000]
    assert await store.read(pragmas) == ["wal", 2, 1, 20000]


async def test_units_that_wait_share_one_commit_and_one_insert(store):
    """DESIGN, the store: group commit, inserts and audit rows set-wise."""
    async with Gate(store) as gate:
        statements = Statements(store)

        def unit(tx, number):
            tx.add(parents, {"name": f"p{number}"})
            tx.audit(ServerStopped(pid=number))

        await gathered(gate, *(store.write(partial(unit, number=number)) for number in range(20)))
    # The gate's own transaction, and the batch's.
    assert statements.count("COMMIT") == 2
    assert statements.count("INSERT INTO demo_parents") == 1
    assert statements.count("INSERT INTO audit_events") == 1
    assert statements.count("SAVEPOINT") == 0


async def test_a_failing_unit_does_not_harm_the_others_of_its_batch(store):
    async with Gate(store) as gate:
        outcomes = await gathered(
            gate,
            store.write(partial(add_parent, name="a")),
            store.write(partial(add_parent, name="bad", fail=KeyError("x"))),
            store.write(partial(add_parent, name="b")),
        )
    assert outcomes[0] == "a"
    assert isinstance(outcomes[1], KeyError)
    assert outcomes[2] == "b"
    assert await store.read(names) == ["a", "b"]


async def test_a_broken_constraint_fails_only_the_unit_that_broke_it(store):
    """It shows at the flush, when all rows of a batch go out in one statement."""
    async with Gate(store) as gate:
        outcomes = await gathered(
            gate, *(store.write(partial(add_parent, name=name)) for name in ("a", "twice", "twice", "b"))
        )
    assert [type(outcome) for outcome in outcomes] == [str, str, BackendFault, str]
    assert outcomes[2].reason == "store_constraint"
    assert await store.read(names) == ["a", "b", "twice"]


async def test_a_failing_units_events_are_not_recorded(store):
    def unit(tx, pid):
        tx.audit(ServerStopped(pid=pid))
        if pid == 2:
            raise ValueError

    async with Gate(store) as gate:
        await gathered(gate, *(store.write(partial(unit, pid=pid)) for pid in (1, 2, 3)))
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=10))
    assert [(record.sequence, record.data["pid"]) for record in records] == [(1, 1), (2, 3)]


async def test_a_unit_that_fails_alone_is_not_run_again(store):
    runs = []

    def unit(_tx):
        runs.append(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.write(unit)
    assert len(runs) == 1


@pytest.mark.parametrize("error", [SystemExit(3), StopIteration(), asyncio.CancelledError(), GeneratorExit()])
async def test_what_a_future_cannot_carry_becomes_a_fault_and_the_writer_goes_on(store, error):
    with pytest.raises(BackendFault) as raised:
        await store.write(partial(add_parent, name="bad", fail=error))
    assert raised.value.__cause__ is error
    assert await store.write(partial(add_parent, name="a")) == "a"
    assert await store.read(names) == ["a"]


async def test_an_asynchronous_unit_is_refused(store):
    async def unit(tx):
        tx.add(parents, {"name": "a"})

    with pytest.raises(TypeError, match="asynchronous"):
        await store.write(unit)
    assert await store.read(names) == []


async def test_a_transaction_ends_with_its_unit(store):
    kept = await store.write(lambda tx: tx)
    for use in (
        lambda: kept.add(parents, {"name": "late"}),
        lambda: kept.execute(select(1)),
        lambda: kept.audit(ServerStopped(pid=1)),
    ):
        with pytest.raises(RuntimeError, match="after its function"):
            use()


async def test_a_cancelled_caller_loses_no_commit(store):
    """DESIGN guarantee 2: Quart cancels the handler of a client that left; what was handed in is committed all the same."""
    complaints = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    async with Gate(store) as gate:
        task = asyncio.create_task(store.write(partial(add_parent, name="a")))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.open()
    await store.write(partial(add_parent, name="b"))
    assert await store.read(names) == ["a", "b"]
    assert complaints == []


async def test_a_full_queue_is_told_at_once(opened):
    async with opened(queue_limit=3) as store, Gate(store) as gate:
        waiting = [asyncio.create_task(store.write(partial(add_parent, name=name))) for name in "abc"]
        await asyncio.sleep(0.05)
        with pytest.raises(BackendUnavailable) as raised:
            await store.write(partial(add_parent, name="d"))
        assert raised.value.reason == "store_queue_full"
        assert raised.value.retry_after.total_seconds() > 0
        gate.open()
        assert await asyncio.gather(*waiting) == ["a", "b", "c"]


async def test_a_full_queue_takes_what_ends_something_that_was_let_in(opened):
    """Else what was reserved would be thrown away when it is nearly done."""
    async with opened(queue_limit=1) as store, Gate(store) as gate:
        waiting = asyncio.create_task(store.write(partial(add_parent, name="a")))
        await asyncio.sleep(0.05)
        ending = asyncio.create_task(store.write(partial(add_parent, name="b"), under_way=True))
        await asyncio.sleep(0.05)
        with pytest.raises(BackendUnavailable):
            await store.write(partial(add_parent, name="c"))
        gate.open()
        assert await asyncio.gather(waiting, ending) == ["a", "b"]


async def test_closing_finishes_what_was_handed_in_and_ends_the_threads(opened, sql):
    async with opened() as store:
        tasks = [asyncio.create_task(store.write(partial(add_parent, name=f"p{number}"))) for number in range(100)]
        await asyncio.sleep(0)
    assert len(await asyncio.gather(*tasks)) == 100
    assert sql("SELECT count(*) FROM demo_parents") == [(100,)]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("kipuka-")]
    with pytest.raises(BackendUnavailable, match="stopping"):
        await store.write(names)
    with pytest.raises(BackendUnavailable, match="stopping"):
        await store.read(names)


async def test_closing_is_finished_also_when_it_is_cancelled(opened, sql):
    entered = asyncio.Event()

    async def serve():
        async with opened() as store:
            loop, gate = asyncio.get_running_loop(), threading.Event()

            def slow(tx):
                loop.call_soon_threadsafe(entered.set)
                gate.wait(20)
                tx.add(parents, {"name": "a"})

            loop.call_later(0.3, gate.set)
            await store.write(slow)

    task = asyncio.create_task(serve())
    await entered.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sql("SELECT name FROM demo_parents") == [("a",)]


async def test_a_loop_that_was_closed_meanwhile_does_no_harm(store):
    """The answer has nobody to go to; the unit is committed, and the writer goes on for the others."""
    async with Gate(store):

        def other_loop():
            loop = asyncio.new_event_loop()

            async def hand_in():
                # Never awaited further: the loop is closed under it, as when a process falls apart.
                store._writer.submit(partial(add_parent, name="orphan"), AuditContext())
                store._writer.submit(partial(add_parent, name="bad", fail=ValueError()), AuditContext())

            loop.run_until_complete(hand_in())
            loop.close()

        await asyncio.to_thread(other_loop)
    await store.write(partial(add_parent, name="a"))
    assert await store.read(names) == ["a", "orphan"]


async def test_a_full_disk_is_unavailable_for_each_waiting_unit_and_the_writer_goes_on(store, database):
    """DESIGN guarantee 1: nobody hears a success that is not on disk."""

    def fill(tx):
        pages = tx.execute(text("PRAGMA page_count")).scalar_one()
        tx.execute(text(f"PRAGMA max_page_count={pages}"))  # for this connection only

    def large(tx, name):
        tx.add(parents, {"name": name * 50_000})

    async with Gate(store) as gate:
        outcomes = await gathered(gate, store.write(fill), *(store.write(partial(large, name=name)) for name in "abc"))
    assert [type(outcome) for outcome in outcomes] == [BackendUnavailable] * 4
    assert {outcome.reason for outcome in outcomes} == {"store_unavailable"}
    assert "full" not in outcomes[0].detail  # the cause is for the log
    assert "full" in str(outcomes[0].__cause__)
    assert await store.write(partial(add_parent, name="a")) == "a"
    assert await store.read(names) == ["a"]


async def test_a_read_only_database_is_unavailable_and_the_writer_goes_on(store, url):
    make = "PRAGMA query_only=ON" if url.startswith("sqlite") else "SET transaction_read_only = on"
    with pytest.raises(BackendUnavailable):
        await store.write(lambda tx: (tx.execute(text(make)), tx.add(parents, {"name": "a"})))
    assert await store.write(partial(add_parent, name="b")) == "b"


async def test_a_database_file_that_was_moved_away_is_not_written_to(store, database):
    await store.write(partial(add_parent, name="a"))
    moved = database.rename(database.with_suffix(".away"))
    with pytest.raises(BackendUnavailable):
        await store.write(partial(add_parent, name="b"))
    with pytest.raises(BackendUnavailable):
        await store.write(partial(add_parent, name="c"))
    store._reader_engine.dispose()
    with pytest.raises(BackendUnavailable):
        await store.read(names)
    assert not database.exists(), "no empty one was made in its place"
    moved.rename(database)
    assert await store.write(partial(add_parent, name="d")) == "d"
    assert await store.read(names) == ["a", "d"]


async def test_a_wrong_statement_is_the_units_own_fault(store):
    with pytest.raises(Exception, match=r"no such table|does not exist"):
        await store.write(lambda tx: tx.execute(text("SELECT * FROM nowhere")))


async def test_added_rows_are_seen_by_later_statements_that_read_their_table(store):
    alias = parents.alias()
    count = select(func.count())
    reads = {
        "table": count.select_from(parents),
        "alias": count.select_from(alias),
        "join": count.select_from(children.join(parents)),
        "subquery": count.select_from(select(parents).subquery()),
        "scalar subquery": select(count.select_from(parents).scalar_subquery()),
        "cte": count.select_from(select(parents).cte()),
        "exists": count.select_from(children).where(select(parents).exists()),
        "text": text("SELECT count(*) FROM demo_parents"),
        "text inside": select(text("(SELECT count(*) FROM demo_parents)")),
        "union": select(parents.c.id).union(select(parents.c.id)),
    }

    def unit(tx, statement):
        tx.add(parents, {"id": 1, "name": "a"})
        tx.add(children, {"id": 1, "parent": 1})
        seen = tx.execute(statement).scalar_one()
        tx.execute(children.delete())
        tx.execute(parents.delete())
        return seen

    for name, statement in reads.items():
        assert await store.write(partial(unit, statement=statement)) == 1, name


async def test_added_rows_go_out_before_statements_that_need_them(store):
    def unit(tx):
        tx.add(children, {"id": 1, "parent": 7, "note": "before its parent"})
        tx.add(parents, {"id": 7, "name": "seven"})
        tx.add(children, {"id": 2, "parent": 7})  # other columns
        tx.execute(insert(children).values(id=3, parent=7))
        changed = tx.execute(update(parents).where(parents.c.id == 7).values(name="7")).rowcount
        tx.add(parents, {"id": 8, "name": "eight"})
        moved = tx.execute(update(children).where(children.c.id == 3).values(parent=8)).rowcount
        return changed, moved

    assert await store.write(unit) == (1, 1)
    assert await store.read(lambda tx: tx.execute(select(func.count()).select_from(children)).scalar_one()) == 3


async def test_deleting_a_parent_sees_children_that_were_only_added(store):
    def unit(tx):
        tx.add(parents, {"id": 1, "name": "a"})
        tx.add(children, {"id": 1, "parent": 1})
        tx.execute(parents.delete())
        return tx.execute(select(func.count()).select_from(children)).scalar_one()

    assert await store.write(unit) == 0, "the child went with its parent"


async def test_two_hundred_parallel_spends_of_three_uses_give_exactly_three(store):
    """DESIGN guarantee 2: a token is spent exactly as often as it may be."""
    await store.write(lambda tx: tx.add(tokens, {"id": "t", "max": 3, "used": 0}))

    def spend(tx):
        c = tokens.c
        statement = update(tokens).where(c.id == "t", c.used < c.max).values(used=c.used + 1)
        return tx.execute(statement).rowcount == 1

    won = await asyncio.gather(*(store.write(spend) for _ in range(200)))
    assert sum(won) == 3
    assert await store.read(lambda tx: tx.execute(select(tokens.c.used)).scalar_one()) == 3


async def test_events_carry_the_context_of_the_call(store):
    async def request(number):
        audit_context.set(AuditContext(request_id=f"r{number}", client_address="192.0.2.1", identity=f"otp:{number}"))
        await store.audit(ServerStopped(pid=number))

    await asyncio.gather(*(asyncio.create_task(request(number)) for number in range(5)))
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=10))
    assert len(records) == 5
    for record in records:
        assert record.request_id == f"r{record.data['pid']}"
        assert record.identity == f"otp:{record.data['pid']}"
        assert record.client_address == "192.0.2.1"


async def test_listeners_hear_of_commits_with_events_only(store):
    heard = []
    stop = store.on_events(lambda: heard.append(threading.current_thread()))
    await store.write(partial(add_parent, name="a"))
    await asyncio.sleep(0.02)
    assert heard == []
    await store.audit(ServerStopped(pid=1))
    await asyncio.sleep(0.02)
    assert heard == [threading.current_thread()]
    stop()
    await store.audit(ServerStopped(pid=1))
    await asyncio.sleep(0.02)
    assert len(heard) == 1


async def test_a_listener_whose_loop_is_gone_does_not_make_a_commit_fail_or_repeat(store):
    loop = asyncio.new_event_loop()
    await asyncio.to_thread(lambda: loop.run_until_complete(register(store)))
    loop.close()
    await store.audit(ServerStopped(pid=1))
    await store.audit(ServerStopped(pid=2))
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=10))
    assert [record.data["pid"] for record in records] == [1, 2]


async def register(store):
    store.on_events(lambda: None)


async def test_a_fault_after_the_commit_never_runs_units_again(store, monkeypatch):
    def broken():
        raise RuntimeError("after the commit")

    monkeypatch.setattr(store._writer, "_committed", broken)
    async with Gate(store) as gate:
        outcomes = await gathered(gate, *(store.audit(ServerStopped(pid=pid)) for pid in (1, 2)))
    assert outcomes == [None, None]
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=10))
    assert [record.data["pid"] for record in records] == [1, 2]


async def test_the_clock_of_a_transaction_is_the_hosts_and_stands_still(store, clock):
    assert await store.write(lambda tx: (tx.now, tx.node)) == (clock(), "alpha")
    clock.advance(5)
    assert await store.read(lambda tx: tx.now) == clock()


async def test_a_reader_cannot_write(store):
    with pytest.raises(BackendUnavailable) as raised:
        await store.read(lambda tx: tx.execute(insert(parents).values(name="a")))
    assert re.search("readonly|read-only", str(raised.value.__cause__))


async def test_a_read_sees_one_state(store):
    loop = asyncio.get_running_loop()

    def twice(tx):
        before = names(tx)
        asyncio.run_coroutine_threadsafe(store.write(partial(add_parent, name="b")), loop).result(20)
        return before, names(tx)

    await store.write(partial(add_parent, name="a"))
    assert await store.read(twice) == (["a"], ["a"])
    assert await store.read(names) == ["a", "b"]


async def test_too_many_waiting_reads_are_told_at_once(opened):
    async with opened(queue_limit=2) as store:
        gate = threading.Event()
        waiting = [asyncio.create_task(store.read(lambda _: gate.wait(20))) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(BackendUnavailable):
            await store.read(names)
        waiting[0].cancel()
        gate.set()
        assert await waiting[1] is True
        await asyncio.sleep(0.05)
        assert await store.read(names) == []


async def test_what_a_read_raises_reaches_its_caller(store):
    with pytest.raises(ZeroDivisionError):
        await store.read(lambda _: 1 // 0)
