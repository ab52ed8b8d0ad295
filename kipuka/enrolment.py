"""The enrolment: from an authenticated request to a recorded certificate.

In the room: the business rule, step by step, in the order and with the names of docs/explanation/enrolment-cycle.md, and
the promise that from the reservation on it no longer depends on the client. Not in the room: HTTP, how bodies, names and paths are
checked (`kipuka.est`, `kipuka.x509`), SQL (`kipuka.store`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, Protocol, TypeVar

import structlog
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kipuka.api import (
    Authenticated,
    AuthenticationSucceeded,
    BackendFault,
    BackendUnavailable,
    BadCSR,
    CABackend,
    CertificateChain,
    CertificateIssued,
    CertificatePending,
    CertificateProblem,
    CertificateRefused,
    CertificateReplayed,
    CertificateRequested,
    CertificateRequired,
    CertificateRevoked,
    Claim,
    ClientCertificate,
    CollectsPending,
    Credentials,
    Denied,
    EnrolmentFailed,
    Identity,
    IdentityMismatch,
    Issued,
    KeyRefused,
    NameRefused,
    NotPermitted,
    Operation,
    Order,
    Pending,
    ProofOfPossessionFailed,
    ReadTx,
    RevokesCertificates,
    SpendsOnIssue,
    Tx,
    timestamp,
)
from kipuka.api.errors import BackendError, RequestError
from kipuka.api.events import AuditEvent
from kipuka.audit.gate import AuditGate
from kipuka.est.binding import MISMATCH, Binding, check_binding, refuse_foreign_challenges
from kipuka.est.csr import CertificateRequest, NameChange
from kipuka.est.enveloped import Algorithms, KeyEncryption, KeySigner, choose, unsuited
from kipuka.est.keygen import KeyPart, encrypt_to, encrypted_key, plain_key
from kipuka.est.wire import decode_request
from kipuka.mtls import CERTIFICATE_METHOD, alternative_names
from kipuka.store import certificates, enrolments, replaced, replay
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.context import audit_context
from kipuka.store.database import Store, is_of_store, is_unknown
from kipuka.store.events import audit_all
from kipuka.x509.generate import GeneratedKey, KeyKind, generate, kind_for, request_for
from kipuka.x509.issued import is_issued_by, mismatch, ordered_extensions
from kipuka.x509.keys import check_key, describe_key, spki_sha256
from kipuka.x509.names import format_dn, format_general_name, holder_digest, same_general_names, same_name, visible
from kipuka.x509.path import PathVerdict
from kipuka.x509.patterns import CertificatePattern
from kipuka.x509.profiles import Grant, Profile, authorise
from kipuka.x509.registration import (
    Asked,
    asks_for_others,
    holder_of,
    is_candidate,
    renewed_for,
    shortcoming,
    vouched_for,
    whom,
)

__all__ = ["Enrolled", "Enrolment", "EnrolmentRequest", "LabelService", "MakeSlowKey", "Postponed", "Recognises"]

log = structlog.get_logger(__name__)

_SHA256 = hashes.SHA256()
T = TypeVar("T")
PathCache = dict[str, PathVerdict]
Checkpoint = Callable[[str], Awaitable[None]]
MakeSlowKey = Callable[[KeyKind], Awaitable[GeneratedKey]]
"""Makes a key that takes longer than the event loop may wait. Raises `BackendUnavailable` where too many wait for one."""
LEASE_MARGIN = timedelta(seconds=60)
"""How much longer than the CA may take a reservation is held for a live server."""


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
class _MadeKey:
    """A key pair that was made for one attempt. It is never part of the attempt, whose fields are written down."""

    title: str
    public_key: bytes  # DER SubjectPublicKeyInfo
    csr: bytes  # DER: a request of this key, for the CA
    part: KeyPart = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Envelope:
    """How a private key is to be encrypted for its client."""

    signer: KeySigner
    recipient: x509.Certificate
    chosen: Algorithms


@dataclass(slots=True)
class _Attempt:
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
    envelope: _Envelope | None = None
    on_behalf_of: str | None = None  # whom a registration authority asks for
    renamed_from: str | None = None  # the names of the certificate before, where others were asked for
    replaces: str | None = None  # the fingerprint of the recorded certificate that is renewed
    opening: list[AuditEvent] = field(default_factory=list[AuditEvent])  # recorded with the first transaction

    @property
    def wants_key(self) -> bool:
        """Whether the server is to make the key (RFC 7030, 4.4)."""
        return self.request.credentials.operation is Operation.SERVERKEYGEN


class Enrolment:
    """The use case. One object serves every request; what it needs comes as arguments."""

    def __init__(
        self,
        *,
        store: Store,
        spenders: Mapping[str, SpendsOnIssue],
        clock: Callable[[], datetime],
        ca_timeout: timedelta,
        process: str,
        make_slow_key: MakeSlowKey | None = None,
        key_encryption: KeyEncryption | None = None,
        audit_gate: AuditGate | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._store = store
        self._make_slow_key = make_slow_key
        self._key_encryption = key_encryption or KeyEncryption()
        self._audit_gate = audit_gate
        self._spenders = spenders
        self._clock = clock
        self._ca_timeout = ca_timeout
        self._process = process  # whose the reservations are, should this process die
        self._checkpoint = checkpoint
        self._tasks: set[asyncio.Task[Any]] = set()

    async def enrol(self, request: EnrolmentRequest) -> Enrolled | Postponed:
        """Serve a simpleenroll or simplereenroll (RFC 7030, 4.2), or a serverkeygen (4.4).

        Raises `RequestError` for what the client can mend and `BackendError` for what it cannot. When the caller is
        cancelled, because its client left, the enrolment still comes to its end.
        """
        request.service.authentication.require_some_credential(request.credentials)
        if self._audit_gate is not None:
            await self._audit_gate.require()
        await self._step("read_csr")
        csr = CertificateRequest.from_der(decode_request(request.body))
        attempt = _Attempt(id=secrets.token_hex(16), request=request, csr=csr)
        return await self.shielded(self._complete_and_close(attempt))

    async def shielded(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end whatever becomes of the caller; `drain` waits for it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, RequestError):
            log.debug("enrolment_ended_with_error", error=type(error).__name__)

    async def ca_certificates(self, service: LabelService) -> CertificateChain:
        """The label's issuing certificate and its chain up to the root (RFC 7030, 4.1)."""
        return await self._backend_call(service.backend.ca_certificates())

    async def drain(self) -> None:
        """Wait for every enrolment that was begun."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _step(self, name: str) -> None:
        if self._checkpoint is not None:
            await self._checkpoint(name)

    # -- the steps -------------------------------------------------------------------------------------------------

    async def _complete_and_close(self, attempt: _Attempt) -> Enrolled | Postponed:
        """RFC 9266, 4.1; RULES G2: a connection whose tls-exporter was compared is good for nothing more, however that ended."""
        try:
            return await self._complete(attempt)
        except (RequestError, BackendError) as error:
            compared = attempt.binding == Binding.TLS_EXPORTER or error.reason == MISMATCH
            error.closes_connection = compared and attempt.request.credentials.connection.tls_version == "TLSv1.3"
            raise

    async def _complete(self, attempt: _Attempt) -> Enrolled | Postponed:
        await self._authenticate_and_reserve(attempt)
        try:
            await self._stand_in(attempt)
            if attempt.answered is not None and not attempt.wants_key:
                return await self._answer_again(attempt, attempt.digest or "")
            if attempt.pending is not None:
                return await self._collect(attempt, attempt.pending)
            await self._step("authorise")
            grant = await self._authorise(attempt)
            await self._step("prove_possession")
            self._prove_possession(attempt)
            made = await self._make_key(attempt, grant) if attempt.wants_key else None
            await self._step("sign")
            order = self._order(attempt, grant, made)
            answer = await self._sign(attempt, order)
            if isinstance(answer, Pending):
                return await self._postpone(attempt, answer)
            await self._step("check_certificate")
            await self._check_certificate(attempt, order, answer.certificate)
            await self._step("record")
            return await self._record(attempt, grant.names, answer.certificate, made)
        except RequestError as error:
            error.audited = await self._give_back(attempt, "refused", error.reason, error.detail, rule=error.rule)
            raise
        except _Unknown as unknown:
            unknown.error.audited = True
            raise unknown.error from unknown.__cause__
        except BackendError as error:
            error.audited = await self._give_back(
                attempt, "failed", error.reason, error.detail, refused_by_store=is_of_store(error)
            )
            raise
        except BaseException:
            await self._give_back(attempt, "failed", "internal_error", "an unexpected error")
            raise

    async def _authenticate_and_reserve(self, attempt: _Attempt) -> None:
        """RFC 7030, 3.2.3 and 3.3.2: the label says who is recognised; the winner's use is held at once."""
        await self._step("authenticate")
        request = attempt.request

        async def accept(authenticated: Authenticated) -> Denied | None:
            return await self._reserve(attempt, authenticated)

        async def recall(method: str, claim: Claim) -> bool:
            return await self._recall(attempt, method, claim)

        attempt.certificate = await request.service.authentication.recognise(
            request.credentials, cache=request.path_cache, accept=accept, recall=recall
        )

    async def _reserve(self, attempt: _Attempt, authenticated: Authenticated) -> Denied | None:
        """Hold one use of what must be spent; without a claim nothing needs to be written yet."""
        await self._step("reserve")
        # The name is for records and logs; a certificate's subject may have line breaks and worse in it.
        identity = replace(authenticated.identity, name=visible(authenticated.identity.name))
        claim = authenticated.claim
        attempt.claim, attempt.challenge = claim, authenticated.response_challenge
        attempt.also = authenticated.also
        self._is(attempt, identity)
        attempt.digest = self._digest(attempt.request, attempt.csr, identity.method, claim)
        if await self._was_answered(attempt, attempt.digest):
            return None
        remote = attempt.request.service.remote
        if claim is None and not remote:
            return None
        spender = self._spenders.get(claim.plugin) if claim else None
        try:
            held = await self._store.write(
                partial(
                    _reserve,
                    row=self._row(attempt),
                    spender=spender,
                    hold=claim is not None,
                    window=attempt.request.service.replay_window,
                    events=tuple(attempt.opening),
                )
            )
        except BackendUnavailable as error:
            if claim is not None and is_unknown(error):
                event = EnrolmentFailed(
                    enrolment=attempt.id, ca=attempt.request.service.ca, reason=error.reason, detail=error.detail
                )
                # The use may be held all the same: it comes back as in `_give_back`.
                self._store.write_later(partial(_settle_if_held, id=attempt.id, spender=spender, event=event))
            raise
        match held:
            case Denied():
                attempt.identity = attempt.claim = attempt.challenge = attempt.digest = None
                attempt.also, attempt.opening = (), []
                return held
            case RecordedCertificate():
                attempt.answered, attempt.claim = held, None
            case enrolments.EnrolmentRow():
                attempt.pending, attempt.id = held, held.id
            case None:
                if claim is not None:
                    attempt.reserved, attempt.opening = True, []
        return None

    async def _recall(self, attempt: _Attempt, method: str, claim: Claim) -> bool:
        """RULES D4: a spent credential still asks for the answer that it was spent on, and for nothing else."""
        digest = self._digest(attempt.request, attempt.csr, method, claim)
        if not await self._was_answered(attempt, digest):
            return False
        attempt.digest = digest
        self._is(attempt, Identity(method=method, name=_known(attempt.answered).identity_name))
        return True

    async def _was_answered(self, attempt: _Attempt, digest: str | None) -> bool:
        """Whether this very request has a certificate already that may be handed out again; nothing is spent then."""
        if digest is None:
            return False
        window = attempt.request.service.replay_window
        attempt.answered = await self._store.read(partial(replay.find, digest=digest, window=window))
        if attempt.answered is not None:
            attempt.claim = None
        return attempt.answered is not None

    async def _stand_in(self, attempt: _Attempt) -> None:
        """RULES F4; RFC 7030, 3.7: whether a registration authority asks for somebody else.

        A certificate that was meant to be one's, and is not one's here, is refused where it asks for others' names: to go on would issue
        a certificate in the authority's own name to a stranger. Raises `NotPermitted`.
        """
        service, csr, judged = attempt.request.service, attempt.csr, attempt.certificate
        if _known(attempt.identity).method != CERTIFICATE_METHOD or judged is None or judged.certificate is None:
            return
        certificate, listed = judged.certificate, service.registration_authorities
        if not is_candidate(certificate, listed) or not asks_for_others(certificate, csr.subject, csr.sans):
            return
        chain = await self.ca_certificates(service)
        own_ca = is_issued_by(certificate, chain.issuer)
        lacks = shortcoming(certificate, listed, recorded=judged.recorded, own_ca=own_ca)
        if lacks is not None:
            detail = f"only a registration authority may ask for another's names, and this client certificate is not one's: {lacks.text}"
            raise NotPermitted(detail, reason=lacks.value)
        attempt.on_behalf_of = visible(whom(csr.subject, csr.sans))
        attempt.opening = [self._succeeded(attempt), self._requested(attempt)]

    async def _asked(self, attempt: _Attempt) -> Asked:
        """Whose names are asked for, and who is to have them: the client, or whom a registration authority speaks for."""
        csr, identity = attempt.csr, _known(attempt.identity)
        subject, names = csr.subject, tuple(csr.sans)
        renewal = attempt.request.credentials.operation is Operation.SIMPLEREENROLL
        if csr.name_change is not None and not renewal:
            detail = "a ChangeSubjectName goes with simplereenroll: a first certificate has the names of its request"
            raise BadCSR(detail, reason="name_change_misplaced")
        if renewal:
            subject, names = await self._names_of_reenrolment(attempt)
            if csr.name_change is not None:
                return self._other_names(attempt, csr.name_change, whom(subject, names))
            if attempt.on_behalf_of is not None:
                return renewed_for(identity, subject, names)
        elif attempt.on_behalf_of is not None:
            return self._vouched_for(attempt, subject, names)
        return Asked(identity=identity, subject=subject, sans=names)

    def _other_names(self, attempt: _Attempt, change: NameChange, before: str) -> Asked:
        """RULES F3; RFC 6402, 2.8: the names that a renewal asks for in place of the certificate's. What is granted of them is F1's affair."""
        profile, identity = attempt.request.service.profile, _known(attempt.identity)
        if not profile.change_subject_name:
            raise NameRefused("the names of a certificate cannot be changed here", rule="change_subject_name")
        attempt.renamed_from = visible(before)
        if attempt.on_behalf_of is not None:
            return self._vouched_for(attempt, change.subject, change.sans)
        if profile.names == "identity" and not same_name(change.subject, identity.subject or x509.Name([])):
            shown = visible(format_dn(change.subject)) or "an empty subject"
            raise NameRefused(f"the subject {shown} is not permitted for {identity.name}", rule="names")
        return Asked(identity=identity, subject=change.subject, sans=change.sans)

    def _vouched_for(self, attempt: _Attempt, subject: x509.Name, sans: Sequence[x509.GeneralName]) -> Asked:
        profile = attempt.request.service.profile
        domains = profile.san_domains if profile.names == "identity" else ()
        return vouched_for(_known(attempt.identity), subject, sans, domains=domains)

    async def _authorise(self, attempt: _Attempt) -> Grant:
        """Names and key: what the CSR asks for, as far as identity and profile allow (RULES F1, F2, F5)."""
        service, csr = attempt.request.service, attempt.csr
        if attempt.wants_key:
            attempt.envelope = self._envelope(attempt)
            return await self._authorise_without_key(attempt)
        key = check_key(csr.public_key_der, service.profile.key_policy)
        asked = await self._asked(attempt)
        grant = authorise(
            service.profile,
            asked.identity,
            subject=asked.subject,
            sans=asked.sans,
            public_key=key,
            wants_ca=csr.wants_ca,
            asked_extensions=csr.asked_extensions(service.profile.copy_extensions),
            renewal=attempt.request.credentials.operation is Operation.SIMPLEREENROLL,
        )
        objection = await self._store.read(
            partial(
                _key_objection,
                spki=spki_sha256(csr.public_key_der),
                holder=holder_digest(grant.subject, grant.names),
                unique=service.profile.unique_keys,
            )
        )
        if objection is not None:
            raise objection
        return grant

    async def _authorise_without_key(self, attempt: _Attempt) -> Grant:
        """RFC 7030, 4.4.1: as for any other request, but its key says no more than what kind is wanted (RULES J1)."""
        if attempt.answered is not None:
            # RULES D4: the twin of the certificate whose key was lost, whatever the identity is known of by now.
            return _same_again(attempt.answered, attempt.request.service.profile)
        profile, csr = attempt.request.service.profile, attempt.csr
        asked = await self._asked(attempt)
        return authorise(
            profile,
            asked.identity,
            subject=asked.subject,
            sans=asked.sans,
            public_key=_kind_of(attempt).specimen(),
            wants_ca=csr.wants_ca,
            asked_extensions=csr.asked_extensions(profile.copy_extensions),
        )

    def _envelope(self, attempt: _Attempt) -> _Envelope | None:
        """RFC 7030, 4.4.1: whom the private key is to be encrypted to, as the request says (RULES J1)."""
        wish, profile = encrypt_to(attempt.csr), attempt.request.service.profile
        if wish is None:
            if profile.require_encrypted_key:
                detail = "private keys are only handed out encrypted: the request must name a key of yours with AsymmetricDecryptKeyIdentifier"
                raise KeyRefused(detail, reason="encryption_required", rule="require_encrypted_key")
            return None
        if wish.symmetric:
            detail = "no symmetric keys are kept here: name a key of yours with AsymmetricDecryptKeyIdentifier, not DecryptKeyIdentifier"
            raise BadCSR(detail, reason="symmetric_decrypt_key")
        recipient = self._key_encryption.find(wish.identifier, _good_certificate(attempt.certificate))
        if recipient is None:
            detail = "the key to encrypt to is not known here: name that of the client certificate by its subject key identifier, or one that an administrator has listed"
            raise BadCSR(detail, reason="unknown_decrypt_key")
        problem = unsuited(recipient)
        if problem is not None:
            raise BadCSR(
                f"nothing can be encrypted to the key that the request names: {problem}", reason="unsuited_decrypt_key"
            )
        try:
            chosen = choose(recipient, wish.capabilities)
        except ValueError as error:
            raise BadCSR(str(error), reason="csr_capabilities") from error
        if self._key_encryption.signer is None:
            detail = "the server has no key to sign an encrypted private key with"
            raise BackendFault(detail, reason="no_key_signer")
        return _Envelope(signer=self._key_encryption.signer, recipient=recipient, chosen=chosen)

    async def _names_of_reenrolment(self, attempt: _Attempt) -> tuple[x509.Name, tuple[x509.GeneralName, ...]]:
        """RFC 7030, 4.2.2: the same names, of a certificate of this label's CA (RULES B5, F2)."""
        if attempt.on_behalf_of is not None:
            return await self._names_for_another(attempt)
        request, csr = attempt.request, attempt.csr
        judged = attempt.certificate
        if judged is None or judged.certificate is None:
            msg = "a re-enrolment without a judged client certificate"
            raise AssertionError(msg)
        current = judged.certificate
        chain = await self.ca_certificates(request.service)
        if not is_issued_by(current, chain.issuer):
            detail = (
                f"client certificate was not issued by the CA of this label, which is {format_dn(chain.issuer.subject)}"
            )
            raise IdentityMismatch(detail, reason="other_ca")
        fingerprint = current.fingerprint(_SHA256).hex()
        found = await self._store.read(partial(certificates.find_by_fingerprint, fingerprint=fingerprint))
        if found is not None and found.label != request.service.name:
            where = "without a label" if found.label is None else f"at the label {found.label}"
            raise IdentityMismatch(f"client certificate was enrolled {where}, re-enrol it there", reason="other_label")
        attempt.replaces = None if found is None else fingerprint
        names = _known(attempt.identity).permitted_names
        # RFC 6402, 2.8: who asks for other names has those of its certificate in the request, whatever the profile says.
        if request.service.profile.reenrol_names == "must-match" or csr.name_change is not None:
            if not same_name(csr.subject, current.subject):
                expected = format_dn(current.subject) or "an empty subject"
                raise IdentityMismatch(
                    f"the subject must be that of the client certificate: {expected}",
                    reason="other_subject",
                    rule="reenrol_names",
                )
            if not same_general_names(csr.sans, names):
                expected = ", ".join(format_general_name(name) for name in names) or "none"
                detail = f"the subject alternative names must be those of the client certificate: {expected}"
                raise IdentityMismatch(detail, reason="other_names", rule="reenrol_names")
        return current.subject, names

    async def _names_for_another(self, attempt: _Attempt) -> tuple[x509.Name, tuple[x509.GeneralName, ...]]:
        """RULES F4; RFC 7030, 4.2.2: a registration authority renews what this label has recorded under the names of the request."""
        request, csr = attempt.request, attempt.csr
        found = await self._store.read(
            partial(
                certificates.renewable,
                ca=request.service.ca,
                label=request.service.name,
                holder_sha256=holder_of(csr.subject, csr.sans),
            )
        )
        loaded = [(recorded, recorded.load()) for recorded in found]
        same = [pair for pair in loaded if same_general_names(alternative_names(pair[1]), csr.sans)]
        if not same:
            detail = f"this label has no certificate of {attempt.on_behalf_of} that could be renewed; a new one is asked for by simpleenroll"
            raise IdentityMismatch(detail, reason="nothing_to_renew")
        spki = spki_sha256(csr.public_key_der)
        exact = [pair for pair in same if pair[0].spki_sha256 == spki]
        recorded, certificate = (exact or same)[0]
        if exact or len(same) == 1:  # of several with other keys nobody can say which is replaced
            attempt.replaces = recorded.fingerprint
        return certificate.subject, alternative_names(certificate)

    def _prove_possession(self, attempt: _Attempt) -> None:
        """RFC 7030, 3.4 and 3.5: the CSR's own signature, and this connection's binding where one is given (RULES G1).

        RFC 7030, 4.4.1: where the key is made here, key and signature of the CSR are ignored, and nothing else.
        """
        if not attempt.wants_key:
            attempt.csr.verify_possession(attempt.request.service.profile.csr_signature_hashes)
        self._link(attempt)

    def _link(self, attempt: _Attempt) -> None:
        """RFC 7030, 3.5; RFC 7894, 4. A registration authority is exempt: what it hands on was linked to its own server (RFC 7030, 3.7)."""
        if attempt.on_behalf_of is not None:
            with contextlib.suppress(ProofOfPossessionFailed):
                attempt.binding = check_binding(
                    attempt.csr.challenge_password,
                    attempt.request.credentials.connection,
                    identity_linking=attempt.csr.identity_linking,
                )
            return
        refuse_foreign_challenges(attempt.csr)
        attempt.binding = check_binding(
            attempt.csr.challenge_password,
            attempt.request.credentials.connection,
            identity_linking=attempt.csr.identity_linking,
            required=attempt.request.service.profile.channel_binding == "required",
        )

    async def _make_key(self, attempt: _Attempt, grant: Grant) -> _MadeKey:
        """RFC 7030, 4.4: a key pair, of which nothing is kept once the answer has left."""
        await self._step("make_key")
        kind = _kind_of(attempt)
        if kind.is_slow:
            if self._make_slow_key is None:
                msg = "a slow key without a thread to make it in"
                raise AssertionError(msg)
            key = await self._make_slow_key(kind)
        else:
            key = generate(kind)
        return _MadeKey(
            title=kind.title,
            public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            csr=request_for(key, subject=grant.subject, alternative_names=_alternative_names(grant)),
            part=_part_of(key, attempt.envelope),
        )

    def _order(self, attempt: _Attempt, grant: Grant, made: _MadeKey | None = None) -> Order:
        service, identity = attempt.request.service, _known(attempt.identity)
        now = self._clock()
        return Order(
            id=attempt.id,
            ca=service.ca,
            subject=grant.subject,
            public_key=attempt.csr.public_key_der if made is None else made.public_key,
            extensions=grant.extensions,
            not_before=now - service.profile.backdate,
            not_after=now + service.validity,
            csr=attempt.csr.stripped_der if made is None else made.csr,
            metadata={
                "label": service.name or "",
                "profile": service.profile.name,
                "identity": f"{identity.method}:{identity.name}",
            },
        )

    async def _sign(self, attempt: _Attempt, order: Order) -> Issued | Pending:
        """Ask the CA. From a remote one that does not answer the outcome is unknown, and the reservation stays."""
        service = attempt.request.service
        if not service.remote:
            return await self._backend_call(service.backend.issue(order))
        await self._store.write(
            partial(_begin_signing, row=self._row(attempt), exists=attempt.reserved, events=tuple(attempt.opening))
        )
        attempt.reserved, attempt.opening = True, []
        try:
            async with asyncio.timeout(self._ca_timeout.total_seconds()):
                return await service.backend.issue(order)
        except BackendError:
            raise
        except Exception as error:
            log.exception("ca_outcome_unknown", ca=service.ca, enrolment=attempt.id)
            event = EnrolmentFailed(enrolment=attempt.id, ca=service.ca, reason="unknown", detail=type(error).__name__)
            await self._store.write(partial(audit_all, events=[event]))
            raise _Unknown(
                BackendUnavailable("the certification authority did not answer", reason="ca_unknown")
            ) from error

    async def _backend_call(self, call: Coroutine[Any, Any, T]) -> T:
        """A call of a CA backend under the time-out; what it raises beyond its contract is a fault of its own."""
        try:
            async with asyncio.timeout(self._ca_timeout.total_seconds()):
                return await call
        except BackendError:
            raise
        except TimeoutError as error:
            raise BackendUnavailable("the certification authority did not answer", reason="ca_timeout") from error
        except Exception as error:
            log.exception("ca_backend_failed")
            raise BackendFault("the certification authority failed", reason="ca_failed") from error

    async def _answer_again(self, attempt: _Attempt, digest: str) -> Enrolled:
        """RULES D4: the recorded certificate, to whom proves anew that the key is theirs, on this connection."""
        await self._step("prove_possession")
        self._prove_possession(attempt)
        await self._step("record")
        answer = await self._store.write(
            partial(
                _replay,
                digest=digest,
                window=attempt.request.service.replay_window,
                presented=_fingerprint(attempt.certificate),
                events=tuple(attempt.opening),
                replayed=partial(self._replayed, attempt),
            )
        )
        return self._enrolled(attempt, _certificate_of(answer))

    async def _collect(self, attempt: _Attempt, row: enrolments.EnrolmentRow) -> Enrolled | Postponed:
        """The same request came again while the CA still had it (RFC 7030, 4.2.3)."""
        backend = attempt.request.service.backend
        attempt.reserved, attempt.opening = True, []
        if not isinstance(backend, CollectsPending):
            raise _Unknown(BackendUnavailable("the certification authority has not decided yet", reason="ca_pending"))
        grant = await self._authorise(attempt)
        self._prove_possession(attempt)
        try:
            answer = await self._backend_call(backend.collect(row.reference or ""))
        except BackendFault as fault:
            if fault.reason == "refused_by_ca":
                raise
            raise _Unknown(fault) from fault
        except BackendUnavailable as away:
            raise _Unknown(away) from away
        if isinstance(answer, Pending):
            return self._postponed(attempt, answer)
        order = replace(
            self._order(attempt, grant), not_before=row.created_at - attempt.request.service.profile.backdate
        )
        await self._check_certificate(attempt, order, answer.certificate)
        return await self._record(attempt, grant.names, answer.certificate)

    async def _postpone(self, attempt: _Attempt, answer: Pending) -> Postponed:
        if attempt.wants_key:
            # No private key is kept until a CA has decided. What it decides then is of a key that nobody has.
            log.warning("ca_decides_later", ca=attempt.request.service.ca, enrolment=attempt.id, reference=answer.ref)
            detail = "the certification authority decides later, and no private key is kept until then: make one, and use simpleenroll"
            raise BackendUnavailable(detail, retry_after=answer.retry_after, reason="ca_decides_later")
        event = CertificatePending(enrolment=attempt.id, ca=attempt.request.service.ca, reference=answer.ref)
        row = self._row(attempt)
        await self._store.write(
            partial(_set_pending, row=row, exists=attempt.reserved, ref=answer.ref, events=(*attempt.opening, event))
        )
        return self._postponed(attempt, answer)

    async def _check_certificate(self, attempt: _Attempt, order: Order, certificate: x509.Certificate) -> None:
        """RULES F6: what the CA returned is what was ordered, or it is not handed out."""
        service = attempt.request.service
        chain = await self.ca_certificates(service)
        wrong = mismatch(order, certificate, chain.issuer)
        if wrong is None:
            return
        log.error("ca_returned_another_certificate", ca=service.ca, enrolment=attempt.id, problem=wrong)
        if isinstance(service.backend, RevokesCertificates):
            try:
                await self._backend_call(service.backend.revoke(certificate, x509.ReasonFlags.superseded))
            except BackendError:
                log.exception(
                    "mismatching_certificate_not_revoked", ca=service.ca, serial=f"{certificate.serial_number:x}"
                )
        fault = BackendFault(
            "the certification authority returned another certificate than was ordered", reason="ca_mismatch"
        )
        raise fault from ValueError(wrong)

    async def _record(
        self, attempt: _Attempt, names: tuple[str, ...], certificate: x509.Certificate, made: _MadeKey | None = None
    ) -> Enrolled:
        """Guarantee 1 and 2: certificate, spent use and audit events become durable together, before the answer."""
        request, claim = attempt.request, attempt.claim
        recorded = certificates.RecordedCertificate.of(
            certificate,
            ca=request.service.ca,
            label=request.service.name,
            profile=request.service.profile.name,
            method=_known(attempt.identity).method,
            identity_name=_known(attempt.identity).name,
            enrolment=attempt.id,
            issued_at=self._clock(),
            names=names,
            replaces=attempt.replaces,
        )
        event = CertificateIssued(
            enrolment=attempt.id,
            operation=request.credentials.operation.value,
            label=request.service.name,
            method=recorded.method,
            ca=recorded.ca,
            profile=recorded.profile,
            serial=recorded.serial,
            fingerprint=recorded.fingerprint,
            subject=recorded.subject,
            names=names,
            not_before=timestamp(recorded.not_before),
            not_after=timestamp(recorded.not_after),
            channel_binding=attempt.binding,
            generated_key=None if made is None else made.title,
            key_protection=None if made is None else made.part.protection,
            key_recipient=None if made is None else made.part.recipient,
            on_behalf_of=attempt.on_behalf_of,
            renamed_from=attempt.renamed_from,
        )
        unit = partial(
            _record,
            row=self._row(attempt),
            exists=attempt.reserved,
            certificate=recorded,
            unique=request.service.profile.unique_keys,
            presented=_fingerprint(attempt.certificate),
            revoke_after=request.service.profile.revoke_replaced_after,
            spender=self._spenders.get(claim.plugin) if claim else None,
            window=None if request.service.remote else request.service.replay_window,
            opening=tuple(attempt.opening),
            issued=event,
            replayed=partial(self._replayed, attempt),
            replacing=self._replacing(attempt) if attempt.wants_key else None,
        )
        try:
            outcome = await self._store.write(unit, under_way=attempt.reserved)
        except BackendFault as fault:
            if fault.reason != "store_constraint" or attempt.digest is None:
                raise
            # Another node has recorded the same request at this very moment: its answer can be seen now (RULES D4).
            outcome = await self._store.write(unit, under_way=attempt.reserved)
        return self._enrolled(attempt, _certificate_of(outcome), made)

    def _replacing(self, attempt: _Attempt) -> _Replacing:
        service = attempt.request.service
        return _Replacing(
            window=service.replay_window,
            needed=attempt.answered is not None,
            tell=isinstance(service.backend, RevokesCertificates),
        )

    def _enrolled(self, attempt: _Attempt, certificate: x509.Certificate, made: _MadeKey | None = None) -> Enrolled:
        return Enrolled(
            certificate=certificate,
            key=None if made is None else made.part,
            challenge=attempt.challenge,
            close_connection=attempt.binding == Binding.TLS_EXPORTER,
        )

    def _postponed(self, attempt: _Attempt, answer: Pending) -> Postponed:
        return Postponed(retry_after=answer.retry_after, close_connection=attempt.binding == Binding.TLS_EXPORTER)

    async def _give_back(
        self,
        attempt: _Attempt,
        state: Literal["refused", "failed"],
        reason: str,
        detail: str,
        *,
        rule: str | None = None,
        refused_by_store: bool = False,
    ) -> bool:
        """RULES C2: a refusal or fault after the reservation gives the held use back; whether an event now tells of it."""
        if attempt.identity is None:
            return False
        request, claim = attempt.request, attempt.claim
        event: AuditEvent
        if state == "refused":
            event = CertificateRefused(
                enrolment=attempt.id,
                operation=request.credentials.operation.value,
                label=request.service.name,
                method=attempt.identity.method,
                reason=reason,
                detail=detail,
                rule=rule,
            )
        else:
            event = EnrolmentFailed(enrolment=attempt.id, ca=request.service.ca, reason=reason, detail=detail)
        settling = partial(
            _settle,
            id=attempt.id if attempt.reserved else None,
            state=state,
            reason=reason,
            spender=self._spenders.get(claim.plugin) if claim else None,
            events=(*attempt.opening, event),
        )
        if not refused_by_store:
            try:
                await self._store.write(settling, under_way=attempt.reserved)
            except BackendError as error:
                log.warning("enrolment_not_settled", enrolment=attempt.id, reason=error.reason)
            else:
                return True
        # The client need not wait for a store that is away, and neither need its use: else it came back with the end of the lease only.
        return attempt.reserved and self._store.write_later(settling)

    # -- what is written down --------------------------------------------------------------------------------------

    def _is(self, attempt: _Attempt, identity: Identity) -> None:
        """From now on the attempt is that client's, in record, log and audit."""
        attempt.identity = identity
        audit_context.set(replace(audit_context.get(), identity=f"{identity.method}:{identity.name}"))
        attempt.opening = [self._succeeded(attempt), self._requested(attempt)]

    def _digest(
        self, request: EnrolmentRequest, csr: CertificateRequest, method: str, claim: Claim | None
    ) -> str | None:
        """RULES D4: the same are token or client certificate, label and its CA, operation, and the request without challenges.

        None where no answer is given again: without a window, and for proofs that a client has any number of, such as tickets.
        """
        credential: Claim | str | None = claim
        if credential is None and method == CERTIFICATE_METHOD:
            credential = _leaf_fingerprint(request.credentials)
        if credential is None or not request.service.replay_window:
            return None
        return replay.replay_digest(
            credential,
            operation=request.credentials.operation.value,
            label=request.service.name,
            ca=request.service.ca,
            request_sha256=csr.info_sha256,
        )

    def _replayed(self, attempt: _Attempt, answer: RecordedCertificate) -> CertificateReplayed:
        return CertificateReplayed(
            enrolment=attempt.id,
            first=answer.enrolment,
            operation=attempt.request.credentials.operation.value,
            label=answer.label,
            method=_known(attempt.identity).method,
            ca=answer.ca,
            serial=answer.serial,
            fingerprint=answer.fingerprint,
            subject=answer.subject,
            issued_at=timestamp(answer.issued_at),
            channel_binding=attempt.binding,
        )

    def _row(self, attempt: _Attempt) -> enrolments.NewEnrolment:
        identity, service = _known(attempt.identity), attempt.request.service
        now = self._clock()
        return enrolments.NewEnrolment(
            id=attempt.id,
            operation=attempt.request.credentials.operation.value,
            label=service.name,
            method=identity.method,
            identity_name=identity.name,
            claim=attempt.claim,
            ca=service.ca,
            profile=service.profile.name,
            request_sha256=attempt.csr.info_sha256,
            csr=attempt.csr.stripped_der,
            process=self._process,
            lease_until=now + self._ca_timeout + LEASE_MARGIN,
            created_at=now,
            replay_sha256=attempt.digest,
        )

    def _succeeded(self, attempt: _Attempt) -> AuthenticationSucceeded:
        identity, request = _known(attempt.identity), attempt.request
        return AuthenticationSucceeded(
            method=identity.method,
            subject_name=identity.name,
            operation=request.credentials.operation.value,
            label=request.service.name,
            also=tuple(f"{other.method}:{visible(other.name)}" for other in attempt.also),
            expired_at=self._expired_at(identity, request.credentials),
        )

    def _expired_at(self, identity: Identity, credentials: Credentials) -> str | None:
        """RULES B4: who renews with an expired certificate is told apart in the audit log."""
        presented = credentials.connection.presented
        if identity.method != CERTIFICATE_METHOD or presented is None or presented.leaf is None:
            return None
        end = presented.leaf.not_valid_after_utc
        return timestamp(end) if end < self._clock() else None

    def _requested(self, attempt: _Attempt) -> CertificateRequested:
        csr, request = attempt.csr, attempt.request
        return CertificateRequested(
            enrolment=attempt.id,
            operation=request.credentials.operation.value,
            label=request.service.name,
            method=_known(attempt.identity).method,
            subject=format_dn(csr.subject),
            names=tuple(format_general_name(name) for name in csr.sans),
            key=csr.key_description,
            request_sha256=csr.info_sha256,
            on_behalf_of=attempt.on_behalf_of,
        )


