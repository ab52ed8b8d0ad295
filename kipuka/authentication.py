"""Who sent this request: asks each authenticator in the configured order and combines what they say.

In the room: the host's verdict on a client certificate, the precedence of methods, time-outs around plugins, and which
denial the client hears (RULES C3). Not in the room: how a method decides (the plugins), and what an identity may have
(`kipuka.enrolment`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar, assert_never

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from kipuka.api import (
    Authenticated,
    AuthenticationFailed,
    Authenticator,
    AuthOutcome,
    BackendUnavailable,
    CertificateProblem,
    CertificateRequired,
    Claim,
    ClientCertificate,
    Continue,
    CountsFailures,
    Credentials,
    DenialKind,
    Denied,
    LockedOut,
    NotAuthenticated,
    NotPermitted,
    NotPresented,
    Operation,
    PresentedCertificate,
)
from kipuka.api.errors import BackendError, RequestError
from kipuka.audit.failures import Failures
from kipuka.mtls import CERTIFICATE_METHOD
from kipuka.store import certificates
from kipuka.store.database import Store, is_of_store
from kipuka.store.events import audit_all
from kipuka.x509.path import AnchorSet, PathVerdict, check_path, check_validity
from kipuka.x509.purposes import CMC_RA, has_usage

__all__ = [
    "Authentication",
    "CertificateRecord",
    "Denial",
    "LabelAuthentication",
    "LateRenewal",
    "PathCache",
    "Recognised",
    "RecordLookup",
    "Unrecognised",
    "failure_events",
    "judge_certificate",
    "records_of",
    "refusal",
]

log = structlog.get_logger(__name__)

T = TypeVar("T")

CERTIFICATE_REQUIRED = "client certificate required"
PathCache = dict[str, PathVerdict]


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateRecord:
    """What this server's own store says of a certificate."""

    recorded: bool
    revoked: bool
    ca: str | None = None  # where it is recorded: the id of the CA that issued it, and at which label
    label: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LateRenewal:
    """Which expired certificates still renew at a label (RULES B4)."""

    ca: str
    label: str | None
    allowed: timedelta  # after the certificate's end; zero lets none

    def admits(self, certificate: x509.Certificate, record: CertificateRecord, now: datetime) -> bool:
        """Whether an expired certificate that is good but for that may be renewed: one of this label's own, for so long after its end.

        A registration authority's never: it could have others' certificates issued (RULES F4).
        """
        own = record.recorded and not record.revoked and (record.ca, record.label) == (self.ca, self.label)
        return own and now - certificate.not_valid_after_utc <= self.allowed and not has_usage(certificate, CMC_RA)


