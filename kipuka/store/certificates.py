"""The record of every certificate that was issued (guarantee 1).

In the room: pure functions of a transaction over the table `certificates`. Not in the room: issuing, and the decision what may be
recorded (`kipuka.enrolment`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import ColumnElement, RowMapping, and_, bindparam, exists, func, or_, select, update

from kipuka.api.errors import Conflict, UnknownResource
from kipuka.api.events import CertificateRevoked
from kipuka.api.storage import ReadTx, Tx, timestamp
from kipuka.distinguished_names import format_dn
from kipuka.store.tables import certificates, moment
from kipuka.x509.names import holder_digest
from kipuka.x509.revocation import Change, Reason, change_of

__all__ = [
    "CertificateState",
    "KeyStanding",
    "Page",
    "RecordedCertificate",
    "Revoked",
    "add",
    "find",
    "find_by_fingerprint",
    "is_revoked",
    "key_standing",
    "listing",
    "lock_key",
    "normal_serial",
    "read",
    "renewable",
    "revoke",
    "serial_is_used",
    "supersede",
    "told",
    "untold",
]

CertificateState = Literal["valid", "expired", "revoked"]
"""What a listing can be narrowed to. Stored is only `valid` or `revoked`; expiry follows from the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedCertificate:
    """One certificate with who asked for it, where and how.

    `fingerprint` and `spki_sha256` are lower-case hexadecimal SHA-256; `serial` is lower-case hexadecimal without leading zeros;
    `holder_sha256` is `kipuka.x509.names.holder_digest`; `subject` is RFC 4514; `names` are formatted subject alternative names ("DNS:a.example"). `state` is "valid" or "revoked".
    """

    fingerprint: str
    ca: str
    serial: str
    subject: str
    names: tuple[str, ...]
    spki_sha256: str
    holder_sha256: str
    not_before: datetime
    not_after: datetime
    der: bytes = field(repr=False)
    label: str | None
    profile: str
    method: str
    identity_name: str
    enrolment: str
    issued_at: datetime
    state: str = "valid"
    revoked_at: datetime | None = None
    revocation_reason: str | None = None  # as RFC 5280 spells it: "keyCompromise"
    invalidity_date: datetime | None = None  # RFC 5280, 5.3.2
    untold_reason: str | None = None  # what the CA has still to be told
    replaces: str | None = None  # the fingerprint of the recorded certificate that it renewed
    revoke_at: datetime | None = None  # when it is to be revoked as replaced (`kipuka.store.replaced`)

    @classmethod
    def of(
        cls,
        certificate: x509.Certificate,
        *,
        ca: str,
        label: str | None,
        profile: str,
        method: str,
        identity_name: str,
        enrolment: str,
        issued_at: datetime,
        names: Sequence[str],
        replaces: str | None = None,
    ) -> RecordedCertificate:
        """The record of a certificate that was signed just now."""
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(spki)
        return cls(
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
            ca=ca,
            serial=f"{certificate.serial_number:x}",
            subject=format_dn(certificate.subject),
            names=tuple(names),
            spki_sha256=digest.finalize().hex(),
            holder_sha256=holder_digest(certificate.subject, names),
            not_before=certificate.not_valid_before_utc,
            not_after=certificate.not_valid_after_utc,
            der=certificate.public_bytes(Encoding.DER),
            label=label,
            profile=profile,
            method=method,
            identity_name=identity_name,
            enrolment=enrolment,
            issued_at=issued_at,
            replaces=replaces,
        )

    def load(self) -> x509.Certificate:
        """The certificate itself."""
        return x509.load_der_x509_certificate(self.der)

    def revocation(self, *, before: Reason | None = None, comment: str | None) -> CertificateRevoked:
        """The event of its revocation; `before` is the reason that it had until then. Raises ValueError where it is not revoked."""
        if self.revocation_reason is None:
            msg = f"the certificate {self.ca}/{self.serial} is not revoked"
            raise ValueError(msg)
        return CertificateRevoked(
            ca=self.ca,
            serial=self.serial,
            fingerprint=self.fingerprint,
            subject=self.subject,
            reason=self.revocation_reason,
            previous_reason=None if before is None else before.value,
            invalidity_date=None if self.invalidity_date is None else timestamp(self.invalidity_date),
            comment=comment,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Revoked:
    """What `revoke` did: the certificate as it is recorded now, what changed, and the reason that stood there before."""

    certificate: RecordedCertificate
    change: Change
    before: Reason | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """A part of a listing, newest first; `next` is given as `after` for the following part, None at the end."""

    items: tuple[RecordedCertificate, ...]
    next: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyStanding:
    """What is recorded of a public key."""

    compromised: bool  # a certificate of it was revoked for keyCompromise
    has_another_holder: bool  # a certificate of it is somebody else's than the one's who was asked about


# Statements of the hot path are made once: to make one takes SQLAlchemy longer than SQLite takes to answer it.
_same_key = certificates.c.spki_sha256 == bindparam("spki")
_KEY_STANDING = select(
    exists().where(_same_key, certificates.c.revocation_reason == "keyCompromise").label("compromised"),
    or_(
        exists().where(_same_key, certificates.c.holder_sha256 < bindparam("holder")),
        exists().where(_same_key, certificates.c.holder_sha256 > bindparam("holder")),
    ).label("has_another_holder"),
)
_BY_FINGERPRINT = select(certificates).where(certificates.c.fingerprint == bindparam("fingerprint"))
_SERIAL = select(certificates.c.fingerprint).where(
    certificates.c.ca == bindparam("ca"), certificates.c.serial == bindparam("serial")
)


def normal_serial(text: str) -> str:
    """A serial number in the form it is stored in. Takes "0x", colons, capitals and leading zeros; ValueError else."""
    digits = text.strip().lower().removeprefix("0x").replace(":", "")
    if not re.fullmatch(r"[0-9a-f]+", digits):
        msg = "a serial number is written in hexadecimal digits"
        raise ValueError(msg)
    return digits.lstrip("0") or "0"


def add(tx: Tx, certificate: RecordedCertificate) -> None:
    """Record a certificate. The pair of CA and serial number must be new: see `serial_is_used`."""
    tx.add(
        certificates,
        {
            "fingerprint": certificate.fingerprint,
            "ca": certificate.ca,
            "serial": certificate.serial,
            "subject": certificate.subject,
            "names": json.dumps(certificate.names),
            "spki_sha256": certificate.spki_sha256,
            "holder_sha256": certificate.holder_sha256,
            "not_before": timestamp(certificate.not_before),
            "not_after": timestamp(certificate.not_after),
            "der": certificate.der,
            "label": certificate.label,
            "profile": certificate.profile,
            "method": certificate.method,
            "identity_name": certificate.identity_name,
            "enrolment": certificate.enrolment,
            "issued_at": timestamp(certificate.issued_at),
            "state": certificate.state,
            "revoked_at": None if certificate.revoked_at is None else timestamp(certificate.revoked_at),
            "revocation_reason": certificate.revocation_reason,
            "invalidity_date": None if certificate.invalidity_date is None else timestamp(certificate.invalidity_date),
            "untold_reason": certificate.untold_reason,
            "replaces": certificate.replaces,
            "revoke_at": None if certificate.revoke_at is None else timestamp(certificate.revoke_at),
        },
    )


def serial_is_used(tx: ReadTx, *, ca: str, serial: str) -> bool:
    """Whether that CA's serial number (as stored) is recorded already (RULES F6)."""
    return tx.execute(_SERIAL, {"ca": ca, "serial": serial}).first() is not None


def find_by_fingerprint(tx: ReadTx, fingerprint: str) -> RecordedCertificate | None:
    """The certificate with that SHA-256 fingerprint (lower-case hexadecimal)."""
    row = tx.execute(_BY_FINGERPRINT, {"fingerprint": fingerprint}).mappings().first()
    return None if row is None else read(row)


def lock_key(tx: Tx, spki_sha256: str) -> None:
    """Until this transaction ends nobody else, on this node or another, records a certificate of that public key.

    For whoever asks `key_standing` and records by the answer: of two that record one key for two names at once, one is to see
    the other.
    """
    tx.lock(f"key/{spki_sha256}")


def key_standing(tx: ReadTx, *, spki_sha256: str, holder_sha256: str) -> KeyStanding:
    """What the record says of a public key that `holder_sha256` wants a certificate for (RULES F5).

    A few steps in two indexes however many certificates the key has: a client may renew with one key as often as it likes.
    """
    row = tx.execute(_KEY_STANDING, {"spki": spki_sha256, "holder": holder_sha256}).one()
    return KeyStanding(compromised=bool(row.compromised), has_another_holder=bool(row.has_another_holder))


def is_revoked(tx: Tx, fingerprint: str, *, to_change: bool = False) -> bool:
    """Whether it is recorded as revoked. It stays as it is until the transaction ends: a revocation on another node waits.

    `to_change` is for who changes the row next: of two who would, one is to wait here and not for each other.
    """
    statement = select(certificates.c.state).where(certificates.c.fingerprint == fingerprint)
    return tx.execute(statement.with_for_update(read=not to_change)).scalar_one_or_none() == "revoked"


def find(tx: ReadTx, id: str) -> RecordedCertificate | None:  # noqa: A002 - what the admin's path calls it
    """The certificate an administrator means (RULES E4): a SHA-256 fingerprint, `ca/serial`, or a bare serial number.

    Fingerprint and serial are hexadecimal in either case, with or without colons. Raises `Conflict` for a bare serial number
    that several CAs have issued.
    """
    ca, slash, serial = id.rpartition("/")
    try:
        digits = normal_serial(serial)
    except ValueError:
        return None
    if not slash and len(serial.replace(":", "")) == 64:
        return find_by_fingerprint(tx, serial.replace(":", "").lower())
    condition: ColumnElement[bool] = certificates.c.serial == digits
    if slash:
        condition = and_(condition, certificates.c.ca == ca)
    rows = tx.execute(select(certificates).where(condition).order_by(certificates.c.ca).limit(2)).mappings().all()
    if len(rows) > 1:
        detail = (
            f"several CAs issued the serial number {digits}: write the CA before it, as in {rows[0]['ca']}/{digits}"
        )
        raise Conflict(detail, reason="serial_not_unique")
    return read(rows[0]) if rows else None


def required(tx: ReadTx, id: str) -> RecordedCertificate:  # noqa: A002 - as above
    """What `find` finds. Raises `UnknownResource` where there is none, and `Conflict` as `find` does."""
    found = find(tx, id)
    if found is None:
        raise UnknownResource("there is no such certificate")
    return found


def listing(
    tx: ReadTx,
    *,
    subject: str | None = None,
    serial: str | None = None,
    state: CertificateState | None = None,
    after: str | None = None,
    limit: int = 100,
) -> Page:
    """Certificates, newest first.

    `subject` is a part of the subject or of a name in it, in any case; `serial` is exact. Raises ValueError for a serial that is not
    hexadecimal or an `after` that is not a `Page.next`.
    """
    c = certificates.c
    conditions: list[ColumnElement[bool]] = []
    if subject is not None:
        pattern = subject.lower()
        conditions.append(
            or_(
                func.lower(c.subject).contains(pattern, autoescape=True),
                func.lower(c.names).contains(pattern, autoescape=True),
            )
        )
    if serial is not None:
        conditions.append(c.serial == normal_serial(serial))
    now = timestamp(tx.now)
    if state == "valid":
        conditions.append(and_(c.state == "valid", c.not_after >= now))
    elif state == "expired":
        conditions.append(and_(c.state == "valid", c.not_after < now))
    elif state == "revoked":
        conditions.append(c.state == "revoked")
    if after is not None:
        issued_at, separator, fingerprint = after.partition("~")
        if not separator:
            msg = "not a place in this listing"
            raise ValueError(msg)
        conditions.append(or_(c.issued_at < issued_at, and_(c.issued_at == issued_at, c.fingerprint < fingerprint)))
    statement = (
        select(certificates).where(*conditions).order_by(c.issued_at.desc(), c.fingerprint.desc()).limit(limit + 1)
    )
    items = tuple(read(row) for row in tx.execute(statement).mappings())
    if len(items) <= limit:
        return Page(items=items)
    last = items[limit - 1]
    return Page(items=items[:limit], next=f"{timestamp(last.issued_at)}~{last.fingerprint}")


_MOST_RENEWABLE = 100


def renewable(tx: ReadTx, *, ca: str, label: str | None, holder_sha256: str) -> tuple[RecordedCertificate, ...]:
    """The certificates of that holder that are in force at a label, newest first; of very many the newest alone."""
    c = certificates.c
    statement = (
        select(certificates)
        .where(
            c.holder_sha256 == holder_sha256,
            c.ca == ca,
            c.label.is_(None) if label is None else c.label == label,
            c.state == "valid",
            c.not_after >= timestamp(tx.now),
        )
        .order_by(c.issued_at.desc(), c.fingerprint.desc())
        .limit(_MOST_RENEWABLE)
    )
    return tuple(read(row) for row in tx.execute(statement).mappings())


def revoke(
    tx: Tx, fingerprint: str, *, reason: Reason, invalidity_date: datetime | None = None, tell: bool = False
) -> Revoked:
    """Revoke a certificate that is recorded, or lift its hold, as `kipuka.x509.revocation` allows.

    With `tell` the change is noted as one that the CA has still to be told. Raises `Conflict`; nothing was written then.
    """
    # Another node may be at it too: the row stays as it is read here.
    row = select(certificates).where(certificates.c.fingerprint == fingerprint).with_for_update()
    found = read(tx.execute(row).mappings().one())
    before = None if found.revocation_reason is None else Reason(found.revocation_reason)
    change = change_of(before, reason)
    if change == "nothing" and invalidity_date is not None and invalidity_date != found.invalidity_date:
        change = "amended"
    untold_reason = reason.value if tell else found.untold_reason
    match change:
        case "nothing":
            return Revoked(certificate=found, change=change, before=before)
        case "hold_lifted":
            changed = replace(
                found,
                state="valid",
                revoked_at=None,
                revocation_reason=None,
                invalidity_date=None,
                untold_reason=untold_reason,
            )
        case "revoked" | "amended":
            changed = replace(
                found,
                state="revoked",
                revoked_at=found.revoked_at or tx.now,
                revocation_reason=reason.value,
                invalidity_date=invalidity_date or found.invalidity_date,
                untold_reason=untold_reason,
            )
    tx.execute(
        update(certificates)
        .where(certificates.c.fingerprint == fingerprint)
        .values(
            state=changed.state,
            revoked_at=None if changed.revoked_at is None else timestamp(changed.revoked_at),
            revocation_reason=changed.revocation_reason,
            invalidity_date=None if changed.invalidity_date is None else timestamp(changed.invalidity_date),
            untold_reason=changed.untold_reason,
        )
    )
    return Revoked(certificate=changed, change=change, before=before)


def add_revoked(tx: Tx, certificate: RecordedCertificate, *, tell: bool, comment: str) -> CertificateRevoked:
    """Write down, as revoked from the beginning, a certificate that its CA has made and nobody is to have; the event that is to be audited.

    `tell`: its CA is to be told.
    """
    reason = Reason.CESSATION_OF_OPERATION.value
    revoked = replace(
        certificate,
        state="revoked",
        revoked_at=tx.now,
        revocation_reason=reason,
        untold_reason=reason if tell else None,
    )
    add(tx, revoked)
    return revoked.revocation(comment=comment)


def supersede(tx: Tx, certificate: RecordedCertificate, *, tell: bool, comment: str) -> CertificateRevoked | None:
    """Revoke a certificate of this server's own accord, and give the event that is to be audited; None where it is no longer valid.

    Somebody else, on another node too, may be revoking it at the same time; one of them does.
    """
    try:
        revoked = revoke(tx, certificate.fingerprint, reason=Reason.SUPERSEDED, tell=tell)
    except Conflict:
        return None
    if revoked.change != "revoked" or revoked.before is not None:
        return None
    return revoked.certificate.revocation(comment=comment)


def untold(tx: ReadTx, cas: Collection[str], *, limit: int) -> tuple[RecordedCertificate, ...]:
    """Certificates of these CAs whose revocation, or its end, the CA has still to be told."""
    c = certificates.c
    statement = (
        select(certificates).where(c.untold_reason.is_not(None), c.ca.in_(cas)).order_by(c.fingerprint).limit(limit)
    )
    return tuple(read(row) for row in tx.execute(statement).mappings())


def told(tx: Tx, fingerprint: str, reason: str) -> bool:
    """The CA knows it; False when something else is to be told by now, or nothing."""
    statement = (
        update(certificates)
        .where(certificates.c.fingerprint == fingerprint, certificates.c.untold_reason == reason)
        .values(untold_reason=None)
    )
    return tx.execute(statement).rowcount == 1


def read(row: RowMapping) -> RecordedCertificate:
    """The certificate that a whole row of the table stands for."""
    values: dict[str, Any] = {str(column): value for column, value in row.items()}
    for column in ("not_before", "not_after", "issued_at"):
        values[column] = moment(values[column])
    for column in ("revoked_at", "invalidity_date", "revoke_at"):
        if values[column] is not None:
            values[column] = moment(values[column])
    values["names"] = tuple(json.loads(values["names"]))
    return RecordedCertificate(**values)
