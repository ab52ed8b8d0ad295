"""What a keytab holds, without its keys.

In the room: reading MIT's file format, version 2. Not in the room: using the keys, which the Kerberos library does.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from pathlib import Path

from kipuka_auth_gssapi.principals import Principal

__all__ = ["KeytabEntry", "KeytabError", "loose_mode", "read_keytab"]

_VERSION = b"\x05\x02"

_ENCRYPTION_TYPES = {
    1: "des-cbc-crc",
    3: "des-cbc-md5",
    16: "des3-cbc-sha1",
    17: "aes128-cts-hmac-sha1-96",
    18: "aes256-cts-hmac-sha1-96",
    19: "aes128-cts-hmac-sha256-128",
    20: "aes256-cts-hmac-sha384-192",
    23: "arcfour-hmac",
    24: "arcfour-hmac-exp",
    25: "camellia128-cts-cmac",
    26: "camellia256-cts-cmac",
}
_WEAK = frozenset({1, 2, 3, 16, 23, 24})  # RFC 6649, RFC 8429


class KeytabError(Exception):
    """The file is not there, cannot be read, or is not a keytab; its text is the rest of the sentence "<file> ..."."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeytabEntry:
    """One key's name: whose it is, its version, and its type (RFC 3961 numbers)."""

    principal: str
    version: int
    encryption_type: int

    @property
    def is_weak(self) -> bool:
        """Whether the key's type is one that is given up (RFC 6649, RFC 8429)."""
        return self.encryption_type in _WEAK

    @property
    def encryption(self) -> str:
        """The type's name."""
        return _ENCRYPTION_TYPES.get(self.encryption_type, f"encryption type {self.encryption_type}")


def read_keytab(path: Path) -> tuple[KeytabEntry, ...]:
    """The entries of a keytab, in its order. Raises KeytabError."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        msg = "is not there"
        raise KeytabError(msg) from error
    except OSError as error:
        msg = f"cannot be read: {error.strerror}"
        raise KeytabError(msg) from error
    if content[:2] != _VERSION:
        msg = "is not a keytab"
        raise KeytabError(msg)
    try:
        return tuple(_entries(content[2:]))
    except (struct.error, ValueError, IndexError) as error:
        msg = "is not a whole keytab"
        raise KeytabError(msg) from error


def _entries(content: bytes) -> list[KeytabEntry]:
    found: list[KeytabEntry] = []
    at = 0
    while at + 4 <= len(content):
        (size,) = struct.unpack_from(">i", content, at)
        at += 4
        if size == 0:
            break
        if size > 0:  # a negative size is that of a hole
            if at + size > len(content):
                msg = "cut short"
                raise ValueError(msg)
            found.append(_entry(content[at : at + size]))
        at += abs(size)
    return found


def _entry(content: bytes) -> KeytabEntry:
    (count,) = struct.unpack_from(">H", content)
    at = 2
    parts: list[str] = []
    for _ in range(count + 1):  # the realm comes first
        (length,) = struct.unpack_from(">H", content, at)
        parts.append(content[at + 2 : at + 2 + length].decode("utf-8", "backslashreplace"))
        at += 2 + length
    _name_type, _written, version, kind, length = struct.unpack_from(">IIBHH", content, at)
    at += 13 + length
    if at > len(content):
        msg = "cut short"
        raise ValueError(msg)
    if at + 4 <= len(content):  # the whole key version, where it is given
        (whole,) = struct.unpack_from(">I", content, at)
        version = whole or version
    principal = Principal(tuple(parts[1:]), parts[0])
    return KeytabEntry(principal=str(principal), version=version, encryption_type=kind)


def loose_mode(path: Path) -> str | None:
    """The file's mode in octal, where others than its owner can read or change it. None also where that cannot be told."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None
    return f"{mode:04o}" if mode & 0o037 else None
