"""Periodic work: each job runs at once in one living process.

In the room: the loop that runs jobs, and the recovery of reservations that nobody works on any more. Not in the room: the
outbox, which wakes on commits (`kipuka.audit.pipeline`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
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
from kipuka.store import certificates, enrolments
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.database import Store
from kipuka.store.jobs import claim
from kipuka.x509.names import format_general_name
from kipuka.x509.revocation import Reason

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
) -> Recovery:
    """The job that ends reservations whose process died or gave up (guarantee 2).

    Before the CA was asked, and for a CA that signs in this process, no certificate can have come of it: the use is given
    back. What a remote CA was asked and left unknown is given back only when the CA itself says that it never took the
    order (`FindsOrders`); until then it stays held.

    A private key that was made here died with its process (RULES J1): the certificate of it is recorded and revoked, and the use
    is given back.
    """

    async def recover(heir: enrolments.Incarnation | None = None, /) -> None:
        abandoned = await store.read(partial(enrolments.abandoned, node=store.node, heir=heir, now=clock()))
        for row in abandoned:
            try:
                await _settle_one(
                    store, row, spenders=spenders, backend=backends.get(row.ca), clock=clock, patience=ca_timeout
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
    elif row.operation == Operation.SERVERKEYGEN:
        tell = isinstance(backend, RevokesCertificates)
        await store.write(
            partial(_bury, row=row, certificate=found.certificate, now=clock(), spender=spender, tell=tell)
        )
    else:
        # The CA signed and the answer was lost: the certificate exists, so it is recorded and the use is spent.
        await store.write(partial(_record_found, row=row, certificate=found.certificate, now=clock(), spender=spender))


def _record_found(
    tx: Tx,
    *,
    row: enrolments.EnrolmentRow,
    certificate: x509.Certificate,
    now: datetime,
    spender: SpendsOnIssue | None,
) -> None:
    enrolments.record(tx, _as_new(row, now), _as_recorded(row, certificate, now), spender, exists=True)
    tx.audit(EnrolmentRecovered(enrolment=row.id, state="issued"))


def _bury(
    tx: Tx,
    *,
    row: enrolments.EnrolmentRow,
    certificate: x509.Certificate,
    now: datetime,
    spender: SpendsOnIssue | None,
    tell: bool,
) -> None:
    """RULES J1: record and revoke a certificate whose private key is gone, and give the use back."""
    if not enrolments.settle(tx, row.id, state="failed", reason="key_lost", spender=spender):
        return
    reason = Reason.CESSATION_OF_OPERATION.value
    buried = replace(
        _as_recorded(row, certificate, now),
        state="revoked",
        revoked_at=now,
        revocation_reason=reason,
        untold_reason=reason if tell else None,
    )
    certificates.add(tx, buried)
    tx.audit(EnrolmentRecovered(enrolment=row.id, state="failed"))
    tx.audit(buried.revocation(comment="its private key died with the process that made it"))


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
