"""The use case: the business rule, step by step, in the order and with the names of docs/explanation/enrolment-cycle.md.

In the room: the steps, and the promise that from the reservation on an enrolment no longer depends on the client. Not in the room: HTTP, whose names
are asked for (`kipuka.enrolment.asked`), keys that are made here (`kipuka.enrolment.keys`), what is written in each transaction
(`kipuka.enrolment.units`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal, TypeVar

import structlog
from cryptography import x509

from kipuka.api import (
    Authenticated,
    AuthenticationSucceeded,
    BackendFault,
    BackendUnavailable,
    CertificateChain,
    CertificateIssued,
    CertificatePending,
    CertificateRefused,
    CertificateReplayed,
    CertificateRequested,
    Claim,
    CollectsPending,
    Credentials,
    DenialKind,
    Denied,
    EnrolmentFailed,
    FindsOrders,
    Identity,
    Issued,
    Operation,
    Order,
    Pending,
    ProofOfPossessionFailed,
    RevokesCertificates,
    SpendsOnIssue,
    timestamp,
)
from kipuka.api.errors import BackendError, RequestError
from kipuka.api.events import AuditEvent
from kipuka.audit.gate import AuditGate
from kipuka.distinguished_names import format_dn, visible
from kipuka.enrolment import units
from kipuka.enrolment.asked import AskedNames
from kipuka.enrolment.attempt import (
    Attempt,
    Enrolled,
    EnrolmentRequest,
    LabelService,
    MadeKey,
    Postponed,
    fingerprint,
    known,
    leaf_fingerprint,
)
from kipuka.enrolment.authority import ask_authority, blame
from kipuka.enrolment.keys import Keys, MakeSlowKey, kind_of, same_again
from kipuka.est.binding import MISMATCH, Binding, check_binding, refuse_foreign_challenges
from kipuka.est.csr import CertificateRequest
from kipuka.est.enveloped import KeyEncryption
from kipuka.est.wire import decode_request
from kipuka.mtls import CERTIFICATE_METHOD
from kipuka.store import certificates, enrolments, replay
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.context import audit_context
from kipuka.store.database import Store, is_of_store, is_unknown
from kipuka.store.events import audit_all
from kipuka.x509.issued import mismatch
from kipuka.x509.keys import check_key, spki_sha256
from kipuka.x509.names import format_general_name, holder_digest
from kipuka.x509.profiles import Grant, authorise

__all__ = ["Checkpoint", "Enrolment"]

log = structlog.get_logger(__name__)

T = TypeVar("T")
Checkpoint = Callable[[str], Awaitable[None]]
LEASE_MARGIN = timedelta(seconds=60)
"""How much longer than the CA may take a reservation is held for a live server."""


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
        self._keys = Keys(make_slow_key, key_encryption or KeyEncryption())
        self._names = AskedNames(store, self.ca_certificates)
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
        attempt = Attempt(id=secrets.token_hex(16), request=request, csr=csr)
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
        return await self._backend_call(service, service.backend.ca_certificates())

    async def drain(self) -> None:
        """Wait for every enrolment that was begun."""
        while self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def _step(self, name: str) -> None:
        if self._checkpoint is not None:
            await self._checkpoint(name)

    # -- the steps -------------------------------------------------------------------------------------------------

    async def _complete_and_close(self, attempt: Attempt) -> Enrolled | Postponed:
        """RFC 9266, 4.1; RULES G2: a connection whose tls-exporter was compared is good for nothing more, however that ended."""
        try:
            return await self._complete(attempt)
        except (RequestError, BackendError) as error:
            compared = attempt.binding == Binding.TLS_EXPORTER or error.reason == MISMATCH
            error.closes_connection = compared and attempt.request.credentials.connection.tls_version == "TLSv1.3"
            raise

    async def _complete(self, attempt: Attempt) -> Enrolled | Postponed:
        await self._authenticate_and_reserve(attempt)
        try:
            if await self._names.stand_in(attempt):
                attempt.opening = [self._succeeded(attempt), self._requested(attempt)]
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
                attempt,
                "failed",
                error.reason,
                error.detail,
                refused_by_store=is_of_store(error),
                plugin=error.plugin,
            )
            raise
        except BaseException:
            await self._give_back(attempt, "failed", "internal_error", "an unexpected error")
            raise

    async def _authenticate_and_reserve(self, attempt: Attempt) -> None:
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

    async def _reserve(self, attempt: Attempt, authenticated: Authenticated) -> Denied | None:
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
        held = await self._hold(attempt, claim, spender)
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

    async def _hold(
        self, attempt: Attempt, claim: Claim | None, spender: SpendsOnIssue | None
    ) -> Denied | RecordedCertificate | enrolments.EnrolmentRow | None:
        """The transaction of the reservation: what stands in its way, or what makes it needless."""
        try:
            return await self._store.write(
                partial(
                    units.reserve,
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
                self._store.write_later(partial(units.settle_if_held, id=attempt.id, spender=spender, event=event))
            raise
        except BackendFault as fault:
            if fault.reason != enrolments.SPENDER_FAILED:
                raise
            # As where `authenticate` fails: the method cannot say now, and another one may still win.
            return Denied(
                detail=fault.detail,
                reason=fault.reason,
                kind=DenialKind.BUSY,
                retry_after=fault.retry_after,
                name=known(attempt.identity).name,
                explanation=f"{fault.plugin} failed to hold the use: {type(fault.__cause__).__name__}",
            )

    async def _recall(self, attempt: Attempt, method: str, claim: Claim) -> bool:
        """RULES D4: a spent credential still asks for the answer that it was spent on, and for nothing else."""
        digest = self._digest(attempt.request, attempt.csr, method, claim)
        if not await self._was_answered(attempt, digest):
            return False
        attempt.digest = digest
        self._is(attempt, Identity(method=method, name=known(attempt.answered).identity_name))
        return True

    async def _was_answered(self, attempt: Attempt, digest: str | None) -> bool:
        """Whether this very request has a certificate already that may be handed out again; nothing is spent then."""
        if digest is None:
            return False
        window = attempt.request.service.replay_window
        attempt.answered = await self._store.read(partial(replay.find, digest=digest, window=window))
        if attempt.answered is not None:
            attempt.claim = None
        return attempt.answered is not None

    async def _authorise(self, attempt: Attempt) -> Grant:
        """Names and key: what the CSR asks for, as far as identity and profile allow (RULES F1, F2, F5)."""
        service, csr = attempt.request.service, attempt.csr
        if attempt.wants_key:
            attempt.envelope = self._keys.envelope(attempt)
            return await self._authorise_without_key(attempt)
        key = check_key(csr.public_key_der, service.profile.key_policy)
        asked = await self._names.asked(attempt)
        grant = authorise(
            service.profile,
            asked.identity,
            subject=asked.subject,
            sans=asked.sans,
            public_key=key,
            wants_ca=csr.wants_ca,
            asked_extensions=csr.asked_extensions(service.profile.copy_extensions),
            renewal=attempt.request.credentials.operation is Operation.SIMPLEREENROLL and attempt.renamed_from is None,
        )
        objection = await self._store.read(
            partial(
                units.key_objection,
                spki=spki_sha256(csr.public_key_der),
                holder=holder_digest(grant.subject, grant.names),
                unique=service.profile.unique_keys,
            )
        )
        if objection is not None:
            raise objection
        return grant

    async def _authorise_without_key(self, attempt: Attempt) -> Grant:
        """RFC 7030, 4.4.1: as for any other request, but its key says no more than what kind is wanted (RULES J1)."""
        if attempt.answered is not None:
            # RULES D4: the twin of the certificate whose key was lost, whatever the identity is known of by now.
            return same_again(attempt.answered, attempt.request.service.profile)
        profile, csr = attempt.request.service.profile, attempt.csr
        asked = await self._names.asked(attempt)
        return authorise(
            profile,
            asked.identity,
            subject=asked.subject,
            sans=asked.sans,
            public_key=kind_of(attempt).specimen(),
            wants_ca=csr.wants_ca,
            asked_extensions=csr.asked_extensions(profile.copy_extensions),
        )

    def _prove_possession(self, attempt: Attempt) -> None:
        """RFC 7030, 3.4 and 3.5: the CSR's own signature, and this connection's binding where one is given (RULES G1).

        RFC 7030, 4.4.1: where the key is made here, key and signature of the CSR are ignored, and nothing else.
        """
        if not attempt.wants_key:
            attempt.csr.verify_possession(attempt.request.service.profile.csr_signature_hashes)
        self._link(attempt)

    def _link(self, attempt: Attempt) -> None:
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

    async def _make_key(self, attempt: Attempt, grant: Grant) -> MadeKey:
        """RFC 7030, 4.4: a key pair, of which nothing is kept once the answer has left."""
        await self._step("make_key")
        return await self._keys.make(attempt, grant)

    def _order(self, attempt: Attempt, grant: Grant, made: MadeKey | None = None) -> Order:
        service, identity = attempt.request.service, known(attempt.identity)
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

    async def _sign(self, attempt: Attempt, order: Order) -> Issued | Pending:
        """Ask the CA. From a remote one that does not answer the outcome is unknown, and the reservation stays."""
        service = attempt.request.service
        if not service.remote:
            return await self._backend_call(service, service.backend.issue(order))
        await self._store.write(
            partial(units.begin_signing, row=self._row(attempt), exists=attempt.reserved, events=tuple(attempt.opening))
        )
        attempt.reserved, attempt.opening = True, []
        try:
            async with asyncio.timeout(self._ca_timeout.total_seconds()):
                return await service.backend.issue(order)
        except BackendError as error:
            blame(error, service.plugin)
            raise
        except Exception as error:
            log.exception("ca_outcome_unknown", ca=service.ca, plugin=service.plugin, enrolment=attempt.id)
            event = EnrolmentFailed(
                enrolment=attempt.id,
                ca=service.ca,
                reason="unknown",
                detail=type(error).__name__,
                plugin=service.plugin,
            )
            await self._store.write(partial(audit_all, events=[event]))
            unknown = BackendUnavailable("the certification authority did not answer", reason="ca_unknown")
            raise _Unknown(blame(unknown, service.plugin)) from error

    async def _backend_call(self, service: LabelService, call: Coroutine[Any, Any, T]) -> T:
        """A call of this label's CA. Raises `BackendError`."""
        return await ask_authority(call, ca=service.ca, plugin=service.plugin, patience=self._ca_timeout)

    async def _answer_again(self, attempt: Attempt, digest: str) -> Enrolled:
        """RULES D4: the recorded certificate, to whom proves anew that the key is theirs, on this connection."""
        await self._step("prove_possession")
        self._prove_possession(attempt)
        await self._step("record")
        answer = await self._store.write(
            partial(
                units.replay_answer,
                digest=digest,
                window=attempt.request.service.replay_window,
                presented=fingerprint(attempt.certificate),
                events=tuple(attempt.opening),
                replayed=partial(self._replayed, attempt),
            )
        )
        return self._enrolled(attempt, _certificate_of(answer))

    async def _collect(self, attempt: Attempt, row: enrolments.EnrolmentRow) -> Enrolled | Postponed:
        """The same request came again while the CA still had it (RFC 7030, 4.2.3)."""
        backend = attempt.request.service.backend
        attempt.reserved, attempt.opening = True, []
        if not isinstance(backend, CollectsPending):
            raise _Unknown(BackendUnavailable("the certification authority has not decided yet", reason="ca_pending"))
        grant = await self._authorise(attempt)
        self._prove_possession(attempt)
        try:
            answer = await self._backend_call(attempt.request.service, backend.collect(row.reference or ""))
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

    async def _postpone(self, attempt: Attempt, answer: Pending) -> Postponed:
        if attempt.wants_key:
            # No private key is kept until a CA has decided. What it decides then is of a key that nobody has.
            log.warning("ca_decides_later", ca=attempt.request.service.ca, enrolment=attempt.id, reference=answer.ref)
            detail = "the certification authority decides later, and no private key is kept until then: make one, and use simpleenroll"
            raise BackendUnavailable(detail, retry_after=answer.retry_after, reason="ca_decides_later")
        event = CertificatePending(enrolment=attempt.id, ca=attempt.request.service.ca, reference=answer.ref)
        row = self._row(attempt)
        await self._store.write(
            partial(
                units.set_pending, row=row, exists=attempt.reserved, ref=answer.ref, events=(*attempt.opening, event)
            )
        )
        return self._postponed(attempt, answer)

    async def _check_certificate(self, attempt: Attempt, order: Order, certificate: x509.Certificate) -> None:
        """RULES F6: what the CA returned is what was ordered, or it is not handed out."""
        service = attempt.request.service
        chain = await self.ca_certificates(service)
        wrong = mismatch(order, certificate, chain.issuer)
        if wrong is None:
            return
        log.error("ca_returned_another_certificate", ca=service.ca, enrolment=attempt.id, problem=wrong)
        if isinstance(service.backend, RevokesCertificates):
            try:
                await self._backend_call(service, service.backend.revoke(certificate, x509.ReasonFlags.superseded))
            except BackendError:
                log.exception(
                    "mismatching_certificate_not_revoked", ca=service.ca, serial=f"{certificate.serial_number:x}"
                )
        fault = BackendFault(
            "the certification authority returned another certificate than was ordered", reason="ca_mismatch"
        )
        raise blame(fault, service.plugin) from ValueError(wrong)

    async def _record(
        self, attempt: Attempt, names: tuple[str, ...], certificate: x509.Certificate, made: MadeKey | None = None
    ) -> Enrolled:
        """Guarantee 1 and 2: certificate, spent use and audit events become durable together, before the answer."""
        request, claim = attempt.request, attempt.claim
        recorded = certificates.RecordedCertificate.of(
            certificate,
            ca=request.service.ca,
            label=request.service.name,
            profile=request.service.profile.name,
            method=known(attempt.identity).method,
            identity_name=known(attempt.identity).name,
            enrolment=attempt.id,
            issued_at=self._clock(),
            names=names,
            replaces=attempt.replaces,
        )
        attempt.signed = recorded
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
            units.record,
            row=self._row(attempt),
            exists=attempt.reserved,
            certificate=recorded,
            unique=request.service.profile.unique_keys,
            presented=fingerprint(attempt.certificate),
            revoke_after=request.service.profile.revoke_replaced_after,
            approval=attempt.approval,
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

    def _replacing(self, attempt: Attempt) -> units.Replacing:
        service = attempt.request.service
        return units.Replacing(
            window=service.replay_window,
            needed=attempt.answered is not None,
            tell=isinstance(service.backend, RevokesCertificates),
        )

    def _enrolled(self, attempt: Attempt, certificate: x509.Certificate, made: MadeKey | None = None) -> Enrolled:
        return Enrolled(
            certificate=certificate,
            key=None if made is None else made.part,
            challenge=attempt.challenge,
            close_connection=attempt.binding == Binding.TLS_EXPORTER,
        )

    def _postponed(self, attempt: Attempt, answer: Pending) -> Postponed:
        return Postponed(retry_after=answer.retry_after, close_connection=attempt.binding == Binding.TLS_EXPORTER)

    async def _give_back(
        self,
        attempt: Attempt,
        state: Literal["refused", "failed"],
        reason: str,
        detail: str,
        *,
        rule: str | None = None,
        refused_by_store: bool = False,
        plugin: str | None = None,
    ) -> bool:
        """RULES C2: a refusal or fault after the reservation gives the held use back; whether an event now tells of it.

        What a CA has signed by then is recorded as revoked where somebody beside this process knows of it, a remote CA or the plugin of the claim.
        """
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
            event = EnrolmentFailed(
                enrolment=attempt.id, ca=request.service.ca, reason=reason, detail=detail, plugin=plugin
            )
        unwanted = self._unwanted(attempt, reason)
        settling = partial(
            units.settle,
            id=attempt.id if attempt.reserved else None,
            state=state,
            reason=reason,
            spender=self._spenders.get(claim.plugin) if claim else None,
            events=(*attempt.opening, event),
            unwanted=unwanted,
        )
        if not refused_by_store:
            try:
                await self._store.write(settling, under_way=attempt.reserved)
            except BackendError as error:
                log.warning("enrolment_not_settled", enrolment=attempt.id, reason=error.reason, plugin=error.plugin)
                if error.reason == enrolments.SPENDER_FAILED:
                    # The recovery tries to give the use back again when the lease has run out; what happened is told now. Of a CA that can say
                    # what it has signed the recovery hears it again, and tries to spend the use first.
                    found_again = request.service.remote and isinstance(request.service.backend, FindsOrders)
                    return await self._tell((*attempt.opening, event), None if found_again else unwanted)
            else:
                return True
        # The client need not wait for a store that is away, and neither need its use: else it came back with the end of the lease only.
        return attempt.reserved and self._store.write_later(settling)

    def _unwanted(self, attempt: Attempt, reason: str) -> units.Unwanted | None:
        service = attempt.request.service
        if attempt.signed is None or not (service.remote or reason == enrolments.SPENDER_FAILED):
            return None
        return units.Unwanted(certificate=attempt.signed, tell=isinstance(service.backend, RevokesCertificates))

    async def _tell(self, events: tuple[AuditEvent, ...], unwanted: units.Unwanted | None) -> bool:
        try:
            await self._store.write(partial(units.tell, events=events, unwanted=unwanted))
        except BackendError as error:
            log.error("event_not_recorded", event_name=events[-1].name, reason=error.reason)
            return False
        return True

    # -- what is written down --------------------------------------------------------------------------------------

    def _is(self, attempt: Attempt, identity: Identity) -> None:
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
            credential = leaf_fingerprint(request.credentials)
        if credential is None or not request.service.replay_window:
            return None
        return replay.replay_digest(
            credential,
            operation=request.credentials.operation.value,
            label=request.service.name,
            ca=request.service.ca,
            request_sha256=csr.info_sha256,
        )

    def _replayed(self, attempt: Attempt, answer: RecordedCertificate) -> CertificateReplayed:
        return CertificateReplayed(
            enrolment=attempt.id,
            first=answer.enrolment,
            operation=attempt.request.credentials.operation.value,
            label=answer.label,
            method=known(attempt.identity).method,
            ca=answer.ca,
            serial=answer.serial,
            fingerprint=answer.fingerprint,
            subject=answer.subject,
            issued_at=timestamp(answer.issued_at),
            channel_binding=attempt.binding,
        )

    def _row(self, attempt: Attempt) -> enrolments.NewEnrolment:
        identity, service = known(attempt.identity), attempt.request.service
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
            replaces=attempt.replaces,
        )

    def _succeeded(self, attempt: Attempt) -> AuthenticationSucceeded:
        identity, request = known(attempt.identity), attempt.request
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

    def _requested(self, attempt: Attempt) -> CertificateRequested:
        csr, request = attempt.csr, attempt.request
        return CertificateRequested(
            enrolment=attempt.id,
            operation=request.credentials.operation.value,
            label=request.service.name,
            method=known(attempt.identity).method,
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


def _certificate_of(answer: RecordedCertificate | RequestError | BackendError) -> x509.Certificate:
    if isinstance(answer, RecordedCertificate):
        return answer.load()
    raise answer
