"""Whose names an enrolment asks for: the client's own, those of its certificate, others instead, or somebody else's.

In the room: re-enrolment (RULES B5, F2), changed names (F3) and registration authorities (F4). Not in the room: what of it is granted
(`kipuka.x509.profiles`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from kipuka.api import (
    BadCSR,
    CertificateChain,
    IdentityMismatch,
    NameRefused,
    NotPermitted,
    Operation,
)
from kipuka.distinguished_names import format_dn, parse_dn, visible
from kipuka.enrolment.attempt import Attempt, LabelService, known
from kipuka.est.csr import NameChange
from kipuka.mtls import CERTIFICATE_METHOD, alternative_names
from kipuka.store import certificates, name_changes
from kipuka.store.database import Store
from kipuka.store.name_changes import NameChangeApproval
from kipuka.x509.issued import is_issued_by
from kipuka.x509.keys import spki_sha256
from kipuka.x509.names import format_general_name, parse_general_name, same_general_names, same_name
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

__all__ = ["AskedNames"]

_SHA256 = hashes.SHA256()


class AskedNames:
    """Finds out whose names a request asks for, and who is to have them."""

    def __init__(self, store: Store, issuer: Callable[[LabelService], Awaitable[CertificateChain]]) -> None:
        self._store = store
        self._chain_of = issuer

    async def stand_in(self, attempt: Attempt) -> bool:
        """RULES F4; RFC 7030, 3.7: whether a registration authority asks for somebody else.

        A certificate that was meant to be one's, and is not one's here, is refused where it asks for others' names: to go on would issue
        a certificate in the authority's own name to a stranger. Raises `NotPermitted`.
        """
        service, csr, judged = attempt.request.service, attempt.csr, attempt.certificate
        if known(attempt.identity).method != CERTIFICATE_METHOD or judged is None or judged.certificate is None:
            return False
        certificate, listed = judged.certificate, service.registration_authorities
        if not is_candidate(certificate, listed) or not asks_for_others(certificate, csr.subject, csr.sans):
            return False
        chain = await self._chain_of(service)
        own_ca = is_issued_by(certificate, chain.issuer)
        lacks = shortcoming(certificate, listed, recorded=judged.recorded, own_ca=own_ca)
        if lacks is not None:
            detail = f"only a registration authority may ask for another's names, and this client certificate is not one's: {lacks.text}"
            raise NotPermitted(detail, reason=lacks.value)
        attempt.on_behalf_of = visible(whom(csr.subject, csr.sans))
        return True

    async def asked(self, attempt: Attempt) -> Asked:
        """Whose names are asked for, and who is to have them: the client, or whom a registration authority speaks for."""
        csr, identity = attempt.csr, known(attempt.identity)
        subject, names = csr.subject, tuple(csr.sans)
        renewal = attempt.request.credentials.operation is Operation.SIMPLEREENROLL
        if csr.name_change is not None and not renewal:
            detail = "a ChangeSubjectName goes with simplereenroll: a first certificate has the names of its request"
            raise BadCSR(detail, reason="name_change_misplaced")
        if renewal:
            subject, names = await self._names_of_reenrolment(attempt)
            if csr.name_change is not None:
                return await self._other_names(attempt, csr.name_change, whom(subject, names))
            if attempt.on_behalf_of is not None:
                return renewed_for(identity, subject, names)
        elif attempt.on_behalf_of is not None:
            return self._vouched_for(attempt, subject, names)
        return Asked(identity=identity, subject=subject, sans=names)

    async def _other_names(self, attempt: Attempt, change: NameChange, before: str) -> Asked:
        """RULES F3; RFC 6402, 2.8: the names that a renewal asks for in place of the certificate's. What is granted of them is F1's affair."""
        profile, identity = attempt.request.service.profile, known(attempt.identity)
        if not profile.change_subject_name:
            raise NameRefused("the names of a certificate cannot be changed here", rule="change_subject_name")
        attempt.renamed_from = visible(before)
        if attempt.on_behalf_of is not None:
            return self._vouched_for(attempt, change.subject, change.sans)
        attempt.approval = await self._approval(attempt, change)
        if attempt.approval is not None:
            return renewed_for(identity, change.subject, change.sans)
        if profile.names == "identity" and not same_name(change.subject, identity.subject or x509.Name([])):
            shown = visible(format_dn(change.subject)) or "an empty subject"
            raise NameRefused(f"the subject {shown} is not permitted for {identity.name}", rule="names")
        return Asked(identity=identity, subject=change.subject, sans=change.sans)

    async def _approval(self, attempt: Attempt, change: NameChange) -> NameChangeApproval | None:
        """RULES F3: an administrator's word for just these names, where there is one for the certificate that is renewed."""
        if attempt.replaces is None:
            return None
        found = await self._store.read(partial(name_changes.find, certificate=attempt.replaces))
        if found is None or not same_name(parse_dn(found.subject), change.subject):
            return None
        names = [parse_general_name(name) for name in found.names]
        return found if same_general_names(names, change.sans) else None

    def _vouched_for(self, attempt: Attempt, subject: x509.Name, sans: Sequence[x509.GeneralName]) -> Asked:
        profile = attempt.request.service.profile
        domains = profile.san_domains if profile.names == "identity" else ()
        return vouched_for(known(attempt.identity), subject, sans, domains=domains)

    async def _names_of_reenrolment(self, attempt: Attempt) -> tuple[x509.Name, tuple[x509.GeneralName, ...]]:
        """RFC 7030, 4.2.2: the same names, of a certificate of this label's CA (RULES B5, F2)."""
        if attempt.on_behalf_of is not None:
            return await self._names_for_another(attempt)
        request, csr = attempt.request, attempt.csr
        judged = attempt.certificate
        if judged is None or judged.certificate is None:
            msg = "a re-enrolment without a judged client certificate"
            raise AssertionError(msg)
        current = judged.certificate
        chain = await self._chain_of(request.service)
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
        names = known(attempt.identity).permitted_names
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

    async def _names_for_another(self, attempt: Attempt) -> tuple[x509.Name, tuple[x509.GeneralName, ...]]:
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
