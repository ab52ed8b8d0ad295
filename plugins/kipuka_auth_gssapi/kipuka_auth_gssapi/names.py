"""Names in certificates that come of a principal: distinguished names by template, and alternative names.

In the room: pure functions. Not in the room: which principal gets which name (`kipuka_auth_gssapi.mapping`).

What a principal brings is always one attribute's value, or a part of one, whatever characters it has (`kipuka.api.SubjectTemplate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from cryptography import x509

from kipuka.api import SubjectTemplate
from kipuka_auth_gssapi.principals import Principal

__all__ = ["KRB5_PRINCIPAL_NAME", "UPN", "SANForm", "alternative_names", "format_san", "read_template", "subject_of"]

SANForm = Literal["dns", "upn", "krb5"]

UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
"""Microsoft's user principal name: an otherName with a UTF8String."""

KRB5_PRINCIPAL_NAME = x509.ObjectIdentifier("1.3.6.1.5.2.2")
"""RFC 4556, 3.2.2: an otherName with realm and components."""

_FIELDS = ("principal", "user", "realm", "host")


def read_template(text: str) -> SubjectTemplate:
    """A template with fields that principals have. Raises ValueError with a sentence, and a remedy behind "; "."""
    try:
        template = SubjectTemplate(text, known=_FIELDS)
        subject_of(Principal(("host", "a.example"), "EXAMPLE"), template)  # raises where no value could ever be right
    except ValueError as error:
        msg = (
            f"it is no distinguished name (RFC 4514) with fields: {error}; write one such as CN={{principal}},OU=Users"
        )
        raise ValueError(msg) from error
    return template


def subject_of(principal: Principal, template: SubjectTemplate) -> x509.Name:
    """The name of a principal. Raises ValueError where it has no such name: a value is missing or does not fit."""
    values = {
        "principal": str(principal),
        "user": principal.user,
        "realm": principal.realm,
        "host": principal.host or "",
    }
    if not all(values[field].isprintable() for field in template.fields):
        msg = "the principal has control or invisible characters"
        raise ValueError(msg)
    return template.fill(values)


def alternative_names(principal: Principal, forms: Sequence[SANForm]) -> tuple[x509.GeneralName, ...]:
    """The alternative names that follow from a principal, of these forms.

    "dns": the name of a host/NAME principal, where it has a domain. "upn": user@realm, for users alone: a machine account
    and a service have none. "krb5": the principal itself (RFC 4556).
    """
    found: list[x509.GeneralName] = []
    ascii_only = str(principal).isascii()
    if "dns" in forms and not principal.is_machine and principal.host is not None and "." in principal.host:
        found.append(x509.DNSName(principal.host))
    if "upn" in forms and _has_upn(principal):
        found.append(x509.OtherName(UPN, _element(0x0C, f"{principal.components[0]}@{principal.realm}".encode())))
    if "krb5" in forms and ascii_only:  # KerberosString is restricted to ASCII (RFC 4120, 5.2.1)
        found.append(x509.OtherName(KRB5_PRINCIPAL_NAME, _krb5_principal_name(principal)))
    return tuple(found)


def _has_upn(principal: Principal) -> bool:
    """A UPN has no way to write a character that stands for itself: a name with a second @ could be read as another one."""
    (name, *further) = principal.components
    return not further and not principal.is_machine and "@" not in name and f"{name}{principal.realm}".isprintable()


def format_san(name: x509.GeneralName, principal: Principal) -> str:
    """An alternative name of a principal as people read it."""
    match name:
        case x509.DNSName():
            return f"DNS:{name.value}"
        case x509.OtherName() if name.type_id == UPN:
            return f"UPN:{principal.components[0]}@{principal.realm}"
        case _:
            return f"KRB5PrincipalName:{principal}"


_NT_PRINCIPAL, _NT_SRV_INST = 1, 2  # RFC 4120, 6.2


def _krb5_principal_name(principal: Principal) -> bytes:
    """DER of KRB5PrincipalName (RFC 4556, 3.2.2): SEQUENCE of realm [0] and principalName [1] (RFC 4120, 5.2.2)."""
    kind = _NT_PRINCIPAL if len(principal.components) == 1 else _NT_SRV_INST
    components = b"".join(_general_string(component) for component in principal.components)
    name = _element(0xA0, _element(0x02, bytes([kind]))) + _element(0xA1, _element(0x30, components))
    return _element(0x30, _element(0xA0, _general_string(principal.realm)) + _element(0xA1, _element(0x30, name)))


def _general_string(text: str) -> bytes:
    return _element(0x1B, text.encode("ascii"))


def _element(tag: int, content: bytes) -> bytes:
    """One DER element (X.690, 8.1)."""
    length = len(content)
    if length < 0x80:
        return bytes([tag, length]) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(octets)]) + octets + content
