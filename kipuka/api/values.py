"""The values that travel between the host and plugins: frozen, keyword-only, and only ever extended by fields with defaults.

In the room: connections, credentials, what an authenticator answers, whom it recognised, what a CA is asked for and
answers. Not in the room: anything that acts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from cryptography import x509

__all__ = [
    "AuthOutcome",
    "Authenticated",
    "Authorization",
    "CertificateChain",
    "CertificateProblem",
    "Claim",
    "ClientCertificate",
    "Connection",
    "Continue",
    "Credentials",
    "DenialKind",
    "Denied",
    "Identity",
    "Issued",
    "NotPresented",
    "Operation",
    "Order",
    "Pending",
    "PresentedCertificate",
]


class Operation(StrEnum):
    """An EST operation, named as the last segment of its path (RFC 7030, 3.2.2).

    Since API 1.0.
    """

    CACERTS = "cacerts"
    CSRATTRS = "csrattrs"
    SIMPLEENROLL = "simpleenroll"
    SIMPLEREENROLL = "simplereenroll"
    SERVERKEYGEN = "serverkeygen"
    FULLCMC = "fullcmc"


@dataclass(frozen=True, kw_only=True, slots=True)
class PresentedCertificate:
    """What the peer sent in its TLS Certificate message, not yet judged.

    `leaf` is None where the certificate cannot be parsed; `error` then says why.

    Since API 1.0.
    """

    leaf: x509.Certificate | None
    chain: tuple[x509.Certificate, ...] = ()  # the further certificates the peer sent, in its order
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """One TLS connection, as far as a request on it may know it.

    Channel bindings are raw bytes: `tls_unique` (RFC 5929, TLS 1.2 with extended master secret only), `tls_exporter`
    (RFC 9266, TLS 1.3 only), `tls_server_end_point` (RFC 5929; None where it is undefined for the server certificate).

    Since API 1.0.
    """

    id: str
    listener: str  # "est" or "admin"
    client_address: str  # an IP address as text, without a port
    client_port: int
    tls_version: str  # "TLSv1.2" or "TLSv1.3"
    cipher: str
    group: str | None = None
    server_name: str | None = None  # SNI
    presented: PresentedCertificate | None = None
    tls_unique: bytes | None = field(default=None, repr=False)
    tls_exporter: bytes | None = field(default=None, repr=False)
    tls_server_end_point: bytes | None = field(default=None, repr=False)


class CertificateProblem(StrEnum):
    """Why a client certificate is not good; each value is the exact text that a client is told (RULES B3).

    Since API 1.0.
    """

    UNKNOWN_AUTHORITY = "certificate signed by unknown authority"
    EXPIRED = "client certificate expired"
    REVOKED = "client certificate revoked"
    NOT_FOR_CLIENT_AUTHENTICATION = "client certificate not valid for client authentication"
    NOT_ENROLLED_HERE = "client certificate is of another CA, and not one of those that may enrol here"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientCertificate:
    """A client certificate with the host's verdict for the purpose of this request (RULES A, B).

    Good exactly when `problem` is None. `reason` is the audit word for what is wrong, for instance `leaf_signature_md5`.

    Since API 1.0.
    """

    certificate: x509.Certificate | None
    problem: CertificateProblem | None = None
    reason: str | None = None
    recorded: bool = False  # this server's own store has it
    anchor: x509.Certificate | None = None  # the trust anchor its path ends in
    path: tuple[x509.Certificate, ...] = ()  # the verified path, leaf first, anchor last


@dataclass(frozen=True, kw_only=True, slots=True)
class Authorization:
    """The request's one Authorization field: the scheme in lower case, and the rest, which is secret.

    Since API 1.0.
    """

    scheme: str
    parameters: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Credentials:
    """All that a request presents to prove who sent it.

    Since API 1.0.
    """

    connection: Connection
    operation: Operation
    label: str | None  # None is the default label
    client_certificate: ClientCertificate | None = None  # None: none was presented, or none is asked for
    authorization: Authorization | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """Whom an authenticator recognised, and which names follow from that.

    `subject`, where it is set, replaces the CSR's subject under `names = "identity"`. `permitted_names` are the
    subject alternative names that this identity may have; `host_name`, where it is set, is one more DNS name it may have,
    as it stands or followed by one of the profile's `san_domains`.

    Since API 1.0.
    """

    method: str  # the authenticator's kind name
    name: str  # for log, audit and the record: a client id, a principal, a subject
    subject: x509.Name | None = None
    permitted_names: tuple[x509.GeneralName, ...] = ()
    host_name: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """What must be spent when a certificate is issued: a value, so that it survives the process.

    The host stores it with the reservation and gives `ref` to the `SpendsOnIssue` functions of the plugin.

    Since API 1.0.
    """

    plugin: str  # the authenticator's kind name
    ref: str  # opaque to the host, never a secret


class DenialKind(StrEnum):
    """What sort of denial it is, which decides the status a client hears (RULES C3).

    Since API 1.0.
    """

    WRONG = "wrong"
    LOCKED = "locked"
    BUSY = "busy"
    NOT_PERMITTED = "not_permitted"


@dataclass(frozen=True, kw_only=True, slots=True)
class Authenticated:
    """The credential is good.

    `also` is the host's: whom the request proved to be besides, where a label requires several methods together.

    Since API 1.0.
    """

    identity: Identity
    claim: Claim | None = None
    response_challenge: str | None = None  # a WWW-Authenticate value that goes with the success (RFC 4559, section 5)
    also: tuple[Identity, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class NotPresented:
    """The request has no credential of this method.

    Since API 1.0.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class Continue:
    """The exchange needs another leg: answer 401 with this WWW-Authenticate value.

    Since API 1.0.
    """

    challenge: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Denied:
    """The credential is not good.

    `detail` is the text for the client; `reason` is a snake_case word for audit, which may say more, and `explanation` a
    sentence for audit, such as what a library said; never a secret. `retry_after` is needed with LOCKED and BUSY.

    `spent` says that the credential itself is right and in force, and that all it was good for is used up: it has the claim that a use of
    it would have. Where a lost answer may be asked for again (`[est] replay_window`), the host then looks whether this very request was
    answered before; where it was not, the denial stands (see `CountsFailures`). Never set it for a credential that is wrong, expired or revoked.

    Since API 1.0.
    """

    detail: str
    reason: str
    kind: DenialKind = DenialKind.WRONG
    retry_after: timedelta | None = None
    name: str | None = None  # whom the credential speaks of, where that is known
    explanation: str | None = None
    spent: Claim | None = None

    def __post_init__(self) -> None:
        if self.kind in {DenialKind.LOCKED, DenialKind.BUSY} and self.retry_after is None:
            msg = f"a denial of kind {self.kind} needs retry_after"
            raise ValueError(msg)


