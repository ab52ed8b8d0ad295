"""Which keys a certification authority may have, and how each signs.

In the room: checks and choices by key type. Not in the room: reading key files (`kipuka_ca_local.authority`) and making new keys
(`kipuka_ca_local.creation`).
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

__all__ = ["CAPrivateKey", "accept", "signature_hash"]

CAPrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

RSA_BITS = range(2048, 8193)

# RFC 5480 section 4 and RFC 5758 section 3.2: a hash about as strong as the curve.
_CURVE_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}


def accept(key: object) -> CAPrivateKey:
    """The key, if it is one that a CA may have. Raises ValueError with the sentence's end."""
    match key:
        case rsa.RSAPrivateKey():
            if key.key_size not in RSA_BITS:
                msg = f"it is an RSA key of {key.key_size} bits, not {RSA_BITS.start} to {RSA_BITS.stop - 1}"
                raise ValueError(msg)
            return key
        case ec.EllipticCurvePrivateKey():
            if key.curve.name not in _CURVE_HASHES:
                msg = f"its curve is {key.curve.name}, not P-256, P-384 or P-521"
                raise ValueError(msg)
            return key
        case ed25519.Ed25519PrivateKey():
            return key
        case _:
            msg = "it is neither RSA, nor on P-256, P-384 or P-521, nor Ed25519"
            raise ValueError(msg)


def signature_hash(key: CertificateIssuerPrivateKeyTypes) -> hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None:
    """The hash to sign with: about as strong as the key (NIST SP 800-57 part 1, table 2). None for Ed25519, which has its own."""
    match key:
        case rsa.RSAPrivateKey():
            if key.key_size <= 3072:
                return hashes.SHA256()
            return hashes.SHA384() if key.key_size < 7680 else hashes.SHA512()
        case ec.EllipticCurvePrivateKey():
            if key.curve.name == "secp521r1":
                return hashes.SHA512()
            return hashes.SHA384() if key.curve.name == "secp384r1" else hashes.SHA256()
        case _:
            return None
