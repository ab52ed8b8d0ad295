"""The text form of principals, and what is read off them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kipuka_auth_gssapi.principals import Principal

parts = st.text(min_size=1, max_size=20)
principals = st.builds(Principal, st.lists(parts, min_size=1, max_size=3).map(tuple), parts)


@given(principals)
def test_what_is_written_is_read_back(principal):
    assert Principal.parse(str(principal)) == principal


@given(principals, principals)
def test_two_principals_never_have_the_same_text(one, other):
    """Else one of them could enrol as the other."""
    assert (str(one) == str(other)) == (one == other)
    if one.realm == other.realm:
        assert (one.user == other.user) == (one.components == other.components)


@pytest.mark.parametrize(
    ("text", "components", "realm"),
    [
        ("alice@EXAMPLE.COM", ("alice",), "EXAMPLE.COM"),
        ("alice/admin@EXAMPLE.COM", ("alice", "admin"), "EXAMPLE.COM"),
        (r"a\@b@EXAMPLE.COM", ("a@b",), "EXAMPLE.COM"),
        (r"a\/b@EXAMPLE.COM", ("a/b",), "EXAMPLE.COM"),
        (r"a\\@EXAMPLE.COM", ("a\\",), "EXAMPLE.COM"),
        (r"a\nb@EXAMPLE.COM", ("a\nb",), "EXAMPLE.COM"),
        ("alice@A/B", ("alice",), "A/B"),
    ],
)
def test_the_text_form_is_that_of_mit(text, components, realm):
    assert Principal.parse(text) == Principal(components, realm)


@pytest.mark.parametrize(
    "text", ["", "alice", "@EXAMPLE.COM", "alice@", "a//b@X", "/@X", "a@b@X", "alice@X\\", "alice/@X", "\\"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match=r"has|written"):
        Principal.parse(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("host/web.example.com@X", "web.example.com"),
        ("host/WEB.Example.com@X", "web.example.com"),
        ("WS42$@X", "ws42"),
        ("host/web@X", "web"),
        ("alice@X", None),
        ("HTTP/web.example.com@X", None),
        ("HOST/web.example.com@X", None),
        ("host/web.example.com/x@X", None),
        ("host/10.0.0.1@X", None),
        ("host/web_1.example.com@X", None),
        ("host/a..b@X", None),
        ("host/-a@X", None),
        ("host/*.example.com@X", None),
        ("host/web.example.com\\n@X", None),
        ("$@X", None),
        ("42$@X", None),
        ("a b$@X", None),
        ("host/" + "a" * 64 + "@X", None),
        ("host/" + ".".join(["a" * 60] * 5) + "@X", None),
    ],
)
def test_only_a_host_name_is_a_host(text, host):
    assert Principal.parse(text).host == host


@pytest.mark.parametrize(
    ("text", "anonymous"),
    [
        ("WELLKNOWN/ANONYMOUS@EXAMPLE.COM", True),
        ("alice@WELLKNOWN:ANONYMOUS", True),
        ("alice@EXAMPLE.COM", False),
        ("alice/WELLKNOWN@EXAMPLE.COM", False),
    ],
)
def test_nobody_in_particular_is_told_from_somebody(text, anonymous):
    """RFC 8062."""
    assert Principal.parse(text).is_anonymous is anonymous
