"""What may be pruned, and that the rest is still verified (RULES I1)."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kipuka.api import RequestRejected
from kipuka.audit import prune as pruning
from kipuka.audit.heads import NodeKey, TrustedKeys, sign_stub
from kipuka.audit.prune import NotPruned, prune
from kipuka.audit.signer import HeadSigner
from kipuka.audit.verify import verify_store
from kipuka.store import events
from kipuka.store.events import ChainHead

DAY = timedelta(days=1)


@pytest.fixture
def key():
    return NodeKey(Ed25519PrivateKey.generate())


@pytest.fixture
def trusted(key):
    return TrustedKeys([key.public])


@pytest.fixture
async def filled(store, clock, key, trusted):
    """Ten events, one a day, and a signature over them."""
    for number in range(10):
        await store.audit(RequestRejected(method="GET", path=f"/{number}", status=404, reason="unknown_resource"))
        clock.advance(DAY)
    await HeadSigner(store, key, trusted=trusted).sign()
    return store


async def sequences(store):
    return [one.sequence for one in await store.read(partial(events.after, node="alpha", sequence=0, limit=1000))]


async def test_events_older_than_asked_are_removed_and_the_rest_is_verified(filled, clock, key, trusted):
    outcome = await prune(filled, key, trusted=trusted, before=clock() - 5 * DAY, sinks=())
    assert (outcome.events, outcome.stub.sequence, outcome.held_by) == (5, 5, None)
    assert await sequences(filled) == [6, 7, 8, 9, 10, 11, 12]
    [last] = await filled.read(partial(events.after, node="alpha", sequence=11, limit=9))
    assert (last.event, last.data["pruned_sequence"], last.data["count"]) == ("audit_pruned", 5, 5)
    report = await verify_store(filled, trusted=trusted)
    assert report.intact
    assert report.chains[0].pruned == outcome.stub


async def test_what_a_sink_has_not_had_stays(filled, clock, key, trusted):
    await filled.write(partial(events.advance, node="alpha", sink="slow", sequence=3))
    await filled.write(partial(events.advance, node="alpha", sink="quick", sequence=9))
    outcome = await prune(filled, key, trusted=trusted, before=clock(), sinks=("quick", "slow"))
    assert (outcome.events, outcome.held_by) == (3, "the sink slow has had no more")
    outcome = await prune(filled, key, trusted=trusted, before=clock(), sinks=("quick", "new"))
    assert (outcome.events, outcome.held_by) == (0, "the sink new has had no more")


async def test_what_no_signed_head_covers_stays(filled, clock, key, trusted):
    await filled.audit(RequestRejected(method="GET", path="/late", status=404, reason="unknown_resource"))
    clock.advance(DAY)
    outcome = await prune(filled, key, trusted=trusted, before=clock(), sinks=())
    assert (outcome.events, outcome.held_by) == (9, "no signed head covers more")
    signer = HeadSigner(filled, key, trusted=trusted)
    assert (await signer.sign()).sequence == 13
    assert (await verify_store(filled, trusted=trusted)).intact


async def test_parts_follow_from_each_other_and_counts_add_up(filled, clock, key, trusted, monkeypatch):
    monkeypatch.setattr(pruning, "PART", 2)
    outcome = await prune(filled, key, trusted=trusted, before=clock() - 5 * DAY, sinks=())
    assert (outcome.events, outcome.stub.count) == (5, 5)
    assert (await verify_store(filled, trusted=trusted)).intact
    outcome = await prune(filled, key, trusted=trusted, before=clock() - 3 * DAY, sinks=())
    assert (outcome.events, outcome.stub.count, outcome.stub.sequence) == (2, 7, 7)
    assert (await verify_store(filled, trusted=trusted)).intact


async def test_a_log_that_was_tampered_with_is_not_pruned(filled, clock, key, trusted, sql):
    """Or the traces would go."""
    sql("UPDATE audit_events SET line = replace(line, '/2', '/9') WHERE sequence = 3")
    outcome = await prune(filled, key, trusted=trusted, before=clock(), sinks=())
    assert isinstance(outcome, NotPruned)
    assert "sequence 3: the event was changed" in outcome.findings[0]
    assert len(await sequences(filled)) == 11


async def test_the_signer_goes_on_over_a_prune_that_took_what_it_signed(filled, clock, key, trusted):
    signer = HeadSigner(filled, key, trusted=trusted)
    await filled.audit(RequestRejected(method="GET", path="/a", status=404, reason="unknown_resource"))
    assert (await signer.sign()).sequence == 12
    await filled.audit(RequestRejected(method="GET", path="/b", status=404, reason="unknown_resource"))
    clock.advance(DAY)
    assert (await HeadSigner(filled, key, trusted=trusted).sign()).sequence == 14
    clock.advance(DAY)
    assert (await prune(filled, key, trusted=trusted, before=clock(), sinks=())).stub.sequence == 13
    assert (await signer.sign()).sequence == 16
    assert (await verify_store(filled, trusted=trusted)).intact


async def test_a_sink_that_comes_later_is_given_what_is_left(filled, clock, key, trusted):
    await prune(filled, key, trusted=trusted, before=clock() - 5 * DAY, sinks=())
    [first, *_] = await filled.read(partial(events.after, node="alpha", sequence=0, limit=1))
    assert first.sequence == 6


async def test_the_record_of_what_was_pruned_takes_the_numbers_that_events_have(store, key):
    """Which do not end at two thousand million."""
    head = ChainHead(node="alpha", sequence=2**40, hash="a" * 64)
    stub = sign_stub(key, head, count=2**40, time="2030-06-24T00:00:00.000000Z")
    await store.write(partial(events.set_stub, new=stub))
    assert await store.read(partial(events.stub, node="alpha")) == stub
