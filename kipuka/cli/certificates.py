"""What can be told of one certificate without asking anybody.

In the room: pure functions that `kipuka check` puts together. Not in the room: paths to anchors (`kipuka.x509.path`), and what
of it is an error (`kipuka.cli.check`).
"""

from __future__ import annotations

from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from kipuka.distinguished_names import format_dn
from kipuka.x509.keys import describe_key

__all__ = [
    "PUBLIC_AUTHORITIES",
    "UNREADABLE",
    "is_issued_by",
    "looks_public",
    "names_its_issuers_place",
    "spki",
    "title",
    "weak_key",
]

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)
"""What cryptography raises while it reads what somebody else wrote."""

PUBLIC_AUTHORITIES = (
    "actalis",
    "amazon",
    "asseco",
    "baltimore",
    "buypass",
    "certigna",
    "comodo",
    "d-trust",
    "deutsche telekom security",
    "dhimyotis",
    "digicert",
    "entrust",
    "geotrust",
    "globalsign",
    "godaddy",
    "google trust services",
    "hellenic academic",
    "identrust",
    "internet security research group",
    "let's encrypt",
    "microsoft corporation",
    "quovadis",
    "sectigo",
    "ssl corp",
    "starfield technologies",
    "swisssign",
    "symantec",
    "t-systems",
    "thawte",
    "the go daddy group",
    "the usertrust network",
    "trustwave",
    "unizeto",
    "verisign",
    "zerossl",
)
"""How the organizations are called that sign for anybody who pays or proves to have a host name; in lower case."""


def title(certificate: x509.Certificate) -> str:
    """What people call it: the subject, or where there is none the serial number."""
    try:
        return format_dn(certificate.subject) or f"the certificate with serial {certificate.serial_number:x}"
    except UNREADABLE:
        return f"the certificate with serial {certificate.serial_number:x}"


def weak_key(certificate: x509.Certificate) -> str | None:
    """The key's description where it is weaker than what is accepted of clients (RULES B1)."""
    try:
        key = certificate.public_key()
    except UNREADABLE:
        return None
    weak = (isinstance(key, rsa.RSAPublicKey) and key.key_size < 2048) or (
        isinstance(key, ec.EllipticCurvePublicKey) and key.key_size < 256
    )
    return describe_key(key) if weak else None


def looks_public(certificate: x509.Certificate) -> bool:
    """Whether it is, by the organization in its subject, that of a CA which signs for anybody."""
    values = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return any(isinstance(value, str) and value.casefold().startswith(PUBLIC_AUTHORITIES) for value in values)


def is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether the authority's name and key signed it."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (*UNREADABLE, InvalidSignature):
        return False
    return True


def names_its_issuers_place(certificate: x509.Certificate) -> bool:
    """Whether it says where its issuer's certificate can be had (RFC 5280, 4.2.2.1), as those of intermediates do."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except (x509.ExtensionNotFound, *UNREADABLE):
        return False
    return any(place.access_method == AuthorityInformationAccessOID.CA_ISSUERS for place in access)


def spki(key: Any) -> bytes:
    """The SubjectPublicKeyInfo of a public key, in DER; two keys are the same when these are."""
    encoded: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