class _Unknown(Exception):
    """What became of the order is not known, so nothing is given back: the client hears `error`, recovery finds out."""

    def __init__(self, error: BackendError) -> None:
        super().__init__(error.detail)
        self.error = error


def _known(learned: T | None) -> T:
    if learned is None:
        msg = "a step of the enrolment ran before the client was recognised"
        raise AssertionError(msg)
    return learned


def _kind_of(attempt: _Attempt) -> KeyKind:
    """Which kind of key is made. Raises `KeyRefused` where the profile takes none that could be."""
    answered = attempt.answered
    if answered is not None:
        asked = describe_key(x509.load_der_x509_certificate(answered.der).public_key())
    else:
        asked = attempt.csr.key_description
    profile = attempt.request.service.profile
    kind = kind_for(asked, profile.key_policy, profile.generated_key)
    if kind is None:
        raise KeyRefused(
            f"the profile {profile.name} accepts no key of a kind that is made here",
            reason="no_kind_of_key",
            rule="key_types",
        )
    return kind


def _part_of(key: GeneratedKey, envelope: _Envelope | None) -> KeyPart:
    if envelope is None:
        return plain_key(key)
    return encrypted_key(key, signer=envelope.signer, recipient=envelope.recipient, chosen=envelope.chosen)


def _alternative_names(grant: Grant) -> x509.Extension[x509.ExtensionType] | None:
    found = (item for item in grant.extensions if item.oid == x509.SubjectAlternativeName.oid)
    return next(found, None)


