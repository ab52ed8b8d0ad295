"""Templates cannot be injected into, and alternative names are what their RFCs say."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st
from kipuka_auth_gssapi.names import KRB5_PRINCIPAL_NAME, UPN, alternative_names, format_san, read_template, subject_of
from kipuka_auth_gssapi.principals import Principal

from kipuka.api import format_dn, parse_dn

TEMPLATES = [
    "CN={principal},OU=Users,DC=example,DC=com",
    "CN={user},OU={realm}",
    "UID={user}+CN={user},O=Example",
    "CN=x{user}y,OU=\\,{realm}\\+",
    "OU={user},OU={user}",
]
nasty = st.text(alphabet=st.sampled_from('abc,+"\\<>;=# /@{}\x00\néß\u202e\u00a0'), min_size=1, max_size=12)
components = st.lists(st.one_of(nasty, st.text(min_size=1, max_size=12)), min_size=1, max_size=3).map(tuple)
principals = st.builds(Principal, components, st.one_of(nasty, st.just("EXAMPLE.COM")))


def shape(name):
    return [[attribute.oid for attribute in rdn] for rdn in name.rdns]


@pytest.mark.parametrize("text", TEMPLATES)
@given(principals)
@example(Principal(("alice,OU=Admins",), "EXAMPLE.COM"))
@example(Principal(("alice+UID=root",), "EXAMPLE.COM"))
@example(Principal(('alice",CN="root',), "EXAMPLE.COM"))
@example(Principal(("alice\\",), "EXAMPLE.COM"))
@example(Principal(("{realm}",), "EXAMPLE.COM"))
@example(Principal(("#0c0161",), "EXAMPLE.COM"))
def test_a_name_has_exactly_the_components_of_its_template(text, principal):
    """DESIGN, guarantee 5: the name, also when it is read from its text, has the template's RDNs, whatever the principal is."""
    template = read_template(text)
    try:
        name = subject_of(principal, template)
    except ValueError:
        return  # it does not fit: the principal is not mapped
    unfilled = parse_dn(text)
    assert shape(name) == shape(unfilled)
    assert shape(parse_dn(format_dn(name))) == shape(x509.Name.from_rfc4514_string(format_dn(name))) == shape(unfilled)
    for before, after in zip(unfilled, name, strict=True):
        expected = before.value
        for placeholder, value in (
            ("{principal}", str(principal)),
            ("{user}", principal.user),
            ("{realm}", principal.realm),
        ):
            if placeholder in before.value:
                expected = before.value.replace(placeholder, value)
        assert after.value == expected


def test_principals_of_reasonable_names_fit():
    """The property above must not hold because nothing ever fits."""
    template = read_template("CN={principal},OU=Users,DC=example,DC=com")
    name = subject_of(Principal.parse("alice@EXAMPLE.COM"), template)
    assert format_dn(name) == "CN=alice@EXAMPLE.COM,OU=Users,DC=example,DC=com"
    (common_name,) = subject_of(Principal(('a,b+c"d\\e;<f>=',), "X"), template).get_attributes_for_oid(
        NameOID.COMMON_NAME
    )
    assert common_name.value == 'a,b+c"d\\\\e;<f>=@X'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "empty"),
        ("alice", "RFC 4514"),
        ("CN={user},", "RFC 4514"),
        ("CN={nobody}", "no field {nobody}, only {principal}, {user}"),
        ("CN={user", "brace"),
        ("CN=user}", "brace"),
        ("CN={}", "brace"),
        ("CN={{user}}", "brace"),
        ("XY={user}", "RFC 4514"),
        ("C={user}", "RFC 4514"),
        ("CN={user}+CN={user}", "RFC 4514"),
    ],
)
def test_a_template_that_cannot_be_right_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        read_template(text)


@pytest.mark.parametrize(
    ("text", "principal", "problem"),
    [
        pytest.param("CN={host}", "alice@X", "no host", id="no host"),
        pytest.param("CN={principal}", "a" * 70 + "@X", "length", id="too long for a common name"),
        pytest.param("CN={user}", "a\x01b@X", "control", id="control character"),
        pytest.param("CN={user}", "a\u202eb@X", "invisible", id="character that reorders"),
        pytest.param("DC={user}", "ä@X", "ASCII", id="not of the attribute's string type"),
    ],
)
def test_a_principal_that_does_not_fit_has_no_name(text, principal, problem):
    with pytest.raises(ValueError, match=problem):
        subject_of(Principal.parse(principal), read_template(text))


def test_a_host_has_its_host_name():
    template = read_template("CN={host},OU=Hosts")
    assert format_dn(subject_of(Principal.parse("host/Web.Example.com@X"), template)) == "CN=web.example.com,OU=Hosts"
    assert format_dn(subject_of(Principal.parse("WS42$@X"), template)) == "CN=ws42,OU=Hosts"


ALL = ("dns", "upn", "krb5")


@pytest.mark.parametrize(
    ("principal", "names"),
    [
        ("alice@X.COM", ["UPN:alice@X.COM", "KRB5PrincipalName:alice@X.COM"]),
        ("alice/admin@X.COM", ["KRB5PrincipalName:alice/admin@X.COM"]),
        ("WS42$@X.COM", ["KRB5PrincipalName:WS42$@X.COM"]),
        ("host/web.example.com@X.COM", ["DNS:web.example.com", "KRB5PrincipalName:host/web.example.com@X.COM"]),
        ("host/web@X.COM", ["KRB5PrincipalName:host/web@X.COM"]),
        ("jürgen@X.COM", ["UPN:jürgen@X.COM"]),
        (r"alice\@EVIL.COM@X.COM", [r"KRB5PrincipalName:alice\@EVIL.COM@X.COM"]),
        (r"alice\n@X.COM", [r"KRB5PrincipalName:alice\n@X.COM"]),
    ],
)
def test_alternative_names_follow_from_the_principal(principal, names):
    read = Principal.parse(principal)
    assert [format_san(name, read) for name in alternative_names(read, ALL)] == names
    assert alternative_names(read, ()) == ()


def test_an_upn_is_a_utf8_string():
    (name,) = alternative_names(Principal.parse("jürgen@X"), ("upn",))
    assert (name.type_id, name.value) == (UPN, b"\x0c\x09j\xc3\xbcrgen@X")


def test_a_krb5_principal_name_is_that_of_rfc_4556():
    """Written out by hand from the ASN.1 of RFC 4556, 3.2.2 and RFC 4120, 5.2.2."""
    (name,) = alternative_names(Principal.parse("alice/admin@REALM"), ("krb5",))
    realm = b"\xa0\x07\x1b\x05REALM"
    components = b"\x30\x0e\x1b\x05alice\x1b\x05admin"
    principal_name = b"\x30\x17\xa0\x03\x02\x01\x02\xa1\x10" + components
    expected = b"\x30\x24" + realm + b"\xa1\x19" + principal_name
    assert (name.type_id, name.value) == (KRB5_PRINCIPAL_NAME, expected)


def test_long_names_have_long_lengths():
    (name,) = alternative_names(Principal(("a" * 300,), "X"), ("krb5",))
    assert name.value[:4] == b"\x30\x82\x01\x4a"
