"""Registration authorities: who asks for certificates in others' names (RULES F4; RFC 7030, section 3.7; RFC 6402, section 2.10).

In the room: what makes a client certificate that of a registration authority at a label, which names a request asks for that are not its
sender's, and what the authority's word for those names is worth. Not in the room: what is recorded and what the CA has signed (the caller
knows it), and what a profile grants (`kipuka.x509.profiles`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from kipuka.api.errors import NameRefused
from kipuka.api.values import Identity
from kipuka.distinguished_names import format_dn, text_attribute, visible
from kipuka.x509.names import (
    format_general_name,
    general_name_key,
    holder_digest,
    normal_dns,
    normal_email,
    normal_uri,
    same_name,
)
from kipuka.x509.patterns import CertificatePattern, parse_certificate_pattern
from kipuka.x509.purposes import CMC_RA, has_usage

__all__ = [
    "Asked",
    "NotAnAuthority",
    "asks_for_others",
    "holder_of",
    "is_candidate",
    "parse_authority",
    "renewed_for",
    "shortcoming",
    "vouched_for",
    "whom",
]

_FINGERPRINT = "sha256:"


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    """One certificate, by the SHA-256 of its DER."""

    digest: str

    @property
    def is_anything(self) -> bool:
        return False

    def fits(self, certificate: x509.Certificate) -> bool:
        return certificate.fingerprint(hashes.SHA256()).hex() == self.digest


def parse_authority(text: str) -> CertificatePattern:
    """Read an item of `registration_authorities`: `sha256:` and a certificate's fingerprint in hexadecimal, or a pattern of its subject or
    of an alternative name (`kipuka.x509.patterns.parse_certificate_pattern`). Raises ValueError with a sentence.
    """
    if not text.lower().startswith(_FINGERPRINT):
        return parse_certificate_pattern(text)
    digest = text[len(_FINGERPRINT) :].replace(":", "").lower()
    if len(digest) != 64 or any(digit not in "0123456789abcdef" for digit in digest):
        raise ValueError("a fingerprint has 64 hexadecimal digits")
    return _Fingerprint(digest)


class NotAnAuthority(StrEnum):
    """Why a certificate is not a registration authority's here: the audit word of each, with the text that the client hears."""

    text: str

    def __new__(cls, word: str, text: str) -> Self:
        """A word that has a text."""
        made = str.__new__(cls, word)
        made._value_ = word
        made.text = text
        return made

    NOT_RECORDED = "ra_not_recorded", "it is not in this server's record"
    OTHER_CA = "ra_other_ca", "it was not issued by the CA of this label"
    NO_USAGE = "ra_usage_missing", "it has no extended key usage id-kp-cmcRA"
    NOT_LISTED = "ra_not_listed", "it is not among the registration authorities of this label"


def is_candidate(certificate: x509.Certificate, listed: Sequence[CertificatePattern]) -> bool:
    """Whether somebody meant this certificate to be a registration authority's: its CA, or who wrote the label."""
    return has_usage(certificate, CMC_RA) or any(pattern.fits(certificate) for pattern in listed)


def shortcoming(
    certificate: x509.Certificate, listed: Sequence[CertificatePattern], *, recorded: bool, own_ca: bool
) -> NotAnAuthority | None:
    """What a good client certificate lacks of a registration authority's, or None (RULES F4).

    `recorded` is whether this server's record has it, `own_ca` whether this label's CA signed it. That it is neither expired nor revoked
    was looked at before.
    """
    if not has_usage(certificate, CMC_RA):
        return NotAnAuthority.NO_USAGE
    if not any(pattern.fits(certificate) for pattern in listed):
        return NotAnAuthority.NOT_LISTED
    if not own_ca:
        return NotAnAuthority.OTHER_CA
    return None if recorded else NotAnAuthority.NOT_RECORDED


