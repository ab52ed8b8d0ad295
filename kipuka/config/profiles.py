"""From a `[[profile]]` item to the profile that `kipuka.x509` applies.

In the room: what is wrong with a profile's own values. Not in the room: applying it (`kipuka.x509.profiles`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kipuka.config.document import KeyPath
from kipuka.config.sections import ProfileItem
from kipuka.distinguished_names import attribute_type, short_name
from kipuka.x509.copied import COPYABLE, NEVER_COPIED
from kipuka.x509.generate import KeyKind
from kipuka.x509.issuance import CertificatePolicy
from kipuka.x509.keys import KeyPolicy
from kipuka.x509.names import normal_dns, normal_uri
from kipuka.x509.patterns import SAN_FORMS
from kipuka.x509.profiles import Profile
from kipuka.x509.purposes import CMC_RA
from kipuka.x509.templates import ProfileSubject
from kipuka.x509.usages import possible_usages

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

_ATTRIBUTE_SAMPLE = "write an attribute's short name, such as CN, O or OU, or its dotted number"
_URI_SAMPLE = "write one such as http://pki.example.com/ca.crl"

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
    validity, longest = _validity(item, mistakes)
    key_policy = _key_policy(item, mistakes)
    profile = Profile(
        name=item.name,
        names=item.names,
        san_domains=domains,
        identity_sans=item.identity_sans if item.names == "identity" else (),
        wildcards=item.wildcards,
        reenrol_names=item.reenrol_names,
        key_policy=key_policy,
        generated_key=_generated_key(item, key_policy, mistakes),
        require_encrypted_key=item.require_encrypted_key,
        csr_signature_hashes=item.csr_signature_hashes,
        validity=validity,
        max_validity=longest,
        backdate=timedelta(minutes=item.backdate_minutes),
        unique_keys=item.unique_keys,
        key_usage=_key_usage(item, mistakes),
        extended_key_usage=usages,
        extended_key_usage_critical=item.extended_key_usage_critical,
        subject=_template(item, mistakes),
        subject_required=_required(item, mistakes),
        subject_patterns=subject_patterns,
        san_required=_san_required(item, mistakes),
        san_patterns=san_patterns,
        certificate_policies=_policies(item, mistakes),
        ca_issuers=_uris(item.ca_issuers, ("ca_issuers",), mistakes),
        ocsp=_uris(item.ocsp, ("ocsp",), mistakes),
        crl_distribution_points=_uris(item.crl_distribution_points, ("crl_distribution_points",), mistakes),
        copy_extensions=_copied(item, mistakes),
        allow_expired_for=item.allow_expired_for,
        channel_binding=item.channel_binding,
        revoke_replaced_after=item.revoke_replaced_after,
        change_subject_name=item.change_subject_name,
    )
    return profile, mistakes


def _key_policy(item: ProfileItem, mistakes: list[Mistake]) -> KeyPolicy:
    allowed = frozenset(item.key_types)
    if item.min_rsa_bits > item.max_rsa_bits:
        problem = f"it is above max_rsa_bits, which is {item.max_rsa_bits}: no RSA key is accepted"
        remedy = "write a smaller one, or take rsa out of key_types"
        mistakes.append(Mistake(path=("min_rsa_bits",), problem=problem, remedy=remedy))
        return KeyPolicy(allowed=allowed)
    return KeyPolicy(allowed=allowed, min_rsa_bits=item.min_rsa_bits, max_rsa_bits=item.max_rsa_bits)


def _key_usage(item: ProfileItem, mistakes: list[Mistake]) -> tuple[str, ...] | None:
    if item.key_usage is None:
        return None
    useless = [kind for kind in item.key_types if not possible_usages(kind).intersection(item.key_usage)]
    if useless:
        problem = f"of these a key of the kind {', '.join(useless)} can have none"
        remedy = "add digitalSignature, or take the kind out of key_types"
        mistakes.append(Mistake(path=("key_usage",), problem=problem, remedy=remedy))
        return None
    return item.key_usage


def _validity(item: ProfileItem, mistakes: list[Mistake]) -> tuple[timedelta | None, timedelta | None]:
    own, longest = item.validity_days, item.max_validity_days
    if own is not None and longest is not None and own > longest:
        problem = f"it is more than max_validity_days, which is {longest:g}"
        mistakes.append(Mistake(path=("validity_days",), problem=problem, remedy="write the smaller one only"))
        own = None
    return _days(own), _days(longest)


def _days(number: float | None) -> timedelta | None:
    return None if number is None else timedelta(days=number)


def _template(item: ProfileItem, mistakes: list[Mistake]) -> ProfileSubject | None:
    if item.subject is None:
        return None
    try:
        return ProfileSubject.parse(item.subject)
    except ValueError as error:
        remedy = "write a subject with fields such as CN={CN},O=Example,C=DE"
        mistakes.append(Mistake(path=("subject",), problem=f"it is no subject: {error}", remedy=remedy))
        return None


def _required(item: ProfileItem, mistakes: list[Mistake]) -> tuple[str, ...]:
    required: list[str] = []
    for index, name in enumerate(item.subject_required):
        try:
            required.append(short_name(attribute_type(name)))
        except ValueError as error:
            path: KeyPath = ("subject_required", index)
            mistakes.append(Mistake(path=path, problem=str(error), remedy=_ATTRIBUTE_SAMPLE))
    return tuple(dict.fromkeys(required))


def _san_required(item: ProfileItem, mistakes: list[Mistake]) -> tuple[str, ...]:
    """The forms that a certificate of this profile can have."""
    patterns = cast("Patterns", item.san_patterns)
    for index, form in enumerate(item.san_required):
        if item.names == "csr" and not patterns.get(form):
            remedy = "write a pattern for it in san_patterns, or take it out"
            problem = "every request is refused: the profile has no pattern for this form"
            if form not in SAN_FORMS:
                remedy, problem = "take it out", 'every request is refused: with names = "csr" no such name is issued'
            mistakes.append(Mistake(path=("san_required", index), problem=problem, remedy=remedy))
    return tuple(dict.fromkeys(item.san_required))


def _policies(item: ProfileItem, mistakes: list[Mistake]) -> tuple[CertificatePolicy, ...]:
    policies: list[CertificatePolicy] = []
    for index, policy in enumerate(item.certificate_policies):
        path: KeyPath = ("certificate_policies", index)
        try:
            oid = x509.ObjectIdentifier(policy.oid)
        except ValueError:
            remedy = "write one such as 1.3.6.1.4.1.99999.1"
            mistakes.append(Mistake(path=(*path, "oid"), problem="it is no object identifier", remedy=remedy))
            continue
        cps = _uris(() if policy.cps is None else (policy.cps,), (*path, "cps"), mistakes)
        if any(other.oid == oid for other in policies):
            mistakes.append(Mistake(path=path, problem="the policy stands there twice", remedy="name each policy once"))
            continue
        policies.append(CertificatePolicy(oid=oid, cps=cps[0] if cps else None))
    return tuple(policies)


def _uris(given: Sequence[str], path: KeyPath, mistakes: list[Mistake]) -> tuple[str, ...]:
    uris: list[str] = []
    for index, text in enumerate(given):
        where = path if path[-1] == "cps" else (*path, index)
        scheme, _, rest = text.partition("://")
        try:
            uri = normal_uri(text)
        except ValueError as error:
            mistakes.append(Mistake(path=where, problem=f"it is no URI: {error}", remedy=_URI_SAMPLE))
            continue
        if scheme.lower() not in {"http", "https", "ldap"} or not rest.strip("/"):
            problem = "it is no URI of http, https or ldap with a host"
            mistakes.append(Mistake(path=where, problem=problem, remedy=_URI_SAMPLE))
        elif uri in uris:
            mistakes.append(Mistake(path=where, problem="it stands there twice", remedy="take it out"))
        else:
            uris.append(uri)
    return tuple(uris)


def _copied(item: ProfileItem, mistakes: list[Mistake]) -> tuple[x509.ObjectIdentifier, ...]:
    copied: list[x509.ObjectIdentifier] = []
    for index, text in enumerate(item.copy_extensions):
        path: KeyPath = ("copy_extensions", index)
        oid = COPYABLE.get(text)
        if oid is None:
            try:
                oid = x509.ObjectIdentifier(text)
            except ValueError:
                remedy = f"write one of {', '.join(COPYABLE)}, or a dotted object identifier"
                mistakes.append(Mistake(path=path, problem="there is no extension of this name", remedy=remedy))
                continue
        if (why := NEVER_COPIED.get(oid)) is not None:
            remedy = f"take it out, and {why}" if why.startswith("write") else "take it out"
            problem = "it is never copied from a request" if why.startswith("write") else f"it is never copied: {why}"
            mistakes.append(Mistake(path=path, problem=problem, remedy=remedy))
        elif oid in copied:
            mistakes.append(Mistake(path=path, problem="it stands there twice", remedy="name each extension once"))
        else:
            copied.append(oid)
    return tuple(copied)


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
    if ExtendedKeyUsageOID.TIME_STAMPING in usages and (len(usages) > 1 or not item.extended_key_usage_critical):
        problem = "timeStamping stands alone, and is critical (RFC 3161, 2.3)"
        remedy = 'write extended_key_usage = ["timeStamping"] and extended_key_usage_critical = true'
        mistakes.append(Mistake(path=("extended_key_usage",), problem=problem, remedy=remedy))
    if item.extended_key_usage_critical and not item.extended_key_usage:
        problem = "there is no extended key usage that could be critical"
        remedy = "take it out, or write extended_key_usage"
        mistakes.append(Mistake(path=("extended_key_usage_critical",), problem=problem, remedy=remedy))
    return tuple(usages)


def _generated_key(item: ProfileItem, policy: KeyPolicy, mistakes: list[Mistake]) -> KeyKind | None:
    if item.serverkeygen_key is None:
        return None
    kind = KeyKind.parse(item.serverkeygen_key)
    if kind.allowed_by(policy):
        return kind
    remedy = "write a kind that key_types, min_rsa_bits and max_rsa_bits allow, or take it out"
    mistakes.append(Mistake(path=("serverkeygen_key",), problem="this profile accepts no such key", remedy=remedy))
    return None


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
            path: KeyPath = ("subject_patterns", attribute)
            mistakes.append(Mistake(path=path, problem=str(error), remedy=_ATTRIBUTE_SAMPLE))
            continue
        subject[attribute] = patterns
    san: dict[str, tuple[str, ...]] = {}
    for form, patterns in item.san_patterns.items():
        san[form] = ()
        for index, pattern in enumerate(patterns):
            try:
                Profile(name=item.name, san_patterns={form: (pattern,)})
            except ValueError as error:
                where: KeyPath = ("san_patterns", form, index)
                mistakes.append(Mistake(path=where, problem=str(error), remedy=_SAN_SAMPLES[form]))
                continue
            san[form] += (pattern,)
    return subject, san
