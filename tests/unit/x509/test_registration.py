"""What makes a registration authority, and what its word is worth (RULES F4)."""

from __future__ import annotations

from itertools import product

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from kipuka.api.errors import NameRefused
from kipuka.api.values import Identity
from kipuka.testing.pki import CLIENT_AUTH, CMC_RA, common_name, make_root
from kipuka.x509.registration import (
    NotAnAuthority,
    asks_for_others,
    holder_of,
    is_candidate,
    parse_authority,
    shortcoming,
    vouched_for,
)

ROOT = make_root()
WITH_USAGE = ROOT.issue("gate", extended_key_usage=(CLIENT_AUTH, CMC_RA), dns=("gate.example",)).certificate
WITHOUT = ROOT.issue("gate", extended_key_usage=(CLIENT_AUTH,), dns=("gate.example",)).certificate
FITS, ANOTHER = parse_authority("CN=gate"), parse_authority("CN=other")
AUTHORITY = Identity(method="mtls", name="CN=gate", subject=common_name("gate"), host_name="gate")


@pytest.mark.parametrize("marks", list(product([True, False], repeat=4)), ids=str)
def test_all_four_marks_are_needed(marks):
    """RULES F4: of the sixteen cases one is an authority."""
    usage, listed, own_ca, recorded = marks
    lacks = shortcoming(
        WITH_USAGE if usage else WITHOUT, [ANOTHER, FITS] if listed else [ANOTHER], recorded=recorded, own_ca=own_ca
    )
    assert (lacks is None) is all(marks)
    first = next(
        (word for word, has in zip(NotAnAuthority, (recorded, own_ca, usage, listed), strict=True) if not has), None
    )
    assert (lacks is None) is (first is None)
    if sum(marks) == 3:
        assert lacks is first
    assert is_candidate(WITH_USAGE if usage else WITHOUT, [FITS] if listed else []) is (usage or listed)


def test_a_fingerprint_lists_one_certificate():
    """With or without colons, in either case; another of the same name is not meant."""
    digest = WITH_USAGE.fingerprint(SHA256())
    for text in (digest.hex(), digest.hex(":").upper()):
        pattern = parse_authority(f"sha256:{text}")
        assert pattern.fits(WITH_USAGE)
        assert not pattern.fits(WITHOUT)
        assert not pattern.is_anything


@pytest.mark.parametrize("text", ["sha256:", "sha256:00", f"sha256:{'g' * 64}", f"sha256:{'0' * 65}", "gate", "dns:"])
def test_what_lists_nobody_is_refused(text):
    with pytest.raises(ValueError, match="."):
        parse_authority(text)


@pytest.mark.parametrize(
    ("subject", "sans", "others"),
    [
        (common_name("gate"), [], False),
        (common_name("GATE"), [x509.DNSName("Gate.Example")], False),
        (x509.Name([]), [], False),
        (common_name("device"), [], True),
        (x509.Name([]), [x509.DNSName("gate.example")], True),
        (common_name("gate"), [x509.DNSName("device.example")], True),
    ],
)
def test_a_request_for_ones_own_names_is_nobody_elses(subject, sans, others):
    assert asks_for_others(WITH_USAGE, subject, sans) is others


def test_the_one_it_speaks_for_has_no_name_of_the_authority():
    """RULES F4: neither its subject nor its host name."""
    asked = vouched_for(AUTHORITY, common_name("device"), [x509.DNSName("Device.Example")])
    assert asked.identity.subject == asked.subject == common_name("device")
    assert asked.identity.permitted_names == asked.sans == (x509.DNSName("device.example"),)
    assert asked.identity.host_name is None
    assert asked.identity.name == "CN=device", "what a profile puts into a subject as {name}"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (x509.RegisteredID(x509.ObjectIdentifier("1.2.3")), "names of this form are not issued"),
        (x509.DirectoryName(common_name("x")), "names of this form are not issued"),
        (x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"), "names of this form are not issued"),
        (x509.DNSName("a b.example"), "is refused"),
        (x509.DNSName("10.0.0.1"), "is refused"),
        (x509.RFC822Name("nobody"), "is refused"),
        (x509.DNSName("a.example.org"), "san_domains"),
        (x509.DNSName("example.com"), "san_domains"),
        (x509.DNSName("evil-example.com"), "san_domains"),
    ],
)
def test_what_cannot_be_vouched_for_is_refused_by_name(name, words):
    with pytest.raises(NameRefused, match=words):
        vouched_for(AUTHORITY, common_name("x"), [name], domains=("example.com",))


@given(st.text(min_size=1, max_size=64))
def test_any_subject_is_written_anew_or_refused(text):
    """Never another exception, and never another text."""
    try:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
    except ValueError:
        return
    try:
        asked = vouched_for(AUTHORITY, subject, [])
    except NameRefused:
        return
    assert asked.subject == subject


def test_a_holder_is_found_however_its_names_are_written():
    """RFC 5280, 7.2: also where there is no subject."""
    nobody = x509.Name([])
    assert holder_of(nobody, [x509.DNSName("A.Example")]) == holder_of(nobody, [x509.DNSName("a.example")])
    odd = x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))
    assert holder_of(nobody, [odd]) != holder_of(nobody, [])
