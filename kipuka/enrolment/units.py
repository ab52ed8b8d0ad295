"""Units of the writer: pure functions of the transaction and their arguments.

In the room: what an enrolment writes, each time in one transaction (guarantees 1 and 2), and what stands against it then. Not in the room:
when that happens (`kipuka.enrolment.use_case`), SQL (`kipuka.store`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from kipuka.api import (
    BackendUnavailable,
    CertificateIssued,
    CertificateProblem,
    CertificateReplayed,
    CertificateRequired,
    CertificateRevoked,
    Denied,
    EnrolmentFailed,
    IdentityMismatch,
    KeyRefused,
    NameRefused,
    ReadTx,
    SpendsOnIssue,
    Tx,
)
from kipuka.api.errors import BackendError, RequestError
from kipuka.api.events import AuditEvent
from kipuka.store import certificates, enrolments, name_changes, replaced, replay
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.events import audit_all
from kipuka.store.name_changes import NameChangeApproval

__all__ = [
    "Replacing",
    "Unwanted",
    "begin_signing",
    "key_objection",
    "record",
    "replay_answer",
    "reserve",
    "set_pending",
    "settle",
    "settle_if_held",
    "tell",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacing:
    """RULES D4 where the server made the key: the certificate that the same request led to before is revoked for the new one.

    `needed`: there must be one, since nothing is spent on the new one. `tell`: its CA is to be told.
    """

    window: timedelta
    needed: bool
    tell: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Unwanted:
    """A certificate that its CA has made, and that nobody is to have. `tell`: its CA is to be told."""

    certificate: RecordedCertificate
    tell: bool


def reserve(
    tx: Tx,
    *,
    row: enrolments.NewEnrolment,
    spender: SpendsOnIssue | None,
    hold: bool,
    window: timedelta,
    events: tuple[AuditEvent, ...],
) -> enrolments.EnrolmentRow | RecordedCertificate | Denied | None:
    """An earlier attempt that is pending, what the same request has led to just now, a denial (nothing was written in either
    case), or None: the use is held.
    """
    earlier = enrolments.find_pending(tx, row)
    if earlier is not None:
        tx.audit(events[0])
        return earlier
    if hold:
        denied = enrolments.start(tx, row, spender)
        if denied is not None:
            spent = denied.spent is not None and row.replay_sha256 is not None
            answered = replay.find(tx, row.replay_sha256 or "", window=window) if spent else None
            return answered or denied
        audit_all(tx, events=events)
    return None


def begin_signing(tx: Tx, *, row: enrolments.NewEnrolment, exists: bool, events: tuple[AuditEvent, ...]) -> None:
    """From now on the CA may have the order; without a reservation yet it is made."""
    if exists:
        enrolments.begin_signing(tx, row.id, replaces=row.replaces)
    else:
        enrolments.start(tx, row, None, signing=True)
    audit_all(tx, events=events)


def set_pending(
    tx: Tx, *, row: enrolments.NewEnrolment, exists: bool, ref: str, events: tuple[AuditEvent, ...]
) -> None:
    """The CA decides later; what is held stays held."""
    if not exists:
        enrolments.start(tx, row, None)
    enrolments.set_pending(tx, row.id, ref)
    audit_all(tx, events=events)


def record(
    tx: Tx,
    *,
    row: enrolments.NewEnrolment,
    exists: bool,
    certificate: certificates.RecordedCertificate,
    unique: bool,
    presented: str | None,
    revoke_after: timedelta | None,
    approval: NameChangeApproval | None,
    spender: SpendsOnIssue | None,
    window: timedelta | None,
    opening: tuple[AuditEvent, ...],
    issued: CertificateIssued,
    replayed: Callable[[RecordedCertificate], CertificateReplayed],
    replacing: Replacing | None = None,
) -> RecordedCertificate | RequestError | BackendError:
    """The certificate that may be handed out, which is recorded; or what stands against it (nothing was written).

    It is an earlier one where the same request was answered while this one was under way: what a CA of this process has signed is
    then forgotten before anybody has seen it. A remote CA (`window` None) knows it by now, so it is recorded and handed out.
    With `replacing`, where the earlier one's private key is lost, it is the earlier one that goes: it is revoked, and its use is the new one's.
    """
    schedules = revoke_after is not None
    objection = _objection(tx, certificate, presented=presented, unique=unique, schedules=schedules)
    if objection is not None:
        return objection
    before = replay.holder(tx, row.replay_sha256)
    answered = None
    superseded = None
    if replacing is not None:
        superseded = _replace_first(tx, before, replacing)
        if isinstance(superseded, BackendError):
            return superseded
    elif window is not None:
        answered = replay.still_good(tx, before, window=window)
    if answered is not None:
        if exists:
            enrolments.settle(tx, row.id, state="replayed", reason="answered_meanwhile", spender=spender)
        audit_all(tx, events=(*opening, replayed(answered)))
        return answered
    if approval is not None and not name_changes.use(tx, approval):
        return NameRefused("the change of names was approved once, and is used", reason="approval_used")
    inherits_use = superseded is not None
    enrolments.record(tx, row, certificate, spender, exists=exists, answered=before, inherits_use=inherits_use)
    if certificate.replaces is not None and revoke_after is not None:
        replaced.schedule(tx, certificate.replaces, certificate.issued_at + revoke_after)
    audit_all(tx, events=(*opening, *([] if superseded is None else [superseded]), issued))
    return certificate


def _replace_first(tx: Tx, before: str | None, replacing: Replacing) -> CertificateRevoked | BackendUnavailable | None:
    """Revoke what the same request led to before, if anything; or what stands against it (nothing was written)."""
    first = replay.still_good(tx, before, window=replacing.window)
    event = None if first is None else certificates.supersede(tx, first, tell=replacing.tell, comment=_KEY_LOST)
    return _no_longer_to_be_had() if event is None and replacing.needed else event


_KEY_LOST = "its private key was asked for again, and is kept nowhere"


def _no_longer_to_be_had() -> BackendUnavailable:
    detail = "the certificate that this request led to is no longer to be had, try again"
    return BackendUnavailable(detail, retry_after=timedelta(seconds=1), reason="replay_ended")


def _objection(
    tx: Tx, certificate: RecordedCertificate, *, presented: str | None, unique: bool, schedules: bool
) -> RequestError | None:
    """What has come between since the request was authorised, and stands against its certificate."""
    revoked = _revoked_meanwhile(tx, presented, certificate.replaces, schedules=schedules)
    if revoked is not None:
        return revoked
    if unique:
        certificates.lock_key(tx, certificate.spki_sha256)
    return key_objection(tx, spki=certificate.spki_sha256, holder=certificate.holder_sha256, unique=unique)


def _revoked_meanwhile(tx: Tx, presented: str | None, replaces: str | None, *, schedules: bool) -> RequestError | None:
    """RULES B2: a certificate that was revoked while this request was under way neither proves anything nor gets a successor."""
    if presented is not None and certificates.is_revoked(tx, presented, to_change=schedules and presented == replaces):
        return CertificateRequired(CertificateProblem.REVOKED.value, reason="revoked")
    if replaces not in {None, presented} and certificates.is_revoked(tx, replaces or "", to_change=schedules):
        return IdentityMismatch("the certificate that is to be renewed was revoked", reason="nothing_to_renew")
    return None


def replay_answer(
    tx: Tx,
    *,
    digest: str,
    window: timedelta,
    presented: str | None,
    events: tuple[AuditEvent, ...],
    replayed: Callable[[RecordedCertificate], CertificateReplayed],
) -> RecordedCertificate | RequestError | BackendError:
    """What is handed out again, looked at once more and with its event; or what stands against it (nothing was written)."""
    if presented is not None and certificates.is_revoked(tx, presented):
        return CertificateRequired(CertificateProblem.REVOKED.value, reason="revoked")  # as in `record`
    answered = replay.find(tx, digest, window=window)
    if answered is None or certificates.is_revoked(tx, answered.fingerprint):
        return _no_longer_to_be_had()
    objection = key_objection(tx, spki=answered.spki_sha256, holder=answered.holder_sha256, unique=False)
    if objection is not None:
        return objection
    audit_all(tx, events=(*events, replayed(answered)))
    return answered


def settle(
    tx: Tx,
    *,
    id: str | None,  # noqa: A002 - the column's name
    state: Literal["refused", "failed"],
    reason: str,
    spender: SpendsOnIssue | None,
    events: tuple[AuditEvent, ...],
    unwanted: Unwanted | None = None,
) -> None:
    """End a reservation without a certificate, where there is one (`id`): what it holds is given back, and what was signed is revoked."""
    if id is not None:
        enrolments.settle(tx, id, state=state, reason=reason, spender=spender)
    tell(tx, events=events, unwanted=unwanted)


def tell(tx: Tx, *, events: tuple[AuditEvent, ...], unwanted: Unwanted | None) -> None:
    """Say what happened, and record what was signed as revoked, unless its serial number is in the record: then it was recorded after all, or
    cannot be.
    """
    audit_all(tx, events=events)
    if unwanted is None:
        return
    signed = unwanted.certificate
    if not certificates.serial_is_used(tx, ca=signed.ca, serial=signed.serial):
        tx.audit(certificates.add_revoked(tx, signed, tell=unwanted.tell, comment=_NOT_HANDED_OUT))


_NOT_HANDED_OUT = "it was signed, and the enrolment failed before it was handed out"


def settle_if_held(
    tx: Tx,
    *,
    id: str,  # noqa: A002 - the column's name
    spender: SpendsOnIssue | None,
    event: EnrolmentFailed,
) -> None:
    """End a reservation of which nobody knows whether it was committed; where it was not, nothing is told of it."""
    if enrolments.settle(tx, id, state="failed", reason=event.reason, spender=spender):
        tx.audit(event)


def key_objection(tx: ReadTx, *, spki: str, holder: str, unique: bool) -> KeyRefused | None:
    """RULES F5: not a key that was revoked for compromise, nor one that another name's certificate has."""
    standing = certificates.key_standing(tx, spki_sha256=spki, holder_sha256=holder)
    if standing.compromised:
        return KeyRefused("the key was revoked for compromise, make a new one", reason="key_compromised")
    if unique and standing.has_another_holder:
        return KeyRefused(
            "the key is recorded for another name, make a new one",
            reason="unique_keys",
            rule="unique_keys",
        )
    return None
