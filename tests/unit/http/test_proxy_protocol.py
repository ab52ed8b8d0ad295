"""The header of the PROXY protocol (haproxy's proxy-protocol.txt, section 2.2): what is taken, and that nothing else gets through."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kipuka.http.proxy_protocol import (
    MAX_HEADER,
    SIGNATURE,
    Header,
    HeaderReader,
    HeaderRefused,
    Proxies,
    crc32c,
    read_header,
)
from kipuka.testing.proxy_protocol import CRC32C, proxy_header

ADDRESSES = st.ip_addresses().map(str)
PORTS = st.integers(0, 65535)
CLIENTS = st.tuples(ADDRESSES, PORTS)
VALUES = st.lists(
    st.tuples(st.integers(0, 255).filter(lambda kind: kind != CRC32C), st.binary(max_size=60)), max_size=4
)


def plain(address):
    mapped = getattr(ipaddress.ip_address(address), "ipv4_mapped", None)
    return str(mapped or ipaddress.ip_address(address))


def outcome(data):
    """What the parser says; anything but its own error comes out of here."""
    try:
        return read_header(data)
    except HeaderRefused as refused:
        return refused


def refusal(data):
    with pytest.raises(HeaderRefused) as caught:
        read_header(data)
    return caught.value.reason


# --- what is taken ---


@given(CLIENTS, VALUES, st.booleans(), st.binary(max_size=40))
def test_what_a_balancer_says_is_what_is_read(client, values, checksum, rest):
    header = proxy_header(client, ("::1", 1) if ":" in client[0] else ("10.0.0.1", 1), values=values, checksum=checksum)
    expected = Header(size=len(header), client=(plain(client[0]), client[1]))
    assert read_header(header + rest) == expected


@given(CLIENTS, VALUES, st.booleans())
def test_no_part_of_a_header_is_taken_for_a_whole_one(client, values, checksum):
    header = proxy_header(client, values=values, checksum=checksum)
    assert {outcome(header[:size]) for size in range(len(header))} == {None}


@given(CLIENTS, VALUES, st.lists(st.integers(1, 30), max_size=30), st.binary(max_size=40))
def test_a_header_may_come_in_any_pieces(client, values, sizes, rest):
    whole = proxy_header(client, values=values) + rest
    reader, begin = HeaderReader(), 0
    for size in [*sizes, len(whole)]:
        found = reader.feed(whole[begin : begin + size])
        begin += size
        if found is not None:
            header, after = found
            assert after + whole[begin:] == rest
            assert header.client == (plain(client[0]), client[1])
            return
    pytest.fail("it was never complete")


@given(st.binary(max_size=100), st.sampled_from([0x00, 0x11, 0x21, 0x31, 0xFF]))
def test_a_balancers_own_connection_is_taken_whatever_else_its_header_has(rest, family):
    """Section 2.2: the receiver must use the real addresses, and skip the rest unread."""
    header = struct.pack("!12sBBH", SIGNATURE, 0x20, family, len(rest)) + rest
    assert read_header(header + b"more") == Header(size=len(header), client=None)


def test_an_ipv4_client_within_ipv6_has_its_ipv4_address():
    assert read_header(proxy_header(("::ffff:192.0.2.7", 5))).client == ("192.0.2.7", 5)


def test_the_largest_header_is_taken_and_one_that_is_larger_is_refused_by_its_sixteenth_octet():
    fits = proxy_header(("192.0.2.7", 5), values=[(0x04, bytes(MAX_HEADER - 16 - 12 - 3))])
    assert len(fits) == MAX_HEADER
    assert read_header(fits).size == MAX_HEADER
    larger = proxy_header(("192.0.2.7", 5), values=[(0x04, bytes(MAX_HEADER - 16 - 12 - 2))])
    assert outcome(larger[:15]) is None
    assert refusal(larger[:16]) == "proxy_header_too_large"


def test_the_checksum_is_that_of_the_standard():
    """RFC 3720, B.4."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43


# --- what is refused ---


