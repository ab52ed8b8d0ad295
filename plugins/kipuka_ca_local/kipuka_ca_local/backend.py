"""Signing: from an order to a certificate after RFC 5280.

In the room: the certificate's fields, and what is never signed. Not in the room: names, keys, usages and validity, which the host
has decided and checks again afterwards (RULES F), and the files (`kipuka_ca_local.authority`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kipuka.api import (
    BackendFault,
    BackendUnavailable,
    CertificateChain,
    Issued,
    Order,
    Services,
    StartupError,
)
from kipuka_ca_local.authority import Authority, AuthorityError
from kipuka_ca_local.config import LocalCASettings, open_authority
from kipuka_ca_local.keys import signature_hash

__all__ = ["LocalCA", "authority_key_identifier", "build", "check_own_validity", "open_local_ca"]

RETRY_AFTER = timedelta(hours=1)  # a person has to renew the certificate

# Decided here, not by the host; twice in a certificate they would be an error (RFC 5280, 4.2).
_OURS = frozenset({x509.SubjectKeyIdentifier.oid, x509.AuthorityKeyIdentifier.oid})

# Given as opaque bytes, these could say anything.
_JUDGED = frozenset({x509.BasicConstraints.oid, x509.KeyUsage.oid})


class LocalCA:
    """Signs with a key in this process. An order leaves no trace here: until the host has recorded it nothing has happened."""

    def __init__(self, authority: Authority, services: Services) -> None:
        self._authority = authority
        self._services = services
        self._hash = signature_hash(authority.key)

    async def ca_certificates(self) -> CertificateChain:
        """The chain as it was read at start."""
        return self._authority.chain

    async def issue(self, order: Order, /) -> Issued:
        """Sign an order. Raises BackendUnavailable when the CA's own certificate is not valid now, BackendFault for what is never signed."""
        issuer = self._authority.chain.issuer
        check_own_validity(issuer, self._services.clock())
        builder = build(order, issuer)
        if isinstance(self._authority.key, rsa.RSAPrivateKey):
            # Some milliseconds: too long for the event loop. Signing with the others takes less than the way to a thread.
            return Issued(certificate=await self._services.run_blocking(self._sign, builder))
        return Issued(certificate=self._sign(builder))

    async def health(self) -> str | None:
        """Whether the CA's certificate is valid now."""
        try:
            check_own_validity(self._authority.chain.issuer, self._services.clock())
        except BackendUnavailable as error:
            return error.detail
        return None

    def _sign(self, builder: x509.CertificateBuilder) -> x509.Certificate:
        return builder.sign(self._authority.key, self._hash)


@asynccontextmanager
async def open_local_ca(settings: LocalCASettings, services: Services) -> AsyncGenerator[LocalCA, None]:
    """The CA of the settings. Raises StartupError when its files make none."""
    try:
        authority = open_authority(settings, services.clock())
    except AuthorityError as error:
        msg = f"{error.key}: {error}; {error.remedy}"
        raise StartupError(msg) from error
    yield LocalCA(authority, services)


def check_own_validity(issuer: x509.Certificate, now: datetime) -> None:
    """Raise BackendUnavailable where the CA's own certificate is not valid now."""
    if now > issuer.not_valid_after_utc:
        raise BackendUnavailable("the CA's certificate has expired", retry_after=RETRY_AFTER, reason="ca_expired")
    if now < issuer.not_valid_before_utc:
        detail = "the CA's certificate is not valid yet"
        raise BackendUnavailable(detail, retry_after=RETRY_AFTER, reason="ca_not_yet_valid")


def build(order: Order, issuer: x509.Certificate) -> x509.CertificateBuilder:
    """The certificate of an order, ready to be signed with the issuer's key. Raises BackendFault for what is never signed."""
    _refuse_ca(order)
    public_key = _public_key(order)
    # A certificate that is valid when its issuer is not would be of no use (RFC 5280, 6.1.3).
    not_before = max(order.not_before, issuer.not_valid_before_utc)
    not_after = min(order.not_after, issuer.not_valid_after_utc)
    try:
        builder = (
            x509.CertificateBuilder()
            .issuer_name(issuer.subject)
            .subject_name(order.subject)
            .public_key(public_key)
            # RFC 5280, 4.1.2.2: positive, at most 20 octets. These are 159 random bits.
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before)
            .not_valid_after(not_after)
        )
        for extension in order.extensions:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        if not any(isinstance(extension.value, x509.BasicConstraints) for extension in order.extensions):
            builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        return builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False
        ).add_extension(authority_key_identifier(issuer), critical=False)
    except ValueError as error:
        raise BackendFault("the order cannot be made into a certificate", reason="bad_order") from error


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """What names the issuer's key: its own subject key identifier, whichever way that was made (RFC 5280, 4.2.1.1)."""
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key())  # type: ignore[arg-type]
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier.value)


def _refuse_ca(order: Order) -> None:
    """Whatever the host decided, this CA makes no CA."""
    for extension in order.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise BackendFault("the order is for a CA certificate", reason="order_for_a_ca")
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            raise BackendFault("the order is for a key that signs certificates or CRLs", reason="order_for_a_ca")
        if isinstance(value, x509.UnrecognizedExtension) and extension.oid in _JUDGED:
            raise BackendFault("the order has an extension that cannot be judged", reason="bad_order")
        if extension.oid in _OURS:
            raise BackendFault("the order has key identifiers, which are the CA's to set", reason="bad_order")


def _public_key(order: Order) -> CertificatePublicKeyTypes:
    try:
        public_key = load_der_public_key(order.public_key)
        encoded = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BackendFault("the order's public key cannot be read", reason="bad_order") from error
    if encoded != order.public_key:
        # The key would go into the certificate in another form than the client gave it, and not be its key to compare.
        raise BackendFault("the order's public key is not in its plain form", reason="bad_order")
    return public_key  # type: ignore[return-value]