def _same_again(answered: RecordedCertificate, profile: Profile) -> Grant:
    """What was granted when this certificate was ordered; where CRL and the like are to be found, as it is today."""
    certificate = x509.load_der_x509_certificate(answered.der)
    extensions = ordered_extensions(certificate)
    present = {extension.oid for extension in extensions}
    pointers = [pointer for pointer in profile.issuance.pointers() if pointer.oid not in present]
    return Grant(
        subject=certificate.subject,
        extensions=(*extensions, *(x509.Extension(pointer.oid, critical=False, value=pointer) for pointer in pointers)),
        names=answered.names,
    )


def _certificate_of(answer: RecordedCertificate | RequestError | BackendError) -> x509.Certificate:
    if isinstance(answer, RecordedCertificate):
        return x509.load_der_x509_certificate(answer.der)
    raise answer


def _leaf_fingerprint(credentials: Credentials) -> str | None:
    presented = credentials.connection.presented
    return None if presented is None or presented.leaf is None else presented.leaf.fingerprint(_SHA256).hex()


def _good_certificate(judged: ClientCertificate | None) -> x509.Certificate | None:
    """The client certificate that the request was made with, if it is good."""
    return None if judged is None or judged.problem is not None else judged.certificate


def _fingerprint(judged: ClientCertificate | None) -> str | None:
    certificate = _good_certificate(judged)
    return None if certificate is None else certificate.fingerprint(_SHA256).hex()


