"""Signing how far the chain goes (DESIGN guarantee 7, RULES I1)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kipuka.api import RequestRejected
from kipuka.audit import signer as signing
from kipuka.audit.heads import NodeKey, TrustedKeys, check_head, head_of_event, sign_head
from kipuka.audit.signer import HeadSigner, open_signer
from kipuka.audit.verify import verify_store
from kipuka.store import events
from kipuka.store.events import ChainHead


def rejected(number):
    return RequestRejected(method="GET", path=f"/{number}", status=404, reason="unknown_resource")


@pytest.fixture
def key():
    return NodeKey(Ed25519PrivateKey.generate())


@pytest.fixture
def signer(store, key):
    return new_signer(store, key)


def new_signer(store, key, *others):
    return HeadSigner(store, key, trusted=TrustedKeys([key.public, *(other.public for other in others)]))


async def record(store, count=3):
    for number in range(count):
        await store.audit(rejected(number))


async def names(store):
    return [one.event for one in await store.read(partial(events.after, node="alpha", sequence=0, limit=1000))]


async def test_the_head_is_signed_and_recorded_in_the_chain_it_speaks_of(store, signer, key):
    await record(store)
    signed = await signer.sign()
    assert (signed.node, signed.sequence) == ("alpha", 3)
    [recorded] = await store.read(partial(events.after, node="alpha", sequence=3, limit=9))
    assert (recorded.sequence, recorded.event) == (4, "audit_head_signed")
    assert head_of_event({"node": recorded.node, "data": recorded.data}) == signed
    assert check_head(signed, TrustedKeys([key.public])) is None
    [chain] = (await verify_store(store, trusted=TrustedKeys([key.public]))).chains
    assert (chain.signed, chain.uncovered) == (signed, 1)


async def test_nothing_is_signed_where_nothing_is_new(store, signer, key):
    assert await signer.sign() is None
    await record(store)
    assert await signer.sign() is not None
    assert await signer.sign() is None
    assert await new_signer(store, key).sign() is None
    await record(store, 1)
    assert (await new_signer(store, key).sign()).sequence == 5
    assert (await signer.sign()) is None


async def test_a_long_stretch_is_looked_at_in_parts(store, signer, monkeypatch):
    monkeypatch.setattr(signing, "PART", 2)
    await record(store, 5)
    assert (await signer.sign()).sequence == 5


CHANGES = {
    "a change": ["UPDATE audit_events SET line = replace(line, '/1', '/9') WHERE sequence = 6"],
    "a changed hash": ["UPDATE audit_events SET hash = substr(hash, 2) || 'x' WHERE sequence = 6"],
    "an event removed": ["DELETE FROM audit_events WHERE sequence = 6"],
    "the end removed": ["DELETE FROM audit_events WHERE sequence > 5"],
    "what was signed removed": ["DELETE FROM audit_events WHERE sequence = 3"],
    "what was signed exchanged": ["UPDATE audit_events SET hash = 'x' WHERE sequence = 3"],
    "another head": ["UPDATE audit_heads SET hash = 'x'"],
    "the head moved back": ["UPDATE audit_heads SET sequence = 2"],
    "no JSON": ["UPDATE audit_events SET line = '{' WHERE sequence = 6"],
}


@pytest.mark.parametrize("memory", [True, False], ids=["the same process", "the next process"])
@pytest.mark.parametrize("change", CHANGES)
async def test_what_somebody_changed_is_not_signed(store, key, sql, *, change, memory):
    """Or whoever changes the database would only have to wait for the server to sign it."""
    signer = new_signer(store, key)
    await record(store)
    await signer.sign()
    await record(store, 4)
    sql(*CHANGES[change])
    signer = signer if memory else new_signer(store, key)
    assert await signer.sign() is None


async def test_a_broken_chain_is_told_once(store, signer, sql):
    await record(store)
    await signer.sign()
    await record(store, 2)
    sql("UPDATE audit_events SET line = replace(line, '/1', '/9') WHERE sequence = 6")
    for _ in range(3):
        assert await signer.sign() is None
    assert (await names(store)).count("audit_chain_broken") == 1


async def test_heads_that_were_taken_out_are_missed_by_the_process_that_signed(store, signer, sql):
    """Who takes them all out and writes the chain anew is found by the server that still runs."""
    await record(store)
    await signer.sign()
    sql(
        "DELETE FROM audit_events WHERE sequence > 2",
        "UPDATE audit_heads SET sequence = 2, hash = (SELECT hash FROM audit_events WHERE sequence = 2)",
    )
    await record(store, 3)
    assert await signer.sign() is None
    assert "audit_chain_broken" in await names(store)


async def test_another_key_goes_on_only_from_a_head_that_is_trusted(store, signer, key):
    await record(store)
    await signer.sign()
    await record(store, 1)
    new = NodeKey(Ed25519PrivateKey.generate())
    assert await new_signer(store, new).sign() is None
    assert (await new_signer(store, new, key).sign()).sequence == 6


async def test_heads_are_signed_at_the_begin_from_time_to_time_and_at_the_end(store, key):
    await record(store)
    trusted = TrustedKeys([key.public])
    async with open_signer(store, key, trusted=trusted, interval=timedelta(milliseconds=5), begin=True):
        await until(store, 1)
        await record(store, 1)
        await until(store, 2)
    async with open_signer(store, key, trusted=trusted, interval=timedelta(hours=1), begin=True):
        await asyncio.sleep(0)
        await record(store, 1)
    assert (await names(store))[-2:] == ["request_rejected", "audit_head_signed"]


async def until(store, count):
    async with asyncio.timeout(30):
        while (await names(store)).count("audit_head_signed") < count:
            await asyncio.sleep(0.005)


async def test_a_node_that_has_recorded_nothing_yet_signs_soon_after_its_first_events(store, key, monkeypatch):
    """Else the log of a server that was started for the first time would not verify for a whole interval."""
    monkeypatch.setattr(signing, "_FIRST", timedelta(milliseconds=10))
    trusted = TrustedKeys([key.public])
    looked = asyncio.Event()
    read = store.read

    async def reading(fn, /):
        outcome = await read(fn)
        looked.set()
        return outcome

    monkeypatch.setattr(store, "read", reading)
    async with open_signer(store, key, trusted=trusted, interval=timedelta(hours=1), begin=True):
        await looked.wait()  # it has found nothing
        await record(store)
        await until(store, 1)


async def test_without_a_key_nothing_is_signed(store):
    async with open_signer(store, None, trusted=TrustedKeys(), interval=timedelta(hours=1), begin=True) as none:
        assert none is None
        await record(store)
    assert "audit_head_signed" not in await names(store)


async def test_a_statement_is_for_one_node_and_place(key):
    """Or a head of one chain would cover another's."""
    signed = sign_head(key, ChainHead(node="alpha", sequence=7, hash="aa"), time="t")
    trusted = TrustedKeys([key.public])
    assert check_head(signed, trusted) is None
    for name, value in {"node": "beta", "sequence": 8, "hash": "bb", "time": "u", "signature": "AAAA"}.items():
        forged = type(signed)(**{**{one: getattr(signed, one) for one in signed.__slots__}, name: value})
        assert check_head(forged, trusted) == "its signature is wrong", name
