"""From a `[[profile]]` item to the profile that `kipuka.x509` applies.

In the room: what is wrong with a profile's own values. Not in the room: applying it (`kipuka.x509.profiles`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kipuka.config.document import KeyPath
from kipuka.config.sections import ProfileItem
from kipuka.x509.keys import KeyPolicy
from kipuka.x509.names import normal_dns
from kipuka.x509.profiles import Profile
from kipuka.x509.purposes import CMC_RA

__all__ = ["EXTENDED_KEY_USAGES", "Mistake", "build_profile"]

EXTENDED_KEY_USAGES = {
    "clientAuth": ExtendedKeyUsageOID.CLIENT_AUTH,
    "serverAuth": ExtendedKeyUsageOID.SERVER_AUTH,
    "codeSigning": ExtendedKeyUsageOID.CODE_SIGNING,
    "emailProtection": ExtendedKeyUsageOID.EMAIL_PROTECTION,
    "timeStamping": ExtendedKeyUsageOID.TIME_STAMPING,
    "ipsecIKE": ExtendedKeyUsageOID.IPSEC_IKE,
    "cmcRA": CMC_RA,
}
"""The usages that have a name in the configuration."""

Patterns = Mapping[str, tuple[str, ...]]

_SAN_SAMPLES = {
    "dns": "write a name such as *.example.com; international names in their xn-- form",
    "ip": "write an address, or a network such as 10.0.0.0/8",
    "email": "write an address such as *@example.com",
    "uri": "write a URI such as urn:device:*",
}

_NEVER = {ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, ExtendedKeyUsageOID.OCSP_SIGNING}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mistake:
    """What is wrong with a profile: the place is relative to its item."""

    path: KeyPath
    problem: str
    remedy: str


def build_profile(item: ProfileItem) -> tuple[Profile, Sequence[Mistake]]:
    """The profile, and what is wrong with the item; what is wrong is left out of the profile."""
    mistakes: list[Mistake] = []
    usages = _usages(item, mistakes)
    domains = _domains(item, mistakes)
    subject_patterns, san_patterns = _patterns(item, mistakes)
    allowed = frozenset(item.key_types)
    profile = Profile(
        name=item.name,
        names=item.names,
        san_domains=domains,
        identity_sans=item.identity_sans if item.names == "identity" else (),
        wildcards=item.wildcards,
        reenrol_names=item.reenrol_names,
        key_policy=KeyPolicy(allowed=allowed, min_rsa_bits=item.min_rsa_bits),
        validity=None if item.validity_days is None else timedelta(days=item.validity_days),
        backdate=timedelta(minutes=item.backdate_minutes),
        unique_keys=item.unique_keys,
        extended_key_usage=usages,
        subject_patterns=subject_patterns,
        san_patterns=san_patterns,
        allow_expired_for=item.allow_expired_for,
        channel_binding=item.channel_binding,
        revoke_replaced_after=item.revoke_replaced_after,
    )
    return profile, mistakes


def _usages(item: ProfileItem, mistakes: list[Mistake]) -> tuple[x509.ObjectIdentifier, ...]:
    usages: list[x509.ObjectIdentifier] = []
    for index, text in enumerate(item.extended_key_usage):
        path: KeyPath = ("extended_key_usage", index)
        oid = EXTENDED_KEY_USAGES.get(text)
        if oid is None:
            try:
                oid = x509.ObjectIdentifier(text)
            except ValueError:
                known = ", ".join(EXTENDED_KEY_USAGES)
                remedy = f"write one of {known}, or a dotted object identifier"
                mistakes.append(
                    Mistake(path=path, problem="there is no extended key usage of this name", remedy=remedy)
                )
                continue
        if oid == CMC_RA and (why := _no_authority(item)) is not None:
            mistakes.append(Mistake(path=path, problem=why[0], remedy=why[1]))
        elif oid in _NEVER:
            remedy = "take it out, and name what the certificates are for"
            mistakes.append(Mistake(path=path, problem="a client certificate must not have this usage", remedy=remedy))
        elif oid in usages:
            mistakes.append(Mistake(path=path, problem="it stands there twice", remedy="name each usage once"))
        else:
            usages.append(oid)
    return tuple(usages)


def _no_authority(item: ProfileItem) -> tuple[str, str] | None:
    """Why certificates of a registration authority cannot come of this profile (RULES F4): the problem and the remedy."""
    if item.names != "identity":
        return (
            'with names = "csr" a client could choose the name of a registration authority',
            'write names = "identity"',
        )
    if not {"clientAuth", ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string} & {*item.extended_key_usage}:
        return "without clientAuth nobody can authenticate with such a certificate", "add clientAuth"
    return None


def _domains(item: ProfileItem, mistakes: list[Mistake]) -> tuple[str, ...]:
    domains: list[str] = []
    for index, text in enumerate(item.san_domains):
        try:
            domains.append(normal_dns(text))
        except ValueError as error:
            remedy = "write a domain without a leading dot, as in example.com"
            mistakes.append(
                Mistake(path=("san_domains", index), problem=f"it is not a DNS name: {error}", remedy=remedy)
            )
    return tuple(domains)


def _patterns(item: ProfileItem, mistakes: list[Mistake]) -> tuple[Patterns, Patterns]:
    """The patterns that can match anything; `Profile` itself is the judge of each."""
    for key, patterns in (("subject_patterns", item.subject_patterns), ("san_patterns", item.san_patterns)):
        if patterns and item.names == "identity":
            remedy = f'write names = "csr" with it, or take {key} out'
            problem = 'it says nothing with names = "identity"'
            mistakes.append(Mistake(path=(key,), problem=problem, remedy=remedy))
    if item.identity_sans and item.names == "csr":
        remedy = 'write names = "identity" with it, or take identity_sans out'
        mistakes.append(Mistake(path=("identity_sans",), problem='it says nothing with names = "csr"', remedy=remedy))
    subject: dict[str, tuple[str, ...]] = {}
    for attribute, patterns in item.subject_patterns.items():
        try:
            Profile(name=item.name, subject_patterns={attribute: patterns})
        except ValueError as error:
            remedy = "write an attribute's short name, such as CN, O or OU, or its dotted number"
            mistakes.append(Mistake(path=("subject_patterns", attribute), problem=str(error), remedy=remedy))
            continue
        subject[attribute] = patterns
    san: dict[str, tuple[str, ...]] = {}
    for form, patterns in item.san_patterns.items():
        san[form] = ()
        for index, pattern in enumerate(patterns):
            try:
                Profile(name=item.name, san_patterns={form: (pattern,)})
            except ValueError as error:
                path: KeyPath = ("san_patterns", form, index)
                mistakes.append(Mistake(path=path, problem=str(error), remedy=_SAN_SAMPLES[form]))
                continue
            san[form] += (pattern,)
    return subject, san
