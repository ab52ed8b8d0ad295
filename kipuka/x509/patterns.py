"""Patterns with `*` that names are held against.

In the room: what `*` stands for in each form of name, and the patterns by which administrators are told from the other
holders of a certificate (RULES E2). Not in the room: names without patterns (`kipuka.x509.names`), and who uses which pattern.

A pattern is read into its parts before it is compared, and so is the name: `*` never reaches from one part of a name
into the next, so that no value can pass for a component that it is not.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from cryptography import x509

from kipuka.distinguished_names import DNPieces, dn_pieces
from kipuka.x509.names import normal_dns, normal_email, normal_uri, prepared_value

__all__ = [
    "SAN_FORMS",
    "CertificatePattern",
    "check_pattern",
    "dns_fits",
    "email_fits",
    "glob",
    "ip_fits",
    "parse_certificate_pattern",
    "uri_fits",
]

SAN_FORMS = ("dns", "ip", "email", "uri")
"""The forms of alternative names that there are patterns for."""


# --- One name, by its form


def glob(pattern: str, text: str) -> bool:
    """Whether `*` for any run of characters makes the pattern the text; in time that no pattern can make explode."""
    return _pieces_make(pattern.split("*"), text)


def _pieces_make(pieces: Sequence[str], text: str) -> bool:
    """Whether the text has these pieces, in their order, from its start to its end, with anything between two of them."""
    if len(pieces) == 1:
        return pieces[0] == text
    first, *middle, last = pieces
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in middle:
        found = text.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _parts_fit(pattern: Sequence[str], name: Sequence[str]) -> bool:
    return len(pattern) == len(name) and all(map(glob, pattern, name))


def dns_fits(pattern: str, dns: str) -> bool:
    """Whether a DNS name in normal form fits; a star crosses no dot."""
    allowed, asked = pattern.lower().split("."), dns.split(".")
    # A wildcard asks for every name in its first label's place. Only a bare star there fits it, which allows them all.
    return _parts_fit(allowed, asked)


def ip_fits(pattern: str, address: str) -> bool:
    """Whether an IP address is the pattern's, or in its network."""
    return ipaddress.ip_address(address) in ipaddress.ip_network(pattern)


def email_fits(pattern: str, email: str) -> bool:
    """Whether an e-mail address in normal form fits; a star crosses neither the `@` nor a dot of the host."""
    allowed_local, _, allowed_host = pattern.rpartition("@")
    local, _, host = email.rpartition("@")
    return glob(allowed_local, local) and dns_fits(allowed_host, host)


_URI_PARTS = re.compile(r"([^:/?#]+:)(//[^/?#]*)?(.*)")
_URI_DELIMITERS = re.compile(r"[:/?#\[\]@!$&'()+,;=]")  # RFC 3986 section 2.2, but the star
_AUTHORITY_DELIMITERS = re.compile(r"[:/.\[\]@!$&'()+,;=]")


def uri_fits(pattern: str, uri: str) -> bool:
    """Whether a URI in normal form fits; a star crosses no delimiter (RFC 3986, 2.2), and the scheme is that of the pattern."""
    allowed, asked = _URI_PARTS.fullmatch(normal_uri(pattern)), _URI_PARTS.fullmatch(uri)
    if allowed is None or asked is None or allowed[1] != asked[1] or "*" in (asked[2] or ""):
        return False
    return _pieces_fit(_AUTHORITY_DELIMITERS, allowed[2] or "", asked[2] or "") and _pieces_fit(
        _URI_DELIMITERS, allowed[3], asked[3]
    )


def _pieces_fit(delimiters: re.Pattern[str], pattern: str, text: str) -> bool:
    """Whether both have the same delimiters, and what stands between them fits."""
    return delimiters.findall(pattern) == delimiters.findall(text) and _parts_fit(
        delimiters.split(pattern), delimiters.split(text)
    )


def check_pattern(form: str, pattern: str) -> None:
    """Raise ValueError for a pattern of one of `SAN_FORMS` that no name can fit.

    The pattern with its stars filled in must be a name of that form; for "ip" it is an address or a network.
    """
    if not pattern.isascii():
        raise ValueError(f"the pattern {pattern} is not ASCII; write A-labels")
    filled = pattern.replace("*", "a")
    match form:
        case "dns":
            normal_dns(filled)
        case "email":
            normal_email(filled)
        case "uri":
            normal_uri(pattern)
        case _:
            ipaddress.ip_network(pattern)


# --- A whole certificate


