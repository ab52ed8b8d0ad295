"""Certificates that a renewal has replaced: when they are due, and what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest

from kipuka.store import certificates, replaced
from kipuka.store.certificates import RecordedCertificate
from kipuka.testing.pki import make_root

ROOT = make_root()
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def recorded(clock, **changes):
    certificate = ROOT.issue_client().certificate
    made = RecordedCertificate.of(
        certificate,
        ca="main",
        label=None,
        profile="revoking",
        method="mtls",
        identity_name="CN=device-1",
        enrolment="e",
        issued_at=clock(),
        names=(),
    )
    return replace(made, **changes)


def revoked(reason):
    return {"state": "revoked", "revocation_reason": reason}


@pytest.mark.parametrize(
    ("old", "successors", "late", "expected"),
    [
        pytest.param({}, [{}], {"revoking": 0}, "revoke", id="the new one is valid"),
        pytest.param({}, [revoked("superseded")], {"revoking": 0}, "revoke", id="the new one was replaced in its turn"),
        pytest.param({}, [revoked("keyCompromise"), {}], {"revoking": 0}, "revoke", id="one of two is valid"),
        pytest.param({}, [revoked("keyCompromise")], {"revoking": 0}, "keep", id="the new one is compromised"),
        pytest.param({}, [revoked("cessationOfOperation")], {"revoking": 0}, "keep", id="the new one was taken back"),
        pytest.param({}, [revoked("certificateHold")], {"revoking": 0}, "wait", id="the new one is on hold"),
        pytest.param(revoked("certificateHold"), [{}], {"revoking": 0}, "keep", id="the old one is on hold"),
        pytest.param(revoked("keyCompromise"), [{}], {"revoking": 0}, "keep", id="the old one was revoked"),
        pytest.param({}, [], {"revoking": 0}, "keep", id="nothing has replaced it"),
        pytest.param({}, [{}], {}, "keep", id="the profile does not want it any more"),
        pytest.param({}, [{"profile": "other"}], {"revoking": 0}, "keep", id="the new one is of another profile"),
        pytest.param({"not_after": -HOUR}, [{}], {"revoking": 0}, "keep", id="it has expired"),
        pytest.param({"not_after": -HOUR}, [{}], {"revoking": 2}, "revoke", id="it has expired and would renew still"),
        pytest.param({"not_after": -3 * HOUR}, [{}], {"revoking": 2}, "keep", id="it would not renew any more"),
    ],
)
def test_what_becomes_of_a_replaced_certificate(clock, old, successors, late, expected):
    if "not_after" in old:
        old = {"not_after": clock() + old["not_after"]}
    found = replaced.fate(
        recorded(clock, **old),
        tuple(recorded(clock, **one) for one in successors),
        late={name: hours * HOUR for name, hours in late.items()},
        now=clock(),
    )
    assert found == expected


async def test_what_was_scheduled_is_due_when_its_time_has_come(store, clock):
    """And the longest due comes first; what is let go of is not due any more."""
    first, second, third = (recorded(clock) for _ in range(3))

    def add(tx):
        for one in (first, second, third):
            certificates.add(tx, one)

    await store.write(add)
    await store.write(partial(replaced.schedule, fingerprint=first.fingerprint, when=clock() + 2 * HOUR))
    await store.write(partial(replaced.schedule, fingerprint=second.fingerprint, when=clock() + HOUR))
    due = partial(replaced.due, limit=10)
    assert await store.read(due) == ()
    clock.advance(2 * HOUR)
    assert await store.read(due) == (second.fingerprint, first.fingerprint)
    assert await store.read(partial(replaced.due, limit=1)) == (second.fingerprint,)
    await store.write(partial(replaced.schedule, fingerprint=second.fingerprint, when=clock() + HOUR))
    assert await store.read(due) == (first.fingerprint,), "a later renewal begins the time anew"
    await store.write(partial(replaced.let_go, fingerprint=first.fingerprint))
    assert await store.read(due) == ()


async def test_successors_are_found_by_what_they_replace(store, clock):
    old = recorded(clock)
    new = [recorded(clock, replaces=old.fingerprint) for _ in range(2)]
    stranger = recorded(clock, replaces="00" * 32)

    def add(tx):
        for one in (old, *new, stranger):
            certificates.add(tx, one)

    await store.write(add)
    found = await store.read(partial(replaced.successors, fingerprint=old.fingerprint))
    assert {one.fingerprint for one in found} == {one.fingerprint for one in new}
