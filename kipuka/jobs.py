"""Periodic work: each job runs at once in one living process.

In the room: the loop that runs jobs, and the recovery of reservations that nobody works on any more. Not in the room: the
outbox, which wakes on commits (`kipuka.audit.pipeline`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from functools import partial
from types import MappingProxyType
from typing import Protocol

import structlog
from cryptography import x509

from kipuka.api import (
    BackendUnavailable,
    CABackend,
    EnrolmentRecovered,
    FindsOrders,
    Operation,
    Pending,
    RevokesCertificates,
    SpendsOnIssue,
    Tx,
)
from kipuka.api.errors import BackendError
from kipuka.distinguished_names import parse_dn
from kipuka.mtls import alternative_names
from kipuka.store import certificates, enrolments, name_changes, replaced, replay
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.database import Store
from kipuka.store.jobs import claim
from kipuka.x509.names import format_general_name, parse_general_name, same_general_names, same_name

__all__ = ["Recovery", "open_jobs", "recovery"]

log = structlog.get_logger(__name__)

INTERVAL = timedelta(seconds=10)
"""The time between two runs of a job."""


@asynccontextmanager
async def open_jobs(
    store: Store, jobs: Mapping[str, Callable[[], Awaitable[None]]], *, holder: str, interval: timedelta = INTERVAL
) -> AsyncGenerator[None, None]:
    """Run each job every `interval` until the block is left; one that fails is logged and runs again.

    `holder` is this process's name among those that share the store; the leases are taken in it.
    """
    tasks = [
        asyncio.create_task(_repeat(store, name, job, holder=holder, interval=interval), name=f"kipuka-job-{name}")
        for name, job in jobs.items()
    ]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _repeat(
    store: Store, name: str, job: Callable[[], Awaitable[None]], *, holder: str, interval: timedelta
) -> None:
    while True:
        await asyncio.sleep(interval.total_seconds())
        try:
            # Three intervals: a living holder renews in time, a dead one is followed soon.
            if await store.write(partial(claim, name=name, holder=holder, lease=interval * 3)):
                await job()
        except BackendError as away:
            log.warning("job_postponed", job=name, reason=away.reason)
        except Exception:
            log.exception("job_failed", job=name)


class Recovery(Protocol):
    """The recovery job."""

    async def __call__(self, heir: enrolments.Incarnation | None = None, /) -> None:
        """Settle what was abandoned; for an `heir`, a worker that starts, also what it has inherited from the dead."""
        ...


def recovery(
    store: Store,
    *,
    spenders: Mapping[str, SpendsOnIssue],
    backends: Mapping[str, CABackend],
    clock: Callable[[], datetime],
    ca_timeout: timedelta = timedelta(seconds=30),
    revoke_replaced: Mapping[str, timedelta] = MappingProxyType({}),
) -> Recovery:
    """The job that ends reservations whose process died or gave up (guarantee 2).

    Before the CA was asked, and for a CA that signs in this process, no certificate can have come of it: the use is given
    back. What a remote CA was asked and left unknown is given back only when the CA itself says that it never took the
    order (`FindsOrders`); until then it stays held.

    A certificate that is found at the CA is recorded as it would have been at once: it replaces the one that it renews, which is revoked as its profile
    says (`revoke_replaced`: how long after the renewal, for the profiles that say so), and it uses up an approval of just its names. Where the one that it
    renews was revoked meanwhile, it gets no successor: what was found is revoked too.

    A private key that was made here died with its process (RULES J1): the certificate of it is recorded and revoked, and the use
    is given back.
    """

    async def recover(heir: enrolments.Incarnation | None = None, /) -> None:
        abandoned = await store.read(partial(enrolments.abandoned, node=store.node, heir=heir, now=clock()))
        for row in abandoned:
            try:
                await _settle_one(
                    store,
                    row,
                    spenders=spenders,
                    backend=backends.get(row.ca),
                    clock=clock,
                    patience=ca_timeout,
                    revoke_after=revoke_replaced.get(row.profile),
                )
            except BackendUnavailable as error:
                if error.reason != "enrolment_settled":
                    raise
                log.debug("enrolment_settled_meanwhile", enrolment=row.id)  # on another node
            except Exception as error:  # noqa: BLE001 - a plugin may raise anything; the others' enrolments are settled all the same
                log.error("enrolment_not_settled", enrolment=row.id, ca=row.ca, error=repr(error))

    return recover


async def _settle_one(
    store: Store,
    row: enrolments.EnrolmentRow,
    *,
    spenders: Mapping[str, SpendsOnIssue],
    backend: CABackend | None,
    clock: Callable[[], datetime],
    patience: timedelta,
    revoke_after: timedelta | None,
) -> None:
    if row.state == "signing":
        if not isinstance(backend, FindsOrders):
            log.warning("enrolment_outcome_unknown", enrolment=row.id, ca=row.ca)
            return
        try:
            async with asyncio.timeout(patience.total_seconds()):
                found = await backend.find(row.id)
        except Exception as error:  # noqa: BLE001 - a backend is a plugin; whatever it raises, it cannot say now
            log.warning("enrolment_outcome_unknown", enrolment=row.id, ca=row.ca, error=type(error).__name__)
            return
        if isinstance(found, Pending) and row.operation == Operation.SERVERKEYGEN:
            found = None  # whatever the CA decides, it is of a key that nobody has
        if isinstance(found, Pending):
            await store.write(partial(_await_ca, row_id=row.id, reference=found.ref))
            return
    else:
        found = None
    spender = spenders.get(row.claim.plugin) if row.claim else None
    if row.claim is not None and spender is None:
        log.warning("claim_cannot_be_given_back", enrolment=row.id, plugin=row.claim.plugin)
        return
    if found is None:
        await store.write(partial(_give_back, row_id=row.id, spender=spender))
    else:
        # The CA signed and the answer was lost: the certificate exists, so it is recorded.
        unit = partial(
            _record_found,
            row=row,
            certificate=found.certificate,
            now=clock(),
            spender=spender,
            tell=isinstance(backend, RevokesCertificates),
            revoke_after=revoke_after,
        )
        await store.write(unit)


def _record_found(
    tx: Tx,
    *,
    row: enrolments.EnrolmentRow,
    certificate: x509.Certificate,
    now: datetime,
    spender: SpendsOnIssue | None,
    tell: bool,
    revoke_after: timedelta | None,
) -> None:
    found = _as_recorded(row, certificate, now)
    if row.operation == Operation.SERVERKEYGEN:
        _bury(tx, found, reason="key_lost", comment=_KEY_DIED, spender=spender, tell=tell)  # RULES J1
        return
    schedules = revoke_after is not None
    if row.replaces is not None and certificates.is_revoked(tx, row.replaces, to_change=schedules):
        _bury(tx, found, reason="nothing_to_renew", comment=_NOTHING_TO_RENEW, spender=spender, tell=tell)  # RULES B2
        return
    before = replay.holder(tx, row.replay_sha256)
    enrolments.record(tx, _as_new(row, now), found, spender, exists=True, answered=before)
    if row.replaces is not None:
        _use_approval(tx, row.replaces, certificate)
        if revoke_after is not None:
            replaced.schedule(tx, row.replaces, now + revoke_after)
    tx.audit(EnrolmentRecovered(enrolment=row.id, state="issued"))


_KEY_DIED = "its private key died with the process that made it"
_NOTHING_TO_RENEW = "the certificate that it renews was revoked before it was recorded"


def _use_approval(tx: Tx, renewed: str, certificate: x509.Certificate) -> None:
    """RULES F3: an approval of just the names that were issued is good for nothing more."""
    approval = name_changes.find(tx, renewed)
    if approval is None or not same_name(parse_dn(approval.subject), certificate.subject):
        return
    if same_general_names([parse_general_name(name) for name in approval.names], alternative_names(certificate)):
        name_changes.use(tx, approval)


def _bury(
    tx: Tx, found: RecordedCertificate, *, reason: str, comment: str, spender: SpendsOnIssue | None, tell: bool
) -> None:
    """Record and revoke a certificate that nobody is to have, and give the use back."""
    if not enrolments.settle(tx, found.enrolment, state="failed", reason=reason, spender=spender):
        return
    event = certificates.add_revoked(tx, found, tell=tell, comment=comment)
    tx.audit(EnrolmentRecovered(enrolment=found.enrolment, state="failed"))
    tx.audit(event)


def _as_recorded(row: enrolments.EnrolmentRow, certificate: x509.Certificate, now: datetime) -> RecordedCertificate:
    return RecordedCertificate.of(
        certificate,
        ca=row.ca,
        label=row.label,
        profile=row.profile,
        method=row.method,
        identity_name=row.identity_name,
        enrolment=row.id,
        issued_at=now,
        names=names_of(certificate),
        replaces=row.replaces,
    )


def names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The formatted subject alternative names of a certificate."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(format_general_name(name) for name in names)


def _await_ca(tx: Tx, *, row_id: str, reference: str) -> None:
    enrolments.set_pending(tx, row_id, reference)
    tx.audit(EnrolmentRecovered(enrolment=row_id, state="pending"))


def _give_back(tx: Tx, *, row_id: str, spender: SpendsOnIssue | None) -> None:
    if enrolments.settle(tx, row_id, state="failed", reason="abandoned", spender=spender):
        tx.audit(EnrolmentRecovered(enrolment=row_id, state="failed"))


def _as_new(row: enrolments.EnrolmentRow, now: datetime) -> enrolments.NewEnrolment:
    return enrolments.NewEnrolment(
        id=row.id,
        operation=row.operation,
        label=row.label,
        method=row.method,
        identity_name=row.identity_name,
        claim=row.claim,
        ca=row.ca,
        profile=row.profile,
        request_sha256=row.request_sha256,
        csr=row.csr,
        process=row.process,
        lease_until=now,
        created_at=row.created_at,
    )
