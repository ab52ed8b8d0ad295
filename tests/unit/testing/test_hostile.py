"""The strategies of hostile input: they give what they say, and the host's pure parts bear it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from kipuka_auth_otp.authenticator import read_password

from kipuka.testing.client import basic
from kipuka.testing.hostile.damage import Edit, damaged, edits, mend_lengths
from kipuka.testing.hostile.http import HTTPRequest, authorizations, requests
from kipuka.testing.hostile.requests import good_requests


def test_the_changes_of_an_edit_are_those_it_names():
    at_two = {"where": 0.5, "octets": b"x"}
    assert Edit(action="set", **at_two).apply(b"abcd") == b"abxd"
    assert Edit(action="insert", **at_two).apply(b"abcd") == b"abxcd"
    assert Edit(action="delete", **at_two).apply(b"abcd") == b"abd"
    assert Edit(action="double", **at_two).apply(b"abcd") == b"abcdcd"


def test_nothing_is_to_mend_in_good_der():
    for content in good_requests():
        assert mend_lengths(content) == content


@settings(max_examples=50)
@given(st.sampled_from(good_requests()), edits())
def test_mending_twice_changes_nothing_more(content: bytes, changes: list[Edit]):
    mended = mend_lengths(damaged(content, changes))
    assert mend_lengths(mended) == mended


@settings(max_examples=200)
@given(authorizations(known=(basic("A" * 20),)))
def test_no_authorization_field_is_a_fault(value: bytes):
    """RULES C3: malformed credentials are denied, whatever they are."""
    _, _, parameters = value.decode("latin-1").partition(" ")
    password = read_password(parameters)
    assert password is None or password.isprintable() or all(ord(character) >= 0x20 for character in password)


@settings(max_examples=50)
@given(requests(labels=("factory",), admin=("/admin/otp",)))
def test_a_request_is_written_from_its_parts(request: HTTPRequest):
    assert request.octets.startswith(request.method + b" " + request.target + b" ")
    assert request.octets.endswith(request.body)
