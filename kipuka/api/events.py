"""The audit events: one class each, with typed fields, and the envelope they are recorded in.

In the room: the host's catalogue, the base class a plugin derives its own events from, and the record a sink is given. Not in
the room: numbering, chaining and delivery (`kipuka.audit`, `kipuka.store`).

An event never carries a secret: no token, key, password, ticket or Authorization value. Its name is a snake_case noun
phrase and never changes its meaning; a new meaning is a new event. `SCHEMA_VERSION` counts the envelope's and
catalogue's published JSON schema.
"""

from __future__ import annotations

import json
import re
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
    "AuditChainBroken",
    "AuditEvent",
    "AuditHeadSigned",
    "AuditPruned",
    "AuditRecord",
    "AuthenticationFailed",
    "AuthenticationSucceeded",
    "CACreated",
    "CertificateHoldLifted",
    "CertificateIssued",
    "CertificatePending",
    "CertificateRefused",
    "CertificateReplayed",
    "CertificateRequested",
    "CertificateRevoked",
    "ConfigurationLoaded",
    "ConfigurationRefused",
    "DatabaseMigrated",
    "EnrolmentFailed",
    "EnrolmentRecovered",
    "FailuresSummed",
    "HandshakeFailed",
    "LimitReached",
    "LockedOutAddress",
    "LockoutReleased",
    "LockoutsListed",
    "NameChangeApproved",
    "NameChangeWithdrawn",
    "Outcome",
    "RequestRejected",
    "RevocationNotTold",
    "RevocationTold",
    "ServerStarted",
    "ServerStopped",
    "WorkerDied",
    "WorkerStarted",
]

SCHEMA_VERSION = 1
"""The version of the form of a line of the audit log.

Since API 1.0.
"""

Outcome = Literal["success", "failure", "unknown"]
"""How what an event tells of has ended.

Since API 1.0.
"""


class AuditEvent(BaseModel):
    """The base of every audit event. A subclass sets `name` and `outcome` and declares its fields.

    Since API 1.0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", json_schema_serialization_defaults_required=True)

    name: ClassVar[str]
    outcome: ClassVar[Outcome]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRecord:
    """One recorded event, as sinks and `kipuka audit` see it.

    `line` is the canonical JSON (RFC 8785) over which, with `previous_hash` inside, `hash` is the hexadecimal SHA-256
    (RULES I1). A sink that writes JSON adds the hash: `to_json()`.

    Since API 1.0.
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

    def to_ascii_json(self) -> str:
        """The same JSON in printable ASCII alone, for where nothing else is safe; `kipuka audit verify` takes either form."""
        return ascii_json(self.to_json())


def ascii_json(text: str) -> str:
    """JSON text in which every character that is not printable ASCII is written as an escape."""
    return text if text.isascii() and text.isprintable() else _NOT_PRINTABLE_ASCII.sub(_escaped, text)


_NOT_PRINTABLE_ASCII = re.compile(r"[^ -~]")


def _escaped(match: re.Match[str]) -> str:
    return json.dumps(match[0])[1:-1]


class ServerStarted(AuditEvent):
    """The server takes connections.

    Since API 1.0.
    """

    name: ClassVar[str] = "server_started"
    outcome: ClassVar[Outcome] = "success"
    version: str
    listen: str
    admin_listen: str | None
    pid: int


class ServerStopped(AuditEvent):
    """The server has answered its last request.

    Since API 1.0.
    """

    name: ClassVar[str] = "server_stopped"
    outcome: ClassVar[Outcome] = "success"
    pid: int


class WorkerStarted(AuditEvent):
    """A worker process is about to take connections; `replaces` is the process whose place it takes.

    Since API 1.0.
    """

    name: ClassVar[str] = "worker_started"
    outcome: ClassVar[Outcome] = "success"
    worker: int  # from 0; the server keeps each place filled
    pid: int
    replaces: int | None


class WorkerDied(AuditEvent):
    """A worker process ended although it should not have; another one takes its place.

    Since API 1.0.
    """

    name: ClassVar[str] = "worker_died"
    outcome: ClassVar[Outcome] = "failure"
    worker: int
    pid: int
    cause: str


class ConfigurationLoaded(AuditEvent):
    """A configuration took effect, at the start or by a reload.

    `permissive` names the settings in it that `kipuka check` warns about, `restart_needed` those whose new values wait for
    a restart.

    Since API 1.0.
    """

    name: ClassVar[str] = "configuration_loaded"
    outcome: ClassVar[Outcome] = "success"
    file: str
    sha256: str
    plugins: tuple[str, ...]
    permissive: tuple[str, ...]
    restart_needed: tuple[str, ...]


