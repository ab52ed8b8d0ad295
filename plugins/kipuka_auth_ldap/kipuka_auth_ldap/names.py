"""Names in certificates that come of a directory entry: the subject by template, and alternative names.

In the room: pure functions. Not in the room: which attribute is for what (`kipuka_auth_ldap.mapping`).

A template is taken apart into its attributes before anything is put in (RFC 4514). What an entry brings is always one attribute's
value, or a part of one, whatever characters it has: it can neither add a component nor end one.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cryptography import x509
from cryptography.x509.oid import NameOID

__all__ = ["UPN", "SubjectTemplate", "dns_name", "email_name", "upn_name"]

UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
"""Microsoft's user principal name: an otherName with a UTF8String."""

# Beside the nine of RFC 4514 section 3, which the library knows in capitals.
_ATTRIBUTES: Mapping[str, x509.ObjectIdentifier] = {
    "serialNumber": NameOID.SERIAL_NUMBER,
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "givenName": NameOID.GIVEN_NAME,
    "SN": NameOID.SURNAME,
    "title": NameOID.TITLE,
    "dnQualifier": NameOID.DN_QUALIFIER,
}

# RFC 5280, appendix A.1 makes these PrintableString or IA5String.
_ASCII_ONLY = frozenset(
    {
        NameOID.COUNTRY_NAME,
        NameOID.SERIAL_NUMBER,
        NameOID.DN_QUALIFIER,
        NameOID.DOMAIN_COMPONENT,
        NameOID.EMAIL_ADDRESS,
    }
)

_BRACED = re.compile(r"\{([A-Za-z][A-Za-z0-9-]*)\}", re.ASCII)
_DNS_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_LOCAL_PART = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SubjectTemplate:
    """A distinguished name with placeholders in its values, already taken apart. Placeholders are in lower case."""

    name: x509.Name
    placeholders: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a template. Raises ValueError with the rest of the sentence "it ...", and a remedy behind "; "."""
        try:
            name = x509.Name.from_rfc4514_string(text, dict(_ATTRIBUTES))
        except ValueError as error:
            msg = "is not a distinguished name as in RFC 4514; write one such as CN={user},OU=People,O=Example"
            raise ValueError(msg) from error
        if not name.rdns:
            msg = "is empty; write a distinguished name such as CN={user}"
            raise ValueError(msg)
        found: set[str] = set()
        for attribute in name:
            if not isinstance(attribute.value, str):
                msg = "has a value that is not text; take it out"
                raise ValueError(msg)  # noqa: TRY004 - callers collect ValueError, and only that
            found.update(placeholder.lower() for placeholder in _BRACED.findall(attribute.value))
            if re.search(r"[{}]", _BRACED.sub("", attribute.value)):
                msg = "has a brace that belongs to no placeholder; take it out"
                raise ValueError(msg)
        if not found:
            msg = "has no placeholder: everybody would have the same name; write {user} or an attribute in braces"
            raise ValueError(msg)
        made = cls(name, frozenset(found))
        made.fill(dict.fromkeys(found, "xx"))  # raises where no value could ever be right
        return made

    def fill(self, values: Mapping[str, str]) -> x509.Name:
        """The name with these values, which has all placeholders. Raises ValueError where one does not fit."""
        return x509.Name(
            [
                x509.RelativeDistinguishedName([_filled(attribute, values) for attribute in rdn])
                for rdn in self.name.rdns
            ]
        )


def _filled(attribute: x509.NameAttribute[str | bytes], values: Mapping[str, str]) -> x509.NameAttribute[str]:
    # One pass: a brace in a value that is put in stands for itself.
    text = _BRACED.sub(lambda found: values[found[1].lower()], str(attribute.value))
    if attribute.oid in _ASCII_ONLY and not text.isascii():
        msg = f"{attribute.rfc4514_attribute_name} takes ASCII only"
        raise ValueError(msg)
    return x509.NameAttribute(attribute.oid, text)


def dns_name(text: str) -> x509.DNSName:
    """A host name as a DNS name, in lower case. Raises ValueError where it is none; wildcards and addresses are none."""
    name = text.lower().removesuffix(".")
    try:
        ipaddress.ip_address(name)
    except ValueError:
        if len(name) <= 253 and all(map(_DNS_LABEL.fullmatch, name.split("."))):
            return x509.DNSName(name)
    msg = "it is not a DNS name"
    raise ValueError(msg)


def email_name(text: str) -> x509.RFC822Name:
    """A mail address of ASCII characters. Raises ValueError where it is none."""
    local, _, domain = text.rpartition("@")
    if not _LOCAL_PART.fullmatch(local):
        msg = "it is not a mail address"
        raise ValueError(msg)
    return x509.RFC822Name(f"{local}@{dns_name(domain).value}")


def upn_name(text: str) -> x509.OtherName:
    """A user principal name, `name@domain` with one @: a UPN cannot escape a second one. Raises ValueError where it is none."""
    user, at, domain = text.partition("@")
    if not user or not at or not domain or "@" in domain:
        msg = "it is not a user principal name"
        raise ValueError(msg)
    return x509.OtherName(UPN, _utf8_string(text))


def _utf8_string(text: str) -> bytes:
    """A UTF8String in DER (X.690, 8.1)."""
    content = text.encode("utf-8")
    length = len(content)
    if length < 0x80:
        return bytes([0x0C, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([0x0C, 0x80 | len(octets)]) + octets + content
