"""What an enrolment is about: the label it came to, the request, the attempt on its way, and how it ends.

In the room: values, and what can be read off them. Not in the room: the steps that fill them (`kipuka.enrolment.use_case`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from kipuka.api import (
    Authenticated,
    CABackend,
    Claim,
    ClientCertificate,
    Credentials,
    Denied,
    Identity,
    Operation,
)
from kipuka.api.events import AuditEvent
from kipuka.est.csr import CertificateRequest
from kipuka.est.enveloped import Algorithms, KeySigner
from kipuka.est.keygen import KeyPart
from kipuka.store import enrolments
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.name_changes import NameChangeApproval
from kipuka.x509.path import PathVerdict
from kipuka.x509.patterns import CertificatePattern
from kipuka.x509.profiles import Profile

__all__ = [
    "Attempt",
    "Enrolled",
    "EnrolmentRequest",
    "Envelope",
    "LabelService",
    "MadeKey",
    "PathCache",
    "Postponed",
    "Recognises",
    "fingerprint",
    "good_certificate",
    "known",
    "leaf_fingerprint",
]

_SHA256 = hashes.SHA256()
T = TypeVar("T")
PathCache = dict[str, PathVerdict]


class Recognises(Protocol):
    """Who may enrol at a label (`kipuka.authentication.LabelAuthentication`)."""

    def require_some_credential(self, credentials: Credentials) -> None:
        """Raise when nothing that could be judged was presented."""
        ...

    async def recognise(
        self,
        credentials: Credentials,
        *,
        cache: PathCache,
        accept: Callable[[Authenticated], Awaitable[Denied | None]],
        recall: Callable[[str, Claim], Awaitable[bool]],
    ) -> ClientCertificate | None:
        """Find the winner and have it accepted, or raise; gives the verdict on the client certificate.

        `recall` is asked of a method's spent credential: whether there is an answer to give again.
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelService:
    """What stands behind one label: its CA, its profile, whom it trusts and which methods it takes."""

    name: str | None  # None is the default label
    ca: str
    backend: CABackend
    remote: bool
    profile: Profile
    validity: timedelta
    authentication: Recognises
    replay_window: timedelta = timedelta(0)  # how long a lost answer can be asked for again (RULES D4)
    csr_attributes: bytes | None = field(
        default=None, repr=False
    )  # the DER of what is asked of requests; None: nothing
    plugin: str | None = None  # the plugin that opened `backend`, for audit
    operations: frozenset[Operation] = frozenset(Operation)  # those that are on
    serverkeygen: bool = True  # whether private keys are made here (RULES J1)
    registration_authorities: tuple[CertificatePattern, ...] = ()  # who may ask for others (RULES F4)


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrolmentRequest:
    """One simpleenroll, simplereenroll or serverkeygen, as it came through the door."""

    service: LabelService
    credentials: Credentials
    path_cache: PathCache = field(repr=False)
    body: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Enrolled:
    """The certificate is recorded and may be handed out."""

    certificate: x509.Certificate
    key: KeyPart | None = field(default=None, repr=False)  # the private key that was made for it
    challenge: str | None = None  # a WWW-Authenticate value that goes with the success
    close_connection: bool = False  # RFC 9266, 4.1: a tls-exporter value binds once


@dataclass(frozen=True, kw_only=True, slots=True)
class Postponed:
    """The CA will decide later; the client asks again with the same request."""

    retry_after: timedelta
    close_connection: bool = False  # as in `Enrolled`


@dataclass(frozen=True, kw_only=True, slots=True)
class MadeKey:
    """A key pair that was made for one attempt. It is never part of the attempt, whose fields are written down."""

    title: str
    public_key: bytes  # DER SubjectPublicKeyInfo
    csr: bytes  # DER: a request of this key, for the CA
    part: KeyPart = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """How a private key is to be encrypted for its client."""

    signer: KeySigner
    recipient: x509.Certificate
    chosen: Algorithms


@dataclass(slots=True)
class Attempt:
    """One enrolment on its way: what later steps learned from earlier ones."""

    id: str
    request: EnrolmentRequest
    csr: CertificateRequest
    identity: Identity | None = None
    claim: Claim | None = None
    certificate: ClientCertificate | None = None
    challenge: str | None = None
    also: tuple[Identity, ...] = ()  # the other proofs, where several are required together
    reserved: bool = False  # a row of this attempt is in the store
    pending: enrolments.EnrolmentRow | None = None  # an earlier attempt at the same request waits at the CA
    digest: str | None = None  # what the request is known by, where an answer can be given again
    answered: RecordedCertificate | None = None  # what the same request led to before
    binding: str | None = None
    envelope: Envelope | None = None
    on_behalf_of: str | None = None  # whom a registration authority asks for
    approval: NameChangeApproval | None = None  # an administrator's, for the names that are asked for
    renamed_from: str | None = None  # the names of the certificate before, where others were asked for
    replaces: str | None = None  # the fingerprint of the recorded certificate that is renewed
    signed: RecordedCertificate | None = None  # what the CA has made of the order, before it is recorded
    opening: list[AuditEvent] = field(default_factory=list[AuditEvent])  # recorded with the first transaction

    @property
    def wants_key(self) -> bool:
        """Whether the server is to make the key (RFC 7030, 4.4)."""
        return self.request.credentials.operation is Operation.SERVERKEYGEN


def known(learned: T | None) -> T:
    """What an earlier step has learned. Raises AssertionError where that step was left out."""
    if learned is None:
        msg = "a step of the enrolment ran before the client was recognised"
        raise AssertionError(msg)
    return learned


def leaf_fingerprint(credentials: Credentials) -> str | None:
    """The SHA-256 of the certificate that the peer presented, in hexadecimal, good or not."""
    presented = credentials.connection.presented
    return None if presented is None or presented.leaf is None else presented.leaf.fingerprint(_SHA256).hex()


def good_certificate(judged: ClientCertificate | None) -> x509.Certificate | None:
    """The client certificate that the request was made with, if it is good."""
    return None if judged is None or judged.problem is not None else judged.certificate


def fingerprint(judged: ClientCertificate | None) -> str | None:
    """The SHA-256 of the client certificate, in hexadecimal, if it is good."""
    certificate = good_certificate(judged)
    return None if certificate is None else certificate.fingerprint(_SHA256).hex()