# -- units of the writer: pure functions of the transaction and their arguments ----------------------------------------


def _reserve(
    tx: Tx,
    *,
    row: enrolments.NewEnrolment,
    spender: SpendsOnIssue | None,
    hold: bool,
    window: timedelta,
    events: tuple[AuditEvent, ...],
) -> enrolments.EnrolmentRow | RecordedCertificate | Denied | None:
    """An earlier attempt that is pending, what the same request has led to just now, a denial (nothing was written in either
    case), or None: the use is held.
    """
    earlier = enrolments.find_pending(tx, row)
    if earlier is not None:
        tx.audit(events[0])
        return earlier
    if hold:
        denied = enrolments.start(tx, row, spender)
        if denied is not None:
            spent = denied.spent is not None and row.replay_sha256 is not None
            answered = replay.find(tx, row.replay_sha256 or "", window=window) if spent else None
            return answered or denied
        audit_all(tx, events=events)
    return None


def _begin_signing(tx: Tx, *, row: enrolments.NewEnrolment, exists: bool, events: tuple[AuditEvent, ...]) -> None:
    if exists:
        enrolments.begin_signing(tx, row.id)
    else:
        enrolments.start(tx, row, None, signing=True)
    audit_all(tx, events=events)


def _set_pending(
    tx: Tx, *, row: enrolments.NewEnrolment, exists: bool, ref: str, events: tuple[AuditEvent, ...]
) -> None:
    if not exists:
        enrolments.start(tx, row, None)
    enrolments.set_pending(tx, row.id, ref)
    audit_all(tx, events=events)