def asks_for_others(certificate: x509.Certificate, subject: x509.Name, sans: Sequence[x509.GeneralName]) -> bool:
    """Whether a request asks for names that are not those of the certificate it was sent with. One that asks for none does not."""
    if not subject.rdns and not sans:
        return False
    try:
        own = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        own = ()
    known = {general_name_key(name) for name in own}
    return not same_name(subject, certificate.subject) or any(general_name_key(name) not in known for name in sans)


def whom(subject: x509.Name, sans: Sequence[x509.GeneralName]) -> str:
    """Those names on one line, for record and audit."""
    return format_dn(subject) or ", ".join(format_general_name(name) for name in sans)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Whose certificate a request asks for: the identity that the profile is to judge, and the names asked for."""

    identity: Identity
    subject: x509.Name
    sans: tuple[x509.GeneralName, ...]


def vouched_for(
    authority: Identity, subject: x509.Name, sans: Sequence[x509.GeneralName], *, domains: Sequence[str] = ()
) -> Asked:
    """What a registration authority asks for, as though whom it speaks for had proved to have those names.

    They are written anew in their normal form, as everything that is issued; so a profile with `names = "identity"` grants what the
    authority says, and one with `names = "csr"` what fits its patterns. Where there are `domains`, DNS names are below one of them. Raises
    NameRefused for others, for what cannot be a name of its form, and for forms other than DNS name, IP address, e-mail address and URI.
    """
    try:
        rdns = [
            x509.RelativeDistinguishedName([_attribute(attribute) for attribute in relative_name])
            for relative_name in subject.rdns
        ]
    except ValueError as error:
        raise NameRefused(f"the subject {format_dn(subject)} is refused: {error}") from error
    names = tuple(_general_name(name) for name in sans)
    for name in names:
        if domains and isinstance(name, x509.DNSName) and not any(name.value.endswith(f".{one}") for one in domains):
            shown = f"{format_general_name(name)} is refused"
            raise NameRefused(f"{shown}: it is in none of the domains {', '.join(domains)}", rule="san_domains")
    identity = _vouched(authority, x509.Name(rdns), names)
    return Asked(identity=identity, subject=x509.Name(rdns), sans=names)


def _vouched(authority: Identity, subject: x509.Name, sans: tuple[x509.GeneralName, ...]) -> Identity:
    """Nothing of the authority is left in it but how it was recognised."""
    name = visible(whom(subject, sans))
    return replace(authority, name=name, subject=subject, permitted_names=sans, host_name=None)


def renewed_for(authority: Identity, subject: x509.Name, sans: Sequence[x509.GeneralName]) -> Asked:
    """What a registration authority asks for that renews a recorded certificate with these names."""
    identity = _vouched(authority, subject, tuple(sans))
    return Asked(identity=identity, subject=subject, sans=tuple(sans))


def holder_of(subject: x509.Name, sans: Sequence[x509.GeneralName]) -> str:
    """The digest under which a certificate with these names would be recorded (`kipuka.x509.names.holder_digest`)."""
    return holder_digest(subject, [format_general_name(_normal_or_same(name)) for name in sans])


def _normal_or_same(name: x509.GeneralName) -> x509.GeneralName:
    try:
        return _general_name(name)
    except NameRefused:
        return name


def _attribute(attribute: x509.NameAttribute[str | bytes]) -> x509.NameAttribute[str]:
    if not isinstance(attribute.value, str):
        raise ValueError("it has a value that is not text")  # noqa: TRY004 - it is the client's value, not our argument
    return text_attribute(attribute.oid, attribute.value)


def _general_name(name: x509.GeneralName) -> x509.GeneralName:
    shown = format_general_name(name)
    try:
        match name:
            case x509.DNSName():
                return x509.DNSName(normal_dns(name.value, wildcard=True))
            case x509.RFC822Name():
                return x509.RFC822Name(normal_email(name.value))
            case x509.UniformResourceIdentifier():
                return x509.UniformResourceIdentifier(normal_uri(name.value))
            case x509.IPAddress():
                return name
            case _:
                raise NameRefused(f"{shown} is refused: names of this form are not issued")
    except ValueError as error:
        raise NameRefused(f"{shown} is refused: {error}") from error
