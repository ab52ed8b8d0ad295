"""Migrations of the host and of plugins."""

from __future__ import annotations

import textwrap

import pytest
from sqlalchemy import Integer, inspect

from kipuka.api import SchemaError, Storage
from kipuka.api.storage import Column, MetaData, String, Table
from kipuka.audit.chain import seal
from kipuka.store.database import open_store
from kipuka.store.dialect import dialect_for
from kipuka.store.schema import SchemaStatus, differences, status, upgrade

FIRST = """
    from alembic import op
    import sqlalchemy as sa
    revision = "demo_1"
    down_revision = None
    def upgrade():
        op.create_table("demo_things", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20)))
"""
SECOND = """
    from alembic import op
    import sqlalchemy as sa
    revision: str = "demo_2"
    down_revision: str = "demo_1"
    def upgrade():
        op.add_column("demo_things", sa.Column("size", sa.Integer))
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Make a plugin's package of migrations; the Storage that names it."""
    made = 0

    def plugin(*scripts, prefix="demo", tables=("demo_things",), columns=("id", "name")):
        nonlocal made
        made += 1
        package = tmp_path / "site" / f"plugin_{made}_{tmp_path.name}"
        (package / "migrations").mkdir(parents=True)
        for path in (package, package / "migrations"):
            (path / "__init__.py").touch()
        for number, script in enumerate(scripts):
            (package / "migrations" / f"{number:04}_x.py").write_text(textwrap.dedent(script))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        metadata = MetaData()
        kinds = {
            "id": Column("id", Integer, primary_key=True),
            "name": Column("name", String(20)),
            "size": Column("size", Integer),
        }
        for table in tables:
            Table(table, metadata, *(kinds[name]._copy() for name in columns))
        return Storage(prefix=prefix, metadata=metadata, migrations=f"{package.name}.migrations")

    return plugin


def tables_in(url):
    engine = dialect_for(url).schema_engine()
    try:
        return set(inspect(engine).get_table_names())
    finally:
        engine.dispose()


@pytest.fixture
def new_url(url, request, tmp_path):
    """The URL of a database with nothing in it."""
    if url.startswith("sqlite"):
        yield f"sqlite:///{tmp_path}/new.db"
        return
    server = request.getfixturevalue("kipuka_postgresql")
    made = server.create_database()
    yield made.url
    server.drop_database(made.name)


def test_the_hosts_migrations_make_the_tables_its_metadata_describes(url):
    assert differences(url) == []


def test_a_difference_would_be_seen(sql, url):
    sql("DROP INDEX ix_certificates_serial", "ALTER TABLE jobs ADD COLUMN extra TEXT")
    found = "\n".join(differences(url))
    assert "ix_certificates_serial" in found
    assert "extra" in found


def test_an_upgrade_says_what_was_there_and_a_second_one_does_nothing(new_url, tmp_path):
    url = new_url
    newest = status(url)[0].newest
    assert status(url) == [SchemaStatus(owner="kipuka", current=None, newest=newest)]
    assert not (tmp_path / "new.db").exists()
    assert [one.current for one in upgrade(url)] == [None]
    assert [one.current for one in upgrade(url)] == [newest]
    assert all(one.is_newest for one in status(url))


async def test_a_plugins_tables_are_made_and_kept_at_their_own_revision(url, clock, plugin):
    old, new = plugin(FIRST), plugin(FIRST, SECOND, columns=("id", "name", "size"))
    with pytest.raises(SchemaError, match=r"no tables of demo yet: run `kipuka db upgrade`"):
        async with open_store(url, node="a", clock=clock, seal=seal, storages=[old]):
            pass
    upgrade(url, [old])
    assert {"demo_things", "alembic_version_demo", "alembic_version_kipuka"} <= tables_in(url)
    async with open_store(url, node="a", clock=clock, seal=seal, storages=[old]):
        pass
    with pytest.raises(SchemaError, match=r"demo are at revision demo_1, this version needs demo_2: run"):
        async with open_store(url, node="a", clock=clock, seal=seal, storages=[new]):
            pass
    upgrade(url, [new])
    assert differences(url, [new]) == []
    with pytest.raises(SchemaError, match="newer than this version"):
        async with open_store(url, node="a", clock=clock, seal=seal, storages=[old]):
            pass
    with pytest.raises(SchemaError, match="newer than this version"):
        upgrade(url, [old])


def test_tables_without_the_prefix_are_refused_before_anything_runs(url, plugin):
    """DESIGN, the plugin contract: the host refuses unprefixed tables."""
    with pytest.raises(SchemaError, match="things do not start with their plugin's prefix demo_"):
        upgrade(url, [plugin(FIRST, tables=("demo_things", "things"))])
    assert "demo_things" not in tables_in(url)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('op.create_table("things", sa.Column("id", sa.Integer))', id="an unprefixed table is made"),
        pytest.param('op.drop_table("lockouts")', id="a host's table is dropped"),
        pytest.param('op.add_column("certificates", sa.Column("x", sa.Integer))', id="a host's table is changed"),
        pytest.param('op.create_table("demo_more", sa.Column("id", sa.Integer))', id="a table is not described"),
        pytest.param('op.drop_column("demo_things", "name")', id="a column is missing"),
    ],
)
def test_a_migration_that_leaves_its_bounds_is_rolled_back_whole(url, plugin, line):
    before = tables_in(url)
    with pytest.raises(SchemaError):
        upgrade(url, [plugin(FIRST + f"        {line}\n")])
    assert tables_in(url) == before
    assert differences(url) == []


def test_a_failing_migration_leaves_nothing_behind(new_url, plugin):
    with pytest.raises(ZeroDivisionError):
        upgrade(new_url, [plugin(FIRST + "        1 / 0\n")])
    assert tables_in(new_url) == set()


@pytest.mark.parametrize(
    "prefix", ["certificates", "audit", "admin", "jobs", "kipuka", "alembic", "Demo", "de-mo", "", "demo_"]
)
def test_prefixes_that_are_the_hosts_or_no_names_are_refused(url, plugin, prefix):
    with pytest.raises(SchemaError, match="prefix"):
        upgrade(url, [plugin(FIRST, prefix=prefix, tables=())])


def test_prefixes_that_overlap_are_refused(url, plugin):
    one, other = plugin(FIRST), plugin(FIRST, prefix="demo_more", tables=("demo_more_things",))
    for storages in ([one, other], [other, one], [one, one]):
        with pytest.raises(SchemaError, match="overlap"):
            upgrade(url, storages)


@pytest.mark.parametrize(
    ("scripts", "problem"),
    [
        pytest.param((), "one line", id="none"),
        pytest.param((FIRST, FIRST), "twice", id="the same revision"),
        pytest.param((FIRST, FIRST.replace("demo_1", "demo_2")), "one line", id="two first ones"),
        pytest.param((SECOND,), "one line", id="no first one"),
        pytest.param((FIRST, SECOND, SECOND.replace("demo_2", "demo_3")), "one line", id="two heads"),
        pytest.param((FIRST.replace('"demo_1"', "make()"),), "literals", id="a computed revision"),
        pytest.param(("revision = ",), "cannot be read", id="not Python"),
    ],
)
def test_scripts_that_are_not_one_line_are_refused(url, plugin, scripts, problem):
    with pytest.raises(SchemaError, match=problem):
        upgrade(url, [plugin(*scripts)])


def test_a_package_that_is_not_there_is_named(url):
    for name in ("no_such_plugin.migrations", "json.migrations", "json.decoder"):
        with pytest.raises(SchemaError, match=name):
            upgrade(url, [Storage(prefix="demo", metadata=MetaData(), migrations=name)])