AuthOutcome = Authenticated | NotPresented | Continue | Denied
"""What an authenticator says of a request.

Since API 1.0.
"""


@dataclass(frozen=True, slots=True)
class CertificateChain:
    """A CA certificate and those above it: the issuing CA first, the root last.

    Since API 1.0.
    """

    certificates: tuple[x509.Certificate, ...]

    def __post_init__(self) -> None:
        if not self.certificates:
            msg = "a certificate chain has at least one certificate"
            raise ValueError(msg)

    @property
    def issuer(self) -> x509.Certificate:
        """The certificate whose key signs."""
        return self.certificates[0]

    @property
    def root(self) -> x509.Certificate:
        """The last certificate of the chain."""
        return self.certificates[-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What a CA is asked to sign. The host has decided everything but the serial number, SKI and AKI.

    `public_key` is a DER SubjectPublicKeyInfo. `csr` is the DER CertificationRequest without its challenge attributes
    for backends whose protocol carries one; its signature then no longer verifies when attributes were removed.
    `extensions` are complete, in order; a backend adds subject and authority key identifiers and basic constraints
    (CA:FALSE), and nothing that widens what the host asked for. `not_after` may be clipped, never extended.

    Since API 1.0.
    """

    id: str  # unique; a backend that can must treat a second order of the same id as the first
    ca: str  # the [[ca]] item's id
    subject: x509.Name
    public_key: bytes
    extensions: tuple[x509.Extension[x509.ExtensionType], ...]
    not_before: datetime
    not_after: datetime
    csr: bytes
    metadata: Mapping[str, str] = field(
        default_factory=dict[str, str]
    )  # label, profile, identity: for remote CAs' records


@dataclass(frozen=True, kw_only=True, slots=True)
class Issued:
    """The CA has signed.

    Since API 1.0.
    """

    certificate: x509.Certificate


@dataclass(frozen=True, kw_only=True, slots=True)
class Pending:
    """The CA will decide later (RFC 7030, 4.2.3: 202 with Retry-After). `ref` is the CA's own name for the request.

    Since API 1.0.
    """

    ref: str
    retry_after: timedelta
