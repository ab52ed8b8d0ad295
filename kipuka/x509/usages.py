"""What a key may be used for: key usages by name, and which of them a kind of key can have.

In the room: RFC 5280, section 4.2.1.3, as far as end-entity certificates go, and what the algorithms' own RFCs leave of it. Not in
the room: extended key usages, which are object identifiers that no key contradicts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kipuka.x509.keys import PublicKey

__all__ = ["KEY_USAGES", "key_usage", "possible_usages"]

KEY_USAGES: Mapping[str, str] = {
    "digitalSignature": "digital_signature",
    "contentCommitment": "content_commitment",  # called nonRepudiation before X.509 (2001)
    "keyEncipherment": "key_encipherment",
    "dataEncipherment": "data_encipherment",
    "keyAgreement": "key_agreement",
}
"""The usages that a profile may name, with cryptography's word for each. keyCertSign and cRLSign are never an end-entity's;
encipherOnly and decipherOnly mean something with static key agreement only, which no protocol of today has.
"""

_SIGNS = frozenset({"digitalSignature", "contentCommitment"})
_RSA = _SIGNS | {"keyEncipherment", "dataEncipherment"}  # RFC 3279, section 2.3.1
_EC = _SIGNS | {"keyAgreement"}  # RFC 5480, section 3; RFC 8813: keyEncipherment and dataEncipherment must not be there


def possible_usages(kind: str) -> frozenset[str]:
    """Which of `KEY_USAGES` a kind of key (one of `kipuka.x509.keys.KEY_NAMES`) can have."""
    if kind == "rsa":
        return _RSA
    return _EC if kind.startswith("p") else _SIGNS  # RFC 8410, section 5; RFC 9295: Ed25519 and Ed448 sign only


def key_usage(names: Iterable[str] | None, public_key: PublicKey) -> x509.KeyUsage:
    """The key usage of a certificate for this key: of `names` what the key can do; None stands for the usual.

    The usual is digitalSignature, and keyEncipherment for RSA (RFC 5280, 4.2.1.3: RSA key transport, which older clients of TLS still
    look for). Raises ValueError where nothing is left.
    """
    match public_key:
        case rsa.RSAPublicKey():
            possible, usual = _RSA, ("digitalSignature", "keyEncipherment")
        case ec.EllipticCurvePublicKey():
            possible, usual = _EC, ("digitalSignature",)
        case _:
            possible, usual = _SIGNS, ("digitalSignature",)
    granted = possible.intersection(usual if names is None else names)
    if not granted:
        raise ValueError("a key of this kind can have none of these usages")
    return x509.KeyUsage(
        **{argument: name in granted for name, argument in KEY_USAGES.items()},
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
