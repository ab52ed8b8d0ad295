"""Names in certificates: as text, as values, and when two of them are the same.

In the room: distinguished names (RFC 4514), alternative names ("DNS:a.example"), DNS names, the comparison of RFC 5280
section 7. Not in the room: who may have which name (`kipuka.x509.profiles`).

A name is always built from typed attributes, never by pasting text together, so that no value can add a component
(DESIGN.md, "Names cannot be injected").
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import stringprep
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Sequence
from encodings import idna

from cryptography import x509
from cryptography.x509.oid import NameOID

__all__ = [
    "DNPieces",
    "attribute_type",
    "control_character",
    "dn_pieces",
    "dn_values",
    "format_dn",
    "format_general_name",
    "general_name_key",
    "holder_digest",
    "normal_dns",
    "normal_email",
    "normal_uri",
    "parse_dn",
    "parse_general_name",
    "prepared_value",
    "same_general_name",
    "same_general_names",
    "same_name",
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


# --- Distinguished names


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

    A value of a type without a short name is written as `#` and the hexadecimal DER of the value (RFC 4514, 2.4).
    """
    return ",".join("+".join(_format_attribute(attribute) for attribute in rdn) for rdn in reversed(name.rdns))


def same_name(a: x509.Name, b: x509.Name) -> bool:
    """Whether two distinguished names match by RFC 5280 section 7.1.

    Case, runs of spaces, Unicode compatibility forms and the ASN.1 string type make no difference; the order of
    components does, the order within a multi-valued component does not.
    """
    return _name_key(a) == _name_key(b)


def holder_digest(subject: x509.Name, names: Iterable[str]) -> str:
    """SHA-256, in lower-case hexadecimal, of whom a certificate is for, so that a database can compare it.

    That is the subject by `same_name`; and where it is empty the formatted alternative names, in whatever order.
    """
    holder = _name_key(subject) or tuple(sorted(set(names)))
    return hashlib.sha256(repr(holder).encode("utf-8", "surrogatepass")).hexdigest()


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
        tag, start, end = _element(der, 0)
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


def _element(der: bytes, at: int) -> tuple[int, int, int]:
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
        _, at, _ = _element(der, at)
    _, _, at = _element(der, at)  # past the type
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


# --- The comparison of RFC 5280 section 7


def _name_key(name: x509.Name) -> tuple[tuple[tuple[str, str], ...], ...]:
    # A component is a set of attributes, so they are sorted; what folds to the same value stays there twice.
    return tuple(
        tuple(sorted((attribute.oid.dotted_string, repr(_prepared(attribute))) for attribute in rdn))
        for rdn in name.rdns
    )


def _prepared(attribute: x509.NameAttribute[str | bytes]) -> Hashable:
    value = attribute.value
    if isinstance(value, bytes):
        return value
    prepared = prepared_value(attribute.oid, value)
    # Where preparation is undefined only equal values match; the pair keeps them apart from prepared ones.
    return (value,) if prepared is None else prepared


def prepared_value(oid: x509.ObjectIdentifier, value: str) -> str | None:
    """A value in the form in which RFC 5280 section 7.1 compares it, or None where a character has no such form."""
    if oid == NameOID.DOMAIN_COMPONENT:
        return value.lower() if value.isascii() else value  # section 7.3: case-insensitive and otherwise exact
    if value.isascii() and value.isprintable():  # the common case of what _stringprep does
        return " ".join(part for part in value.lower().split(" ") if part)
    return _stringprep(value)


def _stringprep(value: str) -> str | None:
    """The six steps of RFC 4518 section 2 with case folding, or None where a character is prohibited."""
    mapped = "".join(_mapped(c) for c in value)
    normal = unicodedata.normalize("NFKC", mapped)
    if any(unicodedata.category(c) in {"Cn", "Co", "Cs"} or c == "\ufffd" for c in normal):
        return None
    return " ".join(part for part in normal.split(" ") if part)


def _mapped(c: str) -> str:
    """RFC 4518 section 2.2: to nothing, to a space, or folded (RFC 3454 B.2)."""
    if c in "\t\n\v\f\r\u0085":
        return " "
    category = unicodedata.category(c)
    if category in {"Zs", "Zl", "Zp"}:
        return " "
    if category in {"Cc", "Cf"} or c in "\u034f\u1806\ufffc" or stringprep.in_table_b1(c):
        return ""
    return stringprep.map_table_b2(c)


# --- Alternative names


