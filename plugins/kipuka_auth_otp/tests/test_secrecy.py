"""Tokens as secrets: RULES D1."""

from __future__ import annotations

import hashlib
import hmac
import os
import re

import bcrypt
import pytest
from kipuka_auth_otp.secrecy import (
    LookupKey,
    LookupKeyError,
    hash_token,
    is_token_shaped,
    loose_mode,
    mint,
    read_lookup_key,
    verify_token,
)

KEY = LookupKey(secret=bytes(range(32)))
OTHER_KEY = LookupKey(secret=bytes(range(1, 33)))
TOKEN = "xK9mP2vL8qR5wN3jT7fY"


def test_tokens_are_base62_and_never_the_same():
    made = {mint(20) for _ in range(500)}
    assert len(made) == 500
    assert all(re.fullmatch("[0-9A-Za-z]{20}", token) for token in made)
    assert {character for token in made for character in token} >= set("09AZaz")


@pytest.mark.parametrize("length", [16, 128])
def test_what_is_made_has_the_shape_of_a_token(length):
    assert is_token_shaped(mint(length))


@pytest.mark.parametrize("text", ["", "a" * 15, "a" * 129, "a" * 19 + "-", "ä" * 20, "٣" * 20])
def test_what_could_not_have_been_made_has_not(text):
    assert not is_token_shaped(text)


def test_the_index_is_32_bits_of_a_keyed_hash():
    assert re.fullmatch("[0-9a-f]{8}", KEY.index(TOKEN))
    assert KEY.index(TOKEN) != OTHER_KEY.index(TOKEN)
    assert KEY.index(TOKEN) == KEY.index(TOKEN)


def test_the_index_says_nothing_about_the_stored_hash():
    """The same key serves both: a domain of its own for each keeps them apart."""
    assert not KEY.authenticator_of(TOKEN).hex().startswith(KEY.index(TOKEN))
    assert KEY.authenticator_of(TOKEN) != hmac.digest(KEY.secret, TOKEN.encode(), hashlib.sha256)


@pytest.mark.parametrize(
    ("algorithm", "form"),
    [
        ("argon2id", r"\$argon2id\$v=19\$m=19456,t=2,p=1\$.+"),
        ("bcrypt", r"\$2b\$10\$.{53}"),
        ("sha256-hmac", r"\$kipuka-sha256-hmac\$[A-Za-z0-9+/]{43}="),
    ],
)
def test_a_hash_names_its_algorithm_and_verifies_its_token_only(algorithm, form):
    recorded = hash_token(TOKEN, algorithm, KEY)
    assert re.fullmatch(form, recorded)
    assert len(recorded) <= 255
    assert verify_token(TOKEN, recorded, KEY)
    assert not verify_token(TOKEN[:-1] + "Z", recorded, KEY)
    assert not verify_token(TOKEN + "Z", recorded, KEY)


def test_the_keyed_hash_is_worthless_without_the_key():
    assert not verify_token(TOKEN, hash_token(TOKEN, "sha256-hmac", KEY), OTHER_KEY)


def test_bcrypt_is_not_asked_about_more_than_72_bytes():
    """RULES D1: some versions of bcrypt cut the rest off, and would take a longer token for a shorter one."""
    recorded = bcrypt.hashpw(b"a" * 72, bcrypt.gensalt(4)).decode()
    assert verify_token("a" * 72, recorded, KEY)
    assert not verify_token("a" * 73, recorded, KEY)


def test_a_record_of_no_known_algorithm_is_an_error_and_no_match():
    with pytest.raises(ValueError, match="no known algorithm"):
        verify_token(TOKEN, "$1$abc", KEY)


def test_the_key_is_taken_byte_by_byte_and_not_shown(tmp_path):
    path = tmp_path / "otp.key"
    secret = bytes(range(31)) + b"\n"
    path.write_bytes(secret)
    key = read_lookup_key(path)
    assert key.secret == secret
    assert "secret" not in repr(key)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        pytest.param(None, "cannot read", id="missing"),
        pytest.param(b"", "holds 0 bytes", id="empty"),
        pytest.param(os.urandom(31), "holds 31 bytes", id="short"),
        pytest.param(os.urandom(4097), "holds 4097 bytes", id="long"),
        pytest.param(b"\0" * 32, "does not hold random bytes", id="zeros"),
    ],
)
def test_a_key_that_is_none_is_refused(tmp_path, content, complaint):
    path = tmp_path / "otp.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LookupKeyError, match=complaint):
        read_lookup_key(path)


def test_a_key_is_a_regular_file(tmp_path):
    with pytest.raises(LookupKeyError, match="not a regular file"):
        read_lookup_key(tmp_path)


@pytest.mark.parametrize(
    ("mode", "loose"), [(0o600, None), (0o400, None), (0o640, None), (0o644, "0644"), (0o660, "0660"), (0o604, "0604")]
)
def test_others_may_not_read_nor_the_group_write(tmp_path, mode, loose):
    path = tmp_path / "otp.key"
    path.touch()
    path.chmod(mode)
    assert loose_mode(path) == loose