class ConfigurationRefused(AuditEvent):
    """A reload was asked for and refused: everything goes on as before. `problems` say why, and hold no value.

    Since API 1.0.
    """

    name: ClassVar[str] = "configuration_refused"
    outcome: ClassVar[Outcome] = "failure"
    file: str
    problems: tuple[str, ...]


class HandshakeFailed(AuditEvent):
    """A TLS handshake did not come to an end. Of many of one address and minute the later ones are one event: `count` of them.

    Since API 1.0.
    """

    name: ClassVar[str] = "handshake_failed"
    outcome: ClassVar[Outcome] = "failure"
    listener: str
    reason: str
    count: int


class LimitReached(AuditEvent):
    """An address came up against a limit of `[server]`, `count` times within a minute; null: many addresses together.

    `limit` is the setting's name, or `displaced`: connections without a request that were closed to make room.

    Since API 1.0.
    """

    name: ClassVar[str] = "limit_reached"
    outcome: ClassVar[Outcome] = "failure"
    limit: str
    address: str | None
    count: int


class RequestRejected(AuditEvent):
    """A request was refused before anybody was authenticated: malformed, too large, not a resource. `plugin` is the one whose call
    failed, null where none did.

    Since API 1.0.
    """

    name: ClassVar[str] = "request_rejected"
    outcome: ClassVar[Outcome] = "failure"
    method: str
    path: str
    status: int
    reason: str
    plugin: str | None = None


class AuthenticationSucceeded(AuditEvent):
    """An authenticator recognised the client. `expired_at`: since when its certificate has been expired, where that still renews.
    `also` has the other proofs, as `method:name`, where several are required together.

    Since API 1.0.
    """

    name: ClassVar[str] = "authentication_succeeded"
    outcome: ClassVar[Outcome] = "success"
    method: str
    subject_name: str
    operation: str
    label: str | None
    also: tuple[str, ...]
    expired_at: str | None


class AuthenticationFailed(AuditEvent):
    """An authenticator refused what the client presented.

    Since API 1.0.
    """

    name: ClassVar[str] = "authentication_failed"
    outcome: ClassVar[Outcome] = "failure"
    method: str
    kind: str
    reason: str
    subject_name: str | None
    operation: str
    label: str | None
    explanation: str | None


class FailuresSummed(AuditEvent):
    """Failures of one address that were not told one by one, since there were too many of their kind: `count` of them.

    `failure` is the event that each would have been: `authentication_failed` (`method` and `kind` are its own), `admin_denied` or
    `request_rejected` (`status` is). `address` may be an IPv6 network; null: other addresses, many of them together. The first of
    those that are summed came at `first_at`, the last at `last_at`.

    Since API 1.0.
    """

    name: ClassVar[str] = "failures_summed"
    outcome: ClassVar[Outcome] = "failure"
    failure: str
    method: str | None
    kind: str | None
    status: int | None
    reason: str
    address: str | None
    count: int
    first_at: str
    last_at: str


class LockedOutAddress(AuditEvent):
    """An address exceeded its failures and is locked until `until`.

    Since API 1.0.
    """

    name: ClassVar[str] = "locked_out"
    outcome: ClassVar[Outcome] = "failure"
    counter: str
    address: str
    failures: int
    until: str


class LockoutReleased(AuditEvent):
    """An administrator released a lock-out.

    Since API 1.0.
    """

    name: ClassVar[str] = "lockout_released"
    outcome: ClassVar[Outcome] = "success"
    counter: str
    address: str


class LockoutsListed(AuditEvent):
    """An administrator looked at the lock-outs.

    Since API 1.0.
    """

    name: ClassVar[str] = "lockouts_listed"
    outcome: ClassVar[Outcome] = "success"
    count: int


class CertificateRequested(AuditEvent):
    """An authenticated client asked for a certificate. `request_sha256` is over the CSR without challenge attributes. `on_behalf_of` are the names
    that a registration authority asks for, where it does not ask for its own.

    Since API 1.0.
    """

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
    on_behalf_of: str | None


class CertificateIssued(AuditEvent):
    """A certificate was recorded; only after this is durable does the client receive it.

    Where the server made the private key, `generated_key` is its kind, and `key_protection` what hid it on its way: `tls` alone, or
    `cms` where it was encrypted besides, to the certificate with the SHA-256 fingerprint `key_recipient`. `on_behalf_of` is as in
    `certificate_requested`. `renamed_from` are the names of the renewed certificate, where this one has others.

    Since API 1.0.
    """

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
    generated_key: str | None
    key_protection: str | None
    key_recipient: str | None
    on_behalf_of: str | None
    renamed_from: str | None