def _record(
    tx: Tx,
    *,
    row: enrolments.NewEnrolment,
    exists: bool,
    certificate: certificates.RecordedCertificate,
    unique: bool,
    presented: str | None,
    revoke_after: timedelta | None,
    spender: SpendsOnIssue | None,
    window: timedelta | None,
    opening: tuple[AuditEvent, ...],
    issued: CertificateIssued,
    replayed: Callable[[RecordedCertificate], CertificateReplayed],
    replacing: _Replacing | None = None,
) -> RecordedCertificate | RequestError | BackendError:
    """The certificate that may be handed out, which is recorded; or what stands against it (nothing was written).

    It is an earlier one where the same request was answered while this one was under way: what a CA of this process has signed is
    then forgotten before anybody has seen it. A remote CA (`window` None) knows it by now, so it is recorded and handed out.
    With `replacing`, where the earlier one's private key is lost, it is the earlier one that goes: it is revoked.
    """
    objection = _revoked_meanwhile(tx, presented, certificate.replaces, schedules=revoke_after is not None)
    if objection is not None:
        return objection
    if unique:
        certificates.lock_key(tx, certificate.spki_sha256)
    objection = _key_objection(tx, spki=certificate.spki_sha256, holder=certificate.holder_sha256, unique=unique)
    if objection is not None:
        return objection
    answered = None
    superseded = None
    if replacing is not None:
        superseded = _replace_first(tx, row.replay_sha256, replacing)
        if isinstance(superseded, BackendError):
            return superseded
    elif window is not None and row.replay_sha256 is not None:
        answered = replay.find(tx, row.replay_sha256, window=window)
    if answered is not None:
        if exists:
            enrolments.settle(tx, row.id, state="replayed", reason="answered_meanwhile", spender=spender)
        audit_all(tx, events=(*opening, replayed(answered)))
        return answered
    enrolments.record(tx, row, certificate, spender, exists=exists)
    if certificate.replaces is not None and revoke_after is not None:
        replaced.schedule(tx, certificate.replaces, certificate.issued_at + revoke_after)
    audit_all(tx, events=(*opening, *([] if superseded is None else [superseded]), issued))
    return certificate


