"""Moving an SQLite database to PostgreSQL: what is refused, what is compared, and that a difference leaves nothing."""

from __future__ import annotations

import asyncio
import resource
import sqlite3
import threading
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import pytest
import sqlalchemy

from kipuka.api import AlreadyRunning, DatabaseMigrated, SchemaError, ServerStopped, Storage
from kipuka.api.storage import Boolean, Column, Integer, LargeBinary, MetaData, String, Table
from kipuka.audit.chain import seal
from kipuka.audit.verify import verify_rows, verify_store
from kipuka.store import events
from kipuka.store.context import AuditContext
from kipuka.store.database import hold_node, open_store
from kipuka.store.events import PendingEvent
from kipuka.store.move import PART, NotMoved, move
from kipuka.store.schema import upgrade
from kipuka.testing.wire import Wire

pytestmark = pytest.mark.needs("postgres")

DEMO = """
from alembic import op
import sqlalchemy as sa
revision = "demo_1"
down_revision = None
def upgrade():
    op.create_table(
        "demo_all",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(20)),
        sa.Column("good", sa.Boolean),
        sa.Column("octets", sa.LargeBinary),
        sa.Column("moment", sa.DateTime(timezone=True)),
        sa.Column("document", sa.JSON),
    )
"""
WHOLE = (7, "Zoë 'x'", 1, b"\0\xff", "2030-06-24 12:00:00.000001", '{"b": [1, null], "a": "\\u00e4"}')
NULLS = (9, None, None, None, None, None)


@pytest.fixture
def target(kipuka_postgresql):
    """An empty database, without a table."""
    made = kipuka_postgresql.create_database()
    yield made
    kipuka_postgresql.drop_database(made.name)


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """A plugin with a table of every type."""
    package = tmp_path / "site" / f"moved_{tmp_path.name}" / "migrations"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").touch()
    (package / "0001_x.py").write_text(DEMO)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    metadata = MetaData()
    Table(
        "demo_all",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("name", String(20)),
        Column("good", Boolean),
        Column("octets", LargeBinary),
        Column("moment", sqlalchemy.DateTime(timezone=True)),
        Column("document", sqlalchemy.JSON),
    )
    return Storage(prefix="demo", metadata=metadata, migrations=f"{package.parent.name}.migrations")


@pytest.fixture
def moving(database, target):
    """Move `database` to `target`; the rows by table."""

    def moving(*storages, url=target.url, tell=lambda _table, _count: None):
        def event(rows):
            migrated = DatabaseMigrated(source=str(database), rows=dict(rows))
            return PendingEvent(time=datetime.now(UTC), event=migrated, context=AuditContext())

        return move(
            f"sqlite:///{database}",
            url,
            node="alpha",
            storages=storages,
            examine=lambda tx: [str(finding) for finding in verify_rows(tx).findings],
            event=event,
            seal=seal,
            tell=tell,
        )

    return moving


def execute(database, statement, *rows):
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany(statement, rows or [()])


def tables_of(target):
    return target.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")


def fail(database, *places):
    execute(database, "INSERT INTO lockout_failures (id, counter, address, time) VALUES (?, 'otp', ?, '2030')", *places)


async def audited(url, clock, count, *, node="alpha"):
    async with open_store(url, node=node, clock=clock, seal=seal, queue_limit=count + 1) as store:
        await store.write(lambda tx: [tx.audit(ServerStopped(pid=number)) for number in range(count)])


def demo_rows(database, demo, *rows):
    upgrade(f"sqlite:///{database}", [demo])
    execute(database, "INSERT INTO demo_all VALUES (?, ?, ?, ?, ?, ?)", *rows)


