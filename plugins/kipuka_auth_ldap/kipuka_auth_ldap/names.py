"""Names in certificates that come of a directory entry: the subject by template, and alternative names.

In the room: pure functions. Not in the room: which attribute is for what (`kipuka_auth_ldap.mapping`).

What an entry brings is always one attribute's value, or a part of one, whatever characters it has (`kipuka.api.SubjectTemplate`).
"""

from __future__ import annotations

import ipaddress
import re

from cryptography import x509

from kipuka.api import SubjectTemplate

__all__ = ["UPN", "dns_name", "email_name", "read_template", "upn_name"]

UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
"""Microsoft's user principal name: an otherName with a UTF8String."""

_DNS_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_LOCAL_PART = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", re.ASCII)


def read_template(text: str) -> SubjectTemplate:
    """A template with the user and attributes of the entry as fields. Raises ValueError with a sentence, and a remedy behind "; "."""
    try:
        template = SubjectTemplate(text)
    except ValueError as error:
        msg = f"it is no distinguished name (RFC 4514) with fields: {error}; write one such as CN={{user}},OU=People,O=Example"
        raise ValueError(msg) from error
    if not template.fields:
        msg = "it has no field: everybody would have the same name; write {user} or an attribute in braces"
        raise ValueError(msg)
    return template


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
