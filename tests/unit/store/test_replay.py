"""What was answered before is found by its digest, and one enrolment at most has it (RULES D4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import pytest
from sqlalchemy import select, update

from kipuka.api import BackendFault, Claim
from kipuka.store import certificates, enrolments, replay
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.enrolments import NewEnrolment
from kipuka.store.tables import enrolments as table
from kipuka.x509.revocation import Reason

WINDOW = timedelta(minutes=10)
DIGEST = "d1" * 32


@pytest.fixture
def issue(store, clock):
    """Record a certificate for a request with that digest; its fingerprint."""
    made = 0

    async def issue(digest=DIGEST, *, days=1, **seen):
        nonlocal made
        made += 1
        row = NewEnrolment(
            id=f"e{made}",
            operation="simpleenroll",
            label=None,
            method="mtls",
            identity_name="device-1",
            claim=None,
            ca="main",
            profile="default",
            request_sha256="ab" * 32,
            csr=b"\x30\x00",
            process="b1/0/0",
            lease_until=clock() + WINDOW,
            created_at=clock(),
            replay_sha256=digest,
        )
        certificate = RecordedCertificate(
            fingerprint=f"{made:064x}",
            ca="main",
            serial=f"{made:x}",
            subject="CN=device-1",
            names=(),
            spki_sha256="00",
            holder_sha256="00",
            not_before=clock(),
            not_after=clock() + timedelta(days=days),
            der=b"\x30\x00",
            label=None,
            profile="default",
            method="mtls",
            identity_name="device-1",
            enrolment=row.id,
            issued_at=clock(),
        )

        def unit(tx):
            before = {"answered": None if digest is None else replay.holder(tx, digest)} | seen
            enrolments.record(tx, row, certificate, None, exists=False, **before)

        await store.write(unit)
        return certificate.fingerprint

    return issue


@pytest.fixture
def find(store):
    async def find(digest=DIGEST, window=WINDOW):
        found = await store.read(partial(replay.find, digest=digest, window=window))
        return None if found is None else found.fingerprint

    return find


async def test_what_was_issued_is_found_within_the_window_by_its_digest_alone(issue, find, clock):
    issued = await issue()
    clock.advance(WINDOW - timedelta(microseconds=1))
    assert await find() == issued
    assert await find("d2" * 32) is None
    clock.advance(timedelta(microseconds=1))
    assert await find() is None
    assert await find(window=WINDOW + timedelta(seconds=1)) == issued


async def test_a_certificate_that_is_not_good_is_not_found(issue, find, store, clock):
    """Revoked, on hold, expired: while it is so."""
    issued = await issue(days=0.005)
    revoke = partial(certificates.revoke, fingerprint=issued)
    await store.write(partial(revoke, reason=Reason.CERTIFICATE_HOLD))
    assert await find() is None
    await store.write(partial(revoke, reason=Reason.REMOVE_FROM_CRL))
    assert await find() == issued
    clock.advance(timedelta(days=0.005))
    assert await find() is None


async def test_the_newest_answer_takes_the_digest_over(issue, find, store):
    first, second = await issue(), await issue()
    assert first != second
    assert await find() == second
    holders = select(table.c.id).where(table.c.replay_sha256 == DIGEST)
    assert (await store.read(lambda tx: tx.execute(holders).scalars().all())) == ["e2"]


async def test_the_database_refuses_a_second_issued_enrolment_of_one_digest(issue, store):
    """Of two servers that record the same request at the same moment one is told, and looks again."""
    await issue()
    await issue("d2" * 32)
    both = update(table).where(table.c.id == "e2").values(replay_sha256=DIGEST)
    with pytest.raises(BackendFault):
        await store.write(lambda tx: tx.execute(both).rowcount)


@pytest.mark.parametrize("earlier", [False, True], ids=["nobody was seen", "an earlier one was seen"])
async def test_what_another_node_recorded_after_the_look_keeps_its_digest(issue, find, earlier):
    """RULES D4: it was not seen, so it may be what the request gets; the later one is refused, and looks again."""
    seen = await issue() if earlier else None
    others = await issue()
    with pytest.raises(BackendFault) as raised:
        await issue(answered=seen)
    assert raised.value.reason == "store_constraint"
    assert await find() == others


async def test_without_a_digest_any_number_is_issued(issue):
    assert len({await issue(None) for _ in range(3)}) == 3


def test_every_part_of_a_request_is_in_its_digest():
    """RULES D4; and no part can be mistaken for another."""
    whole = {"operation": "simpleenroll", "label": None, "ca": "main", "request_sha256": "ab"}
    claim = Claim(plugin="otp", ref="1")
    parts = [
        (claim, whole),
        (replace(claim, ref="2"), whole),
        (replace(claim, plugin="badge"), whole),
        ("ab" * 32, whole),
        ("cd" * 32, whole),
        *((claim, whole | change) for change in ({"operation": "simplereenroll"}, {"label": ""}, {"label": "lab"})),
        *((claim, whole | change) for change in ({"ca": "other"}, {"request_sha256": "cd"})),
        (Claim(plugin="otp1", ref=""), whole),
    ]
    digests = [replay.replay_digest(credential, **rest) for credential, rest in parts]
    assert len(set(digests)) == len(parts)
    assert digests[0] == replay.replay_digest(Claim(plugin="otp", ref="1"), **whole)
