"""The write that proves that writing is possible: it reaches the disk, fails where a write would, and leaves nothing."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from functools import partial

import pytest
from sqlalchemy import select

from kipuka.api.errors import BackendFault
from kipuka.store.probe import prove_writable
from kipuka.store.tables import jobs


def probe(name="probe-1"):
    return partial(prove_writable, name=name)


def log_size(database):
    """Bytes in SQLite's write-ahead log, which grows with each commit that has something to write."""
    return database.with_name(f"{database.name}-wal").stat().st_size


async def test_it_writes_to_disk_as_any_commit_does(store, database):
    await store.write(probe())
    before = log_size(database)
    await store.write(lambda _tx: None)
    assert log_size(database) == before  # a transaction without a change proves nothing
    await store.write(probe())
    assert log_size(database) > before


async def test_it_leaves_no_row(store):
    await store.write(probe())
    assert await store.read(lambda tx: tx.execute(select(jobs.c.name)).all()) == []


async def test_it_may_be_run_again_and_by_two_at_a_time(store):
    await store.write(probe())
    await store.write(probe())
    await store.write(lambda tx: [prove_writable(tx, name=name) for name in ("probe-1", "probe-2")])


async def test_it_fails_where_rows_are_refused(store, database):
    with closing(sqlite3.connect(database)) as direct:
        direct.execute("CREATE TRIGGER full BEFORE INSERT ON jobs BEGIN SELECT RAISE(ABORT, 'no'); END")
    with pytest.raises(BackendFault):
        await store.write(probe())