RecordLookup = Callable[[str], Awaitable[CertificateRecord]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Denial:
    """A denial, and the method it came from."""

    method: str
    denied: Denied


@dataclass(frozen=True, kw_only=True, slots=True)
class Recognised:
    """A method recognised the client; those asked before it did not.

    `authenticated` is None where its credential is spent, and an answer of before is given again.
    """

    method: str
    authenticated: Authenticated | None
    denials: tuple[Denial, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Unrecognised:
    """No method recognised the client. With neither denials nor continuations, nothing was presented."""

    denials: tuple[Denial, ...] = ()
    continuations: tuple[str, ...] = ()


async def judge_certificate(
    presented: PresentedCertificate | None,
    *,
    anchors: AnchorSet | None,
    cache: PathCache,
    now: datetime,
    lookup: RecordLookup,
    late_renewal: LateRenewal | None = None,
) -> ClientCertificate | None:
    """The host's verdict on a presented certificate for the purpose that `anchors` stand for (RULES A1, B1 to B3).

    Signatures and path come from `cache`, which belongs to the connection, under the anchors' identity; validity and this
    server's own revocation record are looked at anew (RULES B2). None: nothing was presented, or nobody asked. `late_renewal` is
    given for a renewal only: an expired certificate that it admits is good for that.
    """
    if presented is None or anchors is None:
        return None
    if presented.leaf is None:
        return ClientCertificate(certificate=None, problem=CertificateProblem.UNKNOWN_AUTHORITY, reason="unparsable")
    verdict = cache.get(anchors.id)
    if verdict is None:
        verdict = cache[anchors.id] = check_path(presented, anchors)
    if verdict.problem is not None:
        return ClientCertificate(certificate=presented.leaf, problem=verdict.problem, reason=verdict.reason)
    record = await lookup(presented.leaf.fingerprint(SHA256()).hex())
    problem, reason = verdict.problem, verdict.reason
    if record.revoked:
        problem, reason = CertificateProblem.REVOKED, "revoked"
    elif (late := check_validity(verdict.path, now)) is not None:
        problem, reason = late
        if reason == "expired" and late_renewal is not None and late_renewal.admits(presented.leaf, record, now):
            problem = reason = None
    return ClientCertificate(
        certificate=presented.leaf,
        problem=problem,
        reason=reason,
        recorded=record.recorded,
        anchor=verdict.path[-1] if verdict.path else None,
        path=verdict.path,
    )


def records_of(store: Store) -> RecordLookup:
    """What the store says of the certificate with a SHA-256 fingerprint, hexadecimal."""

    async def look_up(fingerprint: str) -> CertificateRecord:
        found = await store.read(partial(certificates.find_by_fingerprint, fingerprint=fingerprint))
        if found is None:
            return CertificateRecord(recorded=False, revoked=False)
        return CertificateRecord(recorded=True, revoked=found.state == "revoked", ca=found.ca, label=found.label)

    return look_up


class Authentication:
    """The enabled authenticators in the order of the configuration file."""

    def __init__(self, methods: Mapping[str, Authenticator], *, timeout: timedelta) -> None:
        self._methods = dict(methods)
        self._timeout = timeout.total_seconds()

    @property
    def names(self) -> tuple[str, ...]:
        """The methods, first asked first."""
        return tuple(self._methods)

    def challenges(self, allowed: frozenset[str] | None = None) -> tuple[str, ...]:
        """What a 401 offers: Basic first, since some clients look at the first only (RULES C3).

        A method that fails to say its challenge is left out. Raises `BackendUnavailable` where there is none but such methods: to
        ask for a certificate instead would be wrong.
        """
        offered: list[str] = []
        failed: str | None = None
        for name, method in self._methods.items():
            if allowed is not None and name not in allowed:
                continue
            try:
                challenge = method.challenge
                if challenge is not None and not _CHALLENGE.fullmatch(challenge):
                    msg = "the challenge is no field value"
                    raise ValueError(msg)  # noqa: TRY301 - handled as what the plugin itself may raise
            except Exception:
                log.exception("authenticator_failed", method=name)
                failed = name
                continue
            if challenge is not None:
                offered.append(challenge)
        if failed is not None and not offered:
            error = BackendUnavailable(_NOT_NOW, retry_after=timedelta(seconds=30), reason="plugin_failed")
            error.plugin = failed
            raise error
        return tuple(sorted(offered, key=lambda challenge: not challenge.lower().startswith("basic")))

    async def authenticate(
        self,
        credentials: Credentials,
        *,
        allowed: frozenset[str] | None = None,
        certificate_is_final: bool = False,
        accept: Callable[[Authenticated], Awaitable[Denied | None]],
        recall: Callable[[str, Claim], Awaitable[bool]] | None = None,
    ) -> Recognised | Unrecognised:
        """Ask each allowed method whose credential is present, in order; the first that is accepted wins.

        `accept` may still deny what a method recognised (its token is held by another request), in which case the next
        method is asked. `recall` says whether there is an answer to give again for what a method calls spent (RULES D4); where
        there is, that method wins. With `certificate_is_final` a denied client certificate ends the search (RULES A2).
        """
        denials: list[Denial] = []
        continuations: list[str] = []
        for name, method in self._methods.items():
            if allowed is not None and name not in allowed:
                continue
            outcome = await self._ask(name, method, credentials)
            match outcome:
                case Authenticated():
                    denied = await accept(outcome)
                    if denied is None:
                        return Recognised(method=name, authenticated=outcome, denials=tuple(denials))
                    denials.append(await self._stands(name, method, denied, credentials))
                case Denied():
                    if outcome.spent is not None and recall is not None and await recall(name, outcome.spent):
                        return Recognised(method=name, authenticated=None, denials=tuple(denials))
                    denials.append(await self._stands(name, method, outcome, credentials))
                    if certificate_is_final and name == CERTIFICATE_METHOD:
                        break
                case Continue():
                    continuations.append(outcome.challenge)
                case NotPresented():
                    pass
                case _:
                    assert_never(outcome)
        return Unrecognised(denials=tuple(denials), continuations=tuple(continuations))

    async def _ask(self, name: str, method: Authenticator, credentials: Credentials) -> AuthOutcome:
        return await self._guarded(name, _judged(name, method, credentials))

    async def _stands(self, name: str, method: Authenticator, denied: Denied, credentials: Credentials) -> Denial:
        """The denial as the client hears it: a spent credential counts as a failure only now (RULES C4)."""
        if denied.spent is not None and isinstance(method, CountsFailures):
            denied = await self._guarded(name, method.count_failure(denied, credentials))
        return Denial(method=name, denied=denied)

    async def _guarded(self, name: str, call: Awaitable[T]) -> T | Denied:
        """One plugin under a time-out; what it raises is its own trouble and a busy denial, never the server's.

        Raises what the store refuses with: no other method could do without it, and to audit a denial would wait for it in turn.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await call
        except BackendError as error:
            if is_of_store(error):
                raise
            log.warning("authenticator_unavailable", method=name, reason=error.reason)
            return busy(error.retry_after, "backend_unavailable", f"the plugin {name} says: {error.reason}")
        except TimeoutError:
            log.error("authenticator_timed_out", method=name, seconds=self._timeout)
            problem = f"the plugin {name} did not answer within {self._timeout:g} seconds"
            return busy(timedelta(seconds=5), "timed_out", problem)
        except Exception as error:
            log.exception("authenticator_failed", method=name)
            return busy(timedelta(seconds=30), "plugin_failed", f"the plugin {name} raised {type(error).__name__}")


async def _judged(name: str, method: Authenticator, credentials: Credentials) -> AuthOutcome:
    """What the method says. Raises where it cannot be used: a challenge that is no field value, somebody else's claim."""
    outcome = await method.authenticate(credentials)
    challenge: object = None
    match outcome:
        case Continue():
            challenge = outcome.challenge
        case Authenticated():
            challenge = outcome.response_challenge
            if outcome.claim is not None and outcome.claim.plugin != name:
                msg = f"the claim is that of {outcome.claim.plugin}"
                raise ValueError(msg)
        case _:
            pass
    if challenge is not None and not (isinstance(challenge, str) and _CHALLENGE.fullmatch(challenge)):
        msg = "the challenge is no field value"
        raise ValueError(msg)
    return outcome


_NOT_NOW = "authentication is not available at the moment"
_CHALLENGE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e\t]*[\x21-\x7e])?")
"""A field value in ASCII (RFC 9110, 5.5)."""


