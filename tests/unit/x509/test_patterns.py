"""Patterns over a whole certificate (RULES E2); those over single names are tried where profiles use them."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from kipuka.distinguished_names import format_dn, parse_dn
from kipuka.testing.pki import make_root
from kipuka.x509.patterns import parse_certificate_pattern

quick = settings(database=None, max_examples=150)
ROOT = make_root()


def holder(subject="CN=alice,OU=Admins,O=Example", **names):
    """A certificate with that subject, given as text or as a name."""
    name = parse_dn(subject) if isinstance(subject, str) else subject
    return ROOT.issue(name, **names).certificate


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        ("CN=alice,OU=Admins,O=Example", "CN=alice,OU=Admins,O=Example"),
        ("CN=*,OU=Admins,O=Example", "CN=alice,OU=Admins,O=Example"),
        ("CN=*-admin,O=Example", "CN=alice-admin,O=Example"),
        ("CN=a*e*x,O=*", "CN=alice the great x,O=Example"),
        ("cn = ALICE , o = example", "CN=alice,O=Example"),
        ("CN=alice  smith", "CN=Alice Smith"),
        ("CN=alice *", "CN=alice  smith"),
        ("CN=* smith", "CN=alice smith"),
        (r"CN=\2A,O=Example", r"CN=*,O=Example"),
        (r"CN=a\,O=b*", r"CN=a\,O=bc"),
        ("UID=*+CN=alice", "CN=alice+UID=4711"),
        ("CN=straße*", "CN=STRASSE 7"),
        ("C=*,O=Example", "C=DE,O=Example"),
        ("DC=*,DC=example", "DC=corp,DC=example"),
        ("1.2.3.4=*,CN=alice", "1.2.3.4=x,CN=alice"),
    ],
)
def test_a_subject_fits(pattern, subject):
    assert parse_certificate_pattern(pattern).fits(holder(subject))


@pytest.mark.parametrize(
    ("pattern", "subject"),
    [
        pytest.param("CN=alice,O=Example", "CN=alicex,O=Example", id="another value"),
        pytest.param("CN=*,O=Example", "CN=alice,OU=Admins,O=Example", id="a component more"),
        pytest.param("CN=*,OU=*,O=Example", "CN=alice,O=Example", id="a component fewer"),
        pytest.param("CN=*,OU=Admins,O=Example", "OU=Admins,CN=alice,O=Example", id="another order"),
        pytest.param("CN=*,OU=Admins", r"CN=alice\,OU=Admins", id="a value that looks like two components"),
        pytest.param("CN=*,OU=Admins", r"CN=alice+OU=Admins", id="one component in place of two"),
        pytest.param("CN=*+UID=1", "CN=alice+CN=bob", id="a type twice in one component"),
        pytest.param("OU=alice", "CN=alice", id="another type"),
        pytest.param(r"CN=\2A", "CN=alice", id="a star that is meant as one"),
        pytest.param("CN=alice *", "CN=alicesmith", id="a space beside the star"),
        pytest.param("CN=alice*alice", "CN=alice", id="pieces do not overlap"),
        pytest.param("CN=*", "", id="no subject at all"),
    ],
)
def test_a_subject_does_not_fit(pattern, subject):
    assert not parse_certificate_pattern(pattern).fits(holder(subject, dns=("x.example",)))


def test_a_value_that_is_no_text_fits_nothing():
    odd = x509.Name([x509.NameAttribute(NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\x01", x509.name._ASN1Type.BitString)])
    assert not parse_certificate_pattern("2.5.4.45=*").fits(holder(odd))


@pytest.mark.parametrize(
    ("pattern", "names", "fits"),
    [
        ("dns:*.ops.example", {"dns": ("a.OPS.example",)}, True),
        ("DNS: *.ops.example", {"dns": ("other.example", "a.ops.example")}, True),
        ("dns:*.ops.example", {"dns": ("a.b.ops.example",)}, False),
        ("dns:*.ops.example", {"dns": ("*.ops.example",)}, False),  # nobody's name in particular
        ("dns:*.ops.example", {"uri": ("https://a.ops.example/",)}, False),
        ("dns:*.ops.example", {}, False),
        ("email:*@example.com", {"email": ("alice@EXAMPLE.com",)}, True),
        ("email:*@example.com", {"email": ("alice@sub.example.com",)}, False),
        ("email:*@example.com", {"dns": ("example.com",)}, False),
        ("uri:spiffe://example.com/admin/*", {"uri": ("spiffe://example.com/admin/alice",)}, True),
        ("uri:spiffe://example.com/admin/*", {"uri": ("spiffe://example.com/admin/a/b",)}, False),
        ("uri:spiffe://example.com/admin/*", {"uri": ("spiffe://example.com.evil/admin/a",)}, False),
    ],
)
def test_alternative_names_fit_within_their_form_and_part(pattern, names, fits):
    assert parse_certificate_pattern(pattern).fits(holder(**names)) is fits


def test_a_name_that_breaks_its_form_fits_nothing():
    broken = holder(names=(x509.DNSName("a b.ops.example"),))
    assert not parse_certificate_pattern("dns:*.ops.example").fits(broken)


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("", "a pattern such as CN=*,OU=Admins is expected"),
        ("alice", "the attribute type alice is not known"),
        ("*", "an attribute such as CN= is expected"),
        ("XY=alice", "XY is not known"),
        ("CN=", "write * for any"),
        (r"CN=\*", "followed by nothing that can be escaped"),
        ("CN=a+CN=b", "two attributes of one type"),
        ("CN=\ue000", "no two names could be compared"),
        ("dns:", "no empty labels"),
        ("dns:a b", "is not a DNS label"),
        ("email:alice", "is not an e-mail address"),
        ("uri:alice", "is not an absolute URI"),
        ("ip:10.0.0.1", "the attribute type ip is not known"),
    ],
)
def test_what_is_no_pattern_is_refused_with_a_reason(pattern, words):
    with pytest.raises(ValueError, match=words.replace("*", r"\*")):
        parse_certificate_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "anything"),
    [
        ("CN=*", True),
        ("CN=*,O=**", True),
        ("CN=*,O=E*", False),
        ("CN=*+UID=7", False),
        ("dns:*", True),
        ("dns:*.*", True),
        ("email:*@*", True),
        ("email:*@example.com", False),
        ("uri:urn:*", False),
    ],
)
def test_a_pattern_that_demands_no_character_is_known(pattern, anything):
    assert parse_certificate_pattern(pattern).is_anything is anything


@quick
@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_the_text_of_a_subject_without_stars_is_a_pattern_of_itself_and_of_no_longer_one(common_name, unit):
    try:
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
                x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            ]
        )
        pattern = parse_certificate_pattern(format_dn(subject).replace("*", r"\2A"))
    except ValueError:
        return
    certificate = Holder(subject)
    assert pattern.fits(certificate)
    assert not pattern.fits(Holder(x509.Name([subject.rdns[0], *subject.rdns])))


class Holder:
    """As much of a certificate as a pattern over subjects looks at."""

    def __init__(self, subject):
        self.subject = subject
