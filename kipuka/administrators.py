"""Who may use the admin interface: by client certificate, by bearer token, or by both (RULES E1 to E3).

In the room: what each mode of `[admin.tls]` asks for, whether a certificate is an administrator's, whom a bearer token belongs
to, what is answered where neither is good, and that our own CAs do not make administrators unawares. Not in the room: whether a certificate is good at all
(`kipuka.authentication` judges it, here against the admin anchors and no others: RULES A1), HTTP, and what administrators
can do.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256

from kipuka.api import (
    Authorization,
    CABackend,
    CertificateChain,
    CertificateRequired,
    Connection,
    DenialKind,
    Denied,
    Lockouts,
    NotAuthenticated,
    StartupError,
)
from kipuka.api.errors import BackendError, RequestError
from kipuka.authentication import (
    CERTIFICATE_REQUIRED,
    Denial,
    PathCache,
    RecordLookup,
    Unrecognised,
    judge_certificate,
    refusal,
)
from kipuka.config import AdminMode
from kipuka.distinguished_names import format_dn
from kipuka.store import admin_tokens
from kipuka.store.database import Store
from kipuka.x509.path import AnchorSet, leads_to
from kipuka.x509.patterns import CertificatePattern

__all__ = [
    "CERTIFICATE_MISSING",
    "NOT_ALLOWED",
    "Administrator",
    "Administrators",
    "BearerTokens",
    "TurnedAway",
    "check_own_authorities",
    "lets_everybody_in",
    "own_authority_finding",
]

CHALLENGE = 'Bearer realm="kipuka admin"'
CERTIFICATE, BEARER = "certificate", "bearer"

CERTIFICATE_MISSING = (
    f'{CERTIFICATE_REQUIRED}: [admin.tls] mode = "required" asks for a certificate and a bearer token, '
    'mode = "optional" for either'
)
"""RULES E1: whoever follows the lines with a bearer token alone is told which setting they stand under."""

NOT_ALLOWED = "client certificate is not an administrator's"


@dataclass(frozen=True, kw_only=True, slots=True)
class Administrator:
    """Somebody who may administer.

    `name` is what the audit log calls them, "certificate:CN=alice" or "bearer:inventory system". `proofs` has a name for each
    proof that counted, `refused` a method and a reason for each that was presented and did not.
    """

    name: str
    proofs: tuple[str, ...]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnedAway:
    """Nobody who may administer: the error that they are to hear, and what was `refused` as in `Administrator`."""

    error: RequestError | BackendError
    refused: tuple[str, ...]


class BearerTokens:
    """Decides which administrator a bearer token belongs to: those of the file, and those in the store."""

    def __init__(self, *, configured: Mapping[str, str], store: Store, lockouts: Lockouts) -> None:
        """`configured` maps the SHA-256 of a token, in hexadecimal, to its description."""
        self._configured = {digest.encode("ascii"): description for digest, description in configured.items()}
        self._store = store
        self._lockouts = lockouts

    async def recognise(self, authorization: Authorization | None, address: str) -> str | Denied | None:
        """The administrator's name, or why the token is refused; None: there is none. Wrong tokens count (RULES E3)."""
        if authorization is None:
            return None
        if authorization.scheme != "bearer":
            return Denied(detail="the admin interface takes bearer tokens only", reason="other_scheme")
        locked = await self._lockouts.check(address)
        if locked is not None:
            return locked
        name = await self._find(authorization.parameters)
        if name is not None:
            return name
        locked = await self._lockouts.failure(address)
        return locked or Denied(detail="invalid bearer token", reason="invalid_bearer_token")

    async def _find(self, token: str) -> str | None:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        found: str | None = None
        for known, description in self._configured.items():
            if hmac.compare_digest(known, digest.encode("ascii")):
                found = description
        if found is not None:
            return f"{BEARER}:{found}"
        row = await self._store.read(partial(admin_tokens.find, sha256=digest))
        return None if row is None else f"{BEARER}:{row.description}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Administrators:
    """Recognises administrators as `[admin.tls] mode` and `[admin.bearer_token]` say.

    `anchors` is None in mode `none`: certificates are not looked at. `allow` empty: every certificate under the anchors.
    `tokens` None: bearer tokens are off.
    """

    mode: AdminMode
    anchors: AnchorSet | None
    allow: tuple[CertificatePattern, ...]
    tokens: BearerTokens | None
    records: RecordLookup
    clock: Callable[[], datetime]

    async def recognise(
        self, connection: Connection, authorization: Authorization | None, *, cache: PathCache
    ) -> Administrator | TurnedAway:
        """Look at the certificate first. Where it is required nothing else is looked at until it is good, so that only its
        holder can try bearer tokens; where it is optional a good one is enough.
        """
        certificate = await self._certificate(connection, cache)
        if isinstance(certificate, str):
            if self.mode == "optional" or self.tokens is None:
                return Administrator(name=certificate, proofs=(certificate,))
            held, refused = (certificate,), None
        else:
            if self.mode == "required" or self.tokens is None:
                return self._lacks_certificate(certificate)
            held, refused = (), certificate
        bearer = await self.tokens.recognise(authorization, connection.client_address)
        if isinstance(bearer, str):
            proofs = (*held, bearer)
            return Administrator(name=proofs[0], proofs=proofs, refused=_told(_denials(refused, None)))
        return self._lacks_token(refused, bearer)

    async def _certificate(self, connection: Connection, cache: PathCache) -> str | Denied | None:
        """The administrator's name by their certificate, or why it is refused; None: there is none, or it is no matter."""
        judged = await judge_certificate(
            connection.presented,
            anchors=self.anchors,
            cache=cache,
            now=self.clock(),
            lookup=self.records,
        )
        if judged is None:
            return None
        if judged.certificate is None or judged.problem is not None:
            detail = "client certificate cannot be read" if judged.problem is None else judged.problem.value
            return Denied(detail=detail, reason=judged.reason or "unparsable")
        name = _name_of(judged.certificate)
        if self.allow and not any(pattern.fits(judged.certificate) for pattern in self.allow):
            kind = DenialKind.NOT_PERMITTED
            return Denied(detail=NOT_ALLOWED, reason="certificate_not_allowed", kind=kind, name=name)
        return name

    def _lacks_certificate(self, certificate: Denied | None) -> TurnedAway:
        """Only a certificate would do: a 403 without a challenge (RULES C3)."""
        denials = _denials(certificate, None)
        if denials:
            error = refusal(Unrecognised(denials=denials), challenges=(), certificate_only=True)
        else:
            error = CertificateRequired(CERTIFICATE_REQUIRED if self.tokens is None else CERTIFICATE_MISSING)
        return TurnedAway(error=error, refused=_told(denials))

    def _lacks_token(self, certificate: Denied | None, bearer: Denied | None) -> TurnedAway:
        """A bearer token would do, or is still missing: a 401 with the challenge, or what is heard before it (RULES C3)."""
        denials = _denials(certificate, bearer)
        if denials:
            error = refusal(Unrecognised(denials=denials), challenges=(_challenge(bearer),), certificate_only=False)
        else:
            either = "client certificate or a " if self.mode == "optional" else ""
            detail = f"a {either}bearer token is required"
            error = NotAuthenticated(detail, challenges=(CHALLENGE,), reason="no_credential")
        return TurnedAway(error=error, refused=_told(denials))