def busy(retry_after: timedelta, reason: str, explanation: str | None = None) -> Denied:
    """The denial that stands for a method which cannot answer now."""
    return Denied(
        detail=_NOT_NOW,
        reason=reason,
        kind=DenialKind.BUSY,
        retry_after=retry_after,
        explanation=explanation,
    )


def refusal(outcome: Unrecognised, *, challenges: Sequence[str], certificate_only: bool) -> RequestError | BackendError:
    """The error that tells a client why it was not recognised (RULES C3).

    An exchange that goes on comes before any denial: it may still end well. Locked and busy come before the other denials;
    among equals the method that was asked first speaks. `certificate_only` says that nothing but a certificate would have done,
    so that no challenge is of use.
    """
    if not outcome.denials or (outcome.continuations and not certificate_only):
        return _nothing_denied(outcome, challenges=challenges, certificate_only=certificate_only)
    urgent = (DenialKind.LOCKED, DenialKind.BUSY)
    denied = min(outcome.denials, key=lambda denial: denial.denied.kind not in urgent).denied
    wait = denied.retry_after or timedelta(0)
    match denied.kind:
        case DenialKind.LOCKED:
            return LockedOut(denied.detail, retry_after=wait, reason=denied.reason)
        case DenialKind.BUSY:
            return BackendUnavailable(denied.detail, retry_after=wait, reason=denied.reason)
        case DenialKind.NOT_PERMITTED:
            return NotPermitted(denied.detail, reason=denied.reason)
        case DenialKind.WRONG if certificate_only or not challenges:
            return CertificateRequired(denied.detail, reason=denied.reason)
        case DenialKind.WRONG:
            return NotAuthenticated(denied.detail, challenges=challenges, reason=denied.reason)


