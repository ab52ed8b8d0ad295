"""Opening the store: files, modes, who may, and which schema."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kipuka.api import AlreadyRunning, SchemaError, ServerStopped, StartupError
from kipuka.audit.chain import seal
from kipuka.store.database import open_store
from kipuka.store.schema import upgrade


async def refused(clock, url):
    with pytest.raises(StartupError) as raised:
        async with open_store(url, node="alpha", clock=clock, seal=seal):
            pytest.fail("the store was opened")
    return raised.value


async def test_the_database_and_all_beside_it_are_the_owners_only(tmp_path, clock):
    """DESIGN guarantee 8: also under a permissive umask."""
    url = f"sqlite:///{tmp_path}/new.db"
    before = os.umask(0)
    try:
        upgrade(url)
        async with open_store(url, node="alpha", clock=clock, seal=seal, exclusive=True) as store:
            await store.audit(ServerStopped(pid=1))
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    finally:
        os.umask(before)
    assert {"new.db", "new.db-wal", "new.db-shm"} < set(modes)
    assert set(modes.values()) == {0o600}


@pytest.mark.parametrize("wrong", ["mysql://x/y", "sqlite://", "sqlite:///", "sqlite:///:memory:", "kipuka.db", ""])
async def test_only_an_sqlite_file_or_postgresql_will_do(clock, wrong):
    assert "sqlite:///kipuka.db" in str(await refused(clock, wrong))


async def test_a_missing_database_is_not_made_by_opening_it(tmp_path, clock):
    error = await refused(clock, f"sqlite:///{tmp_path}/none.db")
    assert isinstance(error, SchemaError)
    assert "kipuka db upgrade" in str(error)
    assert list(tmp_path.iterdir()) == []


async def test_an_empty_file_is_no_database(tmp_path, clock):
    (tmp_path / "none.db").touch()
    assert "kipuka db upgrade" in str(await refused(clock, f"sqlite:///{tmp_path}/none.db"))


async def test_a_database_of_an_earlier_version_is_refused(sql, url, clock):
    sql("DELETE FROM alembic_version_kipuka")
    error = await refused(clock, url)
    assert isinstance(error, SchemaError)
    assert "kipuka db upgrade" in str(error)


async def test_a_database_of_a_later_version_is_refused(sql, url, clock):
    sql("UPDATE alembic_version_kipuka SET version_num = '9999'")
    error = await refused(clock, url)
    assert isinstance(error, SchemaError)
    assert "9999" in str(error)
    assert "newer" in str(error)


async def test_a_second_server_of_a_node_is_refused_and_commands_are_not(opened, clock, url):
    """RULES K7."""
    async with opened(exclusive=True), opened() as command:
        await command.audit(ServerStopped(pid=1))
        assert isinstance(await refused_server(clock, url, "alpha"), AlreadyRunning)
        async with open_store(url, node="beta", clock=clock, seal=seal, exclusive=True):
            pass
    async with opened(exclusive=True):
        pass


async def refused_server(clock, url, node):
    with pytest.raises(StartupError) as raised:
        async with open_store(url, node=node, clock=clock, seal=seal, exclusive=True):
            pytest.fail("the store was opened")
    return raised.value


def test_opening_a_store_does_not_import_alembic(url):
    """DESIGN, the house: `serve` never imports Alembic."""
    code = (
        "import asyncio, sys\n"
        "from datetime import UTC, datetime\n"
        "import kipuka.store.schema, kipuka.audit.pipeline, kipuka.audit.verify\n"
        "from kipuka.audit.chain import seal\n"
        "from kipuka.store.database import open_store\n"
        "async def main():\n"
        f"    async with open_store({url!r}, node='a', clock=lambda: datetime.now(UTC), seal=seal): pass\n"
        "asyncio.run(main())\n"
        "sys.exit('alembic' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
