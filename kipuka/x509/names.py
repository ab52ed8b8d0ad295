"""Names in certificates: when two of them are the same, and alternative names.

In the room: the comparison of RFC 5280 section 7, alternative names as text ("DNS:a.example"), DNS names. Not in the room:
distinguished names as text (`kipuka.distinguished_names`), who may have which name (`kipuka.x509.profiles`).
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import stringprep
import unicodedata
from collections.abc import Callable, Hashable, Iterable
from encodings import idna

from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka.distinguished_names import control_character, der_element, format_dn, parse_dn, visible

__all__ = [
    "format_general_name",
    "general_name_key",
    "holder_digest",
    "normal_dns",
    "normal_email",
    "normal_uri",
    "parse_general_name",
    "prepared_value",
    "same_general_name",
    "same_general_names",
    "same_name",
]

# --- The comparison of RFC 5280 section 7


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
        tag, start, end = der_element(der, 0)
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