class CertificateReplayed(AuditEvent):
    """A request that was answered before came again, and got the certificate that it had got then: nothing was issued or spent.

    `enrolment` is this request; `first` is the one whose certificate it is, which was issued at `issued_at`.

    Since API 1.0.
    """

    name: ClassVar[str] = "certificate_replayed"
    outcome: ClassVar[Outcome] = "success"
    enrolment: str
    first: str
    operation: str
    label: str | None
    method: str
    ca: str
    serial: str
    fingerprint: str
    subject: str
    issued_at: str
    channel_binding: str | None


class CertificatePending(AuditEvent):
    """The CA will decide later.

    Since API 1.0.
    """

    name: ClassVar[str] = "certificate_pending"
    outcome: ClassVar[Outcome] = "unknown"
    enrolment: str
    ca: str
    reference: str


class CertificateRefused(AuditEvent):
    """An authenticated request was refused: names, key, proof of possession, policy.

    `rule` is the key of the profile that refused it, where one did.

    Since API 1.0.
    """

    name: ClassVar[str] = "certificate_refused"
    outcome: ClassVar[Outcome] = "failure"
    enrolment: str
    operation: str
    label: str | None
    method: str
    reason: str
    detail: str
    rule: str | None


class EnrolmentFailed(AuditEvent):
    """The server or its CA could not issue. With outcome unknown in `reason` the claim stays held until it is known. `plugin` is the
    one whose call failed, null where none did.

    Since API 1.0.
    """

    name: ClassVar[str] = "enrolment_failed"
    outcome: ClassVar[Outcome] = "failure"
    enrolment: str
    ca: str
    reason: str
    detail: str
    plugin: str | None = None


class EnrolmentRecovered(AuditEvent):
    """After a crash: a reservation that nobody works on any more was settled.

    Since API 1.0.
    """

    name: ClassVar[str] = "enrolment_recovered"
    outcome: ClassVar[Outcome] = "success"
    enrolment: str
    state: str


class CertificateRevoked(AuditEvent):
    """A certificate was revoked, put on hold (reason `certificateHold`), or is revoked for another reason than before.

    Since API 1.0.
    """

    name: ClassVar[str] = "certificate_revoked"
    outcome: ClassVar[Outcome] = "success"
    ca: str
    serial: str
    fingerprint: str
    subject: str
    reason: str  # as RFC 5280, 5.3.1 spells it
    previous_reason: str | None
    invalidity_date: str | None
    comment: str | None


class CertificateHoldLifted(AuditEvent):
    """A certificate that was on hold is valid again.

    Since API 1.0.
    """

    name: ClassVar[str] = "certificate_hold_lifted"
    outcome: ClassVar[Outcome] = "success"
    ca: str
    serial: str
    fingerprint: str
    subject: str
    comment: str | None


class NameChangeApproved(AuditEvent):
    """An administrator lets the certificate be renewed once under other names (`new_subject`, `new_names`: all of them), until then.

    Since API 1.0.
    """

    name: ClassVar[str] = "name_change_approved"
    outcome: ClassVar[Outcome] = "success"
    ca: str
    serial: str
    fingerprint: str
    subject: str
    new_subject: str
    new_names: tuple[str, ...]
    until: str


class NameChangeWithdrawn(AuditEvent):
    """An administrator took back what `name_change_approved` had allowed, before it was used or ended.

    Since API 1.0.
    """

    name: ClassVar[str] = "name_change_withdrawn"
    outcome: ClassVar[Outcome] = "success"
    ca: str
    serial: str
    fingerprint: str
    subject: str
    new_subject: str
    new_names: tuple[str, ...]
    until: str


class RevocationTold(AuditEvent):
    """The certification authority has taken note of a revocation, or of the end of a hold (`removeFromCRL`).

    Since API 1.0.
    """

    name: ClassVar[str] = "revocation_told"
    outcome: ClassVar[Outcome] = "success"
    ca: str
    serial: str
    fingerprint: str
    reason: str


class RevocationNotTold(AuditEvent):
    """The certification authority could not be told of a revocation that holds here; the server goes on trying.

    Since API 1.0.
    """

    name: ClassVar[str] = "revocation_not_told"
    outcome: ClassVar[Outcome] = "failure"
    ca: str
    serial: str
    fingerprint: str
    reason: str
    detail: str