async def test_the_chain_goes_on_after_the_move_and_the_source_stays_as_it_was(database, target, clock, moving):
    await audited(f"sqlite:///{database}", clock, 3)
    await audited(f"sqlite:///{database}", clock, 2, node="beta")
    told = []
    rows = moving(tell=lambda table, count: told.append((table, count)))
    assert rows["audit_events"] == 5
    assert dict(told) == dict(rows)
    await audited(target.url, clock, 1)
    async with open_store(target.url, node="alpha", clock=clock, seal=seal) as store:
        report = await verify_store(store)
        [event] = await store.read(partial(events.after, node="alpha", sequence=3, limit=1))
    assert report.intact
    assert {chain.node: chain.events for chain in report.chains} == {"alpha": 5, "beta": 2}
    assert (event.event, event.data["rows"]["audit_events"]) == ("database_migrated", 5)
    async with open_store(f"sqlite:///{database}", node="alpha", clock=clock, seal=seal) as store:
        report = await verify_store(store)
    assert {chain.node: chain.events for chain in report.chains} == {"alpha": 3, "beta": 2}


def test_every_type_arrives_and_null_stays_null(database, target, demo, moving):
    demo_rows(database, demo, WHOLE, NULLS, (10, "", 0, b"", "2030-06-24", "null"))
    moving(demo)
    whole, nulls, empty = target.execute(
        "SELECT id, name, good, octets, moment AT TIME ZONE 'UTC', document::text FROM demo_all ORDER BY id"
    )
    assert whole == (7, "Zoë 'x'", True, b"\0\xff", datetime.fromisoformat(WHOLE[4]), WHOLE[5])
    assert nulls == NULLS
    assert empty == (10, "", False, b"", datetime(2030, 6, 24), "null")  # noqa: DTZ001 - as SQL has it


def test_what_counts_by_itself_goes_on_after_the_highest(database, target, moving):
    fail(database, (41, "127.0.0.1"))
    moving()
    [(number,)] = target.execute(
        "INSERT INTO lockout_failures (counter, address, time) VALUES ('otp', '::1', '2030') RETURNING id"
    )
    assert number == 42


def test_the_order_of_letters_is_sqlites_whatever_the_database_sorts_by(database, target, moving):
    names = ["a", "B", "_", "ä", "Z", "10", "9", "a b"]
    execute(
        database,
        "INSERT INTO lockouts (counter, address, failures, since, until) VALUES (?, '::1', 1, '2030', '2031')",
        *[(name,) for name in names],
    )
    assert moving()["lockouts"] == len(names)


@pytest.mark.parametrize(
    "unfit",
    [
        ((7, "a\0b", 1, b"", None, None), "id 7, column name: there is a NUL character"),
        ((7, "x" * 21, 1, b"", None, None), "column name: it is longer than 20 characters"),
        ((7, b"octets", 1, b"", None, None), "column name: it has octets, where text is needed"),
        ((7, "x", 2, b"", None, None), "column good: it has a number that is neither 0 nor 1"),
        ((7, "x", "yes", b"", None, None), "column good: it has text, where an integer is needed"),
        ((7, "x", 1, "text", None, None), "column octets: it has text, where octets is needed"),
        ((7, "x", 1, b"", "soon", None), "column moment: it cannot be read"),
        ((7, "x", 1, b"", None, "{"), "column document: it is not JSON"),
        ((2**40, "x", 1, b"", None, None), "id 1099511627776, column id: the number has more than 32 bits"),
    ],
)
def test_what_postgresql_cannot_hold_is_told_with_its_place(database, target, demo, moving, unfit):
    row, told = unfit
    demo_rows(database, demo, NULLS, row)
    with pytest.raises(NotMoved, match=told):
        moving(demo)
    assert tables_of(target) == []


def test_text_that_is_no_utf8_is_told_with_its_place(database, target, demo, moving):
    demo_rows(database, demo, WHOLE)
    execute(database, "UPDATE demo_all SET name = CAST(x'41ff' AS TEXT)")
    with pytest.raises(NotMoved, match="table demo_all, id 7, column name: it is not UTF-8"):
        moving(demo)
    assert tables_of(target) == []


