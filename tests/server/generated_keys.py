"""Private keys that a server has made: out of its answers, and looked for where they must not be.

In the room: an answer of `serverkeygen` taken apart, and the forms in which a key could have been left somewhere. Not in the room: which places are
searched.
"""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from kipuka.est.cms import read_certs_only

__all__ = ["leaks", "opened", "public"]


def opened(answer):
    """The private key's octets, the key, and its certificate."""
    assert answer.status == 200, answer.text
    (key_type, key), (certificate_type, certificates) = answer.parts()
    assert key_type == "application/pkcs8"
    assert certificate_type == "application/pkcs7-mime; smime-type=certs-only"
    (certificate,) = read_certs_only(certificates)
    return key, load_der_private_key(key, None), certificate


def public(key):
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def forms_of(der, key):
    """How a private key could stand somewhere: whole and its secret part, as octets, in hexadecimal and in base64."""
    secret = []
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.private_numbers()
        secret += [value.to_bytes((value.bit_length() + 7) // 8, "big") for value in (numbers.d, numbers.p, numbers.q)]
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        secret.append(key.private_numbers().private_value.to_bytes(32, "big"))
    else:
        secret.append(key.private_bytes_raw())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).splitlines()
    yield from (der, der.hex().encode(), der.hex().upper().encode(), base64.b64encode(der), *pem[1:-1])
    for octets in secret:
        yield octets
        yield octets.hex().encode()
        yield octets.hex().upper().encode()
        yield str(int.from_bytes(octets, "big")).encode()
        for offset in range(3):  # base64 of something longer that it is part of
            middle = octets[offset:]
            yield base64.b64encode(middle[: len(middle) // 3 * 3])[:40]


def leaks(keys, places):
    """Where a key stands, with line breaks in between or without."""
    contents = [(place, content, content.replace(b"\n", b"")) for place, content in places.items()]
    return [
        (place, form[:12])
        for der, key in keys
        for form in forms_of(der, key)
        if len(form) >= 16
        for place, content, joined in contents
        if form in content or form in joined
    ]
