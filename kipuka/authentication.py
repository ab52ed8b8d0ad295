"""Who sent this request: asks each authenticator in the configured order and combines what they say.

In the room: the host's verdict on a client certificate, the precedence of methods, time-outs around plugins, and which
denial the client hears (RULES C3). Not in the room: how a method decides (the plugins), and what an identity may have
(`kipuka.enrolment`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from kipuka.x509.issued import is_issued_by
from kipuka.x509.path import AnchorSet, PathVerdict, check_path, check_validity
from kipuka.x509.patterns import CertificatePattern
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


Accept = Callable[[Authenticated], Awaitable[Denied | None]]
Recall = Callable[[str, Claim], Awaitable[bool]]


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
        accept: Accept,
        recall: Recall | None = None,
    ) -> Recognised | Unrecognised:
        """Ask each allowed method whose credential is present, in order; the first that is accepted wins.

        `accept` may still deny what a method recognised (its token is held by another request), in which case the next
        method is asked. `recall` says whether there is an answer to give again for what a method calls spent (RULES D4); where
        there is, that method wins. With `certificate_is_final` a denied client certificate ends the search (RULES A2).
        """
        return await self.authenticate_together(
            credentials,
            [(name,) for name in self._methods if allowed is None or name in allowed],
            certificate_is_final=certificate_is_final,
            accept=accept,
            recall=recall,
        )

    async def authenticate_together(
        self,
        credentials: Credentials,
        sets: Sequence[Sequence[str]],
        *,
        certificate_is_final: bool = False,
        accept: Accept,
        recall: Recall | None = None,
    ) -> Recognised | Unrecognised:
        """Ask for sets of methods of which all must succeed; the first that does, and is accepted, wins.

        In a set the client certificate is looked at first: without the one that belongs to it no secret is tried. Whoever is first in the
        set is whose name counts; what any of them wants spent is spent. Each method is asked once, whatever the number of its sets.
        """
        asking = _Asking(self, credentials)
        for members in sets:
            good: dict[str, Authenticated] = {}
            for name in sorted(members, key=lambda name: name != CERTIFICATE_METHOD):
                outcome = await asking.outcome(name)
                if isinstance(outcome, Authenticated):
                    good[name] = outcome
                    continue
                spent = outcome.spent if isinstance(outcome, Denied) and len(good) == len(members) - 1 else None
                if spent is not None and recall is not None and await recall(members[0], spent):
                    return Recognised(method=members[0], authenticated=None, denials=tuple(asking.denials))
                await asking.note(name, outcome)
                if certificate_is_final and name == CERTIFICATE_METHOD and isinstance(outcome, Denied):
                    return asking.unrecognised()
                break
            else:
                together = _together([good[name] for name in members])
                denied = await accept(together)
                if denied is None:
                    return Recognised(method=members[0], authenticated=together, denials=tuple(asking.denials))
                await asking.note(next((name for name in members if good[name].claim is not None), members[0]), denied)
        return asking.unrecognised()

    async def ask(self, name: str, credentials: Credentials) -> AuthOutcome:
        """What one method says."""
        return await self._guarded(name, _judged(name, self._methods[name], credentials))

    async def denial(self, name: str, denied: Denied, credentials: Credentials) -> Denial:
        """The denial as the client hears it: a spent credential counts as a failure only now (RULES C4)."""
        method = self._methods[name]
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


@dataclass(slots=True)
class _Asking:
    """The answers to one request, each method asked once, and its denial told once."""

    chain: Authentication
    credentials: Credentials
    outcomes: dict[str, AuthOutcome] = field(default_factory=dict[str, AuthOutcome])
    denials: list[Denial] = field(default_factory=list[Denial])
    continuations: list[str] = field(default_factory=list[str])

    async def outcome(self, name: str) -> AuthOutcome:
        if name not in self.outcomes:
            self.outcomes[name] = await self.chain.ask(name, self.credentials)
        return self.outcomes[name]

    async def note(self, name: str, outcome: Denied | Continue | NotPresented) -> None:
        """Keep what stands against the client, for audit and for what it hears."""
        match outcome:
            case Denied():
                if all(denial.method != name for denial in self.denials):
                    self.denials.append(await self.chain.denial(name, outcome, self.credentials))
            case Continue():
                if outcome.challenge not in self.continuations:
                    self.continuations.append(outcome.challenge)
            case NotPresented():
                pass
            case _:
                assert_never(outcome)

    def unrecognised(self) -> Unrecognised:
        return Unrecognised(denials=tuple(self.denials), continuations=tuple(self.continuations))


def _together(proofs: Sequence[Authenticated]) -> Authenticated:
    """The first one's identity, with what the others prove, spend and answer. At most one of them has a claim or an answer, since a
    request has one Authorization field (RULES C1).
    """
    first, *others = proofs
    if not others:
        return first
    return replace(
        first,
        claim=next((proof.claim for proof in proofs if proof.claim is not None), None),
        response_challenge=next((proof.response_challenge for proof in proofs if proof.response_challenge), None),
        also=tuple(proof.identity for proof in others),
    )


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
    require: tuple[tuple[str, ...], ...] = ()  # sets of methods that are required together; none: one method is enough
    foreign_clients: tuple[CertificatePattern, ...] = ()  # whose certificates of other CAs are taken; none: everybody's
    issuer: Callable[[], Awaitable[x509.Certificate]] | None = None  # this label's CA, needed with `foreign_clients`
    late_renewal: LateRenewal | None = None

    def require_some_credential(self, credentials: Credentials) -> None:
        """RULES C2, C3: who presents nothing is told so before the body is looked at.

        Raises `NotAuthenticated`, or `CertificateRequired` where only a certificate would do.
        """
        certificate_only, challenges = self._what_would_do(credentials)
        if self._sets(credentials):
            if not any(self._is_presented(members, credentials) for members in self.require):
                raise self._incomplete(credentials, challenges=challenges, certificate_only=certificate_only)
        elif not self._has_certificate(credentials) and (certificate_only or credentials.authorization is None):
            raise refusal(Unrecognised(), challenges=challenges, certificate_only=certificate_only)

    def _sets(self, credentials: Credentials) -> tuple[tuple[str, ...], ...]:
        """The sets that count for this request: a renewal is proven by the certificate alone (RFC 7030, 4.2.2)."""
        return () if credentials.operation is Operation.SIMPLEREENROLL else self.require

    def _has_certificate(self, credentials: Credentials) -> bool:
        return credentials.connection.presented is not None and self.anchors is not None

    def _is_presented(self, members: Sequence[str], credentials: Credentials) -> bool:
        """Whether there is something of every method of the set, as far as that can be seen without asking."""
        needs_field = any(name != CERTIFICATE_METHOD for name in members)
        return (CERTIFICATE_METHOD not in members or self._has_certificate(credentials)) and (
            not needs_field or credentials.authorization is not None
        )

    def _incomplete(
        self, credentials: Credentials, *, challenges: Sequence[str], certificate_only: bool
    ) -> RequestError | BackendError:
        """The refusal of a request that has proofs, but no set of them whole, and nothing wrong among them."""
        if certificate_only or not self._has_certificate(credentials):
            return refusal(Unrecognised(), challenges=challenges, certificate_only=certificate_only)
        missing = {name for members in self.require for name in members if name != CERTIFICATE_METHOD}
        needed = " or ".join(sorted(missing))
        detail = f"the client certificate alone is not enough here: {needed} is needed too"
        return NotAuthenticated(detail, challenges=challenges, reason="proof_missing")

    async def recognise(
        self,
        credentials: Credentials,
        *,
        cache: PathCache,
        accept: Accept,
        recall: Recall,
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
        judged = await self._at_home(judged)
        presented = replace(credentials, client_certificate=judged)
        reenrolment = credentials.operation is Operation.SIMPLEREENROLL
        if sets := self._sets(credentials):
            outcome = await self.chain.authenticate_together(
                presented, sets, certificate_is_final=self.certificate_is_required, accept=accept, recall=recall
            )
        else:
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
        bad_certificate = any(denial.method == CERTIFICATE_METHOD for denial in outcome.denials)
        certificate_only, challenges = self._what_would_do(presented, bad_certificate=bad_certificate)
        if self.certificate_is_required and bad_certificate:
            certificate_only = True  # RULES A2: a bad certificate is a 403 here, whatever else is presented
        if sets and not outcome.denials and not outcome.continuations:
            error = self._incomplete(presented, challenges=challenges, certificate_only=certificate_only)
        else:
            error = refusal(outcome, challenges=challenges, certificate_only=certificate_only)
        error.audited = bool(failures)
        raise error

    async def _at_home(self, judged: ClientCertificate | None) -> ClientCertificate | None:
        """RULES B5: of the certificates of other CAs only those that a pattern fits are good here."""
        if judged is None or judged.certificate is None or judged.problem is not None:
            return judged
        if not self.foreign_clients or any(pattern.fits(judged.certificate) for pattern in self.foreign_clients):
            return judged
        if self.issuer is not None and is_issued_by(judged.certificate, await self.issuer()):
            return judged
        return replace(judged, problem=CertificateProblem.NOT_ENROLLED_HERE, reason="foreign_client")

    def _what_would_do(
        self, credentials: Credentials, *, bad_certificate: bool = False
    ) -> tuple[bool, tuple[str, ...]]:
        """Whether only a certificate would do, and which challenges a 401 may carry."""
        if credentials.operation is Operation.SIMPLEREENROLL:
            return True, ()
        useful = self.methods
        if self.require:
            # A password is of no use to whom the certificate is missing that is required beside it.
            has_certificate = self._has_certificate(credentials) and not bad_certificate
            sets = [members for members in self.require if has_certificate or CERTIFICATE_METHOD not in members]
            useful = frozenset(name for members in sets for name in members)
        challenges = self.chain.challenges(useful)
        return not challenges, challenges