class CertificatePattern(Protocol):
    """Tells the certificates of some holders from those of others."""

    @property
    def is_anything(self) -> bool:
        """Whether no character of a name is demanded, so that in effect everybody fits."""
        ...

    def fits(self, certificate: x509.Certificate) -> bool:
        """Whether the certificate is one of those that are meant."""
        ...


def parse_certificate_pattern(text: str) -> CertificatePattern:
    r"""Read a pattern over a certificate's subject, `CN=*,OU=Admins,O=Example`, or over one of its alternative names,
    `dns:*.ops.example`, `email:*@example.com`, `uri:spiffe://example.com/admin/*`.

    A subject is written as RFC 4514 says, all of it, the most specific component first; `*` stands for any characters within
    one value, a star itself is written `\2A`. Raises ValueError with a sentence that says what is wrong.
    """
    form, colon, rest = text.partition(":")
    match form.strip().lower():
        case "dns" | "email" | "uri" as known if colon:
            pattern = rest.strip()
            check_pattern(known, pattern)
            return _AlternativeNamePattern(known, pattern)
        case _:
            return _SubjectPattern(_prepared_components(text))


_Component = dict[x509.ObjectIdentifier, tuple[str, ...]]


def _prepared_components(text: str) -> tuple[_Component, ...]:
    """The components with their pieces in the form in which values are compared (RFC 5280, 7.1)."""
    components: list[_Component] = []
    for attributes in dn_pieces(text):
        component = {oid: _prepared_pieces(oid, pieces) for oid, pieces in attributes}
        if len(component) != len(attributes):
            raise ValueError("a component has two attributes of one type")
        components.append(component)
    if not components:
        raise ValueError("a pattern such as CN=*,OU=Admins is expected, or one that starts with dns:, email: or uri:")
    return tuple(components)


def _prepared_pieces(oid: x509.ObjectIdentifier, pieces: DNPieces) -> tuple[str, ...]:
    if pieces == ("",):
        raise ValueError("an attribute has no value; write * for any")
    last = len(pieces) - 1
    return tuple(_prepared_piece(oid, piece, first=at == 0, last=at == last) for at, piece in enumerate(pieces))


def _prepared_piece(oid: x509.ObjectIdentifier, piece: str, *, first: bool, last: bool) -> str:
    prepared = prepared_value(oid, piece)
    if prepared is None:
        raise ValueError("a value has a character that no two names could be compared by")
    # A space beside a star is one of the value's own, which the preparation takes from the ends of a whole value only.
    before = " " if piece.startswith(" ") and not first and not prepared.startswith(" ") else ""
    after = " " if piece.endswith(" ") and prepared and not last and not prepared.endswith(" ") else ""
    return f"{before}{prepared}{after}"


@dataclass(frozen=True, slots=True)
class _SubjectPattern:
    components: tuple[_Component, ...]

    @property
    def is_anything(self) -> bool:
        return not any("".join(pieces) for component in self.components for pieces in component.values())

    def fits(self, certificate: x509.Certificate) -> bool:
        rdns = list(certificate.subject.rdns)
        return len(rdns) == len(self.components) and all(map(_component_fits, self.components, rdns))


def _component_fits(component: _Component, rdn: x509.RelativeDistinguishedName) -> bool:
    attributes = list(rdn)
    if len(attributes) != len(component):
        return False
    for attribute in attributes:
        pieces = component.get(attribute.oid)
        value = attribute.value
        prepared = prepared_value(attribute.oid, value) if isinstance(value, str) else None
        if pieces is None or prepared is None or not _pieces_make(pieces, prepared):
            return False
    return len({attribute.oid for attribute in attributes}) == len(attributes)


@dataclass(frozen=True, slots=True)
class _AlternativeNamePattern:
    form: Literal["dns", "email", "uri"]
    pattern: str

    @property
    def is_anything(self) -> bool:
        return not self.pattern.strip("*.@")

    def fits(self, certificate: x509.Certificate) -> bool:
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            return False
        return any(self._one_fits(name) for name in names)

    def _one_fits(self, name: x509.GeneralName) -> bool:
        match name:
            case x509.DNSName() if self.form == "dns":
                return _normal_fits(normal_dns, dns_fits, self.pattern, name.value)
            case x509.RFC822Name() if self.form == "email":
                return _normal_fits(normal_email, email_fits, self.pattern, name.value)
            case x509.UniformResourceIdentifier() if self.form == "uri":
                return _normal_fits(normal_uri, uri_fits, self.pattern, name.value)
            case _:
                return False


def _normal_fits(normal: Callable[[str], str], fits: Callable[[str, str], bool], pattern: str, name: str) -> bool:
    try:
        return fits(pattern, normal(name))
    except ValueError:  # a name that breaks its form is nobody's
        return False
