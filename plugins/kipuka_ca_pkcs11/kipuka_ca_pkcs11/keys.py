"""A key on a token as a private key of `cryptography`, so that everything there that signs can sign with it.

In the room: the two types of keys, and which operations they have: signing, and no other. Not in the room: how that is done
(`kipuka_ca_pkcs11.tokens`). `cryptography` takes any subclass of its key classes as an issuer's key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import AsymmetricPadding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from kipuka_ca_pkcs11.tokens import SigningKey

if TYPE_CHECKING:
    from cryptography.utils import Buffer

__all__ = ["ECTokenKey", "RSATokenKey", "TokenKey", "token_key"]


def _never() -> NoReturn:
    raise UnsupportedAlgorithm("the key is on a token, which only signs")


class RSATokenKey(rsa.RSAPrivateKey):
    """An RSA key on a token. The padding is the one that its `SigningKey` was opened for."""

    def __init__(self, key: SigningKey, public_key: rsa.RSAPublicKey) -> None:
        self._key = key
        self._public_key = public_key

    def sign(
        self, data: Buffer, padding: AsymmetricPadding, algorithm: Prehashed | hashes.HashAlgorithm | object
    ) -> bytes:
        """Sign on the token. Raises TokenError."""
        if not isinstance(algorithm, hashes.HashAlgorithm) or type(padding) is not type(
            self._key.scheme.padding(algorithm)
        ):
            _never()
        return self._key.sign(bytes(data), algorithm)

    def public_key(self) -> rsa.RSAPublicKey:
        """The certificate's."""
        return self._public_key

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public_key.key_size

    def decrypt(self, ciphertext: bytes, padding: AsymmetricPadding) -> NoReturn:
        """Never."""
        _never()

    def private_numbers(self) -> NoReturn:
        """Never."""
        _never()

    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> NoReturn:  # noqa: A002
        """Never."""
        _never()

    def __copy__(self) -> RSATokenKey:
        return self

    def __deepcopy__(self, memo: dict[object, object]) -> RSATokenKey:
        return self


class ECTokenKey(ec.EllipticCurvePrivateKey):
    """A key on an elliptic curve, on a token."""

    def __init__(self, key: SigningKey, public_key: ec.EllipticCurvePublicKey) -> None:
        self._key = key
        self._public_key = public_key

    def sign(self, data: Buffer, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign on the token. Raises TokenError."""
        algorithm = signature_algorithm.algorithm
        if not isinstance(signature_algorithm, ec.ECDSA) or not isinstance(algorithm, hashes.HashAlgorithm):
            _never()
        return self._key.sign(bytes(data), algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The certificate's."""
        return self._public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """The certificate's."""
        return self._public_key.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve's order."""
        return self._public_key.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:
        """Never."""
        _never()

    def private_numbers(self) -> NoReturn:
        """Never."""
        _never()

    def private_bytes(self, encoding: object, format: object, encryption_algorithm: object) -> NoReturn:  # noqa: A002
        """Never."""
        _never()

    def __copy__(self) -> ECTokenKey:
        return self

    def __deepcopy__(self, memo: dict[object, object]) -> ECTokenKey:
        return self


TokenKey = RSATokenKey | ECTokenKey


def token_key(key: SigningKey) -> TokenKey:
    """The key with the operations of its type."""
    if isinstance(key.public_key, rsa.RSAPublicKey):
        return RSATokenKey(key, key.public_key)
    return ECTokenKey(key, key.public_key)