class AdminAccess(AuditEvent):
    """An administrator's request that was carried out; `status` is the answer's.

    `proofs` has the name that each accepted proof stands for ("certificate:CN=alice", "bearer:inventory system"), `refused` a
    method and a reason for each that was presented beside them and is not good ("certificate:unknown_authority").

    Since API 1.0.
    """

    name: ClassVar[str] = "admin_access"
    outcome: ClassVar[Outcome] = "success"
    method: str
    path: str
    status: int
    proofs: tuple[str, ...]
    refused: tuple[str, ...]


class AdminDenied(AuditEvent):
    """A request to the admin interface that was refused; `status` is the answer's, `reason` why.

    `refused` has a method and a reason for each proof of identity that was presented and is not good.

    Since API 1.0.
    """

    name: ClassVar[str] = "admin_denied"
    outcome: ClassVar[Outcome] = "failure"
    method: str
    path: str
    status: int
    reason: str
    refused: tuple[str, ...]


class AdminTokenCreated(AuditEvent):
    """A bearer token was made.

    Since API 1.0.
    """

    name: ClassVar[str] = "admin_token_created"
    outcome: ClassVar[Outcome] = "success"
    token: str  # its id
    description: str


class AdminTokenRevoked(AuditEvent):
    """A bearer token was revoked.

    Since API 1.0.
    """

    name: ClassVar[str] = "admin_token_revoked"
    outcome: ClassVar[Outcome] = "success"
    token: str  # its id


class CACreated(AuditEvent):
    """`kipuka ca create` made a certification authority.

    Since API 1.0.
    """

    name: ClassVar[str] = "ca_created"
    outcome: ClassVar[Outcome] = "success"
    backend: str
    subject: str
    fingerprint: str


class AuditHeadSigned(AuditEvent):
    """The node's key signed how far its chain went: to the event `covered_sequence`, whose hash is `covered_hash`.

    `key` is the SHA-256 of the key's SubjectPublicKeyInfo, `signature` is Ed25519 in base64.

    Since API 1.0.
    """

    name: ClassVar[str] = "audit_head_signed"
    outcome: ClassVar[Outcome] = "success"
    covered_sequence: int
    covered_hash: str
    signed_at: str
    key: str
    signature: str


class AuditChainBroken(AuditEvent):
    """The node's chain is not what its key signed last: from `sequence` on somebody changed it. No head is signed any more.

    Since API 1.0.
    """

    name: ClassVar[str] = "audit_chain_broken"
    outcome: ClassVar[Outcome] = "failure"
    sequence: int
    detail: str


class AuditPruned(AuditEvent):
    """`kipuka audit prune` removed the node's events up to `pruned_sequence`, whose hash was `pruned_hash`; `count` of them in all so far.

    `key` and `signature` as in `audit_head_signed`.

    Since API 1.0.
    """

    name: ClassVar[str] = "audit_pruned"
    outcome: ClassVar[Outcome] = "success"
    pruned_sequence: int
    pruned_hash: str
    count: int
    pruned_at: str
    key: str
    signature: str


class DatabaseMigrated(AuditEvent):
    """`kipuka db migrate-to` moved all rows of an SQLite database (`source`) to the PostgreSQL database that this event is in; `rows` by table.

    Since API 1.0.
    """

    name: ClassVar[str] = "database_migrated"
    outcome: ClassVar[Outcome] = "success"
    source: str
    rows: dict[str, int]


HOST_EVENTS: tuple[type[AuditEvent], ...] = (
    ServerStarted,
    ServerStopped,
    WorkerStarted,
    WorkerDied,
    ConfigurationLoaded,
    ConfigurationRefused,
    HandshakeFailed,
    LimitReached,
    RequestRejected,
    AuthenticationSucceeded,
    AuthenticationFailed,
    FailuresSummed,
    LockedOutAddress,
    LockoutReleased,
    LockoutsListed,
    CertificateRequested,
    CertificateIssued,
    CertificateReplayed,
    CertificatePending,
    CertificateRefused,
    EnrolmentFailed,
    EnrolmentRecovered,
    CertificateRevoked,
    CertificateHoldLifted,
    NameChangeApproved,
    NameChangeWithdrawn,
    RevocationTold,
    RevocationNotTold,
    AdminAccess,
    AdminDenied,
    AdminTokenCreated,
    AdminTokenRevoked,
    CACreated,
    AuditHeadSigned,
    AuditChainBroken,
    AuditPruned,
    DatabaseMigrated,
)
"""The events that the host itself records.

Since API 1.0.
"""
