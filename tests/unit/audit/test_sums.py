"""A flood of failures is told in a bounded number of events, and no failure is lost in them (RULES I1)."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial

import pytest

from kipuka.api import AuthenticationFailed, BackendUnavailable, RequestRejected
from kipuka.api.storage import timestamp
from kipuka.audit.sums import MOST_SUMS, Failures, open_failures
from kipuka.store import events
from kipuka.store.context import AuditContext, audit_context

THRESHOLD = 3


def wrong(reason="unknown_token", method="otp"):
    return AuthenticationFailed(
        method=method,
        kind="wrong",
        reason=reason,
        subject_name="ws42",
        operation="simpleenroll",
        label=None,
        explanation=None,
    )


async def fail(failures, *events, address="192.0.2.1", times=1):
    before = audit_context.set(AuditContext(client_address=address))
    try:
        for _ in range(times):
            await failures.record(*events)
    finally:
        audit_context.reset(before)


async def recorded(store):
    return await store.read(partial(events.after, node="alpha", sequence=0, limit=100_000))


async def sums(store):
    return [
        (one.client_address, one.data["event"], one.data["method"], one.data["reason"], one.data["count"])
        for one in await recorded(store)
        if one.event == "failures_summed"
    ]


async def test_the_first_failures_are_told_one_by_one_and_the_rest_in_one_event(store, clock):
    failures = Failures(store, threshold=THRESHOLD)
    await fail(failures, wrong(), times=THRESHOLD)
    first = clock.advance(1)
    await fail(failures, wrong(), times=5)
    last = clock.advance(2)
    await fail(failures, wrong())
    assert [one.event for one in await recorded(store)] == ["authentication_failed"] * THRESHOLD
    clock.advance(9)
    await failures.sum_up()
    [event] = (await recorded(store))[THRESHOLD:]
    assert event.client_address == "192.0.2.1"
    assert event.data == {
        "event": "authentication_failed",
        "method": "otp",
        "reason": "unknown_token",
        "count": 6,
        "first": timestamp(first),
        "last": timestamp(last),
    }


async def test_each_address_method_and_reason_has_a_sum_of_its_own_and_each_window_begins_anew(store):
    failures = Failures(store, threshold=THRESHOLD)
    rejected = RequestRejected(method="GET", path="/x", status=404, reason="unknown_resource")
    for _ in range(2):
        await fail(failures, wrong(), wrong("locked_out"), wrong(method="gssapi"), rejected, times=THRESHOLD + 1)
        await fail(failures, wrong(), address="192.0.2.2", times=THRESHOLD)
        await failures.sum_up()
    found = await sums(store)
    assert sorted(found, key=str) == sorted(
        [
            ("192.0.2.1", "authentication_failed", "otp", "unknown_token", 1),
            ("192.0.2.1", "authentication_failed", "otp", "locked_out", 1),
            ("192.0.2.1", "authentication_failed", "gssapi", "unknown_token", 1),
            ("192.0.2.1", "request_rejected", None, "unknown_resource", 1),
        ]
        * 2,
        key=str,
    )


async def test_an_ipv6_network_is_one_address(store):
    failures = Failures(store, threshold=THRESHOLD)
    for number in range(THRESHOLD + 4):
        await fail(failures, wrong(), address=f"2001:db8::{number + 1:x}")
    await failures.sum_up()
    assert [(one[0], one[-1]) for one in await sums(store)] == [("2001:db8::/64", 4)]


async def test_a_flood_from_very_many_addresses_is_bounded_and_exact(store):
    failures = Failures(store, threshold=1)
    many = MOST_SUMS + 50
    for number in range(many):
        await fail(failures, wrong(), address=f"10.0.{number // 256}.{number % 256}", times=3)
    await failures.sum_up()
    found = await sums(store)
    one_by_one = [one for one in await recorded(store) if one.event == "authentication_failed"]
    assert len(one_by_one) == MOST_SUMS
    assert len(found) == MOST_SUMS + 1
    assert (None, "authentication_failed", "otp", "unknown_token", 150) in found
    assert len(one_by_one) + sum(one[-1] for one in found) == 3 * many


async def test_what_the_store_does_not_take_is_told_later(store, monkeypatch):
    failures = Failures(store, threshold=THRESHOLD)
    await fail(failures, wrong(), times=THRESHOLD + 2)

    async def away(event):
        raise BackendUnavailable("the server's store is not available", reason="store_unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(store, "audit", away)
        await failures.sum_up()
    await fail(failures, wrong(), times=THRESHOLD + 3)
    await failures.sum_up()
    assert [one[-1] for one in await sums(store)] == [5]


async def test_sums_are_told_when_their_window_ends_and_at_the_end(store):
    async with open_failures(store, threshold=1, window=timedelta(milliseconds=5)) as failures:
        await fail(failures, wrong(), times=5)
        async with asyncio.timeout(10):
            while not await sums(store):
                await asyncio.sleep(0.005)
    told = len(await recorded(store))
    async with open_failures(store, threshold=1, window=timedelta(hours=1)) as failures:
        await fail(failures, wrong(), times=3)
    assert [one.event for one in (await recorded(store))[told:]] == ["authentication_failed", "failures_summed"]
    assert (await sums(store))[-1][-1] == 2


@pytest.mark.parametrize("address", [None, "192.0.2.1"])
async def test_a_failure_over_the_threshold_writes_nothing(store, monkeypatch, address):
    """Or a flood would make every enrolment wait."""
    failures = Failures(store, threshold=1)
    await fail(failures, wrong(), address=address)

    async def never(fn):
        pytest.fail("it was written")

    monkeypatch.setattr(store, "write", never)
    await fail(failures, wrong(), address=address, times=100)
