"""Lock-outs (RULES C4)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from kipuka.api import DenialKind, LockoutPolicy
from kipuka.audit.chain import seal
from kipuka.store import events, lockouts
from kipuka.store.database import open_store
from kipuka.store.lockouts import StoreLockouts, normal_address

POLICY = LockoutPolicy(max_failures=3, window=timedelta(minutes=5), duration=timedelta(minutes=15))


@pytest.fixture
def otp(store):
    return StoreLockouts(store, counter="otp", policy=POLICY)


async def recorded(store):
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=1000))
    return [(record.event, record.data) for record in records]


async def test_the_failure_that_exceeds_is_answered_locked_already(store, otp, clock):
    """RULES C4: more than max_failures within the window."""
    for _ in range(3):
        assert await otp.failure("192.0.2.1") is None
    assert await otp.check("192.0.2.1") is None
    denied = await otp.failure("192.0.2.1")
    assert denied.kind is DenialKind.LOCKED
    assert denied.detail == "too many failures, locked out"
    assert denied.retry_after == timedelta(minutes=15)
    clock.advance(60)
    assert (await otp.check("192.0.2.1")).retry_after == timedelta(minutes=14)


async def test_a_lock_is_audited_once_with_address_and_end(store, otp):
    for _ in range(7):
        await otp.failure("192.0.2.1")
    [(name, data)] = await recorded(store)
    assert name == "locked_out"
    assert (data["counter"], data["address"], data["failures"]) == ("otp", "192.0.2.1", 4)
    assert data["until"].endswith("Z")


async def test_a_lock_ends_after_its_duration(otp, clock):
    for _ in range(4):
        await otp.failure("192.0.2.1")
    clock.advance(15 * 60 - 0.001)
    assert await otp.check("192.0.2.1") is not None
    clock.advance(0.001)
    assert await otp.check("192.0.2.1") is None
    assert await otp.failure("192.0.2.1") is None


async def test_failures_outside_the_window_do_not_count(otp, clock):
    for _ in range(3):
        assert await otp.failure("192.0.2.1") is None
    clock.advance(5 * 60)
    for _ in range(3):
        assert await otp.failure("192.0.2.1") is None
    assert await otp.failure("192.0.2.1") is not None


async def test_the_window_slides(otp, clock):
    assert await otp.failure("192.0.2.1") is None
    for _ in range(10):
        clock.advance(100)
        assert await otp.failure("192.0.2.1") is None  # never more than three within any five minutes


async def test_while_locked_nothing_is_counted(otp, clock):
    for _ in range(4):
        await otp.failure("192.0.2.1")
    for _ in range(10):
        clock.advance(60)
        assert await otp.failure("192.0.2.1") is not None
    clock.advance(5 * 60)
    assert await otp.check("192.0.2.1") is None


async def test_when_the_window_is_longer_than_the_lock_its_failures_still_count(store, clock):
    policy = LockoutPolicy(max_failures=1, window=timedelta(hours=1), duration=timedelta(minutes=1))
    counter = StoreLockouts(store, counter="otp", policy=policy)
    await counter.failure("192.0.2.1")
    assert await counter.failure("192.0.2.1") is not None
    clock.advance(61)
    assert await counter.check("192.0.2.1") is None
    assert await counter.failure("192.0.2.1") is not None


async def test_each_address_and_each_counter_has_its_own_count(store, otp):
    """RULES C4, E3."""
    bearer = StoreLockouts(store, counter="bearer", policy=POLICY)
    for _ in range(4):
        await otp.failure("192.0.2.1")
    assert await otp.check("192.0.2.1") is not None
    assert await otp.check("192.0.2.2") is None
    assert await bearer.check("192.0.2.1") is None
    for _ in range(3):
        assert await bearer.failure("192.0.2.1") is None


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1:aaaa::1", "2001:db8:0:1::/64"),
        ("2001:DB8:0:1:bbbb:cccc:dddd:eeee", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_ipv6_client_is_its_64_network(address, counted):
    """RULES C4."""
    assert normal_address(address) == counted


async def test_addresses_of_one_ipv6_network_share_a_count(otp):
    for host in range(4):
        denied = await otp.failure(f"2001:db8:0:1::{host:x}")
    assert denied is not None
    assert await otp.check("2001:db8:0:1:ffff::1") is not None
    assert await otp.check("2001:db8:0:2::1") is None


async def test_a_count_is_shared_by_all_nodes(store, otp, url, clock):
    """RULES C4, DESIGN guarantee 6."""
    async with open_store(url, node="beta", clock=clock, seal=seal) as other:
        theirs = StoreLockouts(other, counter="otp", policy=POLICY)
        await otp.failure("192.0.2.1")
        await theirs.failure("192.0.2.1")
        await otp.failure("192.0.2.1")
        assert await theirs.failure("192.0.2.1") is not None
        assert await otp.check("192.0.2.1") is not None


async def test_parallel_failures_are_all_counted(store, otp):
    """DESIGN guarantee 6: no more than max_failures guesses are answered otherwise, however they come."""
    answers = await asyncio.gather(*(otp.failure("192.0.2.1") for _ in range(50)))
    assert sum(answer is None for answer in answers) == 3
    assert len(await recorded(store)) == 1


async def test_locks_are_listed_and_released(store, otp, clock):
    for _ in range(4):
        await otp.failure("192.0.2.1")
        await otp.failure("2001:db8::1")
    listed = await store.read(lockouts.listing)
    assert {(one.counter, one.address, one.failures) for one in listed} == {
        ("otp", "192.0.2.1", 4),
        ("otp", "2001:db8::/64", 4),
    }
    assert listed[0].until - listed[0].since == POLICY.duration
    assert await store.read(partial(lockouts.listing, counter="bearer")) == ()
    assert await store.write(partial(lockouts.release, counter="otp", address="2001:db8::/64"))
    assert await otp.check("2001:db8::1") is None
    assert await otp.failure("2001:db8::1") is None, "its failures were forgotten"
    assert not await store.write(partial(lockouts.release, counter="otp", address="2001:db8::1"))
    assert not await store.write(partial(lockouts.release, counter="bearer", address="192.0.2.1"))
    assert (await recorded(store))[-1] == ("lockout_released", {"counter": "otp", "address": "2001:db8::/64"})
    clock.advance(60 * 60)
    assert await store.read(lockouts.listing) == ()