@dataclass(frozen=True, kw_only=True, slots=True)
class _Replacing:
    """RULES D4 where the server made the key: the certificate that the same request led to before is revoked for the new one.

    `needed`: there must be one, since nothing is spent on the new one. `tell`: its CA is to be told.
    """

    window: timedelta
    needed: bool
    tell: bool


def _replace_first(tx: Tx, digest: str | None, replacing: _Replacing) -> CertificateRevoked | BackendUnavailable | None:
    """Revoke what the same request led to before, if anything; or what stands against it (nothing was written)."""
    first = None if digest is None else replay.find(tx, digest, window=replacing.window)
    event = None if first is None else certificates.supersede(tx, first, tell=replacing.tell, comment=_KEY_LOST)
    return _no_longer_to_be_had() if event is None and replacing.needed else event


_KEY_LOST = "its private key was asked for again, and is kept nowhere"


def _no_longer_to_be_had() -> BackendUnavailable:
    detail = "the certificate that this request led to is no longer to be had, try again"
    return BackendUnavailable(detail, retry_after=timedelta(seconds=1), reason="replay_ended")


def _revoked_meanwhile(tx: Tx, presented: str | None, replaces: str | None, *, schedules: bool) -> RequestError | None:
    """RULES B2: a certificate that was revoked while this request was under way neither proves anything nor gets a successor."""
    if presented is not None and certificates.is_revoked(tx, presented, to_change=schedules and presented == replaces):
        return CertificateRequired(CertificateProblem.REVOKED.value, reason="revoked")
    if replaces not in {None, presented} and certificates.is_revoked(tx, replaces or "", to_change=schedules):
        return IdentityMismatch("the certificate that is to be renewed was revoked", reason="nothing_to_renew")
    return None


