"""PROXY protocol, version 2: whose connection it is that a load balancer forwards (RULES C4).

In the room: reading the header that stands before everything else on such a connection (haproxy's `proxy-protocol.txt`, section 2.2),
and from which peers one is expected. Not in the room: connections (`kipuka.http.tls`), and what an address is counted for.

A header is trusted word for word, so it is taken from listed peers only, and they must send one: a peer that sometimes sends
none could not be told from a client that writes its own. Only what kipuka has a use for is taken: TCP over IPv4 or IPv6, and the
balancer's own connections (LOCAL). Version 1, which is text without a bound that a parser could check early, is refused.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["MAX_HEADER", "SIGNATURE", "Header", "HeaderReader", "HeaderRefused", "Proxies", "crc32c", "read_header"]

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_HEADER = 4096
"""Octets of a whole header. The addresses take 36 at most; the rest is for what balancers add about the client's TLS."""

_FIXED = 16  # signature, version and command, family and protocol, length of the rest
_VERSION_1 = b"PROXY "
_LOCAL, _PROXY = 0x20, 0x21  # version 2 with its two commands
_TCP = {0x11: (4, 12), 0x21: (16, 36)}  # TCP over IPv4, over IPv6: octets of an address, of all addresses and ports
_CRC32C = 0x03  # PP2_TYPE_CRC32C

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Fault = Literal[
    "proxy_header_missing",
    "proxy_header_version",
    "proxy_header_malformed",
    "proxy_header_too_large",
    "proxy_header_family",
    "proxy_header_checksum",
]


class HeaderRefused(Exception):
    """What came is no header that is taken. `reason` is a word for log and audit."""

    def __init__(self, reason: Fault, detail: str) -> None:
        super().__init__(detail)
        self.reason: Fault = reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """A header: how many octets it has, and the client's address and port; None for a connection of the balancer's own."""

    size: int
    client: tuple[str, int] | None


@dataclass(frozen=True, slots=True)
class Proxies:
    """The peers that begin each connection with a header."""

    networks: tuple[Network, ...] = ()

    def __contains__(self, address: object) -> bool:
        if not self.networks or not isinstance(address, str) or not address:
            return False
        found = ipaddress.ip_address(address)
        return any(found in network for network in self.networks)


class HeaderReader:
    """Gathers the octets of one header, of which no more than `MAX_HEADER` are kept."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> tuple[Header, bytes] | None:
        """The header and what came after it, or None while it is not complete. Raises `HeaderRefused`."""
        self._held += data
        header = read_header(self._held)
        return None if header is None else (header, self._held[header.size :])


def read_header(data: bytes) -> Header | None:
    """The header that `data` begins with, None while that is not complete. Raises `HeaderRefused` as soon as it is none."""
    if not data.startswith(SIGNATURE):
        _require_beginning(data)
    if len(data) < _FIXED:
        return None
    command, family = data[12], data[13]
    size = _FIXED + int.from_bytes(data[14:16], "big")
    if command not in {_LOCAL, _PROXY}:
        if command >> 4 != 2:
            raise HeaderRefused("proxy_header_version", f"its version is {command >> 4}, and 2 is spoken here")
        raise HeaderRefused("proxy_header_malformed", f"there is no command {command & 15}")
    if size > MAX_HEADER:
        raise HeaderRefused("proxy_header_too_large", f"it has {size} octets, and {MAX_HEADER} are taken")
    if command == _LOCAL:
        # A check of the balancer's: the rest is to be skipped unread, the family included.
        return Header(size=size, client=None) if len(data) >= size else None
    if family not in _TCP:
        raise HeaderRefused("proxy_header_family", f"family and protocol are {family:#04x}, and only TCP is taken")
    width, addresses = _TCP[family]
    if size < _FIXED + addresses:
        raise HeaderRefused("proxy_header_malformed", "it is too short for its addresses")
    if len(data) < size:
        return None
    _verify_checksum(data[:size], _FIXED + addresses)
    source = _FIXED + 2 * width
    client = _address(data[_FIXED : _FIXED + width]), int.from_bytes(data[source : source + 2], "big")
    return Header(size=size, client=client)


def _require_beginning(data: bytes) -> None:
    """That `data` may still become a header."""
    if SIGNATURE.startswith(data) or _VERSION_1.startswith(data):
        return
    if data.startswith(_VERSION_1):
        raise HeaderRefused("proxy_header_version", "its version is 1, and 2 is spoken here")
    raise HeaderRefused("proxy_header_missing", "the connection does not begin with a PROXY header")


def _address(octets: bytes) -> str:
    """As text; an IPv4 address within IPv6 as the former."""
    address = ipaddress.ip_address(octets)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address)


def _verify_checksum(header: bytes, begin: int) -> None:
    """That what follows the addresses is well formed, and that the checksum fits where there is one."""
    places = [(start, end) for kind, start, end in _extensions(header, begin) if kind == _CRC32C]
    if not places:
        return
    (start, end), *more = places
    if more or end - start != 4:
        raise HeaderRefused("proxy_header_malformed", "it has no single checksum of four octets")
    without = header[:start] + bytes(4) + header[end:]
    if crc32c(without) != int.from_bytes(header[start:end], "big"):
        raise HeaderRefused("proxy_header_checksum", "the checksum is wrong")


def _extensions(header: bytes, begin: int) -> Iterator[tuple[int, int, int]]:
    """Type, begin and end of each value that follows the addresses (section 2.2.3)."""
    while begin < len(header):
        start = begin + 3
        end = start + int.from_bytes(header[begin + 1 : start], "big")
        if start > len(header) or end > len(header):
            raise HeaderRefused("proxy_header_malformed", "a value goes beyond its end")
        yield header[begin], start, end
        begin = end


def _table() -> tuple[int, ...]:
    table: list[int] = []
    for octet in range(256):
        value = octet
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # RFC 4960, appendix B, with its bits reflected
        table.append(value)
    return tuple(table)


_TABLE = _table()


def crc32c(data: bytes) -> int:
    """CRC32c (Castagnoli), as section 2.2.5 asks for. The library's `zlib.crc32` has another polynomial."""
    value = 0xFFFFFFFF
    for octet in data:
        value = value >> 8 ^ _TABLE[(value ^ octet) & 0xFF]
    return value ^ 0xFFFFFFFF
