"""What of failed requests stands in the database: the first of each kind and address, and the number of the rest (RULES H4)."""

from __future__ import annotations

from functools import partial

import pytest

from kipuka.api import AdminDenied, AuthenticationFailed, BackendUnavailable, RequestRejected
from kipuka.api.storage import timestamp
from kipuka.audit.failures import Failures
from kipuka.audit.sums import MOST_SUMS
from kipuka.store import events
from kipuka.store.context import AuditContext, audit_context

DENIED = AdminDenied(method="GET", path="/admin/otp", status=401, reason="invalid_bearer_token", refused=())
REJECTED = RequestRejected(method="GET", path="/x", status=404, reason="unknown_resource")


def failed(reason="unknown_token", *, kind="wrong", method="otp"):
    return AuthenticationFailed(
        method=method,
        kind=kind,
        reason=reason,
        subject_name=None,
        operation="simpleenroll",
        label=None,
        explanation=None,
    )


def come_from(address):
    audit_context.set(AuditContext(request_id="r", client_address=address))


async def rows(store):
    return await store.read(partial(events.tail, limit=100_000))


async def summed(store):
    return [record for record in await rows(store) if record.event == "failures_summed"]


@pytest.fixture(autouse=True)
def _stranger():
    come_from("192.0.2.1")
    yield
    audit_context.set(AuditContext())


async def sum_up(failures):
    audit_context.set(AuditContext())
    await failures.sum_up()


async def test_the_first_are_rows_with_all_their_detail_and_the_rest_is_one(store, clock):
    failures = Failures(store, threshold=20)
    for _ in range(20):
        await failures.tell([failed()])
    first = clock.advance(7)
    for _ in range(479):
        await failures.tell([failed()])
    last = clock.advance(5)
    await failures.tell([failed()])
    found = await rows(store)
    assert [record.event for record in found] == ["authentication_failed"] * 20
    assert {record.client_address for record in found} == {"192.0.2.1"}
    assert all(record.data == failed().model_dump() for record in found)
    await sum_up(failures)
    (record,) = await summed(store)
    assert (record.outcome, record.client_address, record.request_id) == ("failure", None, None)
    assert record.data == {
        "failure": "authentication_failed",
        "method": "otp",
        "kind": "wrong",
        "status": None,
        "reason": "unknown_token",
        "address": "192.0.2.1",
        "count": 480,
        "first_at": timestamp(first),
        "last_at": timestamp(last),
    }
    await sum_up(failures)
    assert len(await summed(store)) == 1


async def test_method_kind_reason_event_status_and_address_are_counted_apart(store):
    failures = Failures(store, threshold=1)
    every = [
        failed(),
        failed("locked_out", kind="locked"),
        failed(method="mtls"),
        DENIED,
        DENIED.model_copy(update={"status": 403}),
        REJECTED,
    ]
    for _ in range(3):
        await failures.tell(every)
    come_from("192.0.2.2")
    for _ in range(5):
        await failures.tell([failed()])
    await sum_up(failures)
    told = [
        (data["failure"], data["method"], data["kind"], data["status"], data["reason"], data["address"], data["count"])
        for data in (record.data for record in await summed(store))
    ]
    assert told == [
        ("authentication_failed", "otp", "wrong", None, "unknown_token", "192.0.2.1", 2),
        ("authentication_failed", "otp", "locked", None, "locked_out", "192.0.2.1", 2),
        ("authentication_failed", "mtls", "wrong", None, "unknown_token", "192.0.2.1", 2),
        ("admin_denied", None, None, 401, "invalid_bearer_token", "192.0.2.1", 2),
        ("admin_denied", None, None, 403, "invalid_bearer_token", "192.0.2.1", 2),
        ("request_rejected", None, None, 404, "unknown_resource", "192.0.2.1", 2),
        ("authentication_failed", "otp", "wrong", None, "unknown_token", "192.0.2.2", 4),
    ]


async def test_a_network_of_ipv6_is_one_address(store):
    failures = Failures(store, threshold=2)
    for number in range(10):
        come_from(f"2001:db8::{number + 1:x}")
        await failures.tell([failed()])
    await sum_up(failures)
    (record,) = await summed(store)
    assert (record.data["address"], record.data["count"]) == ("2001:db8::/64", 8)


async def test_addresses_that_find_no_room_are_summed_together(store):
    failures = Failures(store, threshold=1)
    for number in range(MOST_SUMS + 300):
        come_from(f"2001:db8:0:{number:x}::1")
        await failures.tell([failed()])
    await sum_up(failures)
    found = await rows(store)
    assert [record.event for record in found].count("authentication_failed") == MOST_SUMS
    (record,) = await summed(store)
    assert (record.data["address"], record.data["count"]) == (None, 300)


class Away:
    """A store that is not there at the moment."""

    def __init__(self, store):
        self.store = store
        self.clock = store.clock
        self.is_away = False

    async def write(self, fn):
        if self.is_away:
            raise BackendUnavailable("away")
        return await self.store.write(fn)


async def test_what_the_store_does_not_take_is_told_when_it_is_back(store):
    away = Away(store)
    failures = Failures(away, threshold=1)
    for _ in range(3):
        await failures.tell([failed()])
    away.is_away = True
    await failures.tell([failed()])  # is only counted, and needs no store
    await sum_up(failures)
    come_from("192.0.2.1")
    with pytest.raises(BackendUnavailable):
        await failures.tell([failed("expired")])
    away.is_away = False
    await sum_up(failures)
    (record,) = await summed(store)
    assert record.data["count"] == 3
