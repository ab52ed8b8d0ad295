"""Whether the certificate that a CA handed back is the one that was ordered (RULES F6).

In the room: the comparison of an order with a certificate. Not in the room: what happens on a mismatch
(`kipuka.enrolment`), and whether the serial number is new, which only the store knows.
"""

from __future__ import annotations

from datetime import timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from kipuka.api import Order
from kipuka.x509.names import same_name

__all__ = ["is_issued_by", "mismatch", "ordered_extensions"]

_WIDENING = (
    x509.SubjectAlternativeName.oid,
    x509.ExtendedKeyUsage.oid,
    x509.KeyUsage.oid,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"),  # proxyCertInfo (RFC 3820): its holder may issue
    x509.ObjectIdentifier("2.16.840.1.113730.1.1"),  # Netscape certificate type: a usage by another name
    x509.ObjectIdentifier("1.3.6.1.4.1.311.21.10"),  # Microsoft's application policies: the same
    x509.ObjectIdentifier("1.3.6.1.4.1.311.25.2"),  # the SID by which Active Directory knows the holder
)
"""Extensions that say whose certificate it is or what it is good for. A CA may add others, such as where its CRL is."""

NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME: validity is compared with the order instead


def mismatch(order: Order, certificate: x509.Certificate, issuer: x509.Certificate) -> str | None:
    """The first way in which `certificate` is not what was ordered from the CA of `issuer`, or None.

    Checked are the issuer's signature and name constraints, the public key, the names, usages and other ordered
    extensions with their criticality, CA:FALSE, the validity (clipped is fine, extended is not) and the serial number's form (RFC 5280, 4.1.2.2).
    """
    if not is_issued_by(certificate, issuer):
        return "it is not signed by the CA's certificate"
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if spki != order.public_key:
        return "its public key is not the request's"
    if not same_name(certificate.subject, order.subject):
        return "its subject is not the ordered one"
    return (
        _number_or_time_mismatch(order, certificate)
        or _extension_mismatch(order, certificate)
        or _constraint_mismatch(certificate, issuer)
    )


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the certificate names this issuer, and its signature is by the issuer's key."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


_NOT_ORDERED = frozenset(
    {
        x509.SubjectKeyIdentifier.oid,
        x509.AuthorityKeyIdentifier.oid,
        x509.BasicConstraints.oid,
        x509.CRLDistributionPoints.oid,
        x509.FreshestCRL.oid,
        x509.AuthorityInformationAccess.oid,
        x509.PrecertificateSignedCertificateTimestamps.oid,
    }
)
"""What a CA adds of its own to what it was ordered, or may."""


def ordered_extensions(certificate: x509.Certificate) -> tuple[x509.Extension[x509.ExtensionType], ...]:
    """The extensions that this certificate, which was taken for what was ordered, was ordered with; but for the addresses of CRL,
    OCSP responder and issuer, which its CA may have put there.
    """
    return tuple(extension for extension in certificate.extensions if extension.oid not in _NOT_ORDERED)


def _number_or_time_mismatch(order: Order, certificate: x509.Certificate) -> str | None:
    if not 0 < certificate.serial_number < 1 << 160:
        return "its serial number is not a positive number of at most 20 octets"
    leeway = timedelta(seconds=1)  # certificates count whole seconds
    if certificate.not_valid_before_utc < order.not_before - leeway:
        return "it is valid earlier than ordered"
    if certificate.not_valid_after_utc > order.not_after + leeway:
        return "it is valid longer than ordered"
    return None


def _extension_mismatch(order: Order, certificate: x509.Certificate) -> str | None:
    try:
        present = {extension.oid: extension for extension in certificate.extensions}
    except (ValueError, x509.DuplicateExtension):
        return "its extensions cannot be read"
    basic = present.get(x509.BasicConstraints.oid)
    if basic is not None and isinstance(basic.value, x509.BasicConstraints) and basic.value.ca:
        return "it is a CA certificate"
    ordered = {extension.oid: extension for extension in order.extensions}
    for oid, extension in ordered.items():
        if oid not in present or not _same_value(present[oid].value, extension.value):
            return f"its extension {oid.dotted_string} is not the ordered one"
        if present[oid].critical is not extension.critical:
            return f"its extension {oid.dotted_string} is {'not ' * extension.critical}critical, unlike the ordered one"
    for oid in _WIDENING:
        if oid in present and oid not in ordered:
            return f"it has an extension {oid.dotted_string} that was not ordered"
    return None


def _same_value(a: x509.ExtensionType, b: x509.ExtensionType) -> bool:
    # A value that was ordered as mere octets may come back as one that the library can read.
    return a == b or a.public_bytes() == b.public_bytes()


def _constraint_mismatch(certificate: x509.Certificate, issuer: x509.Certificate) -> str | None:
    try:
        issuer.extensions.get_extension_for_class(x509.NameConstraints)
    except x509.ExtensionNotFound:
        return None
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN | NO_CHECK_TIME)
    store.add_cert(crypto.X509.from_cryptography(issuer))
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(certificate)).verify_certificate()
    except crypto.X509StoreContextError as error:
        return f"it breaks the CA's constraints: {error}"
    return None