@given(CLIENTS, VALUES, st.booleans(), st.data())
def test_no_flipped_bit_raises_anything_but_the_refusal_and_under_a_checksum_none_makes_another_client(
    client, values, checksum, data
):
    header = proxy_header(client, values=values, checksum=checksum)
    bit = data.draw(st.integers(0, 8 * len(header) - 1))
    flipped = bytearray(header)
    flipped[bit // 8] ^= 1 << bit % 8
    found = outcome(bytes(flipped) + bytes(300))
    if checksum and isinstance(found, Header):
        assert found.client in {None, (plain(client[0]), client[1])}


def test_every_flipped_bit_of_one_header_is_told_or_harmless():
    header = proxy_header(("192.0.2.7", 40000), values=[(0x02, b"est.example.com")], checksum=True)
    for bit in range(8 * len(header)):
        flipped = bytearray(header)
        flipped[bit // 8] ^= 1 << bit % 8
        found = outcome(bytes(flipped))
        if isinstance(found, Header):
            assert found.client in {None, ("192.0.2.7", 40000)}, bit
        elif bit // 8 < 12:
            assert found.reason == "proxy_header_missing"


@given(st.binary(max_size=5000))
def test_any_octets_are_read_or_refused(data):
    outcome(data)


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=5000))
def test_any_octets_after_the_signature_are_read_or_refused(command, family, rest):
    outcome(struct.pack("!12sBBH", SIGNATURE, command, family, len(rest)) + rest)
    outcome(SIGNATURE + rest)


CLIENT = ("192.0.2.7", 40000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01", "proxy_header_missing", id="TLS at once"),
        pytest.param(b"GET / HTTP/1.1\r\n", "proxy_header_missing", id="HTTP"),
        pytest.param(b"\r\n\r\n\x00\r\nQUIT\r", "proxy_header_missing", id="almost the signature"),
        pytest.param(b"PROXY TCP4 192.0.2.7 ", "proxy_header_version", id="version 1"),
        pytest.param(proxy_header(CLIENT, command=0x11), "proxy_header_version", id="version 1 in binary"),
        pytest.param(proxy_header(CLIENT, command=0x31), "proxy_header_version", id="version 3"),
        pytest.param(proxy_header(CLIENT, command=0x22), "proxy_header_malformed", id="an unknown command"),
        pytest.param(proxy_header(CLIENT, family=0x00), "proxy_header_family", id="an unknown family"),
        pytest.param(proxy_header(CLIENT, family=0x12), "proxy_header_family", id="UDP over IPv4"),
        pytest.param(proxy_header(CLIENT, family=0x22), "proxy_header_family", id="UDP over IPv6"),
        pytest.param(proxy_header(CLIENT, family=0x31), "proxy_header_family", id="a Unix socket"),
        pytest.param(proxy_header(CLIENT, family=0x41), "proxy_header_family", id="a family that does not exist"),
        pytest.param(proxy_header(CLIENT, family=0x21), "proxy_header_malformed", id="too short for IPv6"),
        pytest.param(proxy_header(CLIENT)[:14] + b"\x00\x0b" + bytes(11), "proxy_header_malformed", id="too short"),
    ],
)
def test_what_is_no_header_for_us_is_refused(data, reason):
    assert refusal(data) == reason


def with_rest(rest):
    """A header for a client that has these octets after its addresses, in good order or not."""
    plain = proxy_header(CLIENT)
    return plain[:14] + struct.pack("!H", 12 + len(rest)) + plain[16:] + rest


@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        pytest.param(b"\x04", "proxy_header_malformed", id="a type alone"),
        pytest.param(b"\x04\x00", "proxy_header_malformed", id="half a length"),
        pytest.param(b"\x04\x00\x02\x00", "proxy_header_malformed", id="half a value"),
        pytest.param(b"\x04\xff\xff\x00", "proxy_header_malformed", id="a length beyond the end"),
        pytest.param(b"\x03\x00\x04\x00\x00\x00\x00", "proxy_header_checksum", id="a wrong checksum"),
        pytest.param(b"\x03\x00\x03\x00\x00\x00", "proxy_header_malformed", id="a short checksum"),
        pytest.param(b"\x03\x00\x04\x00\x00\x00\x00" * 2, "proxy_header_malformed", id="two checksums"),
    ],
)
def test_what_follows_the_addresses_is_looked_at(rest, reason):
    assert refusal(with_rest(rest)) == reason


def test_no_more_than_one_header_is_kept():
    reader = HeaderReader()
    header = proxy_header(CLIENT, values=[(0x04, bytes(4000))])
    for octet in header[:-1]:
        assert reader.feed(bytes([octet])) is None
    assert len(reader._held) < MAX_HEADER
    found = reader.feed(header[-1:])
    assert found == (Header(size=len(header), client=CLIENT), b"")


# --- from whom ---


@pytest.mark.parametrize(
    ("address", "listed"),
    [
        ("10.1.2.3", True),
        ("11.1.2.3", False),
        ("192.0.2.1", True),
        ("192.0.2.2", False),
        ("2001:db8::5", True),
        ("2001:db9::5", False),
        ("::1", False),
        ("", False),
    ],
)
def test_headers_are_expected_from_listed_peers_only(address, listed):
    networks = ("10.0.0.0/8", "192.0.2.1/32", "2001:db8::/32")
    assert (address in Proxies(tuple(map(ipaddress.ip_network, networks)))) is listed
    assert address not in Proxies()
