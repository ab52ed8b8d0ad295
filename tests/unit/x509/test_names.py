"""Names as text and as values, when two are the same, and that no value can become more than a value."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kipuka.distinguished_names import (
    attribute_type,
    control_character,
    format_dn,
    parse_dn,
    subject_for,
    text_attribute,
)
from kipuka.x509.names import (
    format_general_name,
    general_name_key,
    holder_digest,
    normal_dns,
    normal_email,
    normal_uri,
    parse_general_name,
    same_general_name,
    same_general_names,
    same_name,
)

quick = settings(database=None, max_examples=200)

CN, O, OU, C, DC = (  # noqa: E741 - the attributes' own names
    NameOID.COMMON_NAME,
    NameOID.ORGANIZATION_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.COUNTRY_NAME,
    NameOID.DOMAIN_COMPONENT,
)


def name(*attributes: tuple[x509.ObjectIdentifier, str]) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])


# --- Text of distinguished names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CN=User,OU=People,DC=example,DC=com", name((DC, "com"), (DC, "example"), (OU, "People"), (CN, "User"))),
        ("cn=User, o = Example ,  c=DE", name((C, "DE"), (O, "Example"), (CN, "User"))),
        (r"CN=Smith\, John", name((CN, "Smith, John"))),
        (r"CN=a\2Cb\20", name((CN, "a,b "))),
        (r"CN=\ a\ ", name((CN, " a "))),
        (r"CN=\#1", name((CN, "#1"))),
        ("CN=a=b#c d", name((CN, "a=b#c d"))),
        (r"CN=Lu\C4\8Di\C4\87", name((CN, "Lučić"))),
        ("CN=Lučić", name((CN, "Lučić"))),
        (r"O=Sue\, Grabbit and Runn\"\+\;\<\>\\", name((O, 'Sue, Grabbit and Runn"+;<>\\'))),
        ("2.5.4.3=a", name((CN, "a"))),
        ("CN=#0C0161", name((CN, "a"))),
        ("CN=#1303612062 , C=DE", name((C, "DE"), (CN, "a b"))),
        ("CN=#1E0400610062", name((CN, "ab"))),
        ("emailAddress=a@example.com", name((NameOID.EMAIL_ADDRESS, "a@example.com"))),
        ("", x509.Name([])),
    ],
)
def test_a_distinguished_name_is_read(text, expected):
    """RFC 4514, 2 and 3: the most specific component first, escapes, dotted types and hexadecimal values."""
    assert parse_dn(text) == expected


def test_a_component_of_several_attributes_is_read_and_written():
    """RFC 4514, 2.2."""
    read = parse_dn("CN=a+OU=b,O=c")
    assert [len(rdn) for rdn in read.rdns] == [1, 2]
    assert format_dn(read) == "CN=a+OU=b,O=c"


@pytest.mark.parametrize(
    "text",
    [
        "CN",
        "CN=",
        "O=",
        "CN=a,",
        ",CN=a",
        "CN=a;O=b",
        'CN="a"',
        "CN=a<b",
        "CN=a\0",
        "CN=a\\",
        r"CN=a\x",
        r"CN=a\C4",
        "CN=#",
        "CN=#0",
        "CN=#0c0261",
        "CN=#020101",
        "CN=#0c016100",
        "CN=#1301C4",
        "CN=#0c84FFFFFFFF",
        "CN=#0c80",
        "=a",
        "XYZ=a",
        "9.9.9=a",
        "2.5.4.03=a",
        "C=DEU",
        "C=D_",
        "DC=ä",
        "serialNumber=a_b",
        "CN=" + "x" * 65,
        "CN=a+CN=a",
    ],
)
def test_text_that_is_no_distinguished_name_is_refused(text):
    """RFC 4514, 3: nothing is guessed."""
    with pytest.raises(ValueError, match=r"\w") as refused:
        parse_dn(text)
    assert type(refused.value) is ValueError


def test_a_type_without_a_short_name_is_written_in_hexadecimal():
    """RFC 4514, 2.4."""
    odd = name((x509.ObjectIdentifier("1.2.3.4"), "a"))
    assert format_dn(odd) == "1.2.3.4=#0c0161"
    assert parse_dn(format_dn(odd)) == odd


def test_a_value_that_is_no_text_is_written_in_hexadecimal():
    """RFC 4514, 2.4: an X.500 unique identifier is a BIT STRING."""
    from cryptography.x509.name import _ASN1Type

    odd = x509.Name([x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\x01", _ASN1Type.BitString)])
    assert format_dn(odd) == "2.5.4.45=#03020001"


def test_attribute_types_are_known_by_name_or_number():
    assert attribute_type("cn") == attribute_type("commonName") == attribute_type("2.5.4.3") == CN
    for wrong in ("", "foo", "1", "1.2.x"):
        with pytest.raises(ValueError, match=r"\w"):
            attribute_type(wrong)


# --- Nothing can be injected (DESIGN.md, guarantee 5)

# RFC 4514's own characters, those that split names elsewhere, and everything else
nasty = st.one_of(
    st.text(alphabet=st.sampled_from(list(',+="\\#;<> /=\0\n\r\u2028\u202eCNOU1.\u00e9')), min_size=1, max_size=16),
    st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16),
)
attributes = st.tuples(st.sampled_from([CN, O, OU, NameOID.TITLE, x509.ObjectIdentifier("1.2.3.4")]), nasty)


@quick
@given(st.lists(st.lists(attributes, min_size=1, max_size=3, unique=True), max_size=4))
def test_a_name_survives_being_written_and_read(components):
    """DESIGN.md, guarantee 5: whatever the values are, the text says the same name again."""
    rdns = [
        x509.RelativeDistinguishedName([x509.NameAttribute(oid, value) for oid, value in component])
        for component in components
    ]
    written = format_dn(x509.Name(rdns))
    assert parse_dn(written) == x509.Name(rdns)
    assert control_character(written) is None


@quick
@given(nasty)
def test_no_value_can_add_a_component_to_a_subject(value):
    """DESIGN.md, guarantee 5: a client id or a principal is one CN, or it is refused."""
    try:
        subject = subject_for(value)
    except ValueError:
        assert control_character(value) is not None or len(value.encode()) > 64
        return
    again = parse_dn(format_dn(subject))
    for form in (subject, again):
        assert [(attribute.oid, attribute.value) for attribute in form] == [(CN, value)]
        assert len(form.rdns) == 1


@quick
@given(nasty)
def test_no_value_can_add_a_component_to_a_longer_name(value):
    """DESIGN.md, guarantee 5: the same between other components, as in a mapping's template."""
    template = x509.Name([x509.NameAttribute(DC, "com"), x509.NameAttribute(OU, "Users"), text_attribute(CN, value)])
    read = parse_dn(format_dn(template))
    assert [attribute.oid for attribute in read] == [DC, OU, CN]
    assert list(read)[-1].value == value


