"""The audit events: one class each, with typed fields, and the envelope they are recorded in.

In the room: the host's catalogue, the base class a plugin derives its own events from, and the record a sink is given. Not in
the room: numbering, chaining and delivery (`kipuka.audit`, `kipuka.store`).

An event never carries a secret: no token, key, password, ticket or Authorization value. Its name is a snake_case noun
phrase and never changes its meaning; a new meaning is a new event. `SCHEMA_VERSION` counts the envelope's and
catalogue's published JSON schema.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

__all__ = [
    "HOST_EVENTS",
    "SCHEMA_VERSION",
    "AdminAccess",
    "AdminDenied",
    "AdminTokenCreated",
    "AdminTokenRevoked",
    "AuditEvent",
    "AuditRecord",
    "AuthenticationFailed",
    "AuthenticationSucceeded",
    "CACreated",
    "CertificateIssued",
    "CertificatePending",
    "CertificateRefused",
    "CertificateRequested",
    "ConfigurationLoaded",
    "EnrolmentFailed",
    "EnrolmentRecovered",
    "HandshakeFailed",
    "LockedOutAddress",
    "LockoutReleased",
    "LockoutsListed",
    "Outcome",
    "RequestRejected",
    "ServerStarted",
    "ServerStopped",
]

SCHEMA_VERSION = 1

Outcome = Literal["success", "failure", "unknown"]


class AuditEvent(BaseModel):
    """The base of every audit event. A subclass sets `name` and `outcome` and declares its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ClassVar[str]
    outcome: ClassVar[Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRecord:
    """One recorded event, as sinks and `kipuka audit` see it.

    `line` is the canonical JSON (RFC 8785) over which, with `previous_hash` inside, `hash` is the hexadecimal SHA-256
    (RULES I1). A sink that writes JSON adds the hash: `to_json()`.
    """

    node: str
    sequence: int
    time: datetime
    event: str
    outcome: str
    request_id: str | None
    client_address: str | None
    identity: str | None
    data: dict[str, Any]
    previous_hash: str
    hash: str
    line: str

    def to_json(self) -> str:
        """One line of JSON: the canonical form with the member `hash` added at its end."""
        return f'{self.line[:-1]},"hash":"{self.hash}"}}'


class ServerStarted(AuditEvent):
    """The server takes connections."""

    name: ClassVar[str] = "server_started"
    outcome: ClassVar[Outcome] = "success"
    version: str
    listen: str
    admin_listen: str | None
    pid: int


class ServerStopped(AuditEvent):
    """The server has answered its last request."""

    name: ClassVar[str] = "server_stopped"
    outcome: ClassVar[Outcome] = "success"
    pid: int


class ConfigurationLoaded(AuditEvent):
    """A configuration took effect; `permissive` names the settings in it that `kipuka check` warns about."""

    name: ClassVar[str] = "configuration_loaded"
    outcome: ClassVar[Outcome] = "success"
    file: str
    sha256: str
    plugins: tuple[str, ...]
    permissive: tuple[str, ...]


class HandshakeFailed(AuditEvent):
    """A TLS handshake did not come to an end."""

    name: ClassVar[str] = "handshake_failed"
    outcome: ClassVar[Outcome] = "failure"
    listener: str
    reason: str


class RequestRejected(AuditEvent):
    """A request was refused before anybody was authenticated: malformed, too large, not a resource."""

    name: ClassVar[str] = "request_rejected"
    outcome: ClassVar[Outcome] = "failure"
    method: str
    path: str
    status: int
    reason: str


class AuthenticationSucceeded(AuditEvent):
    """An authenticator recognised the client."""

    name: ClassVar[str] = "authentication_succeeded"
    outcome: ClassVar[Outcome] = "success"
    method: str
    subject_name: str
    operation: str
    label: str | None


class AuthenticationFailed(AuditEvent):
    """An authenticator refused what the client presented."""

    name: ClassVar[str] = "authentication_failed"
    outcome: ClassVar[Outcome] = "failure"
    method: str
    kind: str
    reason: str
    subject_name: str | None
    operation: str
    label: str | None
    explanation: str | None


class LockedOutAddress(AuditEvent):
    """An address exceeded its failures and is locked until `until`."""

    name: ClassVar[str] = "locked_out"
    outcome: ClassVar[Outcome] = "failure"
    counter: str
    address: str
    failures: int
    until: str


class LockoutReleased(AuditEvent):
    """An administrator released a lock-out."""

    name: ClassVar[str] = "lockout_released"
    outcome: ClassVar[Outcome] = "success"
    counter: str
    address: str


class LockoutsListed(AuditEvent):
    """An administrator looked at the lock-outs."""

    name: ClassVar[str] = "lockouts_listed"
    outcome: ClassVar[Outcome] = "success"
    count: int


class CertificateRequested(AuditEvent):
    """An authenticated client asked for a certificate. `request_sha256` is over the CSR without challenge attributes."""

    name: ClassVar[str] = "certificate_requested"
    outcome: ClassVar[Outcome] = "success"
    enrolment: str
    operation: str
    label: str | None
    method: str
    subject: str
    names: tuple[str, ...]
    key: str
    request_sha256: str


class CertificateIssued(AuditEvent):
    """A certificate was recorded; only after this is durable does the client receive it."""

    name: ClassVar[str] = "certificate_issued"
    outcome: ClassVar[Outcome] = "success"
    enrolment: str
    operation: str
    label: str | None
    method: str
    ca: str
    profile: str
    serial: str
    fingerprint: str
    subject: str
    names: tuple[str, ...]
    not_before: str
    not_after: str
    channel_binding: str | None


class CertificatePending(AuditEvent):
    """The CA will decide later."""

    name: ClassVar[str] = "certificate_pending"
    outcome: ClassVar[Outcome] = "unknown"
    enrolment: str
    ca: str
    reference: str


class CertificateRefused(AuditEvent):
    """An authenticated request was refused: names, key, proof of possession, policy."""

    name: ClassVar[str] = "certificate_refused"
    outcome: ClassVar[Outcome] = "failure"
    enrolment: str
    operation: str
    label: str | None
    method: str
    reason: str
    detail: str


class EnrolmentFailed(AuditEvent):
    """The server or its CA could not issue. With outcome unknown in `reason` the claim stays held until it is known."""

    name: ClassVar[str] = "enrolment_failed"
    outcome: ClassVar[Outcome] = "failure"
    enrolment: str
    ca: str
    reason: str
    detail: str


class EnrolmentRecovered(AuditEvent):
    """After a crash: a reservation that nobody works on any more was settled."""

    name: ClassVar[str] = "enrolment_recovered"
    outcome: ClassVar[Outcome] = "success"
    enrolment: str
    state: str


class AdminAccess(AuditEvent):
    """An administrator's request that was carried out; `status` is the answer's."""

    name: ClassVar[str] = "admin_access"
    outcome: ClassVar[Outcome] = "success"
    method: str
    path: str
    status: int


class AdminDenied(AuditEvent):
    """A request to the admin interface that was refused; `status` is the answer's."""

    name: ClassVar[str] = "admin_denied"
    outcome: ClassVar[Outcome] = "failure"
    method: str
    path: str
    status: int
    reason: str


class AdminTokenCreated(AuditEvent):
    """A bearer token was made."""

    name: ClassVar[str] = "admin_token_created"
    outcome: ClassVar[Outcome] = "success"
    token: str  # its id
    description: str


class AdminTokenRevoked(AuditEvent):
    """A bearer token was revoked."""

    name: ClassVar[str] = "admin_token_revoked"
    outcome: ClassVar[Outcome] = "success"
    token: str  # its id


class CACreated(AuditEvent):
    """`kipuka ca create` made a certification authority."""

    name: ClassVar[str] = "ca_created"
    outcome: ClassVar[Outcome] = "success"
    backend: str
    subject: str
    fingerprint: str


HOST_EVENTS: tuple[type[AuditEvent], ...] = (
    ServerStarted,
    ServerStopped,
    ConfigurationLoaded,
    HandshakeFailed,
    RequestRejected,
    AuthenticationSucceeded,
    AuthenticationFailed,
    LockedOutAddress,
    LockoutReleased,
    LockoutsListed,
    CertificateRequested,
    CertificateIssued,
    CertificatePending,
    CertificateRefused,
    EnrolmentFailed,
    EnrolmentRecovered,
    AdminAccess,
    AdminDenied,
    AdminTokenCreated,
    AdminTokenRevoked,
    CACreated,
)
