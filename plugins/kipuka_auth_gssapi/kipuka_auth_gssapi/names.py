"""Names in certificates that come of a principal: distinguished names by template, and alternative names.

In the room: pure functions. Not in the room: which principal gets which name (`kipuka_auth_gssapi.mapping`).

A template is taken apart into its attributes before anything is put in (RFC 4514). What a principal brings is always one
attribute's value, or a part of one, whatever characters it has: it can neither add a component nor end one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka_auth_gssapi.principals import Principal

__all__ = ["KRB5_PRINCIPAL_NAME", "UPN", "SANForm", "Template", "alternative_names", "format_san", "format_subject"]

SANForm = Literal["dns", "upn", "krb5"]

UPN = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")
"""Microsoft's user principal name: an otherName with a UTF8String."""

KRB5_PRINCIPAL_NAME = x509.ObjectIdentifier("1.3.6.1.5.2.2")
"""RFC 4556, 3.2.2: an otherName with realm and components."""

# Beside the nine of RFC 4514 section 3, which the library knows in capitals.
_SHORT_NAMES: Mapping[x509.ObjectIdentifier, str] = {
    NameOID.SERIAL_NUMBER: "serialNumber",
    NameOID.EMAIL_ADDRESS: "emailAddress",
    NameOID.GIVEN_NAME: "givenName",
    NameOID.SURNAME: "SN",
    NameOID.TITLE: "title",
    NameOID.DN_QUALIFIER: "dnQualifier",
}
_ATTRIBUTES: Mapping[str, x509.ObjectIdentifier] = {short: oid for oid, short in _SHORT_NAMES.items()}

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

_PLACEHOLDERS = ("principal", "user", "realm", "host")
_BRACED = re.compile(r"\{([a-z]+)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A distinguished name with placeholders in its values, already taken apart."""

    name: x509.Name
    placeholders: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a template. Raises ValueError with the rest of the sentence "it ...", and a remedy behind "; "."""
        try:
            name = x509.Name.from_rfc4514_string(text, dict(_ATTRIBUTES))
        except ValueError as error:
            msg = "is not a distinguished name as in RFC 4514; write one such as CN={principal},OU=Users,DC=example,DC=com"
            raise ValueError(msg) from error
        if not name.rdns:
            msg = "is empty; write a distinguished name such as CN={principal}"
            raise ValueError(msg)
        found: set[str] = set()
        for attribute in name:
            if not isinstance(attribute.value, str):
                msg = "has a value that is not text; take it out"
                raise ValueError(msg)  # noqa: TRY004 - callers collect ValueError, and only that
            found.update(_BRACED.findall(attribute.value))
            if re.search(r"[{}]", _BRACED.sub("", attribute.value)):
                msg = "has a brace that belongs to no placeholder; take it out"
                raise ValueError(msg)
        known = ", ".join(f"{{{placeholder}}}" for placeholder in _PLACEHOLDERS)
        if strange := sorted(found.difference(_PLACEHOLDERS)):
            msg = f"has the unknown placeholder {{{strange[0]}}}; write {known}"
            raise ValueError(msg)
        made = cls(name, frozenset(found))
        made.fill(Principal(("host", "a.example"), "EXAMPLE"))  # raises where no value could ever be right
        return made

    def fill(self, principal: Principal) -> x509.Name:
        """The name of a principal. Raises ValueError where it has no such name: a value is missing or does not fit."""
        values = {"principal": str(principal), "user": principal.user, "realm": principal.realm}
        if principal.host is not None:
            values["host"] = principal.host
        if missing := self.placeholders.difference(values):
            msg = f"the principal has no {', '.join(sorted(missing))}"
            raise ValueError(msg)
        if not all(values[placeholder].isprintable() for placeholder in self.placeholders):
            msg = "the principal has control or invisible characters"
            raise ValueError(msg)
        rdns = [
            x509.RelativeDistinguishedName([_filled(attribute, values) for attribute in rdn]) for rdn in self.name.rdns
        ]
        return x509.Name(rdns)


def _filled(attribute: x509.NameAttribute[str | bytes], values: Mapping[str, str]) -> x509.NameAttribute[str]:
    # One pass: a brace in a value that is put in stands for itself.
    text = _BRACED.sub(lambda found: values[found[1]], str(attribute.value))
    if attribute.oid in _ASCII_ONLY and not text.isascii():
        msg = f"{attribute.rfc4514_attribute_name} takes ASCII only"
        raise ValueError(msg)
    return x509.NameAttribute(attribute.oid, text)


def format_subject(name: x509.Name) -> str:
    """The text form of RFC 4514."""
    return name.rfc4514_string(dict(_SHORT_NAMES))


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
