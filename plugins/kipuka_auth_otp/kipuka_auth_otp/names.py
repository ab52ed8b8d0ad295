"""The names that a token carries, checked when it is made: client id, subject, subject alternative names, label.

In the room: pure functions from text to checked values; each raises ValueError with the rest of the sentence "<field>: ...".
Not in the room: whether an identity may have a name, which is the host's.

Text becomes a distinguished name by structured parsing only (RFC 4514), never by pasting.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka.api import SubjectTemplate, format_dn, parse_dn

__all__ = [
    "COMMON_NAME_LENGTH",
    "check_client_id",
    "check_label",
    "common_name",
    "format_san",
    "host_name_of",
    "parse_san",
    "parse_subject",
]

COMMON_NAME_LENGTH = 64
"""RFC 5280, appendix A.1: ub-common-name."""

CLIENT_ID_LENGTH = 255
SUBJECT_LENGTH = 2048

# RFC 5280, appendix A.1, upper bounds; of serialNumber: X.520. A domain component is a DNS label.
_UPPER_BOUNDS: Mapping[x509.ObjectIdentifier, int] = {
    NameOID.COMMON_NAME: COMMON_NAME_LENGTH,
    NameOID.LOCALITY_NAME: 128,
    NameOID.STATE_OR_PROVINCE_NAME: 128,
    NameOID.ORGANIZATION_NAME: 64,
    NameOID.ORGANIZATIONAL_UNIT_NAME: 64,
    NameOID.TITLE: 64,
    NameOID.SERIAL_NUMBER: 64,
    NameOID.DN_QUALIFIER: 64,
    NameOID.DOMAIN_COMPONENT: 63,
    NameOID.EMAIL_ADDRESS: 255,
}
_OTHER_UPPER_BOUND = 255

_COMMON_NAME = SubjectTemplate("CN={client_id}")

_DNS_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9._~-]{1,64}", re.ASCII)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", re.ASCII)
_LOCAL_PART = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}", re.ASCII)


def check_client_id(text: str) -> str:
    """A client id of printable characters, as it was given."""
    if not text:
        msg = "it is empty"
        raise ValueError(msg)
    if len(text) > CLIENT_ID_LENGTH:
        msg = f"it is longer than {CLIENT_ID_LENGTH} characters"
        raise ValueError(msg)
    _check_characters(text)
    return text


def common_name(client_id: str) -> x509.Name:
    """The subject `CN=<client id>`."""
    # The bound counts characters, the library counts octets of UTF-8: the narrower one holds.
    if len(client_id.encode("utf-8")) > COMMON_NAME_LENGTH:
        msg = f"a common name has at most {COMMON_NAME_LENGTH} characters (octets of UTF-8); give a subject beside it"
        raise ValueError(msg)
    return _COMMON_NAME.fill({"client_id": client_id})


def parse_subject(text: str) -> x509.Name:
    """A distinguished name written as in RFC 4514, with attribute values of lawful length and printable characters."""
    if not text.strip():
        msg = "it is empty; leave it out for CN=<client_id>"
        raise ValueError(msg)
    if len(text) > SUBJECT_LENGTH:
        msg = f"it is longer than {SUBJECT_LENGTH} characters"
        raise ValueError(msg)
    try:
        name = parse_dn(text)
    except ValueError as error:
        msg = f"it is not a distinguished name as in RFC 4514, for instance CN=workstation-42,O=Example ({error})"
        raise ValueError(msg) from error
    for attribute in name:
        _check_attribute(attribute)
    # It is kept as text: what is read back must be the name that was checked.
    if parse_dn(format_dn(name)) != name:
        msg = "it has no plain text form"
        raise ValueError(msg)
    return name


def _check_attribute(attribute: x509.NameAttribute[str | bytes]) -> None:
    bound = _UPPER_BOUNDS.get(attribute.oid, _OTHER_UPPER_BOUND)
    if not 1 <= len(attribute.value) <= bound:
        msg = f"a value of {format_dn(x509.Name([attribute])).partition('=')[0]} has 1 to {bound} characters"
        raise ValueError(msg)
    _check_characters(str(attribute.value))


def check_label(text: str) -> str:
    """A label as it may stand in a path (RFC 7030, 3.2.2)."""
    if not _LABEL.fullmatch(text):
        msg = "a label has 1 to 64 letters, digits, and . _ ~ -"
        raise ValueError(msg)
    return text


def host_name_of(client_id: str) -> str | None:
    """The client id as a DNS name, where it is one."""
    try:
        return _dns_name(client_id, wildcard=False)
    except ValueError:
        return None


def parse_san(text: str) -> x509.GeneralName:
    """A subject alternative name: `DNS:`, `IP:`, `email:` or `URI:` and its value; without a prefix an IP address or DNS name."""
    if not text.isascii() or not text.isprintable():
        msg = (
            f"{text!r} has other than printable ASCII characters; write an international name as its A-label (xn--...)"
        )
        raise ValueError(msg)
    kind, separator, value = text.partition(":")
    reader = _READERS.get(kind.lower()) if separator else None
    if reader is not None:
        return reader(value.strip())
    try:
        return _ip(text)
    except ValueError:
        if separator:
            msg = f"{text!r} is not DNS:, IP:, email: or URI: and a value"
            raise ValueError(msg) from None
        return _dns(text)


def format_san(name: x509.GeneralName) -> str:
    """The text form that `parse_san` reads back to the same name."""
    match name:
        case x509.DNSName():
            return f"DNS:{name.value}"
        case x509.IPAddress():
            return f"IP:{name.value}"
        case x509.RFC822Name():
            return f"email:{name.value}"
        case x509.UniformResourceIdentifier():
            return f"URI:{name.value}"
        case _:
            msg = f"a name of type {type(name).__name__} is not granted by tokens"
            raise ValueError(msg)


def _check_characters(text: str) -> None:
    if not text.isprintable():
        msg = "it has control or invisible characters"
        raise ValueError(msg)
    if text != text.strip():
        msg = "it starts or ends with a space"
        raise ValueError(msg)


def _dns_name(text: str, *, wildcard: bool) -> str:
    name = text.lower()
    labels = name.split(".")
    checked = labels[1:] if wildcard and labels[0] == "*" and len(labels) > 2 else labels
    try:
        ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        msg = f"{text!r} is an IP address, not a DNS name"
        raise ValueError(msg)
    if len(name) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in checked):
        msg = f"{text!r} is not a DNS name"
        raise ValueError(msg)
    return name


def _dns(value: str) -> x509.GeneralName:
    # Whether a wildcard is issued is for the profile to say; here it is only let through.
    return x509.DNSName(_dns_name(value, wildcard=True))


def _ip(value: str) -> x509.GeneralName:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        msg = f"{value!r} is not an IP address"
        raise ValueError(msg) from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        msg = f"{value!r} has a zone"
        raise ValueError(msg)
    return x509.IPAddress(address)


def _email(value: str) -> x509.GeneralName:
    local, _, domain = value.rpartition("@")
    if not _LOCAL_PART.fullmatch(local):
        msg = f"{value!r} is not a mail address"
        raise ValueError(msg)
    return x509.RFC822Name(f"{local}@{_dns_name(domain, wildcard=False)}")


def _uri(value: str) -> x509.GeneralName:
    if not _URI.fullmatch(value):
        msg = f"{value!r} is not an absolute URI"
        raise ValueError(msg)
    return x509.UniformResourceIdentifier(value)


_READERS: Mapping[str, Callable[[str], x509.GeneralName]] = {"dns": _dns, "ip": _ip, "email": _email, "uri": _uri}
