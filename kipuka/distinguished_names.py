"""Distinguished names: as text (RFC 4514) and as values.

In the room: reading and writing their text, attributes of the string type that RFC 5280 has for them, and which characters have no
place in a name. Not in the room: when two names are the same, and alternative names (`kipuka.x509.names`).

A name is always built from typed attributes, never by pasting text together, so that no value can add a component
(DESIGN.md, "Names cannot be injected"). It stands below `kipuka.api`, which offers parts of it to plugins.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from cryptography import x509
from cryptography.x509.oid import NameOID

__all__ = [
    "DNPieces",
    "attribute_type",
    "control_character",
    "der_element",
    "dn_pieces",
    "dn_values",
    "format_dn",
    "parse_dn",
    "short_name",
    "subject_for",
    "text_attribute",
    "visible",
]

# The short names that RFC 4514 section 3 demands, and those in common use beside them. Types that are not here are
# written as dotted numbers.
_SHORT_NAMES = {
    NameOID.COMMON_NAME: "CN",
    NameOID.LOCALITY_NAME: "L",
    NameOID.STATE_OR_PROVINCE_NAME: "ST",
    NameOID.ORGANIZATION_NAME: "O",
    NameOID.ORGANIZATIONAL_UNIT_NAME: "OU",
    NameOID.COUNTRY_NAME: "C",
    NameOID.STREET_ADDRESS: "STREET",
    NameOID.DOMAIN_COMPONENT: "DC",
    NameOID.USER_ID: "UID",
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.SURNAME: "SN",
    NameOID.GIVEN_NAME: "givenName",
    NameOID.INITIALS: "initials",
    NameOID.GENERATION_QUALIFIER: "generationQualifier",
    NameOID.TITLE: "title",
    NameOID.DN_QUALIFIER: "dnQualifier",
    NameOID.PSEUDONYM: "pseudonym",
    NameOID.POSTAL_CODE: "postalCode",
    NameOID.BUSINESS_CATEGORY: "businessCategory",
    NameOID.ORGANIZATION_IDENTIFIER: "organizationIdentifier",
}
_LONG_NAMES = {
    "commonname": NameOID.COMMON_NAME,
    "localityname": NameOID.LOCALITY_NAME,
    "stateorprovincename": NameOID.STATE_OR_PROVINCE_NAME,
    "organizationname": NameOID.ORGANIZATION_NAME,
    "organizationalunitname": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "countryname": NameOID.COUNTRY_NAME,
    "streetaddress": NameOID.STREET_ADDRESS,
    "domaincomponent": NameOID.DOMAIN_COMPONENT,
    "userid": NameOID.USER_ID,
    "e": NameOID.EMAIL_ADDRESS,
    "email": NameOID.EMAIL_ADDRESS,
    "surname": NameOID.SURNAME,
}
_BY_NAME = {name.lower(): oid for oid, name in _SHORT_NAMES.items()} | _LONG_NAMES

# Types whose value RFC 5280 Appendix A writes in a narrower set of characters than UTF8String.
_PRINTABLE = frozenset(
    {
        NameOID.COUNTRY_NAME,
        NameOID.JURISDICTION_COUNTRY_NAME,
        NameOID.SERIAL_NUMBER,
        NameOID.DN_QUALIFIER,
    }
)
_IA5 = frozenset({NameOID.DOMAIN_COMPONENT, NameOID.EMAIL_ADDRESS})
_PRINTABLE_TEXT = re.compile(r"[A-Za-z0-9 '()+,\-./:=?]+")

_ESCAPED_IN_VALUES = frozenset('"+,;<>\\')  # RFC 4514 section 2.4
_MAY_BE_ESCAPED = _ESCAPED_IN_VALUES | frozenset(" #=")  # RFC 4514 section 3: pair
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9-]*|(?:0|[1-9][0-9]*)(?:\.(?:0|[1-9][0-9]*))+")
_HEX_PAIR = re.compile(r"[0-9A-Fa-f]{2}")
_HEX_STRING = re.compile(r"#((?:[0-9A-Fa-f]{2})+)")

# Characters that reorder the text around them, so that a name would be read as another one.
_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

# The string types of a DirectoryString or IA5String, by their tag, with how their octets are read (X.690, 8.23).
_STRING_ENCODINGS = {
    0x0C: "utf-8",
    0x12: "ascii",  # NumericString
    0x13: "ascii",  # PrintableString
    0x14: "latin-1",  # TeletexString, as everybody has it
    0x16: "ascii",  # IA5String
    0x1A: "ascii",  # VisibleString
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}

_COMMON_NAME_LIMIT = 64  # RFC 5280 Appendix A, ub-common-name


def control_character(text: str) -> str | None:
    """The first character of `text` that has no place in a name: control, line separator, surrogate, bidi control."""
    return next((c for c in text if c in _BIDI_CONTROLS or unicodedata.category(c) in {"Cc", "Cs", "Zl", "Zp"}), None)


def text_attribute(oid: x509.ObjectIdentifier, value: str) -> x509.NameAttribute[str]:
    """One attribute with a text value, in the string type that RFC 5280 Appendix A gives its type.

    Raises ValueError where the value is empty, too long, or has characters that the string type cannot carry.
    """
    kind = short_name(oid)
    if not value:
        raise ValueError(f"{kind} has no value")
    if oid in _PRINTABLE and not _PRINTABLE_TEXT.fullmatch(value):
        raise ValueError(f"{kind} takes letters, digits, spaces and '()+,-./:=? only")
    if oid in _IA5 and not value.isascii():
        raise ValueError(f"{kind} takes ASCII only")
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise ValueError(f"{kind} has a value that is not Unicode text")
    return x509.NameAttribute(oid, value)


def short_name(oid: x509.ObjectIdentifier) -> str:
    """How an attribute type is written: "CN", "OU", or the dotted number where it has no short name here."""
    return _SHORT_NAMES.get(oid) or oid.dotted_string


def attribute_type(name: str) -> x509.ObjectIdentifier:
    """The attribute type of a short name in any case, or of a dotted number. Raises ValueError where it is neither."""
    if name[:1].isdigit():
        return x509.ObjectIdentifier(name)
    known = _BY_NAME.get(name.lower())
    if known is None:
        raise ValueError(f"the attribute type {name} is not known; write its dotted number")
    return known


def subject_for(common_name: str) -> x509.Name:
    """The distinguished name of one CN, whatever characters the name has: it cannot add a component.

    Raises ValueError where it is empty, longer than 64 characters, or has control characters.
    """
    if not common_name:
        raise ValueError("a common name is not empty")
    if len(common_name.encode("utf-8", "surrogatepass")) > _COMMON_NAME_LIMIT:
        raise ValueError(f"a common name has at most {_COMMON_NAME_LIMIT} characters (bytes of UTF-8)")
    if control_character(common_name) is not None:
        raise ValueError("a common name has no control characters")
    return x509.Name([text_attribute(NameOID.COMMON_NAME, common_name)])


def parse_dn(text: str) -> x509.Name:
    """Read a distinguished name in the string form of RFC 4514: the most specific component first.

    Spaces around the separators are allowed, as people write them (RFC 2253 section 4 had them). Attribute types are
    known by their short names in any case, or by dotted numbers; a value may be `#` and the hexadecimal BER of a
    string. The empty text is the empty name. Raises ValueError with a sentence that says what is wrong.

    Since API 1.0.
    """
    rdns = [
        x509.RelativeDistinguishedName([text_attribute(oid, "".join(pieces)) for oid, pieces in attributes])
        for attributes in _DNReader(text, stars=False).read()
    ]
    return x509.Name(rdns)


DNPieces = tuple[str, ...]
"""A value of a pattern, taken apart at its stars: one piece more than there are stars."""


def dn_pieces(text: str) -> Sequence[Sequence[tuple[x509.ObjectIdentifier, DNPieces]]]:
    r"""Read a distinguished name as `parse_dn` does, with `*` in a value standing for any characters.

    Answers its components in the order of the certificate, each with its attributes. A star itself is written `\2A`, or
    in a value that is `#` and hexadecimal. Raises ValueError as `parse_dn` does.
    """
    return _DNReader(text, stars=True).read()


def dn_values(text: str) -> Sequence[Sequence[tuple[x509.ObjectIdentifier, str]]]:
    """Read a distinguished name as `parse_dn` does, with whatever text its values are: they may be filled in later.

    Answers its components in the order of the certificate, each with its attributes. Raises ValueError as `parse_dn` does.
    """
    return [[(oid, "".join(pieces)) for oid, pieces in parts] for parts in _DNReader(text, stars=False).read()]


def format_dn(name: x509.Name) -> str:
    """Write a distinguished name in the string form of RFC 4514, on one line and without control characters.

    A value of a type without a short name is written as `#` and the hexadecimal DER of the value (RFC 4514, 2.4). What is written is
    read back by `parse_dn` as the same name, where all its values are text.

    Since API 1.0.
    """
    return ",".join("+".join(_format_attribute(attribute) for attribute in rdn) for rdn in reversed(name.rdns))


class _DNReader:
    """A one-pass reader of RFC 4514 section 3."""

    def __init__(self, text: str, *, stars: bool) -> None:
        self._text = text
        self._stars = stars  # whether an unescaped `*` parts a value
        self._at = 0

    def read(self) -> list[list[tuple[x509.ObjectIdentifier, DNPieces]]]:
        self._skip_spaces()
        if self._ended():
            return []
        rdns = [self._rdn()]
        while not self._ended():
            self._expect(",")
            rdns.append(self._rdn())
        return rdns[::-1]

    def _rdn(self) -> list[tuple[x509.ObjectIdentifier, DNPieces]]:
        attributes = [self._attribute()]
        while self._text[self._at : self._at + 1] == "+":
            self._at += 1
            attributes.append(self._attribute())
        return attributes

    def _attribute(self) -> tuple[x509.ObjectIdentifier, DNPieces]:
        self._skip_spaces()
        match = _TYPE.match(self._text, self._at)
        if match is None:
            raise ValueError(f"an attribute such as CN= is expected at character {self._at + 1}")
        self._at = match.end()
        kind = match.group()
        oid = attribute_type(kind)
        self._skip_spaces()
        self._expect("=")
        self._skip_spaces()
        if self._text[self._at : self._at + 1] == "#":
            return oid, (self._hex_value(),)
        return oid, self._string_value()

    def _string_value(self) -> DNPieces:
        pieces: list[bytes] = []
        octets = bytearray()
        kept = 0  # how far trailing spaces are the value's own, because they were escaped
        while not self._ended() and (c := self._text[self._at]) not in ",+":
            if c == "\\":
                octets += self._pair()
                kept = len(octets)
                continue
            if c in _ESCAPED_IN_VALUES or c == "\0":
                raise ValueError(f"the character at position {self._at + 1} must be written with a backslash")
            self._at += 1
            if c == "*" and self._stars:
                pieces.append(bytes(octets))
                octets.clear()
                kept = 0
                continue
            octets += c.encode("utf-8", "surrogatepass")
            if c != " ":
                kept = len(octets)
        try:
            return tuple(piece.decode() for piece in (*pieces, octets[:kept]))
        except UnicodeDecodeError:
            raise ValueError("a value is not UTF-8 text") from None

    def _pair(self) -> bytes:
        following = self._text[self._at + 1 : self._at + 2]
        if following and following in _MAY_BE_ESCAPED:
            self._at += 2
            return following.encode()
        if match := _HEX_PAIR.match(self._text, self._at + 1):
            self._at = match.end()
            return bytes.fromhex(match.group())
        raise ValueError(f"the backslash at position {self._at + 1} is followed by nothing that can be escaped")

    def _hex_value(self) -> str:
        match = _HEX_STRING.match(self._text, self._at)
        if match is None:
            raise ValueError(f"pairs of hexadecimal digits are expected after # at position {self._at + 1}")
        self._at = match.end()
        self._skip_spaces()
        der = bytes.fromhex(match.group(1))
        tag, start, end = der_element(der, 0)
        encoding = _STRING_ENCODINGS.get(tag)
        if encoding is None or end != len(der):
            raise ValueError("the hexadecimal value is not the BER of one string")
        try:
            return der[start:end].decode(encoding)
        except UnicodeDecodeError:
            raise ValueError("the hexadecimal value is not text of its string type") from None

    def _skip_spaces(self) -> None:
        while self._text[self._at : self._at + 1] == " ":
            self._at += 1

    def _expect(self, separator: str) -> None:
        if self._text[self._at : self._at + 1] != separator:
            raise ValueError(f"{separator} is expected at character {self._at + 1}")
        self._at += 1

    def _ended(self) -> bool:
        return self._at >= len(self._text)


def der_element(der: bytes, at: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the DER element at `at`; definite lengths and low tags only."""
    if len(der) < at + 2:
        raise ValueError("the encoding is cut short")
    tag, length, start = der[at], der[at + 1], at + 2
    if length >= 0x80:  # X.690 8.1.3: the long form
        size = length & 0x7F
        if size == 0 or size > 4:  # no string of a name needs more
            raise ValueError("the encoding has a length that is not taken")
        length, start = int.from_bytes(der[start : start + size]), start + size
    if start + length > len(der):
        raise ValueError("the encoding is cut short")
    return tag, start, start + length