@quick
@given(st.text(max_size=40))
def test_reading_a_distinguished_name_ends_in_a_name_or_a_sentence(text):
    """RFC 4514: never another exception, and what is read can be written."""
    try:
        read = parse_dn(text)
    except ValueError:
        return
    assert parse_dn(format_dn(read)) == read


@pytest.mark.parametrize("text", ["", "a\0b", "a\nb", "a\x7f", "a\u0085", "a\u2028b", "a\u202eb", "x" * 65, "é" * 33])
def test_a_common_name_is_short_and_without_control_characters(text):
    """RULES D2, F1; RFC 5280, ub-common-name."""
    with pytest.raises(ValueError, match="common name"):
        subject_for(text)


def test_a_common_name_of_64_characters_is_taken():
    """RULES D2."""
    assert subject_for("x" * 64) == name((CN, "x" * 64))


def test_a_lone_surrogate_is_refused():
    """What is not Unicode text cannot stand in a certificate."""
    with pytest.raises(ValueError, match="Unicode"):
        text_attribute(O, "a\ud800")
    with pytest.raises(ValueError, match="common name"):
        subject_for("a\ud800")


# --- Comparison


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CN=device 1,O=Example", "CN=DEVICE 1,O=example"),
        ("CN=device   1", "CN=device 1"),
        (r"CN=\ device 1\ ", "CN=device 1"),
        ("CN=device\\091", "CN=device 1"),
        ("CN=Straße", "CN=STRASSE"),
        ("CN=Ａ", "CN=a"),
        ("CN=e\u0301", "CN=\u00e9"),
        ("CN=a\u00adb", "CN=ab"),
        ("CN=a\u00a0b", "CN=a b"),
        ("CN=a+OU=b", "OU=B+CN=A"),
        ("DC=Example,DC=COM", "DC=example,DC=com"),
        ("CN=#130161", "CN=#0c0161"),
        ("CN=\ue000", "CN=\ue000"),
        ("", ""),
    ],
)
def test_names_are_the_same_by_meaning(one, other):
    """RULES F2; RFC 5280, 7.1 and 7.3: case, spaces, compatibility forms and string types make no difference."""
    assert same_name(parse_dn(one), parse_dn(other))
    assert same_name(parse_dn(other), parse_dn(one))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CN=a,O=b", "O=b,CN=a"),
        ("CN=a", "CN=a,O=b"),
        ("CN=a", "OU=a"),
        ("CN=a", "CN=b"),
        ("CN=ab", "CN=a b"),
        ("CN=a+OU=b", "CN=a,OU=b"),
        ("CN=a+OU=b", "CN=a+OU=c"),
        ("CN=a+CN=A", "CN=a"),
        ("CN=a+CN=A+CN=b", "CN=a+CN=b+CN=B"),
        ("CN=\ue000", "CN=\ue001"),
        ("CN=a", ""),
        ("CN=e", "CN=é"),
    ],
)
def test_names_that_differ_are_not_the_same(one, other):
    """RULES F2; RFC 5280, 7.1: order of components, types and values count."""
    assert not same_name(parse_dn(one), parse_dn(other))
    assert not same_name(parse_dn(other), parse_dn(one))


