"""What a request for a server-side key says, and how the private key goes back (RFC 7030, 4.4.1 and 4.4.2).

In the room: the attributes that name a key to encrypt to, and the two parts of the answer. Not in the room: making
keys (`kipuka.x509.generate`), encrypting one (`kipuka.est.enveloped`), and who may ask (`kipuka.enrolment`).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kipuka.est.wire import CERTS_ONLY

__all__ = ["BOUNDARY", "KEY_AND_CERTIFICATE", "KeyPart", "key_and_certificate", "plain_key"]

BOUNDARY = "kipuka--key-and-certificate"
"""What parts the two. Base64 has no hyphen, so that no content can look like it."""

KEY_AND_CERTIFICATE = f"multipart/mixed; boundary={BOUNDARY}"
"""The content type of the answer (RFC 7030, section 4.4.2)."""

PLAIN = "application/pkcs8"

_LINE = 76  # RFC 2045, section 6.8: this is MIME, unlike the rest of EST


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPart:
    """A private key as it goes to its client: the content type and the DER of that part.

    `protection` is for the audit log: "tls" where nothing but the connection hides the key.
    """

    content_type: str
    der: bytes = field(repr=False)
    protection: str


def plain_key(key: PrivateKeyTypes) -> KeyPart:
    """The part without further encryption: a PrivateKeyInfo (RFC 5958, section 2: version 1, without the public key)."""
    return KeyPart(content_type=PLAIN, der=private_key_info(key), protection="tls")


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
