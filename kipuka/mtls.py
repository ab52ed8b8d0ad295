"""The built-in authenticator by client certificate: turns the host's verdict into an outcome.

In the room: the section `[tls.client_auth]` and what its modes mean for one request. Not in the room: TLS, paths, dates and
revocation; the host has judged those before it asks (`kipuka.authentication`, `kipuka.x509.path`). Like every plugin it
imports `kipuka.api` only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from cryptography import x509
from pydantic import model_validator

from kipuka.api import (
    Authenticated,
    Authenticator,
    AuthenticatorKind,
    AuthOutcome,
    CertificateProblem,
    ConfigPath,
    Credentials,
    DenialKind,
    Denied,
    Finding,
    Identity,
    NotPresented,
    Operation,
    Section,
    Services,
    hookimpl,
)

__all__ = ["CERTIFICATE_METHOD", "ClientAuth", "ClientCertificateAuthenticator", "Mode", "alternative_names"]

KIPUKA_API = "1.0"

CERTIFICATE_METHOD = "mtls"
"""This method's name, which some of the host's rules are about."""

Mode = Literal["required", "optional", "required_for_reenroll", "none"]


class ClientAuth(Section):
    """Client certificates: which are trusted, and whether one must be presented."""

    enabled: bool = True
    """Whether client certificates authenticate at all."""

    trust_anchors: ConfigPath | None = None
    """PEM file of the CA certificates whose client certificates are accepted. Never implied."""

    mode: Mode = "optional"
    """`required`: the TLS handshake fails without a certificate that one of the anchors signed. `optional`: a certificate is
    asked for, and other methods may stand in for it. `required_for_reenroll`: as optional, and a re-enrolment needs a
    certificate that this server has recorded. `none`: no certificate is asked for."""

    @model_validator(mode="after")
    def _anchors_where_they_are_needed(self) -> ClientAuth:
        if self.mode != "none" and self.trust_anchors is None:
            msg = f'mode "{self.mode}" needs trust_anchors, a PEM file of CA certificates; write it, or mode = "none"'
            raise ValueError(msg)
        return self


class ClientCertificateAuthenticator:
    """Accepts a client certificate that the host found good."""

    def __init__(self, config: ClientAuth) -> None:
        self._config = config

    @property
    def challenge(self) -> str | None:
        """None: HTTP cannot ask for a certificate."""
        return None

    async def authenticate(self, credentials: Credentials, /) -> AuthOutcome:
        """Recognise the certificate's subject, with the names that stand in the certificate (RULES A, B)."""
        judged = credentials.client_certificate
        if self._config.mode == "none" or judged is None:
            return NotPresented()
        name = None if judged.certificate is None else name_of(judged.certificate)
        if judged.certificate is None or judged.problem is not None:
            detail = "client certificate cannot be read" if judged.problem is None else judged.problem.value
            foreign = judged.problem is CertificateProblem.NOT_ENROLLED_HERE
            kind = DenialKind.NOT_PERMITTED if foreign else DenialKind.WRONG
            return Denied(detail=detail, reason=judged.reason or "unparsable", kind=kind, name=name)
        must_be_recorded = self._config.mode == "required_for_reenroll"
        if must_be_recorded and credentials.operation is Operation.SIMPLEREENROLL and not judged.recorded:
            return Denied(
                detail="client certificate was not issued by this server",
                reason="certificate_not_recorded",
                kind=DenialKind.NOT_PERMITTED,
                name=name,
            )
        return Authenticated(
            identity=Identity(
                method=CERTIFICATE_METHOD,
                name=name or "",
                subject=judged.certificate.subject,
                permitted_names=alternative_names(judged.certificate),
            )
        )


def alternative_names(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    """The certificate's subject alternative names, in their order."""
    try:
        return tuple(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def name_of(certificate: x509.Certificate) -> str:
    """The subject by RFC 4514, or where it is empty the serial number: what log and audit call this client."""
    return certificate.subject.rfc4514_string() or f"serial {certificate.serial_number:x}"


@asynccontextmanager
async def open_mtls(config: ClientAuth, _services: Services) -> AsyncGenerator[Authenticator, None]:
    """The opener of the kind `mtls`."""
    yield ClientCertificateAuthenticator(config)


def check(config: ClientAuth) -> Iterator[Finding]:
    """What `kipuka check` says of `[tls.client_auth]` (RULES A2, A5)."""
    if config.mode == "none":
        yield Finding(
            severity="warning",
            key="mode",
            problem="client certificates are not verified, so no client can re-enrol",
            remedy='write mode = "optional" and trust_anchors',
        )


@hookimpl
def kipuka_authenticators() -> list[AuthenticatorKind[Any]]:
    """The kind `mtls`, which owns `[tls.client_auth]` (RULES K2)."""
    return [AuthenticatorKind(name=CERTIFICATE_METHOD, config=ClientAuth, open=open_mtls, check=check)]
