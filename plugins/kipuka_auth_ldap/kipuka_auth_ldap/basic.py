"""The user name and password of an Authorization field (RFC 7617).

In the room: reading them, and which are refused before a directory hears of them. Not in the room: whether they are right.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from dataclasses import dataclass, field

__all__ = ["MAX_PASSWORD", "MAX_USER", "SignIn", "read_basic"]

MAX_USER = 256
"""Characters. Active Directory's longest, a user principal name, has 1024 at most and 64 before its @ in practice."""

MAX_PASSWORD = 1024
"""Octets of UTF-8. Directories hash what they are sent: a long one is work for nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SignIn:
    """Whom a client says it is, and its proof. The password is in no repr."""

    user: str
    password: str = field(repr=False)


def read_basic(parameters: str) -> SignIn | str:
    """What Basic credentials say, or the audit word for why they are refused unheard.

    They are base64 of `user-id ":" password` in UTF-8, without control characters (RFC 7617, 2). An empty password is refused:
    a bind with a name and no password is an anonymous one, which succeeds (RFC 4513, 5.1.2).
    """
    try:
        text = base64.b64decode(parameters.strip(" \t"), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError, ValueError):
        return "malformed_basic_credentials"
    user, colon, password = text.partition(":")
    if not colon or any(unicodedata.category(character) == "Cc" for character in text):
        return "malformed_basic_credentials"
    if not user.strip():
        return "no_user_name"
    if not password:
        return "empty_password"
    if len(user) > MAX_USER or len(password.encode("utf-8")) > MAX_PASSWORD:
        return "oversized_credentials"
    return SignIn(user=user, password=password)
