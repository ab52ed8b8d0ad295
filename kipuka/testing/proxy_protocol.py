"""PROXY headers of version 2 as a load balancer sends them, and as none should.

In the room: `proxy_header`. Not in the room: reading them (`kipuka.http.proxy_protocol`), and a balancer.
"""

from __future__ import annotations

import ipaddress
import struct
from collections.abc import Iterable

__all__ = ["CRC32C", "LOCAL", "proxy_header"]

LOCAL = "LOCAL"
"""In the place of a client: the connection is the balancer's own."""
CRC32C = 0x03
"""Type of the value that holds the checksum."""

_SIGNATURE = bytes.fromhex("0D0A0D0A000D0A515549540A")


def proxy_header(
    client: tuple[str, int] | str = LOCAL,
    server: tuple[str, int] | None = None,
    *,
    values: Iterable[tuple[int, bytes]] = (),
    checksum: bool = False,
    family: int | None = None,
    command: int | None = None,
) -> bytes:
    """A header for a client with that address and port. `family` and `command` take the place of what belongs there.

    `values` are types and contents of what follows the addresses; with `checksum` the last is a right CRC32c.
    """
    if isinstance(client, str):
        addresses, own_family, own_command = b"", 0x00, 0x20
    else:
        source = ipaddress.ip_address(client[0])
        other = server or (("192.0.2.200", 8443) if source.version == 4 else ("2001:db8::200", 8443))
        addresses = source.packed + ipaddress.ip_address(other[0]).packed + struct.pack("!HH", client[1], other[1])
        own_family, own_command = (0x11 if source.version == 4 else 0x21), 0x21
    rest = addresses + b"".join(struct.pack("!BH", kind, len(value)) + value for kind, value in values)
    if checksum:
        rest += struct.pack("!BH", CRC32C, 4) + bytes(4)
    octets = struct.pack(
        "!12sBBH",
        _SIGNATURE,
        own_command if command is None else command,
        own_family if family is None else family,
        len(rest),
    )
    whole = octets + rest
    return whole[:-4] + struct.pack("!I", _crc32c(whole)) if checksum else whole


def _crc32c(data: bytes) -> int:
    """Bit by bit: it shall not share a mistake with the table it is to test."""
    value = 0xFFFFFFFF
    for octet in data:
        value ^= octet
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 * (value & 1))
    return value ^ 0xFFFFFFFF