def test_a_row_that_postgresql_refuses_is_told_with_its_place(database, target, moving):
    fail(database, *[(number, "127.0.0.1") for number in range(1, 6)])
    upgrade(target.url)
    target.execute("ALTER TABLE lockout_failures ADD CONSTRAINT not_four CHECK (id <> 4)")
    with pytest.raises(NotMoved, match="table lockout_failures, id 4: PostgreSQL refuses it"):
        moving()


TAMPERING = {
    "changed": ("NEW.address := '127.0.0.9'; RETURN NEW;", "id 3, column address: PostgreSQL has another value"),
    "dropped": ("RETURN NULL;", "id 3, row number 3: in PostgreSQL another row stands"),
    "moved": ("NEW.id := 33; RETURN NEW;", "id 3, row number 3: in PostgreSQL another row stands"),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_a_row_that_is_not_what_was_sent_is_found_and_nothing_stays(database, target, moving, how):
    """A trigger of the target changes one row on its way in, inside the transaction."""
    body, told = TAMPERING[how]
    fail(database, *[(number, "127.0.0.1") for number in range(1, 6)])
    upgrade(target.url)
    target.execute(
        f"CREATE FUNCTION tamper() RETURNS trigger AS $$ BEGIN IF NEW.id = 3 THEN {body} END IF; RETURN NEW; END $$"
        " LANGUAGE plpgsql"
    )
    target.execute("CREATE TRIGGER tamper BEFORE INSERT ON lockout_failures FOR EACH ROW EXECUTE FUNCTION tamper()")
    with pytest.raises(NotMoved, match=told):
        moving()
    assert target.execute("SELECT count(*) FROM lockout_failures") == [(0,)]
    assert target.execute("SELECT count(*) FROM audit_events") == [(0,)]


def test_a_row_too_many_is_found(database, target, moving):
    fail(database, (1, "127.0.0.1"))
    upgrade(target.url)
    target.execute(
        "CREATE FUNCTION double() RETURNS trigger AS $$ BEGIN"
        " INSERT INTO lockout_failures VALUES (NEW.id + 100, 'otp', '::1', '2030'); RETURN NEW; END $$ LANGUAGE plpgsql"
    )
    target.execute(
        "CREATE TRIGGER double AFTER INSERT ON lockout_failures FOR EACH ROW WHEN (NEW.id < 100) EXECUTE FUNCTION double()"
    )
    with pytest.raises(NotMoved, match="id 101, row number 2: in PostgreSQL there is one row too many"):
        moving()


async def test_an_audit_log_that_is_not_intact_is_not_moved(database, target, clock, moving):
    await audited(f"sqlite:///{database}", clock, 3)
    execute(database, "UPDATE audit_events SET line = replace(line, 'server', 'servant') WHERE sequence = 2")
    with pytest.raises(NotMoved, match="sequence 2: the event was changed"):
        moving()
    assert tables_of(target) == []


@pytest.mark.parametrize("node", ["alpha", "of another name"])
def test_a_server_of_any_node_on_the_source_is_in_the_way(database, target, moving, node):
    with hold_node(f"sqlite:///{database}", node=node, run="now"), pytest.raises(AlreadyRunning, match=node):
        moving()
    assert moving()["audit_events"] == 0
    assert target.execute("SELECT event FROM audit_events") == [("database_migrated",)]


def test_while_rows_are_copied_no_server_starts_on_the_source(database, moving):
    refused = []

    def tell(_table, _count):
        with pytest.raises(AlreadyRunning), hold_node(f"sqlite:///{database}", node="alpha", run="now"):
            pass
        refused.append(True)

    moving(tell=tell)
    assert refused


@pytest.mark.parametrize(("fate", "moved"), [("unanswered", True), ("lost", False)])
def test_a_commit_without_an_answer_says_how_to_find_out(database, target, moving, fate, moved):
    fail(database, (1, "127.0.0.1"))
    with Wire(target.server.port) as wire:
        url = target.url.replace(f":{target.server.port}/", f":{wire.port}/") + "?sslmode=disable"
        with pytest.raises(NotMoved, match="PostgreSQL did not answer the COMMIT: run it again"):
            moving(url=url, tell=lambda _table, _count: wire.next_commit(fate))
    if moved:
        with pytest.raises(NotMoved, match="there are rows in audit_events"):
            moving()
    else:
        assert tables_of(target) == []
        assert moving()["lockout_failures"] == 1
    assert target.execute("SELECT id FROM lockout_failures") == [(1,)]
    assert target.execute("SELECT event FROM audit_events") == [("database_migrated",)]


async def test_what_a_command_writes_meanwhile_waits_and_is_not_half_in_the_target(database, target, clock, moving):
    """Commands may run beside a server, but what they write to the source once it is read stays there."""
    url = f"sqlite:///{database}"
    await audited(url, clock, 3)
    commands, waiting = [], []

    def tell(_table, _count):
        if not commands:
            commands.append(threading.Thread(target=lambda: asyncio.run(audited(url, clock, 1))))
            commands[0].start()
        waiting.append(commands[0].is_alive())

    rows = await asyncio.to_thread(moving, tell=tell)
    await asyncio.to_thread(commands[0].join, 60)
    assert all(waiting)
    assert rows["audit_events"] == 3
    assert target.execute("SELECT event FROM audit_events ORDER BY sequence")[3:] == [("database_migrated",)]
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT count(*) FROM audit_events").fetchall() == [(4,)]


def test_an_sqlite_database_that_is_damaged_is_told(database, target, moving):
    database.write_bytes(b"not a database at all, but long enough" * 50)
    with pytest.raises(NotMoved, match=r"kipuka\.db: file is not a database"):
        moving()
    assert tables_of(target) == []


def test_a_target_that_is_not_empty_is_refused(database, target, moving):
    target.execute("CREATE TABLE somebodys (id int)")
    with pytest.raises(NotMoved, match="not empty: it has somebodys"):
        moving()
    target.execute("DROP TABLE somebodys")
    upgrade(target.url)
    target.execute("INSERT INTO lockouts VALUES ('otp', '::1', 1, '2030', '2031')")
    with pytest.raises(NotMoved, match="not empty: there are rows in lockouts"):
        moving()
    target.execute("DELETE FROM lockouts")
    moving()
    with pytest.raises(NotMoved, match="not empty: there are rows in audit_events"):
        moving()


def test_a_table_that_nobody_owns_is_named_and_not_dropped(database, target, demo, moving):
    demo_rows(database, demo, WHOLE)
    with pytest.raises(NotMoved, match="no plugin in use owns alembic_version_demo, demo_all"):
        moving()
    assert tables_of(target) == []


def test_a_column_that_nobody_knows_is_named(database, target, moving):
    execute(database, "ALTER TABLE lockouts ADD COLUMN mine TEXT")
    with pytest.raises(NotMoved, match="table lockouts: the columns are not those of this version: mine"):
        moving()


def test_an_old_schema_names_the_command(database, target, demo, moving):
    with pytest.raises(SchemaError, match="kipuka db upgrade"):
        moving(demo)
    assert tables_of(target) == []


def test_which_process_is_at_work_is_not_moved(database, target, moving):
    execute(database, "INSERT INTO jobs VALUES ('recovery', 'alpha', '2030')")
    assert "jobs" not in moving()
    assert target.execute("SELECT count(*) FROM jobs") == [(0,)]


async def test_a_large_log_is_moved_within_bounded_memory(database, target, clock, moving):
    """50,000 events of half a kilobyte: a hundred parts, of which one is in memory."""
    for _ in range(10):
        await audited(f"sqlite:///{database}", clock, 5_000)
    fail(database, (1, "127.0.0.1"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert moving()["audit_events"] == 50_000 > 10 * PART
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 16_000, f"{grown} KiB"
