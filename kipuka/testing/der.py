"""A writer of DER (X.690) for tests: each function gives the bytes of one element, right or wrong as it is told.

In the room: tag, length, value. Not in the room: reading, and any check of what is written; wrong DER is half of its use.
"""

from __future__ import annotations

__all__ = [
    "algorithm",
    "bit_string",
    "context",
    "integer",
    "null",
    "object_identifier",
    "octet_string",
    "printable",
    "sequence",
    "set_of",
    "tlv",
    "utf8",
]


def _length(count: int) -> bytes:
    if count < 0x80:
        return bytes([count])
    octets = count.to_bytes((count.bit_length() + 7) // 8, "big")
    return bytes([0x80 | len(octets)]) + octets


def tlv(tag: int, content: bytes, *, length: bytes | None = None) -> bytes:
    """One element; `length` replaces the true length octets, to write an element that lies about itself."""
    return bytes([tag]) + (_length(len(content)) if length is None else length) + content


def sequence(*elements: bytes) -> bytes:
    """SEQUENCE of the elements."""
    return tlv(0x30, b"".join(elements))


def set_of(*elements: bytes) -> bytes:
    """SET OF the elements, in DER's order."""
    return tlv(0x31, b"".join(sorted(elements)))


def context(number: int, content: bytes, *, constructed: bool = True) -> bytes:
    """A context-specific element `[number]`."""
    return tlv((0xA0 if constructed else 0x80) | number, content)


def integer(value: int) -> bytes:
    """INTEGER, of either sign."""
    return tlv(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))


def null() -> bytes:
    """NULL."""
    return tlv(0x05, b"")


def octet_string(content: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(0x04, content)


def bit_string(content: bytes) -> bytes:
    """BIT STRING of whole octets."""
    return tlv(0x03, b"\0" + content)


def utf8(text: str) -> bytes:
    """UTF8String."""
    return tlv(0x0C, text.encode())


def printable(text: str) -> bytes:
    """PrintableString; that the characters are printable is the caller's affair."""
    return tlv(0x13, text.encode("latin-1"))


def object_identifier(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from its dotted form."""
    first, second, *others = (int(arc) for arc in dotted.split("."))
    content = bytearray()
    for arc in (first * 40 + second, *others):
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.append(0x80 | (arc & 0x7F))
        content += bytes(reversed(octets))
    return tlv(0x06, bytes(content))


def algorithm(dotted: str, *parameters: bytes) -> bytes:
    """AlgorithmIdentifier (RFC 5280, 4.1.1.2)."""
    return sequence(object_identifier(dotted), *parameters)
