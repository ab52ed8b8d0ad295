"""Bearer tokens of administrators (RULES E3)."""

from __future__ import annotations

from functools import partial

import pytest

from kipuka.api import BackendFault
from kipuka.store import admin_tokens, events


async def test_a_token_is_found_by_its_hash_until_it_is_revoked(store, clock):
    made = await store.write(partial(admin_tokens.create, id="t1", sha256="aa", description="CI"))
    assert made.created_at == clock()
    assert await store.read(partial(admin_tokens.find, sha256="aa")) == made
    assert await store.read(partial(admin_tokens.find, sha256="bb")) is None
    assert await store.write(partial(admin_tokens.revoke, id="t1"))
    assert await store.read(partial(admin_tokens.find, sha256="aa")) is None
    assert not await store.write(partial(admin_tokens.revoke, id="t1"))
    assert not await store.write(partial(admin_tokens.revoke, id="t2"))
    [listed] = await store.read(admin_tokens.listing)
    assert listed.revoked_at == clock()


async def test_tokens_are_audited_by_id_and_never_by_hash(store):
    """DESIGN guarantee 8."""
    await store.write(partial(admin_tokens.create, id="t1", sha256="deadbeef", description="CI"))
    await store.write(partial(admin_tokens.revoke, id="t1"))
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=9))
    assert [record.event for record in records] == ["admin_token_created", "admin_token_revoked"]
    assert not any("deadbeef" in record.line for record in records)
    [listed] = await store.read(admin_tokens.listing)
    assert "deadbeef" not in repr(listed)


async def test_a_hash_is_recorded_once(store):
    await store.write(partial(admin_tokens.create, id="t1", sha256="aa", description=""))
    with pytest.raises(BackendFault):
        await store.write(partial(admin_tokens.create, id="t2", sha256="aa", description=""))
