"""Tokens as secrets: making them, finding them without keeping them, hashing and checking them.

In the room: pure functions of bytes, and reading the look-up key. Not in the room: the table (`kipuka_auth_otp.ledger`) and who
asks (`kipuka_auth_otp.authenticator`).

A token is never stored. What is stored is a look-up index (HMAC-SHA256 under the look-up key, cut to 32 bits) and a hash. The
index says "perhaps this row" for a token that exists and, but once in four thousand million, "no row" for one that does not:
only the former pays for the slow hash (RULES D1). Being 32 bits, it is of no use to test guesses against, should
both the database and the key be lost.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import stat
import string
from dataclasses import dataclass, field
from pathlib import Path

import bcrypt
from argon2 import PasswordHasher, Type
from argon2.exceptions import VerifyMismatchError

from kipuka_auth_otp.config import BCRYPT_BYTES, TOKEN_LENGTHS, HashAlgorithm

__all__ = [
    "LookupKey",
    "LookupKeyError",
    "hash_token",
    "is_token_shaped",
    "loose_mode",
    "mint",
    "read_lookup_key",
    "verify_token",
]

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase

KEY_SIZES = range(32, 4097)

# Each use of the look-up key has a first part of its own, so that no output of one is ever an output of the other.
_INDEX_DOMAIN = b"kipuka-auth-otp index 1\0"
_HASH_DOMAIN = b"kipuka-auth-otp hash 1\0"

# RFC 9106 section 4 gives parameters for secrets people choose. Tokens are random; these (about 50 ms on one core) are for
# the case that the database is lost, and are low enough for many devices to enrol at once.
_ARGON2 = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)
_BCRYPT_ROUNDS = 10  # about as long as the above

_ARGON2_PREFIX = "$argon2id$"
_BCRYPT_PREFIX = "$2b$"
_HMAC_PREFIX = "$kipuka-sha256-hmac$"


class LookupKeyError(Exception):
    """The look-up key cannot be used; the text says why, and never what is in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LookupKey:
    """The secret under which tokens are found."""

    secret: bytes = field(repr=False)

    def index(self, token: str) -> str:
        """The look-up index of a token: 32 bits as 8 hexadecimal digits."""
        return self._mac(_INDEX_DOMAIN, token)[:4].hex()

    def authenticator_of(self, token: str) -> bytes:
        """The 32 bytes that `sha256-hmac` keeps of a token."""
        return self._mac(_HASH_DOMAIN, token)

    def _mac(self, domain: bytes, token: str) -> bytes:
        return hmac.digest(self.secret, domain + token.encode("utf-8"), hashlib.sha256)


def read_lookup_key(path: Path) -> LookupKey:
    """The key in a file, taken byte by byte as it stands. Raises LookupKeyError."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            msg = f"{path} is not a regular file"
            raise LookupKeyError(msg)
        with path.open("rb") as file:
            secret = file.read(KEY_SIZES.stop)
    except OSError as error:
        msg = f"cannot read {path}: {error.strerror}"
        raise LookupKeyError(msg) from error
    if len(secret) not in KEY_SIZES:
        msg = f"{path} holds {len(secret)} bytes or more, not {KEY_SIZES.start} to {KEY_SIZES.stop - 1}"
        raise LookupKeyError(msg)
    if len(set(secret)) < KEY_SIZES.start // 4:
        msg = f"{path} does not hold random bytes"
        raise LookupKeyError(msg)
    return LookupKey(secret=secret)


def loose_mode(path: Path) -> str | None:
    """The file's permissions, as in "0644", where they let in others, or let the group write; None where they are fine.

    A group that may read is usual where root owns a secret and the server's group reads it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"{mode:04o}" if mode & 0o037 else None


def mint(length: int) -> str:
    """A new token of `length` characters."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))


def is_token_shaped(text: str) -> bool:
    """Whether this could be a token of ours at all."""
    return len(text) in TOKEN_LENGTHS and text.isascii() and text.isalnum()


def hash_token(token: str, algorithm: HashAlgorithm, key: LookupKey) -> str:
    """What is stored of a token. The result names its algorithm. Slow on purpose: not for the event loop."""
    match algorithm:
        case "argon2id":
            return _ARGON2.hash(token)
        case "bcrypt":
            return bcrypt.hashpw(token.encode("ascii"), bcrypt.gensalt(_BCRYPT_ROUNDS)).decode("ascii")
        case "sha256-hmac":
            return _HMAC_PREFIX + base64.b64encode(key.authenticator_of(token)).decode("ascii")


def verify_token(token: str, recorded: str, key: LookupKey) -> bool:
    """Whether `recorded` was made from this token, compared in constant time. Slow on purpose: not for the event loop.

    Raises ValueError for a record that none of the algorithms made.
    """
    if recorded.startswith(_ARGON2_PREFIX):
        try:
            return _ARGON2.verify(recorded, token)
        except VerifyMismatchError:
            return False
    if recorded.startswith(_BCRYPT_PREFIX):
        secret = token.encode("utf-8")
        # A longer one cannot have been hashed, and what bcrypt does with it depends on its version.
        return len(secret) <= BCRYPT_BYTES and bcrypt.checkpw(secret, recorded.encode("ascii"))
    if recorded.startswith(_HMAC_PREFIX):
        expected = base64.b64decode(recorded.removeprefix(_HMAC_PREFIX), validate=True)
        return hmac.compare_digest(expected, key.authenticator_of(token))
    msg = "a token's hash in the database is of no known algorithm"
    raise ValueError(msg)