@quick
@given(st.lists(attributes, min_size=1, max_size=3), st.lists(attributes, min_size=1, max_size=3))
def test_comparison_is_reflexive_and_symmetric(one, other):
    """RFC 5280, 7.1."""
    assert same_name(name(*one), name(*one))
    assert same_name(name(*one), name(*other)) == same_name(name(*other), name(*one))


@quick
@given(nasty)
def test_comparison_ignores_case_for_every_text(value):
    """RFC 5280, 7.1: caseIgnoreMatch."""
    assert same_name(name((O, value)), name((O, value.casefold()))) or control_character(value) or not value.isascii()


# --- DNS names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.example", "a.example"),
        ("Workstation-42", "workstation-42"),
        ("A.EXAMPLE.com", "a.example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("xn--BCHER-kva.example", "xn--bcher-kva.example"),
        ("1.2.3.4.in-addr.arpa", "1.2.3.4.in-addr.arpa"),
        ("x" * 63 + ".example", "x" * 63 + ".example"),
    ],
)
def test_dns_names_are_lower_case_a_labels(text, expected):
    """RULES F1: compared as lower-case A-labels."""
    assert normal_dns(text) == expected
    assert normal_dns(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(".", id="root"),
        pytest.param("a..example", id="empty label"),
        pytest.param("a.example.", id="dot at the end"),
        pytest.param(".example", id="dot at the start"),
        pytest.param("a\0.example", id="NUL"),
        pytest.param("a.example\0.evil.example", id="NUL before a foreign domain"),
        pytest.param("a\n.example", id="line feed"),
        pytest.param("a.example\n", id="line feed at the end"),
        pytest.param("a b.example", id="space"),
        pytest.param("a_b.example", id="underscore"),
        pytest.param("-a.example", id="hyphen first"),
        pytest.param("a-.example", id="hyphen last"),
        pytest.param("10.0.0.1", id="IPv4"),
        pytest.param("167772161", id="IPv4 as one number"),
        pytest.param("0x7f.1", id="IPv4 as browsers read it"),
        pytest.param("127.0x1", id="IPv4 in hexadecimal"),
        pytest.param("::1", id="IPv6"),
        pytest.param("[::1]", id="IPv6 in brackets"),
        pytest.param("x" * 64 + ".example", id="label of 64"),
        pytest.param("x" * 60 + ".x" * 97 + ".x", id="name of 256"),
        pytest.param("é" * 60 + ".example", id="A-label too long"),
        pytest.param("*.example.com", id="wildcard where none is allowed"),
        pytest.param("straße.example", id="reads differently in different standards"),
        pytest.param("a\uff0eexample", id="full-width dot"),
        pytest.param("a\u3002example", id="ideographic dot"),
        pytest.param("a\u202e.example", id="bidi control"),
    ],
)
def test_what_is_no_dns_name_is_refused(text):
    """RULES F1: NUL, control characters, IP addresses, wildcards and broken labels."""
    with pytest.raises(ValueError, match=r"\w"):
        normal_dns(text)


def test_a_dns_name_with_control_characters_is_refused_as_such():
    """RULES F1: the refusal says what is wrong, also where another rule would refuse it too."""
    for text in ("a\0.example", "a\u202e.example"):
        with pytest.raises(ValueError, match="no control characters"):
            normal_dns(text)


