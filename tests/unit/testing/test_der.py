"""The DER writer writes DER."""

from __future__ import annotations

import pytest
from cryptography import x509

from kipuka.testing import der


@pytest.mark.parametrize(
    ("value", "octets"),
    [(0, "020100"), (127, "02017f"), (128, "02020080"), (256, "02020100"), (-1, "0201ff"), (-129, "0202ff7f")],
)
def test_integers_are_shortest_and_signed(value, octets):
    assert der.integer(value).hex() == octets


@pytest.mark.parametrize(("count", "length"), [(0, "00"), (127, "7f"), (128, "8180"), (65536, "83010000")])
def test_lengths_are_shortest(count, length):
    assert der.octet_string(bytes(count))[1 : 1 + len(length) // 2].hex() == length


def test_an_object_identifier_with_large_arcs_is_the_one_that_cryptography_reads():
    name = der.sequence(
        der.set_of(der.sequence(der.object_identifier("1.3.6.1.4.1.311.60.2.1.3"), der.printable("NZ")))
    )
    other = x509.Name([x509.NameAttribute(x509.ObjectIdentifier("1.3.6.1.4.1.311.60.2.1.3"), "NZ")])
    assert name == other.public_bytes()


def test_an_element_may_lie_about_its_length():
    assert der.tlv(0x30, b"ab", length=b"\x84\x7f\xff\xff\xff").hex() == "30847fffffff6162"
