"""What can go wrong, said without HTTP.

In the room: every exception that crosses a border of kipuka. Not in the room: status codes (`kipuka.http.responses` has
the one table) and expected answers such as a wrong password, which are values (`kipuka.api.values.Denied`).

    KipukaError
      RequestError              the client can mend it; `detail` is sent to the client
        MalformedRequest        the body or a header cannot be read
        BadCSR                  the body is not an acceptable PKCS#10 request
        ProofOfPossessionFailed the CSR's signature or its channel binding is wrong
        KeyRefused              the public key breaks a rule
        NameRefused             a name that the identity or the profile does not allow
        IdentityMismatch        a re-enrolment for another name or another CA
        NotAuthenticated        no credential, or none that is good: challenges say what may be sent
        CertificateRequired     only a good client certificate would do
        NotPermitted            authenticated, but not allowed
        LockedOut               too many failures from this address
        TooManyRequests         too many requests from this address
        UnknownResource         no such label, operation, certificate or token
        MethodNotAllowed        the resource is there, the method is not
        UnsupportedMediaType    the content type or content encoding is not taken
        RequestTooLarge         the body is over the limit
        CrossSiteRequest        a browser sent this on behalf of a foreign page
        Conflict                the request contradicts the present state
      BackendError              the server cannot do it now; the cause stays in log and audit
        BackendUnavailable      try again later (queue full, CA away, store away, a time-out)
        BackendFault            a plugin broke its contract
      StartupError              shown to the administrator, never to a client
        ConfigError             everything that is wrong with the configuration
        PluginError             everything that is wrong with the plugins
        SchemaError             the database's schema is not the one this version needs
        AlreadyRunning          another server of this node holds the store
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

__all__ = [
    "AlreadyRunning",
    "AuditUnavailable",
    "BackendError",
    "BackendFault",
    "BackendUnavailable",
    "BadCSR",
    "CertificateRequired",
    "ConfigError",
    "ConfigProblem",
    "Conflict",
    "CrossSiteRequest",
    "IdentityMismatch",
    "KeyRefused",
    "KipukaError",
    "LockedOut",
    "MalformedRequest",
    "MethodNotAllowed",
    "NameRefused",
    "NotAuthenticated",
    "NotPermitted",
    "PluginError",
    "PluginFault",
    "ProofOfPossessionFailed",
    "RequestError",
    "RequestTooLarge",
    "SchemaError",
    "StartupError",
    "TooManyRequests",
    "UnknownResource",
    "UnsupportedMediaType",
]


class KipukaError(Exception):
    """The root of everything kipuka raises on purpose.

    Since API 1.0.
    """


class RequestError(KipukaError):
    """The client can mend it.

    `detail` is one sentence that is sent to the client; `reason` is a snake_case word for log and audit. Where a rule of the
    configuration decided, `rule` is the key that an administrator would change (`min_rsa_bits`); the sentence ends with it.
    Whatever must not leave the server goes into `__cause__`. `audited` is set by whoever has recorded an event that tells of it,
    `closes_connection` by whoever knows that nothing more may be asked on the connection (RFC 9266, 4.1).

    Since API 1.0.
    """

    reason = "bad_request"
    rule: str | None = None
    audited = False
    closes_connection = False

    def __init__(self, detail: str, *, reason: str | None = None, rule: str | None = None) -> None:
        self.detail = detail if rule is None else f"{detail} (rule {rule})"
        super().__init__(self.detail)
        self.rule = rule
        if reason is not None:
            self.reason = reason


class MalformedRequest(RequestError):
    """The body, a header or the query cannot be read.

    Since API 1.0.
    """

    reason = "malformed_request"


class BadCSR(RequestError):
    """The body is not an acceptable PKCS#10 certification request (RFC 2986).

    Since API 1.0.
    """

    reason = "bad_csr"


class ProofOfPossessionFailed(RequestError):
    """The CSR's signature does not verify, or its channel binding is not this connection's (RFC 7030, 3.4 and 3.5).

    Since API 1.0.
    """

    reason = "proof_of_possession_failed"


class KeyRefused(RequestError):
    """The public key breaks a rule of the profile or of the server.

    Since API 1.0.
    """

    reason = "key_refused"


class NameRefused(RequestError):
    """The CSR asks for a name that the identity or the profile does not allow.

    Since API 1.0.
    """

    reason = "name_refused"


class IdentityMismatch(RequestError):
    """A re-enrolment whose names or CA are not those of the client certificate (RFC 7030, 4.2.2).

    Since API 1.0.
    """

    reason = "identity_mismatch"


class NotAuthenticated(RequestError):
    """No credential, or none that is good.

    `challenges` are complete `WWW-Authenticate` values, in the order to send them. An empty `detail` means an empty
    body: the client presented nothing at all.

    Since API 1.0.
    """

    reason = "not_authenticated"

    def __init__(self, detail: str = "", *, challenges: Sequence[str] = (), reason: str | None = None) -> None:
        super().__init__(detail, reason=reason)
        self.challenges = tuple(challenges)


class CertificateRequired(RequestError):
    """Only a good client certificate would do here.

    Since API 1.0.
    """

    reason = "certificate_required"


class NotPermitted(RequestError):
    """The client is known, but this is not for it.

    Since API 1.0.
    """

    reason = "not_permitted"


class LockedOut(RequestError):
    """Too many failures from this address; try again after `retry_after`.

    Since API 1.0.
    """

    reason = "locked_out"

    def __init__(self, detail: str, *, retry_after: timedelta, reason: str | None = None) -> None:
        super().__init__(detail, reason=reason)
        self.retry_after = retry_after


class TooManyRequests(RequestError):
    """Too many requests from this address; try again after `retry_after`. Audited in sums, never one by one.

    Since API 1.0.
    """

    reason = "too_many_requests"
    audited = True

    def __init__(self, detail: str, *, retry_after: timedelta) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class UnknownResource(RequestError):
    """There is no such label, operation, certificate, token or page.

    Since API 1.0.
    """

    reason = "unknown_resource"


class MethodNotAllowed(RequestError):
    """The resource exists; `allowed` are the methods it has.

    Since API 1.0.
    """

    reason = "method_not_allowed"

    def __init__(self, detail: str, *, allowed: Sequence[str]) -> None:
        super().__init__(detail)
        self.allowed = tuple(allowed)


class UnsupportedMediaType(RequestError):
    """The content type or the content encoding is not one this resource takes.

    Since API 1.0.
    """

    reason = "unsupported_media_type"


class RequestTooLarge(RequestError):
    """The body is larger than `[server] max_body_size`.

    Since API 1.0.
    """

    reason = "request_too_large"


class CrossSiteRequest(RequestError):
    """A browser sent this on behalf of a foreign page.

    Since API 1.0.
    """

    reason = "cross_site_request"


class Conflict(RequestError):
    """The request contradicts what is there already.

    Since API 1.0.
    """

    reason = "conflict"


class BackendError(KipukaError):
    """The server cannot do it now. `detail` is safe to send; the cause stays in log and audit. `audited` as above.

    `plugin` is set by the host, for the audit event: whose call came to this.

    Since API 1.0.
    """

    reason = "backend_error"
    plugin: str | None = None
    audited = False
    closes_connection = False

    def __init__(
        self, detail: str, *, retry_after: timedelta = timedelta(seconds=30), reason: str | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        if reason is not None:
            self.reason = reason


class BackendUnavailable(BackendError):
    """A CA, the store or a queue is away, full or too slow; trying again after `retry_after` may help.

    Since API 1.0.
    """

    reason = "backend_unavailable"


class AuditUnavailable(BackendError):
    """An audit sink with `on_failure = "block"` has not taken its events for a while; nothing is issued or changed until it has.

    Since API 1.0.
    """

    reason = "audit_unavailable"


class BackendFault(BackendError):
    """A plugin broke its contract (raised what it may not, or returned what does not fit).

    Since API 1.0.
    """

    reason = "backend_fault"


class StartupError(KipukaError):
    """The server cannot start as it is configured. The text is for the administrator.

    Since API 1.0.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigProblem:
    """One mistake in the configuration: where it stands, what is wrong, what to write instead.

    Since API 1.0.
    """

    file: str
    key: str  # dotted, for instance "otp.token_length"; "" for the file as a whole
    problem: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}: {self.key}" if self.key else self.file
        return f"{where}: {self.problem}; {self.remedy}"


class ConfigError(StartupError):
    """Everything that is wrong with the configuration, all at once.

    Since API 1.0.
    """

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginFault:
    """One plugin that cannot be used: who, at which stage, why, and what the administrator can do.

    Since API 1.0.
    """

    plugin: str  # the entry point's name
    distribution: str  # "" when no installed distribution has the plugin
    version: str
    stage: str  # find, version, import, register, collect, configure, open
    problem: str
    remedy: str

    def __str__(self) -> str:
        owner = f" ({self.distribution} {self.version})" if self.distribution else ""
        return f"plugin {self.plugin}{owner}, {self.stage}: {self.problem}; {self.remedy}"


class PluginError(StartupError):
    """Everything that is wrong with the plugins, all at once.

    Since API 1.0.
    """

    def __init__(self, faults: Sequence[PluginFault]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = tuple(faults)


class SchemaError(StartupError):
    """The database's schema is older or newer than this version needs; the text names the command to run.

    Since API 1.0.
    """


class AlreadyRunning(StartupError):
    """Another kipuka server with the same node name works on the same store.

    Since API 1.0.
    """