def test_a_wildcard_is_one_whole_first_label():
    """RULES F1: wildcards only where they are asked for, and nowhere else in the name."""
    assert normal_dns("*.Example.com", wildcard=True) == "*.example.com"
    for text in ("*", "*.com", "a.*.example", "*a.example.com", "a*.example.com", "*.*.example.com", "**.example.com"):
        with pytest.raises(ValueError, match=r"\w"):
            normal_dns(text, wildcard=True)


@quick
@given(st.text(max_size=30))
def test_a_normal_dns_name_is_plain_and_stays_as_it_is(text):
    """RULES F1."""
    try:
        normal = normal_dns(text)
    except ValueError:
        return
    assert normal_dns(normal) == normal
    assert set(normal) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-")


# --- Alternative names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DNS:a.example", x509.DNSName("a.example")),
        ("dns:A.example", x509.DNSName("a.example")),
        ("a.example", x509.DNSName("a.example")),
        ("*.example.com", x509.DNSName("*.example.com")),
        ("IP:10.0.0.1", x509.IPAddress(ipaddress.ip_address("10.0.0.1"))),
        ("10.0.0.1", x509.IPAddress(ipaddress.ip_address("10.0.0.1"))),
        ("2001:db8::1", x509.IPAddress(ipaddress.ip_address("2001:db8::1"))),
        ("ip:2001:db8::1", x509.IPAddress(ipaddress.ip_address("2001:db8::1"))),
        ("Email:A@Example.com", x509.RFC822Name("A@example.com")),
        ("URI:urn:uuid:1", x509.UniformResourceIdentifier("urn:uuid:1")),
        ("uri:HTTPS://A.example/x", x509.UniformResourceIdentifier("https://a.example/x")),
        ("dirName:CN=a,O=b", x509.DirectoryName(name((O, "b"), (CN, "a")))),
        ("RID:1.2.3", x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))),
    ],
)
def test_an_alternative_name_is_read(text, expected):
    read = parse_general_name(text)
    assert read == expected
    assert parse_general_name(format_general_name(read)) == read


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DNS:",
        "DNS:10.0.0.1",
        "IP:a.example",
        "IP:10.0.0.0/8",
        "fe80::1%eth0",
        "email:a",
        "email:a@b@c.example",
        "email:a b@c.example",
        "email:@c.example",
        "URI:a",
        "URI:/a",
        "URI:http://a b/",
        "URI:http://a%2fb/",
        "URI:http://a/%zz",
        "dirName:",
        "dirName:a",
        "RID:1",
        "otherName:1.2.3",
        "foo:bar",
        "a\0.example",
    ],
)
def test_what_is_no_alternative_name_is_refused(text):
    with pytest.raises(ValueError, match=r"\w"):
        parse_general_name(text)


@pytest.mark.parametrize(
    ("der", "text"),
    [
        pytest.param(b"\x0c\x01a", "a", id="UTF8String"),
        pytest.param(b"\x0c\x02#a", "#0c022361", id="text that looks like the other form"),
        pytest.param(b"\x0c\x02a\n", "#0c02610a", id="control character"),
        pytest.param(b"\x0c\x02a", "#0c0261", id="cut short"),
        pytest.param(b"\x0c\x01\xff", "#0c01ff", id="not UTF-8"),
        pytest.param(b"\x05\x00", "#0500", id="no string"),
        pytest.param(b"", "#", id="nothing"),
    ],
)
def test_an_other_name_is_written_with_its_value(der, text):
    """The record and the audit log tell two users' names apart."""
    other = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), der)
    assert format_general_name(other) == f"otherName:1.3.6.1.4.1.311.20.2.3={text}"


def test_names_without_text_are_written_by_their_form():
    assert format_general_name(x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))) == "IP:10.0.0.0/8"


