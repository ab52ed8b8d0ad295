"""Public keys: what they are called, which are taken, and their fingerprint.

In the room: the key rules of RULES F5 that a key shows by itself. Not in the room: whether a key was seen before or was
revoked (the store knows), and proof of possession (`kipuka.est`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import prod

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x448, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from kipuka.api.errors import KeyRefused

__all__ = ["KEY_NAMES", "KeyPolicy", "PublicKey", "check_key", "describe_key", "has_roca_fingerprint", "spki_sha256"]

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

KEY_NAMES = ("rsa", "p256", "p384", "p521", "ed25519", "ed448")
"""The names by which a profile allows kinds of keys."""

_CURVES = {"secp256r1": "p256", "secp384r1": "p384", "secp521r1": "p521"}
_CURVE_TITLES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_TITLES = {
    "rsa": "RSA",
    "p256": "P-256",
    "p384": "P-384",
    "p521": "P-521",
    "ed25519": "Ed25519",
    "ed448": "Ed448",
}

RSA_SMALLEST = 2048
RSA_LARGEST = 8192
_SMALLEST_EXPONENT = 65537
_LARGEST_EXPONENT = 2**256
_LARGEST_SPKI = 4096  # bytes: RSA-16384 is about half of it; what is larger is not worth parsing


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyPolicy:
    """Which keys a profile takes: kinds by name (see `KEY_NAMES`), and the smallest and largest RSA modulus in bits."""

    allowed: frozenset[str] = frozenset(KEY_NAMES) - {"ed448"}
    min_rsa_bits: int = RSA_SMALLEST
    max_rsa_bits: int = RSA_LARGEST

    def __post_init__(self) -> None:
        if unknown := self.allowed - set(KEY_NAMES):
            raise ValueError(f"no kind of key is named {', '.join(sorted(unknown))}")
        if not self.allowed:
            raise ValueError("at least one kind of key is allowed")
        for name, bits in (("min_rsa_bits", self.min_rsa_bits), ("max_rsa_bits", self.max_rsa_bits)):
            if not RSA_SMALLEST <= bits <= RSA_LARGEST:
                raise ValueError(f"{name} is from {RSA_SMALLEST} to {RSA_LARGEST}")
        if self.min_rsa_bits > self.max_rsa_bits:
            raise ValueError("min_rsa_bits is not above max_rsa_bits")


def describe_key(key: object) -> str:
    """What people call a public key: "RSA-2048", "P-256", "Ed25519"; the class name for kinds unknown here."""
    match key:
        case rsa.RSAPublicKey():
            return f"RSA-{key.key_size}"
        case ec.EllipticCurvePublicKey():
            return _CURVE_TITLES.get(key.curve.name, key.curve.name)
        case dsa.DSAPublicKey():
            return f"DSA-{key.key_size}"
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey() | x25519.X25519PublicKey() | x448.X448PublicKey():
            return type(key).__name__.removesuffix("PublicKey")
        case _:
            return type(key).__name__.removesuffix("PublicKey")


def spki_sha256(spki_der: bytes) -> str:
    """The lower-case hexadecimal SHA-256 of a DER SubjectPublicKeyInfo, by which the store knows a key again."""
    return hashlib.sha256(spki_der).hexdigest()


def check_key(spki_der: bytes, policy: KeyPolicy) -> PublicKey:
    """Read a DER SubjectPublicKeyInfo and hold it against RULES F5 and the policy.

    RSA of 2048 to 8192 bits with an odd exponent from 65537 to 2^256 and without the ROCA fingerprint; P-256, P-384 and
    P-521 with the point on the curve, written uncompressed; Ed25519; Ed448 where the policy has it. Raises KeyRefused
    with a sentence for the client, and the profile's key that it breaks where it is one of those.
    """
    if len(spki_der) > _LARGEST_SPKI:
        raise KeyRefused("the public key is too large", reason="key_too_large")
    try:
        # OpenSSL refuses a point that is not on its curve here (RFC 5480; NIST SP 800-56A, 5.6.2.3)
        key = load_der_public_key(spki_der)
        canonical = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise KeyRefused("the public key cannot be read or is of a kind that is not known") from error
    match key:
        case rsa.RSAPublicKey():
            kind = "rsa"
        case ec.EllipticCurvePublicKey():
            kind = _CURVES.get(key.curve.name)
        case ed25519.Ed25519PublicKey():
            kind = "ed25519"
        case ed448.Ed448PublicKey():
            kind = "ed448"
        case _:
            kind = None
    title = describe_key(key)
    if kind is None or kind not in policy.allowed:
        allowed = ", ".join(_TITLES[name] for name in KEY_NAMES if name in policy.allowed)
        raise KeyRefused(
            f"{title} keys are not taken here; allowed: {allowed}", reason="key_type_not_allowed", rule="key_types"
        )
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key, policy)
    if canonical != spki_der:
        # One key has one fingerprint. A compressed point or odd parameters would make a revoked key look new.
        raise KeyRefused(
            f"the {title} public key is not in its usual encoding (DER; an uncompressed point; rsaEncryption)",
            reason="key_encoding",
        )
    return key  # type: ignore[return-value]  # the kinds of PublicKey and no others have a `kind`


def _check_rsa(key: rsa.RSAPublicKey, policy: KeyPolicy) -> None:
    if not policy.min_rsa_bits <= key.key_size <= policy.max_rsa_bits:
        raise KeyRefused(
            f"RSA keys have from {policy.min_rsa_bits} to {policy.max_rsa_bits} bits here, not {key.key_size}",
            reason="key_size_not_allowed",
            rule="min_rsa_bits" if key.key_size < policy.min_rsa_bits else "max_rsa_bits",
        )
    numbers = key.public_numbers()
    if numbers.e % 2 == 0 or not _SMALLEST_EXPONENT <= numbers.e <= _LARGEST_EXPONENT:
        raise KeyRefused(
            "the exponent of an RSA key is an odd number from 65537 to 2^256", reason="key_exponent_not_allowed"
        )
    if numbers.n % 2 == 0:
        raise KeyRefused("the modulus of an RSA key is odd", reason="key_weak")
    if has_roca_fingerprint(numbers.n):
        raise KeyRefused(
            "the RSA key was made by a device with a broken key generator (ROCA, CVE-2017-15361)", reason="key_roca"
        )


# --- ROCA: the primes of a broken library are k*M + (65537^a mod M), M the product of the first primes, so that their
# product, taken modulo each of those primes, is a power of 65537 (Nemec and others, CCS 2017). For the smallest keys M
# has the primes up to 167, for larger keys more of them, so these always show. A sound key passes for one of them once
# in about 2^27.


def _powers(prime: int) -> frozenset[int]:
    powers, power = {1}, 65537 % prime
    while power not in powers:
        powers.add(power)
        power = power * 65537 % prime
    return frozenset(powers)


_ROCA_PRIMES = tuple(p for p in range(3, 168, 2) if all(p % d for d in range(3, p, 2)))
_ROCA_POWERS = tuple((p, powers) for p in _ROCA_PRIMES if len(powers := _powers(p)) < p - 1)
_ROCA_PRODUCT = prod(p for p, _ in _ROCA_POWERS)


def has_roca_fingerprint(modulus: int) -> bool:
    """Whether an RSA modulus shows the structure of the keys of CVE-2017-15361."""
    rest = modulus % _ROCA_PRODUCT  # one long division, then short ones
    return all(rest % prime in powers for prime, powers in _ROCA_POWERS)
