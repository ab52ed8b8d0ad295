"""Whose name a certificate has: the subject by template, alternative names by attribute."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from kipuka_auth_ldap.config import LDAPSettings
from kipuka_auth_ldap.mapping import Mapped, NameMapping, Unmapped
from kipuka_auth_ldap.names import UPN, dns_name, email_name, read_template, upn_name


def mapping(**changes: object) -> NameMapping:
    section = {"servers": "ldap://127.0.0.1", "allow_plaintext": True, "user_base": "dc=example", **changes}
    return NameMapping.of(LDAPSettings.model_validate(section))


def values(**attributes: str | list[str]) -> dict[str, tuple[bytes, ...]]:
    listed = {name: [value] if isinstance(value, str) else value for name, value in attributes.items()}
    return {name: tuple(value.encode() for value in found) for name, found in listed.items()}


def test_the_name_is_what_the_directory_writes_and_not_what_the_client_typed():
    found = mapping().find(values(uid="alice"))
    assert isinstance(found, Mapped)
    assert (found.name, found.subject.rfc4514_string()) == ("alice", "CN=alice")


def test_attributes_stand_in_the_subject_as_values():
    found = mapping(subject="CN={cn}+UID={user},OU={departmentNumber} team,O=Example").find(
        values(uid="bob", cn="Bob, Brown+Co", departmentnumber="7,O=Evil")
    )
    assert isinstance(found, Mapped)
    assert [(attribute.oid, attribute.value) for attribute in found.subject if attribute.oid != NameOID.USER_ID] == [
        (NameOID.ORGANIZATION_NAME, "Example"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "7,O=Evil team"),
        (NameOID.COMMON_NAME, "Bob, Brown+Co"),
    ]


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=16))
def test_no_value_adds_a_component_or_ends_one(value):
    name = read_template("CN={user},OU=People").fill({"user": value})
    assert [attribute.oid for attribute in name] == [NameOID.ORGANIZATIONAL_UNIT_NAME, NameOID.COMMON_NAME]
    assert name.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == value


def test_a_brace_in_a_value_stands_for_itself():
    name = read_template("CN={user} {cn}").fill({"user": "{cn}", "cn": "{user}"})
    assert name.rfc4514_string() == "CN={cn} {user}"


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        (values(cn="A"), "missing_attribute"),
        (values(uid="a"), "missing_attribute"),
        (values(uid="a", cn=["A", "B"]), "ambiguous_attribute"),
        (values(uid="a", cn="A\nB"), "unfit_attribute"),
        (values(uid="a", cn=" A"), "unfit_attribute"),
        ({"uid": (b"a",), "cn": (b"\xff",)}, "unfit_attribute"),
        (values(uid="a", cn="A" * 65), "subject_impossible"),
    ],
)
def test_an_entry_without_the_one_value_gives_no_name(attributes, reason):
    found = mapping(subject="CN={cn}").find(attributes)
    assert isinstance(found, Unmapped)
    assert found.reason == reason


def test_alternative_names_come_from_the_attributes_that_are_named():
    section = {"email_attribute": "mail", "dns_attribute": "dNSHostName", "upn_attribute": "userPrincipalName"}
    entry = values(
        uid="alice",
        mail=["alice@Example.com", "not mail"],
        dnshostname="WS42.example.com",
        userprincipalname="alice@EXAMPLE.COM",
    )
    found = mapping(**section).find(entry)
    assert isinstance(found, Mapped)
    assert found.permitted == (
        x509.RFC822Name("alice@example.com"),
        x509.DNSName("ws42.example.com"),
        x509.OtherName(UPN, b"\x0c\x11alice@EXAMPLE.COM"),
    )
    assert found.unfit == ("mail",)
    nothing = mapping().find(entry)
    assert isinstance(nothing, Mapped)
    assert nothing.permitted == ()


def test_only_what_is_needed_is_asked_for():
    section = {"subject": "CN={cn},O={user}", "email_attribute": "mail", "name_attribute": "sAMAccountName"}
    assert mapping(**section).attributes == ("cn", "mail", "samaccountname")


@pytest.mark.parametrize("text", ["*.example.com", "192.0.2.1", "::1", "a..b", "", "-a.example", "a b", "ü.example"])
def test_what_is_no_host_name_is_no_dns_name(text):
    with pytest.raises(ValueError, match="not a DNS name"):
        dns_name(text)


@pytest.mark.parametrize("text", ["alice", "@example.com", "a b@example.com", "a@b@example.com", "a@*.com", "ü@a.com"])
def test_what_is_no_mail_address_is_none(text):
    with pytest.raises(ValueError, match="it is not a"):
        email_name(text)


@pytest.mark.parametrize("text", ["alice", "@x", "x@", "a@b@c", ""])
def test_a_upn_has_one_at(text):
    with pytest.raises(ValueError, match="not a user principal name"):
        upn_name(text)


def test_a_long_upn_is_encoded_as_der_has_it():
    text = "a" * 200 + "@example.com"
    assert upn_name(text).value[:3] == b"\x0c\x81\xd4"
