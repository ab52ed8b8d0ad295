"""Reading Basic credentials (RFC 7617), and what a directory never hears of."""

from __future__ import annotations

import base64

import pytest
from kipuka_auth_ldap.basic import SignIn, read_basic


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.mark.parametrize(
    ("text", "user", "password"),
    [
        ("alice:secret", "alice", "secret"),
        ("alice:with:colons:", "alice", "with:colons:"),
        ("jürgen:pässwörd", "jürgen", "pässwörd"),
        ("alice@example.com: ", "alice@example.com", " "),
        ("a:" + "x" * 1024, "a", "x" * 1024),
    ],
)
def test_what_is_well_formed_is_read(text, user, password):
    assert read_basic(encoded(text)) == SignIn(user=user, password=password)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ("", "malformed_basic_credentials"),
        ("!", "malformed_basic_credentials"),
        (encoded("no colon"), "malformed_basic_credentials"),
        (encoded(b"\xff:x"), "malformed_basic_credentials"),
        (encoded("al\0ice:x"), "malformed_basic_credentials"),
        (encoded("alice:x\0"), "malformed_basic_credentials"),
        (encoded("alice:x\x7f"), "malformed_basic_credentials"),
        (encoded(":secret"), "no_user_name"),
        (encoded("  :secret"), "no_user_name"),
        (encoded("alice:"), "empty_password"),
        (encoded("a" * 257 + ":x"), "oversized_credentials"),
        (encoded("a:" + "x" * 1025), "oversized_credentials"),
    ],
)
def test_what_is_not_is_refused_by_name(parameters, reason):
    assert read_basic(parameters) == reason


def test_no_repr_has_the_password():
    assert "hunter2" not in repr(SignIn(user="alice", password="hunter2"))