def normal_dns(text: str, *, wildcard: bool = False) -> str:
    """A DNS name as it is compared and issued: ASCII, lower case, no dot at its end (RFC 5280, 4.2.1.6 and 7.2).

    Labels beyond ASCII become A-labels. With `wildcard` the whole first label may be `*`. Raises ValueError for
    control characters, IP addresses, empty or too long labels, and characters that no host name has.
    """
    if control_character(text) is not None:
        raise ValueError("a DNS name has no control characters")
    if len(text) > 253:  # RFC 1035, 2.3.4, in text form
        raise ValueError("a DNS name has at most 253 characters")
    labels = text.split(".")
    starred = wildcard and len(labels) > 2 and labels[0] == "*"  # never for a whole top domain
    normal = ["*"] if starred else []
    normal += [_normal_label(label) for label in labels[len(normal) :]]
    if normal[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", normal[-1]):
        raise ValueError(f"{visible(text)} is an IP address or could be read as one, not a DNS name")
    joined = ".".join(normal)
    if len(joined) > 253:  # A-labels are longer than what they stand for
        raise ValueError("a DNS name has at most 253 characters")
    return joined


_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_OTHER_DOTS = frozenset("\u3002\uff0e\uff61")  # RFC 3490 section 3.1
# RFC 3490 changes or drops these where its successor keeps them: the name would silently become another one.
_DEVIATIONS = frozenset("\u00df\u03c2\u200c\u200d")


def _normal_label(label: str) -> str:
    if not label:
        raise ValueError("a DNS name has no empty labels and no dot at its end")
    shown = visible(label)
    if label.isascii():
        normal = label.lower()
    elif _OTHER_DOTS & set(label):
        raise ValueError(f"the DNS label {shown} has a character that some read as a dot")
    elif _DEVIATIONS & set(label):
        raise ValueError(f"the DNS label {shown} reads differently in different standards; write it as an A-label")
    else:
        try:
            normal = idna.ToASCII(label).decode("ascii").lower()
        except UnicodeError:
            raise ValueError(f"the DNS label {shown} cannot be written as an A-label") from None
    if not _LABEL.fullmatch(normal):
        raise ValueError(f"{shown} is not a DNS label: letters, digits and inner hyphens, at most 63")
    return normal


def normal_email(text: str) -> str:
    """An e-mail address as it is compared: the local part as it stands, the host in lower case (RFC 5280, 7.5)."""
    local, at, host = text.rpartition("@")
    if not at or not re.fullmatch(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}", local):
        raise ValueError(f"{visible(text)} is not an e-mail address")
    return f"{local}@{normal_dns(host)}"


_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(//([^/?#]*))?([^?#]*)(\?[^#]*)?(#.*)?")
_URI_CHARACTERS = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
_URI_PLACE = re.compile(r"(?:[a-z0-9._*-]*|\[[0-9a-f:.]+\])(?::[0-9]*)?")  # the star: patterns are read so, too
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_DEFAULT_PORTS = {"http": "80", "https": "443", "ftp": "21", "ldap": "389"}


def normal_uri(text: str) -> str:
    """A URI as it is compared (RFC 5280, 7.4): scheme and host in lower case, escapes and path segments normalised.

    Raises ValueError where it has no scheme, or characters that a URI has not (RFC 3986).
    """
    match = _URI.fullmatch(text)
    if match is None or not _URI_CHARACTERS.fullmatch(text):
        raise ValueError(f"{visible(text)} is not an absolute URI")
    scheme, slashes, authority, path, query, fragment = match.groups(default="")
    scheme = scheme.lower()
    path = _PERCENT.sub(_normal_escape, path)
    if slashes:
        user, at, place = _PERCENT.sub(_normal_escape, authority).rpartition("@")
        place = place.lower()
        if not _URI_PLACE.fullmatch(place):
            raise ValueError(f"{visible(text)} is not a URI with a host name or an IP address")
        if scheme in _DEFAULT_PORTS:
            place = place.removesuffix(f":{_DEFAULT_PORTS[scheme]}").removesuffix(":")
            path = path or "/"
        slashes = f"//{user}{at}{place}"
    if path.startswith("/"):
        path = _without_dot_segments(path)
    return f"{scheme}:{slashes}{path}{_PERCENT.sub(_normal_escape, query)}{_PERCENT.sub(_normal_escape, fragment)}"


def _normal_escape(match: re.Match[str]) -> str:
    c = chr(int(match.group(1), 16))
    return c if c in _UNRESERVED else match.group().upper()


def _without_dot_segments(path: str) -> str:
    """RFC 3986 section 5.2.4, for a path that starts with a slash."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


def format_general_name(general_name: x509.GeneralName) -> str:
    """An alternative name as people read it: "DNS:a.example", "IP:10.0.0.1", "email:..", "URI:..", "dirName:..".

    An otherName is its type and its value: "otherName:1.3.6.1.4.1.311.20.2.3=alice@EXAMPLE.COM" for a UTF8String, else
    "otherName:1.2.3=#0500", the hexadecimal DER.
    """
    match general_name:
        case x509.DNSName() | x509.RFC822Name() | x509.UniformResourceIdentifier():
            text = visible(general_name.value)
        case x509.IPAddress():
            text = str(general_name.value)
        case x509.DirectoryName():
            text = format_dn(general_name.value)
        case x509.OtherName():
            text = f"{general_name.type_id.dotted_string}={_other_value(general_name.value)}"
        case x509.RegisteredID():
            text = general_name.value.dotted_string
        case _:
            text = "?"  # no other form can be read by cryptography
    return f"{_PREFIXES.get(type(general_name), type(general_name).__name__)}:{text}"


def _other_value(der: bytes) -> str:
    """A UTF8String of printable characters as it is, where it cannot be taken for the other form; else hexadecimal."""
    try:
        tag, start, end = _element(der, 0)
        text = der[start:end].decode("utf-8") if tag == 0x0C and end == len(der) else ""
    except ValueError:
        text = ""
    return text if text and text.isprintable() and not text.startswith("#") else f"#{der.hex()}"


_PREFIXES: dict[type[x509.GeneralName], str] = {
    x509.DNSName: "DNS",
    x509.IPAddress: "IP",
    x509.RFC822Name: "email",
    x509.UniformResourceIdentifier: "URI",
    x509.DirectoryName: "dirName",
    x509.OtherName: "otherName",
    x509.RegisteredID: "RID",
}


def parse_general_name(text: str) -> x509.GeneralName:
    """Read an alternative name as `format_general_name` writes it; without a prefix it is an IP address or a DNS name.

    The prefix may be in any case. DNS names may have a wildcard as the first label: whether one is granted is the
    profile's affair. Raises ValueError with a sentence that says what is wrong.
    """
    prefix, colon, rest = text.partition(":")
    if colon and (read := _READERS.get(prefix.strip().lower())) is not None:
        return read(rest.strip())
    try:
        return _read_ip(text)
    except ValueError:
        return _read_dns(text)


def _read_dns(text: str) -> x509.GeneralName:
    return x509.DNSName(normal_dns(text, wildcard=True))


def _read_ip(text: str) -> x509.GeneralName:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{visible(text)} has a zone, which means nothing to another host")
    return x509.IPAddress(address)


def _read_directory_name(text: str) -> x509.GeneralName:
    name = parse_dn(text)
    if not name.rdns:
        raise ValueError("dirName: needs a distinguished name")
    return x509.DirectoryName(name)


def _read_other_name(text: str) -> x509.GeneralName:
    raise ValueError(f"otherName:{visible(text)} has a value that cannot be written as text")


_READERS: dict[str, Callable[[str], x509.GeneralName]] = {
    "dns": _read_dns,
    "ip": _read_ip,
    "email": lambda text: x509.RFC822Name(normal_email(text)),
    "uri": lambda text: x509.UniformResourceIdentifier(normal_uri(text)),
    "dirname": _read_directory_name,
    "rid": lambda text: x509.RegisteredID(x509.ObjectIdentifier(text)),
    "othername": _read_other_name,
}


def same_general_name(a: x509.GeneralName, b: x509.GeneralName) -> bool:
    """Whether two alternative names match by RFC 5280 section 7; names that break their form match only exactly."""
    return general_name_key(a) == general_name_key(b)


def same_general_names(a: Iterable[x509.GeneralName], b: Iterable[x509.GeneralName]) -> bool:
    """Whether two lists have the same alternative names, in whatever order and however often."""
    return {general_name_key(name) for name in a} == {general_name_key(name) for name in b}


def general_name_key(general_name: x509.GeneralName) -> Hashable:
    """A value that two alternative names share exactly when `same_general_name` holds, for sets and dictionaries."""
    form = type(general_name)
    match general_name:
        case x509.DNSName():
            return form, _normal_or_exact(lambda text: normal_dns(text, wildcard=True), general_name.value)
        case x509.RFC822Name():
            return form, _normal_or_exact(normal_email, general_name.value)
        case x509.UniformResourceIdentifier():
            return form, _normal_or_exact(normal_uri, general_name.value)
        case x509.DirectoryName():
            return form, _name_key(general_name.value)
        case x509.OtherName():
            return form, general_name.type_id, general_name.value
        case _:
            return form, general_name.value


def _normal_or_exact(normalise: Callable[[str], str], value: str) -> Hashable:
    try:
        return normalise(value)
    except ValueError:
        return (value,)  # never equal to a normal form


def visible(text: str) -> str:
    """The text on one line, its control characters as hexadecimal escapes, for messages and audit."""
    return "".join(
        "".join(f"\\{octet:02X}" for octet in c.encode("utf-8", "surrogatepass")) if control_character(c) else c
        for c in text
    )
