"""Whatever a client calls itself, it is one value and stays one (RFC 4515, 3; RFC 4514, 2.4)."""

from __future__ import annotations

import ldap.dn
import ldap.filter
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kipuka_auth_ldap.config import fill_dn, fill_filter
from kipuka_auth_ldap.connection import filter_problem
from kipuka_auth_ldap.escaping import escape_dn_value, escape_filter_value

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("user", "found"),
    [
        ("*", r"(uid=\2a)"),
        (")(uid=*", r"(uid=\29\28uid=\2a)"),
        ("a\0b", r"(uid=a\00b)"),
        ("back\\slash", r"(uid=back\5cslash)"),
        ("jürgen", "(uid=jürgen)"),
        ("{user}", "(uid={user})"),
    ],
)
def test_a_filter_has_one_assertion_more_for_no_user(user, found):
    assert fill_filter("(uid={user})", user) == found


@given(TEXT)
@example("*)(objectClass=*")
@example("\\2a")
def test_a_filter_with_any_name_in_it_is_a_filter_of_one_assertion(user):
    filled = fill_filter("(uid={user})", user)
    assert filled[1:-1].count("(") == filled[1:-1].count(")") == filled.count("*") == filled.count("\0") == 0
    assert filter_problem(filled) is None


@given(TEXT)
def test_the_filter_value_is_read_back_as_it_was(user):
    escaped = escape_filter_value(user)
    assert escaped == ldap.filter.escape_filter_chars(user)


@given(TEXT)
@example(" a ")
@example(" ")
@example("  ")
@example("# x")
@example("x,ou=admins")
@example("a+uid=b")
@example('"')
@example("\\")
@example("a\0b")
@example("\\2c")
def test_the_value_in_a_distinguished_name_is_read_back_as_it_was(user):
    parsed = ldap.dn.str2dn(fill_dn("uid={user},ou=people", user))
    assert [[(attribute, value) for attribute, value, _ in rdn] for rdn in parsed] == [
        [("uid", user)],
        [("ou", "people")],
    ]


def test_only_what_must_be_is_escaped():
    assert escape_dn_value("Jürgen Groß#1") == "Jürgen Groß#1"
    assert escape_filter_value("jürgen@example.com") == "jürgen@example.com"
