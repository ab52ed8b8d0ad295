"""Taking certificates back.

In the room: the use case, from an administrator's order to a durable record and a CA that knows. Not in the room: which reason may
follow which (`kipuka.x509.revocation`), HTTP, the command line, and how a revoked certificate is refused (`kipuka.authentication`).

The record of this server decides: from the commit on the certificate authenticates nobody, whether its CA could be told or not. A CA that
has an ability to revoke is told next; where that fails the revocation stands, and `tell_untold` asks the CA again until it has taken it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

import structlog
from cryptography import x509

from kipuka.api import (
    BackendUnavailable,
    CABackend,
    CertificateHoldLifted,
    Conflict,
    MalformedRequest,
    RevocationNotTold,
    RevocationTold,
    RevokesCertificates,
    Tx,
    UnknownResource,
)
from kipuka.api.errors import BackendError, RequestError
from kipuka.store import certificates, replaced
from kipuka.store.certificates import RecordedCertificate, Revoked
from kipuka.store.database import Store
from kipuka.x509.revocation import Reason

__all__ = ["MAX_COMMENT", "RevocationOrder", "Revocations"]

log = structlog.get_logger(__name__)

AT_ONCE = 100
"""How many certificates one run of `tell_untold` looks at."""

MAX_COMMENT = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class RevocationOrder:
    """What an administrator asks for. `id` is as RULES E4 says, `invalidity_date` as RFC 5280, 5.3.2; the comment is for the audit log."""

    id: str
    reason: Reason = Reason.UNSPECIFIED
    invalidity_date: datetime | None = None
    comment: str | None = None


class Revocations:
    """Revokes certificates, and lifts holds.

    `backends` are the open backends by the id of their CA. Of a CA that is not among them it is unknown whether it wants to be told,
    so that the server does it later (`kipuka cert revoke` may be unable to open it).
    """

    def __init__(self, *, store: Store, backends: Mapping[str, CABackend], ca_timeout: timedelta) -> None:
        self._store = store
        self._backends = backends
        self._ca_timeout = ca_timeout.total_seconds()
        self._under_way: set[str] = set()  # fingerprints that the CA is being told of
        self._problems: dict[str, str] = {}  # why telling failed last, by fingerprint

    async def revoke(self, order: RevocationOrder) -> Revoked:
        """Carry the order out; the same order again changes nothing.

        When it returns the record is durable; `certificate.untold_reason` is None unless the CA has still to be told. Raises
        `UnknownResource`, `Conflict` for what cannot follow the present state or an id that is not unique, `MalformedRequest`.
        """
        _check(order, self._store.clock())
        revoked = await self._store.write(partial(_revoke, order=order, wants_to_be_told=self._wants_to_be_told))
        if isinstance(revoked, RequestError):
            raise revoked
        certificate = revoked.certificate
        if certificate.untold_reason is not None and await self._tell(certificate, first=True) is None:
            return replace(revoked, certificate=replace(certificate, untold_reason=None))
        return revoked

    async def revoke_replaced(self, late: Mapping[str, timedelta]) -> None:
        """Revoke what a renewal has replaced and is due now: a job. `late` is as `kipuka.store.replaced.fate` has it."""
        for fingerprint in await self._store.read(partial(replaced.due, limit=AT_ONCE)):
            unit = partial(
                _revoke_replaced, fingerprint=fingerprint, late=late, wants_to_be_told=self._wants_to_be_told
            )
            revoked = await self._store.write(unit)
            if revoked is not None and revoked.certificate.untold_reason is not None:
                await self._tell(revoked.certificate, first=True)

    async def tell_untold(self) -> None:
        """Tell the CAs what they have not taken yet: a job. A CA that is away is not asked for each certificate in turn."""
        untold = await self._store.read(partial(certificates.untold, cas=tuple(self._backends), limit=AT_ONCE))
        away: set[str] = set()
        for certificate in untold:
            if certificate.ca not in away:
                problem = await self._tell(certificate, first=False)
                if isinstance(problem, BackendUnavailable | TimeoutError):
                    away.add(certificate.ca)

    def _wants_to_be_told(self, ca: str) -> bool:
        return ca not in self._backends or isinstance(self._backends[ca], RevokesCertificates)

    async def _tell(self, certificate: RecordedCertificate, *, first: bool) -> Exception | None:
        """Tell the CA; None when it knows, else what stands in the way. That is audited for the administrator's request, and logged when it is new."""
        backend, fingerprint = self._backends.get(certificate.ca), certificate.fingerprint
        reason = certificate.untold_reason or Reason.UNSPECIFIED.value
        if fingerprint in self._under_way:
            return BackendUnavailable("another request is telling the CA", reason="under_way")
        if backend is None:
            return BackendUnavailable("the CA is not open here", reason="ca_not_open")
        self._under_way.add(fingerprint)
        try:
            if isinstance(backend, RevokesCertificates):
                loaded = x509.load_der_x509_certificate(certificate.der)
                async with asyncio.timeout(self._ca_timeout):
                    await backend.revoke(loaded, x509.ReasonFlags(reason))
            await self._store.write(
                partial(_told, certificate=certificate, reason=reason, audited=isinstance(backend, RevokesCertificates))
            )
        except Exception as error:  # noqa: BLE001 - a backend is a plugin, and may raise anything
            await self._failed(certificate, reason, error, first=first)
            return error
        finally:
            self._under_way.discard(fingerprint)
        self._problems.pop(fingerprint, None)
        return None

    async def _failed(self, certificate: RecordedCertificate, reason: str, error: Exception, *, first: bool) -> None:
        if isinstance(error, BackendError):
            problem = error.detail
        elif isinstance(error, TimeoutError):
            problem = "the certification authority did not answer"
        else:
            problem = f"the certification authority failed: {type(error).__name__}"
        if self._problems.get(certificate.fingerprint) != problem:
            self._problems[certificate.fingerprint] = problem
            known = isinstance(error, BackendError | TimeoutError)
            log.warning(
                "revocation_not_told",
                ca=certificate.ca,
                serial=certificate.serial,
                problem=problem,
                exc_info=None if known else error,
            )
        if first:
            event = RevocationNotTold(
                ca=certificate.ca,
                serial=certificate.serial,
                fingerprint=certificate.fingerprint,
                reason=reason,
                detail=problem,
            )
            try:
                await self._store.audit(event)
            except BackendError as away:  # the revocation itself is recorded, and is what the caller has to hear
                log.error("event_not_recorded", event_name=event.name, reason=away.reason)


