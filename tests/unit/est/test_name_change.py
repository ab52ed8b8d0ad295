"""ChangeSubjectName in a request (RFC 6402, section 2.8)."""

from __future__ import annotations

import contextlib

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from kipuka.api.errors import BadCSR
from kipuka.est.csr import CertificateRequest, NameChange
from kipuka.testing import der
from kipuka.testing.pki import Attribute, common_name, make_csr

OID = "1.3.6.1.5.5.7.7.36"
NOBODY = x509.Name([])
NEW = common_name("new")
NAMES = (x509.DNSName("new.example"), x509.RFC822Name("new@example.com"), x509.DirectoryName(common_name("dir")))
SUBJECT = NEW.public_bytes()
SAN = x509.SubjectAlternativeName(NAMES).public_bytes()


def read(*values):
    return CertificateRequest.from_der(make_csr(attributes=(Attribute(oid=OID, values=values),)).der)


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (der.sequence(SUBJECT, SAN), NameChange(subject=NEW, sans=NAMES)),
        (der.sequence(SUBJECT), NameChange(subject=NEW, sans=())),
        (der.sequence(SAN), NameChange(subject=NOBODY, sans=NAMES)),
        (der.sequence(NOBODY.public_bytes(), SAN), NameChange(subject=NOBODY, sans=NAMES)),
        (der.sequence(NOBODY.public_bytes()), NameChange(subject=NOBODY, sans=())),
    ],
    ids=["both", "subject", "alternative names", "empty subject and alternative names", "empty subject"],
)
def test_the_new_names_are_read(value, change):
    """What is absent is taken away; the request's own names are untouched."""
    request = read(value)
    assert request.name_change == change
    assert request.subject == common_name("device-1")
    assert request.sans == ()


def test_a_request_without_the_attribute_changes_nothing():
    assert CertificateRequest.from_der(make_csr().der).name_change is None


def test_the_attribute_belongs_to_what_a_request_is_known_by():
    """RULES D4, G2: it is no challenge: it is kept, and a request with other new names is another request."""
    key = make_csr().key
    plain, one, other = (
        CertificateRequest.from_der(make_csr(key=key, attributes=attributes).der)
        for attributes in (
            (),
            (Attribute(oid=OID, values=(der.sequence(SUBJECT),)),),
            (Attribute(oid=OID, values=(der.sequence(SAN),)),),
        )
    )
    assert len({plain.info_sha256, one.info_sha256, other.info_sha256}) == 3
    assert one.stripped_der == one.der


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(der.sequence(), id="nothing in it"),
        pytest.param(der.sequence(SAN, SUBJECT), id="in the wrong order"),
        pytest.param(der.sequence(SUBJECT, SUBJECT), id="two subjects"),
        pytest.param(der.sequence(SAN, SAN), id="alternative names twice"),
        pytest.param(der.sequence(SUBJECT, SAN, SAN), id="three fields"),
        pytest.param(der.null(), id="null"),
        pytest.param(der.utf8("CN=new"), id="text"),
        pytest.param(der.sequence(der.integer(1)), id="a number"),
        pytest.param(der.sequence(der.sequence(der.sequence())), id="a sequence of sequences"),
        pytest.param(der.sequence(der.sequence(der.set_of(der.null()))), id="a name of nothing"),
        pytest.param(der.sequence(common_name("a").public_bytes() + b"\x05\x00"), id="something after it"),
        pytest.param(
            der.sequence(
                x509.SubjectAlternativeName([x509.RegisteredID(x509.ObjectIdentifier("1.2"))]).public_bytes()[:-1]
            ),
            id="cut off",
        ),
    ],
)
def test_what_is_no_name_change_is_refused(value):
    with pytest.raises(BadCSR):
        read(value)


def test_two_values_contradict_each_other():
    """X.501 allows several of an attribute that is not SINGLE VALUE; nobody could say which is meant."""
    with pytest.raises(BadCSR):
        read(der.sequence(SUBJECT), der.sequence(SAN))


@pytest.mark.parametrize("text", ["a\0b", "x" * 65])
def test_the_rules_of_the_subject_hold_for_the_new_one(text):
    """NUL, and a common name that is too long."""
    attribute = der.sequence(der.object_identifier("2.5.4.3"), der.utf8(text))
    with pytest.raises(BadCSR):
        read(der.sequence(der.sequence(der.set_of(attribute))))


@given(st.binary(max_size=80), st.integers(0, len(SUBJECT + SAN) - 1), st.integers(0, 255))
def test_nothing_in_it_raises_anything_else(junk, place, octet):
    """Fuzz: any content gives a request or BadCSR."""
    damaged = bytearray(SUBJECT + SAN)
    damaged[place] = octet
    for content in (junk, bytes(damaged)):
        with contextlib.suppress(BadCSR):
            read(der.sequence(content))
