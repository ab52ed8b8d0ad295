"""What is owed to the store is written when it takes it again."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest
from structlog.testing import capture_logs

from kipuka.api import BackendUnavailable, ServerStopped
from kipuka.store import events
from kipuka.store.context import AuditContext, audit_context


def note(tx, pid):
    tx.audit(ServerStopped(pid=pid))


async def noted(store):
    found = await store.read(partial(events.after, node="alpha", sequence=0, limit=100))
    return [(record.data["pid"], record.identity) for record in found]


async def until_noted(store, count):
    async with asyncio.timeout(30):
        while len(found := await noted(store)) < count:
            await asyncio.sleep(0.01)
    return found


async def test_it_is_written_as_soon_as_the_database_is_back(store, database):
    """In the order in which it was owed, and with the context of whoever owed it."""
    away = database.with_name("away.db")
    database.rename(away)
    for pid, identity in ((1, "otp:one"), (2, "otp:two")):
        audit_context.set(AuditContext(identity=identity))
        assert store.write_later(partial(note, pid=pid))
    audit_context.set(AuditContext())
    with pytest.raises(BackendUnavailable):
        await store.write(partial(note, pid=3))
    await asyncio.sleep(0.3)  # it is tried in between
    away.rename(database)
    assert await until_noted(store, 2) == [(1, "otp:one"), (2, "otp:two")]
    assert store.write_later(partial(note, pid=4))
    assert len(await until_noted(store, 3)) == 3


async def test_no_more_is_owed_than_may_wait(opened, database):
    async with opened(queue_limit=2) as store:
        database.rename(database.with_name("away.db"))
        assert [store.write_later(partial(note, pid=pid)) for pid in range(3)] == [True, True, False]
        database.with_name("away.db").rename(database)
        await until_noted(store, 2)


async def test_what_the_store_refuses_for_good_is_dropped_and_hinders_nobody(store):
    """A unit that is wrong would be tried for ever."""

    def wrong(tx):
        raise ZeroDivisionError(str(tx.now))

    with capture_logs() as logs:
        assert store.write_later(wrong)
        assert store.write_later(partial(note, pid=1))
        assert [pid for pid, _ in await until_noted(store, 1)] == [1]
        async with asyncio.timeout(30):
            while "owed_write_failed" not in [entry["event"] for entry in logs]:
                await asyncio.sleep(0.01)


async def test_a_store_that_closes_tries_no_more(opened, database):
    async with opened() as store:
        database.rename(database.with_name("away.db"))
        assert store.write_later(partial(note, pid=1))
    database.with_name("away.db").rename(database)
    async with opened() as store:
        assert await noted(store) == []