def _nothing_denied(outcome: Unrecognised, *, challenges: Sequence[str], certificate_only: bool) -> RequestError:
    if outcome.continuations:
        return NotAuthenticated(challenges=outcome.continuations, reason="continuation")
    if certificate_only or not challenges:
        return CertificateRequired(CERTIFICATE_REQUIRED)
    return NotAuthenticated(challenges=challenges, reason="no_credential")


def failure_events(denials: Sequence[Denial], credentials: Credentials) -> list[AuthenticationFailed]:
    """One audit event per denial, whoever wins in the end."""
    return [
        AuthenticationFailed(
            method=denial.method,
            kind=denial.denied.kind.value,
            reason=denial.denied.reason,
            subject_name=denial.denied.name,
            operation=credentials.operation.value,
            label=credentials.label,
            explanation=denial.denied.explanation,
        )
        for denial in denials
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelAuthentication:
    """How one label recognises its clients: which methods it takes, and whose certificates it trusts (RULES B5)."""

    chain: Authentication
    methods: frozenset[str]
    anchors: AnchorSet | None
    certificate_is_required: bool  # [tls.client_auth] mode = "required"
    store: Store
    failures: Failures
    clock: Callable[[], datetime]
    late_renewal: LateRenewal | None = None

    def require_some_credential(self, credentials: Credentials) -> None:
        """RULES C2, C3: who presents nothing is told so before the body is looked at.

        Raises `NotAuthenticated`, or `CertificateRequired` where only a certificate would do.
        """
        certificate_only, challenges = self._what_would_do(credentials)
        no_certificate = credentials.connection.presented is None or self.anchors is None
        if no_certificate and (certificate_only or credentials.authorization is None):
            raise refusal(Unrecognised(), challenges=challenges, certificate_only=certificate_only)

    async def recognise(
        self,
        credentials: Credentials,
        *,
        cache: PathCache,
        accept: Callable[[Authenticated], Awaitable[Denied | None]],
        recall: Callable[[str, Claim], Awaitable[bool]],
    ) -> ClientCertificate | None:
        """Let the first good credential win, once `accept` takes it, or `recall` knows an answer to what it was spent on; gives
        the verdict on the client certificate.

        Follows the endpoint table and the precedence of the authentication chapter. Every denial is audited; those of a flood
        in sums (RULES H4), but never those of a client that is recognised. Raises the
        `RequestError` or `BackendError` that the client is to hear when nobody wins.
        """
        judged = await judge_certificate(
            credentials.connection.presented,
            anchors=self.anchors,
            cache=cache,
            now=self.clock(),
            lookup=records_of(self.store),
            late_renewal=self.late_renewal if credentials.operation is Operation.SIMPLEREENROLL else None,
        )
        presented = replace(credentials, client_certificate=judged)
        reenrolment = credentials.operation is Operation.SIMPLEREENROLL
        outcome = await self.chain.authenticate(
            presented,
            allowed=self.methods & {CERTIFICATE_METHOD} if reenrolment else self.methods,
            certificate_is_final=self.certificate_is_required,
            accept=accept,
            recall=recall,
        )
        failures = failure_events(outcome.denials, credentials)
        if isinstance(outcome, Recognised):
            if failures:
                await self.store.write(partial(audit_all, events=failures))
            return judged
        await self.failures.tell(failures)
        certificate_only, challenges = self._what_would_do(credentials)
        if self.certificate_is_required and any(denial.method == CERTIFICATE_METHOD for denial in outcome.denials):
            certificate_only = True  # RULES A2: a bad certificate is a 403 here, whatever else is presented
        error = refusal(outcome, challenges=challenges, certificate_only=certificate_only)
        error.audited = bool(failures)
        raise error

    def _what_would_do(self, credentials: Credentials) -> tuple[bool, tuple[str, ...]]:
        """Whether only a certificate would do, and which challenges a 401 may carry."""
        if credentials.operation is Operation.SIMPLEREENROLL:
            return True, ()
        challenges = self.chain.challenges(self.methods)
        return not challenges, challenges