def _replay(
    tx: Tx,
    *,
    digest: str,
    window: timedelta,
    presented: str | None,
    events: tuple[AuditEvent, ...],
    replayed: Callable[[RecordedCertificate], CertificateReplayed],
) -> RecordedCertificate | RequestError | BackendError:
    """What is handed out again, looked at once more and with its event; or what stands against it (nothing was written)."""
    if presented is not None and certificates.is_revoked(tx, presented):
        return CertificateRequired(CertificateProblem.REVOKED.value, reason="revoked")  # as in `_record`
    answered = replay.find(tx, digest, window=window)
    if answered is None or certificates.is_revoked(tx, answered.fingerprint):
        return _no_longer_to_be_had()
    objection = _key_objection(tx, spki=answered.spki_sha256, holder=answered.holder_sha256, unique=False)
    if objection is not None:
        return objection
    audit_all(tx, events=(*events, replayed(answered)))
    return answered


def _settle(
    tx: Tx,
    *,
    id: str | None,  # noqa: A002 - the column's name
    state: Literal["refused", "failed"],
    reason: str,
    spender: SpendsOnIssue | None,
    events: tuple[AuditEvent, ...],
) -> None:
    if id is not None:
        enrolments.settle(tx, id, state=state, reason=reason, spender=spender)
    audit_all(tx, events=events)


def _settle_if_held(
    tx: Tx,
    *,
    id: str,  # noqa: A002 - the column's name
    spender: SpendsOnIssue | None,
    event: EnrolmentFailed,
) -> None:
    """End a reservation of which nobody knows whether it was committed; where it was not, nothing is told of it."""
    if enrolments.settle(tx, id, state="failed", reason=event.reason, spender=spender):
        tx.audit(event)


def _key_objection(tx: ReadTx, *, spki: str, holder: str, unique: bool) -> KeyRefused | None:
    """RULES F5: not a key that was revoked for compromise, nor one that another name's certificate has."""
    standing = certificates.key_standing(tx, spki_sha256=spki, holder_sha256=holder)
    if standing.compromised:
        return KeyRefused("the key was revoked for compromise, make a new one", reason="key_compromised")
    if unique and standing.has_another_holder:
        return KeyRefused(
            "the key is recorded for another name, make a new one",
            reason="unique_keys",
            rule="unique_keys",
        )
    return None
