"""How a token is asked for a signature, and the form of what it gives.

In the room: PKCS#11 mechanisms for RSA and ECDSA. Pure. Not in the room: tokens and sessions (`kipuka_ca_pkcs11.tokens`).
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from pkcs11 import MGF, Mechanism

__all__ = ["Scheme", "ecdsa_signature", "rsa_call"]


class Scheme(Enum):
    """How an RSA key signs (RFC 8017): PKCS #1 v1.5 (section 8.2), or PSS (section 8.1)."""

    PKCS1V15 = "pkcs1v15"
    PSS = "pss"

    def padding(self, algorithm: hashes.HashAlgorithm) -> padding.PKCS1v15 | padding.PSS:
        """For `cryptography`. The salt is as long as the hash (RFC 4055, 3.1)."""
        if self is Scheme.PKCS1V15:
            return padding.PKCS1v15()
        return padding.PSS(mgf=padding.MGF1(algorithm), salt_length=algorithm.digest_size)


_PKCS1 = {
    "sha256": Mechanism.SHA256_RSA_PKCS,
    "sha384": Mechanism.SHA384_RSA_PKCS,
    "sha512": Mechanism.SHA512_RSA_PKCS,
}

_PSS = {
    "sha256": (Mechanism.SHA256_RSA_PKCS_PSS, Mechanism.SHA256, MGF.SHA256),
    "sha384": (Mechanism.SHA384_RSA_PKCS_PSS, Mechanism.SHA384, MGF.SHA384),
    "sha512": (Mechanism.SHA512_RSA_PKCS_PSS, Mechanism.SHA512, MGF.SHA512),
}

# RFC 8017, 9.2, note 1: the DER of DigestInfo up to the hash.
_DIGEST_INFO = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha384": bytes.fromhex("3041300d060960864801650304020205000430"),
    "sha512": bytes.fromhex("3051300d060960864801650304020305000440"),
}


def rsa_call(
    data: bytes, algorithm: hashes.HashAlgorithm, scheme: Scheme, offered: Collection[Any]
) -> tuple[bytes, Mechanism, Any]:
    """What is given to the token, by which mechanism, with which parameters.

    The mechanisms that hash are preferred: some tokens allow no others. What a token with the bare ones gets is hashed here.
    """
    if scheme is Scheme.PSS:
        combined, digest, mask = _PSS[algorithm.name]
        parameters = (digest, mask, algorithm.digest_size)
        if combined in offered:
            return data, combined, parameters
        return _hash(data, algorithm), Mechanism.RSA_PKCS_PSS, parameters
    combined = _PKCS1[algorithm.name]
    if combined in offered:
        return data, combined, None
    return _DIGEST_INFO[algorithm.name] + _hash(data, algorithm), Mechanism.RSA_PKCS, None


def _hash(data: bytes, algorithm: hashes.HashAlgorithm) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def ecdsa_signature(raw: bytes) -> bytes:
    """From r and s of equal length, as PKCS#11 has them (2.40 mechanisms, 2.3.1), to DER (RFC 5480, appendix A: ECDSA-Sig-Value)."""
    half = len(raw) // 2
    return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))