def _check(order: RevocationOrder, now: datetime) -> None:
    if order.invalidity_date is not None:
        if order.invalidity_date > now:
            raise MalformedRequest("invalidity_date is in the future", reason="invalid_fields")
        if order.reason is Reason.REMOVE_FROM_CRL:
            raise MalformedRequest("invalidity_date does not go with removeFromCRL", reason="invalid_fields")
    comment = order.comment
    if comment is not None and (len(comment) > MAX_COMMENT or not comment.isprintable()):
        detail = f"comment is one line of at most {MAX_COMMENT} characters"
        raise MalformedRequest(detail, reason="invalid_fields")


def _revoke(tx: Tx, *, order: RevocationOrder, wants_to_be_told: Callable[[str], bool]) -> Revoked | RequestError:
    """What was done, or the refusal, which has written nothing."""
    try:
        found = certificates.required(tx, order.id)
        revoked = certificates.revoke(
            tx,
            found.fingerprint,
            reason=order.reason,
            invalidity_date=order.invalidity_date,
            tell=wants_to_be_told(found.ca),
        )
    except (Conflict, UnknownResource) as refusal:
        return refusal
    if revoked.change == "nothing":
        return revoked
    certificate = revoked.certificate
    if revoked.change == "hold_lifted":
        tx.audit(
            CertificateHoldLifted(
                ca=certificate.ca,
                serial=certificate.serial,
                fingerprint=certificate.fingerprint,
                subject=certificate.subject,
                comment=order.comment,
            )
        )
        return revoked
    tx.audit(certificate.revocation(before=revoked.before, comment=order.comment))
    return revoked


def _revoke_replaced(
    tx: Tx, *, fingerprint: str, late: Mapping[str, timedelta], wants_to_be_told: Callable[[str], bool]
) -> Revoked | None:
    """What was revoked. All is looked at here, where nobody can change it any more; whoever came before has left nothing to do."""
    if certificates.is_revoked(tx, fingerprint, to_change=True):
        replaced.let_go(tx, fingerprint)
        return None
    found = certificates.find_by_fingerprint(tx, fingerprint)
    if found is None or found.revoke_at is None or found.revoke_at > tx.now:
        return None
    by = replaced.successors(tx, fingerprint)
    match replaced.fate(found, by, late=late, now=tx.now):
        case "wait":
            replaced.schedule(tx, fingerprint, tx.now + replaced.HOLD_PAUSE)
            return None
        case "keep":
            replaced.let_go(tx, fingerprint)
            return None
        case "revoke":
            replaced.let_go(tx, fingerprint)
    comment = f"replaced by {', '.join(sorted(one.serial for one in by))}"[:MAX_COMMENT]
    order = RevocationOrder(id=fingerprint, reason=Reason.SUPERSEDED, comment=comment)
    revoked = _revoke(tx, order=order, wants_to_be_told=wants_to_be_told)
    return revoked if isinstance(revoked, Revoked) else None


def _told(tx: Tx, *, certificate: RecordedCertificate, reason: str, audited: bool) -> None:
    if certificates.told(tx, certificate.fingerprint, reason) and audited:
        tx.audit(
            RevocationTold(
                ca=certificate.ca, serial=certificate.serial, fingerprint=certificate.fingerprint, reason=reason
            )
        )
