"""Key pairs that are made here, for clients that ask for one (RFC 7030, 4.4).

In the room: which kinds there are, which of them a request gets, making one, and the request for it that a CA is shown. Not in
the room: in which thread that happens (`kipuka.runtime`), and how a private key goes to its client (`kipuka.est.keygen`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.x509.keys import KEY_NAMES, KeyPolicy, PublicKey

__all__ = ["RSA_SIZES", "GeneratedKey", "KeyKind", "default_kind", "generate", "kind_for", "request_for"]

GeneratedKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

RSA_SIZES = (2048, 3072, 4096)
"""The sizes in bits that are made. Larger ones take longer than a client should wait, and a core with them."""

_CURVES = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1}
_TITLES = {"p256": "P-256", "p384": "P-384", "p521": "P-521", "ed25519": "Ed25519", "ed448": "Ed448"}
_DEFAULTS = ("p256", "p384", "p521", "ed25519", "rsa", "ed448")  # what is taken where nothing is asked for, best first
_EXPONENT = 65537


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyKind:
    """A kind of key: a name of `KEY_NAMES`, and for RSA the size in bits."""

    name: str
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.name not in KEY_NAMES:
            raise ValueError(f"no kind of key is named {self.name}")
        if (self.name == "rsa") != (self.bits is not None):
            raise ValueError("an RSA key has a size, and no other has")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what a configuration says: "p256", "ed25519", "rsa-3072". Raises ValueError."""
        if (size := re.fullmatch(r"rsa-([0-9]{4})", text)) is not None:
            return cls(name="rsa", bits=int(size[1]))
        return cls(name=text)

    @property
    def title(self) -> str:
        """What people call it: "RSA-2048", "P-256"."""
        return f"RSA-{self.bits}" if self.bits is not None else _TITLES[self.name]

    @property
    def is_slow(self) -> bool:
        """Whether making one takes longer than an event loop may wait: two primes must be found."""
        return self.name == "rsa"

    def specimen(self) -> PublicKey:
        """A public key of this kind that nobody has the private key of, to decide by before one is made."""
        if self.bits is not None:
            return rsa.RSAPublicNumbers(_EXPONENT, (1 << self.bits) - 1).public_key()
        return generate(self).public_key()

    def allowed_by(self, policy: KeyPolicy) -> bool:
        """Whether a profile with this policy takes such keys, and they are made here."""
        return self.name in policy.allowed and (self.bits is None or self.bits in _sizes(policy))


def _sizes(policy: KeyPolicy) -> tuple[int, ...]:
    return tuple(bits for bits in RSA_SIZES if policy.min_rsa_bits <= bits <= policy.max_rsa_bits)


def default_kind(policy: KeyPolicy) -> KeyKind | None:
    """What is made for a profile that does not say; None where it takes nothing that is made here."""
    for name in _DEFAULTS:
        bits = next(iter(_sizes(policy)), None) if name == "rsa" else None
        if name in policy.allowed and (name != "rsa" or bits is not None):
            return KeyKind(name=name, bits=bits)
    return None


def kind_for(asked: str, policy: KeyPolicy, default: KeyKind | None) -> KeyKind | None:
    """Which kind of key is made for a request whose own key is called `asked` (as `describe_key` names it; RULES J1).

    The request's own kind where the profile takes it, since that is how clients say what they want; an RSA size that is not
    made becomes the next larger one that is, or the largest. Else `default`, or the profile's best. None where nothing can be made.
    """
    default = default or default_kind(policy)
    names = {title: name for name, title in _TITLES.items()}
    if asked in names:
        wanted = KeyKind(name=names[asked])
        return wanted if wanted.allowed_by(policy) else default
    size = re.fullmatch(r"RSA-([0-9]+)", asked)
    if size is None or "rsa" not in policy.allowed:
        return default
    sizes = _sizes(policy)
    if not sizes:
        return default
    return KeyKind(name="rsa", bits=next((made for made in sizes if made >= int(size[1])), sizes[-1]))


def generate(kind: KeyKind) -> GeneratedKey:
    """A new private key, from OpenSSL's random generator. RSA takes up to some seconds, the others less than a millisecond."""
    match kind.name:
        case "rsa":
            return rsa.generate_private_key(_EXPONENT, kind.bits or RSA_SIZES[0])
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case name:
            return ec.generate_private_key(_CURVES[name]())


def request_for(
    key: GeneratedKey, *, subject: x509.Name, alternative_names: x509.Extension[x509.ExtensionType] | None
) -> bytes:
    """The DER of a PKCS#10 request of this key (RFC 2986), for CAs whose protocol carries one."""
    builder = x509.CertificateSigningRequestBuilder(subject_name=subject)
    if alternative_names is not None:
        builder = builder.add_extension(alternative_names.value, critical=alternative_names.critical)
    edwards = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(key, None if edwards else hashes.SHA256()).public_bytes(Encoding.DER)
