"""What a request for a server-side key says, and how the private key goes back (RFC 7030, 4.4.1 and 4.4.2).

In the room: the attributes that name a key to encrypt to, and the two parts of the answer. Not in the room: making
keys (`kipuka.x509.generate`), encrypting one (`kipuka.est.enveloped`), and who may ask (`kipuka.enrolment`).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import Literal

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ObjectIdentifier

from kipuka.api.errors import BadCSR
from kipuka.est.csr import CertificateRequest
from kipuka.est.enveloped import Algorithms, KeySigner, enveloped
from kipuka.est.wire import CERTS_ONLY

__all__ = [
    "BOUNDARY",
    "KEY_AND_CERTIFICATE",
    "EncryptTo",
    "KeyPart",
    "encrypt_to",
    "encrypted_key",
    "key_and_certificate",
    "plain_key",
    "private_key_info",
]

_DECRYPT_KEY_ID = ObjectIdentifier("1.2.840.113549.1.9.16.2.37")  # RFC 4108, section 2.2.5
_ASYMMETRIC_DECRYPT_KEY_ID = ObjectIdentifier("1.2.840.113549.1.9.16.2.54")  # RFC 7030, section 4.4.1.2
_SMIME_CAPABILITIES = ObjectIdentifier("1.2.840.113549.1.9.15")  # RFC 8551, section 2.5.2; RFC 2633 before it
_MAX_IDENTIFIER = 64  # octets: identifiers of certificates are hashes
_MAX_CAPABILITIES = 64

BOUNDARY = "kipuka--key-and-certificate"
"""What parts the two. Base64 has no hyphen, so that no content can look like it."""

KEY_AND_CERTIFICATE = f"multipart/mixed; boundary={BOUNDARY}"
"""The content type of the answer (RFC 7030, section 4.4.2)."""

PLAIN = "application/pkcs8"
ENCRYPTED = "application/pkcs7-mime; smime-type=server-generated-key"

_LINE = 76  # RFC 2045, section 6.8: this is MIME, unlike the rest of EST


@asn1.sequence
class _Identifier:  # an Attribute whose values are DecryptKeyIdentifier or AsymmetricDecryptKeyIdentifier
    type: ObjectIdentifier
    values: asn1.SetOf[bytes]


@asn1.sequence
class _Capabilities:  # an Attribute whose values are SMIMECapabilities
    type: ObjectIdentifier
    values: asn1.SetOf[list[list[asn1.TLV]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class EncryptTo:
    """The key that the client wants its private key encrypted to, by its identifier, and what the client can do."""

    identifier: bytes
    symmetric: bool
    capabilities: tuple[ObjectIdentifier, ...]  # in the order of the client's preference; empty where it does not say


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPart:
    """A private key as it goes to its client: the content type and the DER of that part.

    `protection` is for the audit log: "tls" where nothing but the connection hides the key, "cms" where it is encrypted besides, to the
    certificate with the SHA-256 fingerprint `recipient`.
    """

    content_type: str
    der: bytes = field(repr=False)
    protection: Literal["tls", "cms"]
    recipient: str | None = None


def encrypt_to(csr: CertificateRequest) -> EncryptTo | None:
    """What the request says of further encryption (RFC 7030, section 4.4.1); None: the connection is enough.

    Raises BadCSR where the attributes cannot be read, or name two keys.
    """
    symmetric = _identifier(csr, _DECRYPT_KEY_ID)
    asymmetric = _identifier(csr, _ASYMMETRIC_DECRYPT_KEY_ID)
    if symmetric is not None and asymmetric is not None:
        detail = "the request names two keys to encrypt the private key to, DecryptKeyIdentifier and AsymmetricDecryptKeyIdentifier"
        raise BadCSR(detail, reason="two_decrypt_keys")
    identifier = asymmetric if symmetric is None else symmetric
    if identifier is None:
        return None
    return EncryptTo(identifier=identifier, symmetric=symmetric is not None, capabilities=_capabilities(csr))


def _identifier(csr: CertificateRequest, kind: ObjectIdentifier) -> bytes | None:
    der = csr.attribute(kind)
    if der is None:
        return None
    try:
        (identifier,) = asn1.decode_der(_Identifier, der).values.as_list()
    except (ValueError, TypeError) as error:
        raise BadCSR(
            "the identifier of the key to encrypt to is not one OCTET STRING", reason="csr_decrypt_key"
        ) from error
    if not 1 <= len(identifier) <= _MAX_IDENTIFIER:
        detail = f"the identifier of the key to encrypt to has not 1 to {_MAX_IDENTIFIER} octets"
        raise BadCSR(detail, reason="csr_decrypt_key")
    return identifier


def _capabilities(csr: CertificateRequest) -> tuple[ObjectIdentifier, ...]:
    der = csr.attribute(_SMIME_CAPABILITIES)
    if der is None:
        return ()
    try:
        (capabilities,) = asn1.decode_der(_Capabilities, der).values.as_list()
        found = tuple(
            asn1.decode_der(ObjectIdentifier, asn1.encode_der(capability[0]))
            for capability in capabilities[: _MAX_CAPABILITIES + 1]
        )
    except (ValueError, TypeError, IndexError) as error:
        raise BadCSR("the SMIMECapabilities in the request cannot be read", reason="csr_capabilities") from error
    if len(found) > _MAX_CAPABILITIES:
        raise BadCSR(f"the request has more than {_MAX_CAPABILITIES} SMIMECapabilities", reason="csr_capabilities")
    return found


def plain_key(key: PrivateKeyTypes) -> KeyPart:
    """The part without further encryption: a PrivateKeyInfo (RFC 5958, section 2: version 1, without the public key)."""
    return KeyPart(content_type=PLAIN, der=private_key_info(key), protection="tls")


def encrypted_key(
    key: PrivateKeyTypes, *, signer: KeySigner, recipient: x509.Certificate, chosen: Algorithms
) -> KeyPart:
    """The part that only the recipient can read."""
    message = enveloped(private_key_info(key), signer=signer, recipient=recipient, chosen=chosen)
    fingerprint = recipient.fingerprint(hashes.SHA256()).hex()
    return KeyPart(content_type=ENCRYPTED, der=message, protection="cms", recipient=fingerprint)


def private_key_info(key: PrivateKeyTypes) -> bytes:
    """The DER of a PrivateKeyInfo."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def key_and_certificate(key: KeyPart, certificates: bytes) -> bytes:
    """The body of the answer: the private key first, then the certs-only message (RFC 7030, section 4.4.2 and A.4).

    Both parts are base64 and say so. RFC 8951, section 3.2.4 makes that field superfluous and readers ignore it, except
    those that decode by it. Lines end in CRLF, as RFC 2046, section 5.1.1 demands of boundaries.
    """
    parts = ((key.content_type, key.der), (CERTS_ONLY, certificates))
    body = b"".join(
        f"--{BOUNDARY}\r\nContent-Type: {content_type}\r\nContent-Transfer-Encoding: base64\r\n\r\n".encode("ascii")
        + _lines(der)
        for content_type, der in parts
    )
    return body + f"--{BOUNDARY}--\r\n".encode("ascii")


def _lines(der: bytes) -> bytes:
    text = base64.b64encode(der)
    return b"".join(text[start : start + _LINE] + b"\r\n" for start in range(0, len(text), _LINE))
