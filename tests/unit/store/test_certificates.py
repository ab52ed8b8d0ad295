"""The record of certificates: finding, listing, revoking."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from sqlalchemy import text
from sqlalchemy.dialects import sqlite

from kipuka.api import BackendFault, Conflict
from kipuka.store import certificates
from kipuka.store.certificates import KeyStanding, RecordedCertificate
from kipuka.x509.revocation import Reason

ISSUED = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)


def a_record(number: int = 1, **changes) -> RecordedCertificate:
    record = RecordedCertificate(
        fingerprint=f"{number:064x}",
        ca="main",
        serial=f"{number:x}",
        subject=f"CN=device-{number}",
        names=(f"DNS:device-{number}.example",),
        spki_sha256=f"{number:064x}",
        holder_sha256=f"{number:064x}",
        not_before=ISSUED,
        not_after=ISSUED + timedelta(days=90),
        der=b"\x30\x00",
        label=None,
        profile="default",
        method="otp",
        identity_name=f"device-{number}",
        enrolment=f"e{number}",
        issued_at=ISSUED + timedelta(seconds=number),
    )
    return replace(record, **changes)


@pytest.fixture
async def record(store):
    async def record(*records: RecordedCertificate) -> None:
        def unit(tx):
            for one in records:
                certificates.add(tx, one)

        await store.write(unit)

    return record


def test_a_record_says_what_the_certificate_says():
    """RULES E4: addressed by SHA-256 fingerprint and by serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a+b")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(0x0ABC)
        .not_valid_before(ISSUED)
        .not_valid_after(ISSUED + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    record = RecordedCertificate.of(
        certificate,
        ca="main",
        label="ot",
        profile="p",
        method="otp",
        identity_name="a",
        enrolment="e",
        issued_at=ISSUED,
        names=["DNS:a.example"],
    )
    spki = hashes.Hash(hashes.SHA256())
    spki.update(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    assert record.fingerprint == certificate.fingerprint(hashes.SHA256()).hex()
    assert record.spki_sha256 == spki.finalize().hex()
    assert record.serial == "abc"
    assert record.subject == r"CN=a\+b"
    assert record.names == ("DNS:a.example",)
    assert record.not_before == ISSUED.replace(microsecond=0)
    assert x509.load_der_x509_certificate(record.der) == certificate


async def test_a_record_comes_back_as_it_was_written(store, record):
    written = a_record(label="ot", names=())
    await record(written)
    assert await store.read(partial(certificates.find_by_fingerprint, fingerprint=written.fingerprint)) == written


@pytest.mark.parametrize(
    "address",
    [
        pytest.param(f"{0xAB:064x}", id="fingerprint"),
        pytest.param(f"{0xAB:064X}", id="fingerprint in capitals"),
        pytest.param(":".join(["00"] * 31 + ["AB"]), id="fingerprint with colons"),
        pytest.param("main/ab", id="ca and serial"),
        pytest.param("main/00:AB", id="ca and serial with colons"),
        pytest.param("ab", id="serial"),
        pytest.param("0xAB", id="serial with 0x"),
    ],
)
async def test_a_certificate_is_found_by_each_of_its_addresses(store, record, address):
    """RULES E4."""
    await record(a_record(0xAB), a_record(0xAC))
    found = await store.read(partial(certificates.find, id=address))
    assert found == a_record(0xAB)


@pytest.mark.parametrize("address", ["", "/", "xyz", "main/", "other/ab", "ad", f"{1:064x}", "ab'--", "é"])
async def test_what_addresses_nothing_finds_nothing(store, record, address):
    await record(a_record(0xAB))
    assert await store.read(partial(certificates.find, id=address)) is None


async def test_a_serial_number_of_two_cas_must_say_which(store, record):
    """RULES E4: a bare serial is accepted where it is unique."""
    await record(a_record(1), a_record(2, ca="other", serial="1"))
    with pytest.raises(Conflict, match="main/1"):
        await store.read(partial(certificates.find, id="1"))
    found = await store.read(partial(certificates.find, id="other/1"))
    assert found.fingerprint == a_record(2).fingerprint


async def test_a_ca_and_serial_are_recorded_once(store, record):
    """RULES F6: the database itself holds it."""
    await record(a_record(1))
    assert await store.read(partial(certificates.serial_is_used, ca="main", serial="1"))
    assert not await store.read(partial(certificates.serial_is_used, ca="other", serial="1"))
    with pytest.raises(BackendFault):
        await record(a_record(2, serial="1"))


async def test_a_serial_added_in_the_same_batch_is_seen(store):
    def unit(tx):
        certificates.add(tx, a_record(1))
        return certificates.serial_is_used(tx, ca="main", serial="1")

    assert await store.write(unit)


@pytest.mark.parametrize(("holder", "another"), [("55", False), ("11", True), ("99", True)])
async def test_a_key_has_another_holder_when_one_of_its_certificates_has(store, record, holder, another):
    """RULES F5."""
    await record(a_record(1, spki_sha256="aa", holder_sha256="55"), a_record(2, spki_sha256="bb", holder_sha256="11"))
    standing = await store.read(partial(certificates.key_standing, spki_sha256="aa", holder_sha256=holder))
    assert standing == KeyStanding(compromised=False, has_another_holder=another)


@pytest.mark.parametrize(("reason", "compromised"), [(Reason.KEY_COMPROMISE, True), (Reason.SUPERSEDED, False)])
async def test_a_key_is_compromised_when_one_of_its_certificates_was_revoked_for_that(
    store, record, reason, compromised
):
    """RULES F5."""
    await record(a_record(1, spki_sha256="aa"), a_record(2, spki_sha256="aa"), a_record(3, spki_sha256="bb"))
    await store.write(partial(certificates.revoke, fingerprint=a_record(1).fingerprint, reason=reason))
    for spki, expected in (("aa", compromised), ("bb", False)):
        standing = await store.read(partial(certificates.key_standing, spki_sha256=spki, holder_sha256="55"))
        assert standing.compromised == expected


async def test_what_is_asked_of_a_key_is_answered_from_an_index(store, database):
    """A client may renew with one key ten thousand times: no question about it may read all its certificates."""

    statement = certificates._KEY_STANDING.compile(dialect=sqlite.dialect(paramstyle="named"))
    parameters = statement.params | {"spki": "aa", "holder": "bb"}

    def plan(tx):
        return [row.detail for row in tx.execute(text(f"EXPLAIN QUERY PLAN {statement}"), parameters)]

    steps = [step for step in await store.read(plan) if "certificates" in step]
    assert len(steps) == 3
    for step in steps:
        assert re.search(r"USING .*INDEX .*\(spki_sha256=\? AND (holder_sha256[<>]|revocation_reason=)\?\)", step), step


async def test_a_listing_is_read_in_parts_without_gaps_or_repeats(store, record):
    records = [a_record(number, issued_at=ISSUED + timedelta(seconds=number // 3)) for number in range(10)]
    await record(*records)
    seen, after = [], None
    while True:
        page = await store.read(partial(certificates.listing, after=after, limit=4))
        assert len(page.items) <= 4
        seen += page.items
        if page.next is None:
            break
        after = page.next
    assert len(seen) == 10
    assert set(seen) == set(records)
    assert [one.issued_at for one in seen] == sorted((one.issued_at for one in records), reverse=True)


async def test_a_listing_is_narrowed_by_subject_serial_and_state(store, record, clock):
    clock.set(ISSUED + timedelta(days=10))
    await record(
        a_record(1),
        a_record(2, subject="CN=100%_Real", names=()),
        a_record(3, not_after=ISSUED + timedelta(days=1)),
    )
    await store.write(partial(certificates.revoke, fingerprint=a_record(2).fingerprint, reason=Reason.KEY_COMPROMISE))

    async def serials(**filters):
        page = await store.read(partial(certificates.listing, **filters))
        return sorted(one.serial for one in page.items)

    assert await serials() == ["1", "2", "3"]
    assert await serials(subject="DEVICE-1") == ["1"]
    assert await serials(subject="device-3.EXAMPLE") == ["3"]
    assert await serials(subject="100%_r") == ["2"]
    assert await serials(subject="%") == ["2"]
    assert await serials(serial="0x03") == ["3"]
    assert await serials(state="valid") == ["1"]
    assert await serials(state="expired") == ["3"]
    assert await serials(state="revoked") == ["2"]
    assert await serials(state="valid", subject="nothing") == []


@pytest.mark.parametrize("wrong", [{"serial": "xyz"}, {"after": "nowhere"}])
async def test_a_listing_refuses_what_it_cannot_read(store, wrong):
    with pytest.raises(ValueError, match=r"hexadecimal|place"):
        await store.read(partial(certificates.listing, **wrong))


async def test_a_certificate_is_revoked_once_and_its_time_stays(store, record, clock):
    await record(a_record(1))
    revoke = partial(certificates.revoke, fingerprint=a_record(1).fingerprint, reason=Reason.SUPERSEDED)
    assert (await store.write(revoke)).change == "revoked"
    first = clock()
    clock.advance(60)
    assert (await store.write(revoke)).change == "nothing"
    stronger = partial(revoke, reason=Reason.KEY_COMPROMISE, invalidity_date=ISSUED)
    assert (await store.write(stronger)).change == "amended"
    found = await store.read(partial(certificates.find, id="1"))
    assert (found.state, found.revoked_at, found.revocation_reason) == ("revoked", first, "keyCompromise")
    assert found.invalidity_date == ISSUED


async def test_a_refused_revocation_writes_nothing(store, record):
    await record(a_record(1))
    revoke = partial(certificates.revoke, fingerprint=a_record(1).fingerprint)
    await store.write(partial(revoke, reason=Reason.SUPERSEDED))
    before = await store.read(partial(certificates.find, id="1"))
    with pytest.raises(Conflict):
        await store.write(partial(revoke, reason=Reason.CERTIFICATE_HOLD, invalidity_date=ISSUED, tell=True))
    assert await store.read(partial(certificates.find, id="1")) == before


async def test_a_lifted_hold_leaves_no_trace_in_the_record(store, record):
    await record(a_record(1))
    before = await store.read(partial(certificates.find, id="1"))
    for reason in (Reason.CERTIFICATE_HOLD, Reason.REMOVE_FROM_CRL):
        await store.write(
            partial(certificates.revoke, fingerprint=a_record(1).fingerprint, reason=reason, invalidity_date=None)
        )
    assert await store.read(partial(certificates.find, id="1")) == before


async def test_what_a_ca_has_to_be_told_is_kept_until_just_that_was_told(store, record):
    await record(a_record(1), a_record(2, ca="other"), a_record(3))
    for number, reason in ((1, Reason.CERTIFICATE_HOLD), (2, Reason.SUPERSEDED)):
        fingerprint = a_record(number).fingerprint
        await store.write(partial(certificates.revoke, fingerprint=fingerprint, reason=reason, tell=True))
    look = partial(certificates.untold, cas=["main"], limit=10)
    (found,) = await store.read(look)
    assert (found.serial, found.untold_reason) == ("1", "certificateHold")
    lift = partial(certificates.revoke, fingerprint=found.fingerprint, reason=Reason.REMOVE_FROM_CRL, tell=True)
    await store.write(lift)
    assert not await store.write(partial(certificates.told, fingerprint=found.fingerprint, reason="certificateHold"))
    (found,) = await store.read(look)
    assert (found.state, found.untold_reason) == ("valid", "removeFromCRL")
    assert await store.write(partial(certificates.told, fingerprint=found.fingerprint, reason="removeFromCRL"))
    assert await store.read(look) == ()