def test_control_characters_never_reach_a_message():
    """DESIGN.md, guarantee 5: what is written to log and answer stays on one line."""
    assert format_general_name(x509.DNSName("a\0b\nc")) == "DNS:a\\00b\\0Ac"
    with pytest.raises(ValueError, match="example") as refused:
        normal_email("a\r\n@b.example")
    assert control_character(str(refused.value)) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (x509.DNSName("A.Example"), x509.DNSName("a.example")),
        (x509.DNSName("*.A.Example"), x509.DNSName("*.a.example")),
        (x509.RFC822Name("a@EXAMPLE.com"), x509.RFC822Name("a@example.com")),
        (
            x509.UniformResourceIdentifier("HTTP://EXAMPLE.com:80/%7euser/./a/../b"),
            x509.UniformResourceIdentifier("http://example.com/~user/b"),
        ),
        (x509.UniformResourceIdentifier("https://a.example"), x509.UniformResourceIdentifier("https://a.example/")),
        (x509.DirectoryName(name((CN, "A"))), x509.DirectoryName(name((CN, "a")))),
        (x509.DNSName("not_normal"), x509.DNSName("not_normal")),
        (x509.IPAddress(ipaddress.ip_address("::1")), x509.IPAddress(ipaddress.ip_address("0:0::1"))),
        (
            x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
            x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
        ),
    ],
)
def test_alternative_names_are_the_same_by_meaning(one, other):
    """RULES F2; RFC 5280, 7.2, 7.4 and 7.5."""
    assert same_general_name(one, other)
    assert same_general_names([one], [other, one])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (x509.DNSName("a.example"), x509.DNSName("b.example")),
        (x509.DNSName("a.example"), x509.UniformResourceIdentifier("a.example")),
        (x509.RFC822Name("A@example.com"), x509.RFC822Name("a@example.com")),
        (x509.UniformResourceIdentifier("http://a.example/A"), x509.UniformResourceIdentifier("http://a.example/a")),
        (
            x509.UniformResourceIdentifier("http://a.example/a%2Fb"),
            x509.UniformResourceIdentifier("http://a.example/a/b"),
        ),
        (x509.DNSName("not_normal"), x509.DNSName("Not_normal")),
        (
            x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
            x509.OtherName(x509.ObjectIdentifier("1.2.4"), b"\x05\x00"),
        ),
        (x509.IPAddress(ipaddress.ip_address("10.0.0.1")), x509.IPAddress(ipaddress.ip_address("::ffff:10.0.0.1"))),
    ],
)
def test_alternative_names_that_differ_are_not_the_same(one, other):
    """RULES F2; RFC 5280, 7.2, 7.4 and 7.5."""
    assert not same_general_name(one, other)
    assert not same_general_names([one], [one, other])
    assert general_name_key(one) != general_name_key(other)


def test_lists_of_alternative_names_are_compared_without_order():
    """RULES F2."""
    a, b = x509.DNSName("a.example"), x509.DNSName("b.example")
    assert same_general_names([a, b], [b, a])
    assert same_general_names([], [])
    assert not same_general_names([a], [])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a.example/..", "http://a.example/"),
        ("http://a.example/a/b/../../../c", "http://a.example/c"),
        ("http://a.example/a/.", "http://a.example/a/"),
        ("http://a.example/%2e%2e/a", "http://a.example/a"),
        ("https://a.example:443?x=%c3", "https://a.example/?x=%C3"),
        ("spiffe://Example.org/ns/a", "spiffe://example.org/ns/a"),
        ("http://[2001:DB8::1]:8080/", "http://[2001:db8::1]:8080/"),
        ("urn:Example:A", "urn:Example:A"),
        ("http://user@A.example/", "http://user@a.example/"),
    ],
)
def test_uris_are_normalised(text, expected):
    """RFC 5280, 7.4; RFC 3986, 6.2."""
    assert normal_uri(text) == expected
    assert normal_uri(expected) == expected


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param(("CN=Device 1", ["DNS:a"]), ("CN=device  1", ["DNS:b"]), True, id="a subject decides alone"),
        pytest.param(("CN=a", []), ("CN=b", []), False, id="another subject"),
        pytest.param(("CN=a+O=b", []), ("O=B+CN=A", []), True, id="order within a component"),
        pytest.param(("CN=a,O=b", []), ("O=b,CN=a", []), False, id="order of components"),
        pytest.param(("", ["DNS:a", "DNS:b"]), ("", ["DNS:b", "DNS:a", "DNS:a"]), True, id="no subject: the names"),
        pytest.param(("", ["DNS:a"]), ("", ["DNS:a", "DNS:b"]), False, id="no subject: other names"),
    ],
)
def test_holders_have_the_same_digest_when_they_are_the_same(one, other, same):
    """RULES F5: what the store compares is what `same_name` compares."""
    assert (holder_digest(parse_dn(one[0]), one[1]) == holder_digest(parse_dn(other[0]), other[1])) == same