async def check_own_authorities(
    administrators: Administrators, backends: Mapping[str, CABackend], *, patience: timedelta
) -> None:
    """RULES E2: the start is refused where every device that we certify could administer.

    Raises `StartupError`, also where a CA does not say who it is: then nobody knows.
    """
    anchors = administrators.anchors
    if anchors is None or not lets_everybody_in(administrators.allow):
        return
    for name, backend in backends.items():
        try:
            async with asyncio.timeout(patience.total_seconds()):
                chain = await backend.ca_certificates()
        except Exception as error:
            problem = f"the CA {name} does not say whether it is below an anchor of [admin.tls]"
            raise StartupError(f"{problem}; {_WRITE_ALLOW}, or start again when the CA is there") from error
        finding = own_authority_finding(name, chain, anchors)
        if finding is not None:
            raise StartupError("; ".join(finding))


def lets_everybody_in(allow: Sequence[CertificatePattern]) -> bool:
    """Whether these patterns let every certificate under the anchors in."""
    return not allow or any(pattern.is_anything for pattern in allow)


def own_authority_finding(ca: str, chain: CertificateChain, anchors: AnchorSet) -> tuple[str, str] | None:
    """Problem and remedy where a CA of ours is below an admin anchor, and no pattern tells administrators from devices."""
    anchor = leads_to(chain.certificates, anchors)
    if anchor is None:
        return None
    problem = f"the CA {ca} is below the admin anchor {format_dn(anchor.subject)}: every device could administer"
    return problem, f"{_WRITE_ALLOW}, so that it says which of them are administrators"


_WRITE_ALLOW = "write allow in [admin.tls]"


def _denials(certificate: Denied | None, bearer: Denied | None) -> tuple[Denial, ...]:
    """What was refused, in the order in which it was asked."""
    asked = ((CERTIFICATE, certificate), (BEARER, bearer))
    return tuple(Denial(method=method, denied=denied) for method, denied in asked if denied is not None)


def _told(denials: Sequence[Denial]) -> tuple[str, ...]:
    return tuple(f"{denial.method}:{denial.denied.reason}" for denial in denials)


def _challenge(bearer: Denied | None) -> str:
    """RFC 6750, 3: a token that was refused is told so in the challenge."""
    wrong = bearer is not None and bearer.reason == "invalid_bearer_token"
    return f'{CHALLENGE}, error="invalid_token"' if wrong else CHALLENGE


def _name_of(certificate: x509.Certificate) -> str:
    """What the audit log calls the holder: the subject, or where it is empty the certificate's fingerprint."""
    subject = format_dn(certificate.subject)
    return f"{CERTIFICATE}:{subject or f'sha256:{certificate.fingerprint(SHA256()).hex()}'}"
