"""The host's own admin routes: recorded certificates and lock-outs.

In the room: their models and handlers, in the same form as a plugin's. Not in the room: authentication and HTTP
(`kipuka.http.admin`), revocation (`kipuka.http.revocation_routes`).
"""

from __future__ import annotations

from datetime import datetime
from functools import partial
from typing import Annotated, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pydantic import BaseModel, ConfigDict, Field

from kipuka.api import (
    AdminReply,
    AdminRequest,
    AdminRoute,
    LockoutsListed,
    MalformedRequest,
    Tx,
    UnknownResource,
    timestamp,
)
from kipuka.store import certificates, lockouts
from kipuka.store.database import Store

__all__ = ["CertificateDetail", "detail_of", "host_routes"]


class CertificateSummary(BaseModel):
    """One recorded certificate."""

    id: str
    """SHA-256 fingerprint of the DER form, hexadecimal."""
    ca: str
    serial: str
    """Hexadecimal."""
    subject: str
    names: tuple[str, ...]
    state: str
    """`valid`, `expired` or `revoked`."""
    revoked_at: str | None
    revocation_reason: str | None
    """As RFC 5280, 5.3.1 spells it; `certificateHold` is not final."""
    not_before: str
    not_after: str
    issued_at: str
    label: str | None
    profile: str
    method: str
    identity: str


class CertificateDetail(CertificateSummary):
    """One recorded certificate with all that is known of it."""

    enrolment: str
    spki_sha256: str
    invalidity_date: str | None
    ca_untold: str | None
    """The reason, where the revocation holds here but the CA has still to be told of it."""
    pem: str


class CertificateList(BaseModel):
    """A page of certificates, newest first; `next` is the `after` of the next page."""

    certificates: tuple[CertificateSummary, ...]
    next: str | None


class CertificateQuery(BaseModel):
    """Filters and paging."""

    model_config = ConfigDict(extra="forbid")

    subject: Annotated[str, Field(max_length=512)] | None = None
    serial: Annotated[str, Field(max_length=64, pattern=r"^[0-9a-fA-F:]+$")] | None = None
    state: Literal["valid", "expired", "revoked"] | None = None
    after: Annotated[str, Field(max_length=200)] | None = None
    limit: Annotated[int, Field(ge=1, le=1000)] = 100


class LockoutSummary(BaseModel):
    """A locked address."""

    id: str
    counter: str
    address: str
    failures: int
    since: str
    until: str


class LockoutList(BaseModel):
    """All addresses that are locked now."""

    lockouts: tuple[LockoutSummary, ...]


def _summary(found: certificates.RecordedCertificate, now: datetime) -> dict[str, object]:
    expired = found.state == "valid" and found.not_after < now
    return {
        "id": found.fingerprint,
        "ca": found.ca,
        "serial": found.serial,
        "subject": found.subject,
        "names": found.names,
        "state": "expired" if expired else found.state,
        "revoked_at": None if found.revoked_at is None else timestamp(found.revoked_at),
        "revocation_reason": found.revocation_reason,
        "not_before": timestamp(found.not_before),
        "not_after": timestamp(found.not_after),
        "issued_at": timestamp(found.issued_at),
        "label": found.label,
        "profile": found.profile,
        "method": found.method,
        "identity": found.identity_name,
    }


def detail_of(found: certificates.RecordedCertificate, now: datetime) -> CertificateDetail:
    """All that is known of a certificate."""
    pem = x509.load_der_x509_certificate(found.der).public_bytes(Encoding.PEM).decode("ascii")
    return CertificateDetail.model_validate(
        _summary(found, now)
        | {
            "enrolment": found.enrolment,
            "spki_sha256": found.spki_sha256,
            "invalidity_date": None if found.invalidity_date is None else timestamp(found.invalidity_date),
            "ca_untold": found.untold_reason,
            "pem": pem,
        }
    )


async def list_certificates(store: Store, request: AdminRequest) -> AdminReply:
    """GET /admin/certificates."""
    query: CertificateQuery = request.query
    try:
        page = await store.read(
            partial(
                certificates.listing,
                subject=query.subject,
                serial=query.serial,
                state=query.state,
                after=query.after,
                limit=query.limit,
            )
        )
    except ValueError as error:
        raise MalformedRequest(f"the query cannot be answered: {error}") from error
    found = tuple(CertificateSummary.model_validate(_summary(item, store.clock())) for item in page.items)
    return AdminReply(body=CertificateList(certificates=found, next=page.next))


async def show_certificate(store: Store, request: AdminRequest) -> AdminReply:
    """GET /admin/certificates/{id}; the id is a fingerprint, `ca/serial`, or a serial number that is unique (RULES E4)."""
    wanted = request.path["id"]
    found = await store.read(partial(certificates.required, id=wanted))
    return AdminReply(body=detail_of(found, store.clock()))


async def list_lockouts(store: Store, _request: AdminRequest) -> AdminReply:
    """GET /admin/lockouts."""

    def look(tx: Tx) -> tuple[lockouts.Lockout, ...]:
        found = lockouts.listing(tx)
        tx.audit(LockoutsListed(count=len(found)))
        return found

    found = await store.write(look)
    summaries = tuple(
        LockoutSummary(
            id=f"{item.counter}@{item.address}",
            counter=item.counter,
            address=item.address,
            since=timestamp(item.since),
            failures=item.failures,
            until=timestamp(item.until),
        )
        for item in found
    )
    return AdminReply(body=LockoutList(lockouts=summaries))


async def release_lockout(store: Store, request: AdminRequest) -> AdminReply:
    """DELETE /admin/lockouts/{id}; the id is that of the list, `counter@address`."""
    counter, _, address = request.path["id"].partition("@")

    try:
        released = await store.write(partial(lockouts.release, counter=counter, address=address))
    except ValueError:
        released = False
    if not released:
        raise UnknownResource("there is no such lock-out")
    return AdminReply()


def host_routes() -> list[AdminRoute]:
    """The routes; their handlers are given the store."""
    return [
        AdminRoute(
            method="GET",
            path="/admin/certificates",
            summary="List recorded certificates",
            handler=list_certificates,
            query=CertificateQuery,
            response=CertificateList,
        ),
        AdminRoute(
            method="GET",
            path="/admin/certificates/{id}",
            summary="Show a recorded certificate",
            handler=show_certificate,
            response=CertificateDetail,
        ),
        AdminRoute(
            method="GET",
            path="/admin/lockouts",
            summary="List locked addresses",
            handler=list_lockouts,
            response=LockoutList,
        ),
        AdminRoute(
            method="DELETE",
            path="/admin/lockouts/{id}",
            summary="Release a locked address",
            handler=release_lockout,
            status=204,
        ),
    ]