def _format_attribute(attribute: x509.NameAttribute[str | bytes]) -> str:
    kind = short_name(attribute.oid)
    if attribute.oid in _SHORT_NAMES and isinstance(attribute.value, str):
        return f"{kind}={_escape(attribute.value)}"
    return f"{kind}=#{_value_der(attribute).hex()}"


def _value_der(attribute: x509.NameAttribute[str | bytes]) -> bytes:
    """The DER of an attribute's value, cut out of a name that has nothing else."""
    der = x509.Name([attribute]).public_bytes()
    at = 0
    for _ in range(3):  # Name, RelativeDistinguishedName, AttributeTypeAndValue
        _, at, _ = der_element(der, at)
    _, _, at = der_element(der, at)  # past the type
    return der[at:]


def _escape(value: str) -> str:
    last = len(value) - 1
    return "".join(_escape_character(c, first=place == 0, last=place == last) for place, c in enumerate(value))


def _escape_character(c: str, *, first: bool, last: bool) -> str:
    if c in _ESCAPED_IN_VALUES or (c == "#" and first) or (c == " " and (first or last)):
        return f"\\{c}"
    if control_character(c):
        return visible(c)
    return c


def visible(text: str) -> str:
    """The text on one line, its control characters as hexadecimal escapes, for messages and audit."""
    return "".join(
        "".join(f"\\{octet:02X}" for octet in c.encode("utf-8", "surrogatepass")) if control_character(c) else c
        for c in text
    )
