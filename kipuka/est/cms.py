"""Certificates as a certs-only message: a CMS SignedData without content and without signers (RFC 5272, section 4.1).

In the room: writing and reading that one message. Not in the room: base64 and content types (`kipuka.est.wire`), full CMC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ObjectIdentifier

__all__ = ["certs_only", "read_certs_only"]

_DATA = ObjectIdentifier("1.2.840.113549.1.7.1")  # RFC 5652, section 4
_SIGNED_DATA = ObjectIdentifier("1.2.840.113549.1.7.2")  # RFC 5652, section 5.1


@asn1.sequence
class _EncapsulatedContent:  # RFC 5652, section 5.2
    content_type: ObjectIdentifier


@asn1.sequence
class _SignedData:  # RFC 5652, section 5.1
    version: int
    digest_algorithms: asn1.SetOf[asn1.TLV]
    content: _EncapsulatedContent
    certificates: Annotated[asn1.SetOf[asn1.TLV], asn1.Implicit(0)]
    signers: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _ContentInfo:  # RFC 5652, section 3
    content_type: ObjectIdentifier
    content: Annotated[_SignedData, asn1.Explicit(0)]


def certs_only(certificates: Sequence[x509.Certificate]) -> bytes:
    """The DER of a certs-only message with these certificates, each once.

    The set is written in DER's order, which need not be the order given (RFC 5272, section 4.1: clients must not assume
    one). Raises ValueError where there is no certificate.
    """
    if not certificates:
        raise ValueError("a certs-only message without a certificate says nothing")
    encoded = dict.fromkeys(certificate.public_bytes(Encoding.DER) for certificate in certificates)
    return asn1.encode_der(
        _ContentInfo(
            content_type=_SIGNED_DATA,
            content=_SignedData(
                version=1,  # RFC 5652, section 5.1: no signer, content type id-data, only X.509 certificates
                digest_algorithms=asn1.SetOf([]),
                content=_EncapsulatedContent(content_type=_DATA),
                certificates=asn1.SetOf([asn1.decode_der(asn1.TLV, der) for der in encoded]),
                signers=asn1.SetOf([]),
            ),
        )
    )


def read_certs_only(der: bytes) -> list[x509.Certificate]:
    """The certificates of a certs-only message, in its order; for clients and tests.

    Raises ValueError where it is anything else: content, a signer, no certificate, bytes after the end.
    """
    message = asn1.decode_der(_ContentInfo, der)
    signed = message.content
    if message.content_type != _SIGNED_DATA or signed.content.content_type != _DATA or signed.version != 1:
        raise ValueError("not a certs-only message")
    if signed.signers.as_list() or signed.digest_algorithms.as_list():
        raise ValueError("a certs-only message has no signer")
    certificates = [x509.load_der_x509_certificate(asn1.encode_der(item)) for item in signed.certificates.as_list()]
    if not certificates:
        raise ValueError("a certs-only message has a certificate")
    return certificates
