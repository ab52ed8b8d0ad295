"""Whose names go into a certificate, and what it may be used for (DESIGN.md, "Whose names go into the certificate").

In the room: the profile, and what it grants to an identity that asks. Not in the room: the key rules
(`kipuka.x509.keys`), that a re-enrolment asks for its own names again (`kipuka.enrolment`), signing (the CA backends).

Everything is refused that is not granted by a rule here, and what is granted is written anew from the identity's or the
normal form of a name, never copied in an encoding that somebody else may read differently.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kipuka.api.errors import BadCSR, KeyRefused, NameRefused
from kipuka.api.values import Identity
from kipuka.distinguished_names import (
    attribute_type,
    control_character,
    format_dn,
    parse_dn,
    short_name,
    subject_for,
    text_attribute,
    visible,
)
from kipuka.x509.copied import NEVER_COPIED, check_copied
from kipuka.x509.generate import KeyKind
from kipuka.x509.issuance import CertificatePolicy, Issuance
from kipuka.x509.keys import KeyPolicy, PublicKey, describe_key
from kipuka.x509.names import (
    format_general_name,
    general_name_key,
    normal_dns,
    normal_email,
    normal_uri,
    same_name,
)
from kipuka.x509.patterns import SAN_FORMS, check_pattern, dns_fits, email_fits, glob, ip_fits, uri_fits
from kipuka.x509.templates import ProfileSubject

__all__ = ["IDENTITY_SAN_FORMS", "Grant", "Profile", "authorise"]

IDENTITY_SAN_FORMS = (*SAN_FORMS, "upn", "krb5")
"""The forms of alternative names that a profile can give to whoever has them."""

_FORMS: Mapping[type[x509.GeneralName], str] = {
    x509.DNSName: "dns",
    x509.IPAddress: "ip",
    x509.RFC822Name: "email",
    x509.UniformResourceIdentifier: "uri",
}
_OTHER_NAME_FORMS = {
    x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"): "upn",  # Microsoft's user principal name
    x509.ObjectIdentifier("1.3.6.1.5.2.2"): "krb5",  # RFC 4556, 3.2.2: KRB5PrincipalName
}

MOST_NAMES = 100  # alternative names in one request


def _no_patterns() -> Mapping[str, tuple[str, ...]]:
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """What certificates of one kind may say.

    `names` is whose names they carry: the identity's, or those of the CSR within the patterns. `subject_patterns` (by
    attribute: "CN", "OU") and `san_patterns` (by form: "dns", "ip", "email", "uri") are for `names="csr"`: what has no
    pattern is refused. In a pattern `*` stands for any run of characters within one part of the name: it crosses no dot
    of a DNS name, no `@`, and no delimiter of a URI; `ip` takes addresses and networks ("10.0.0.0/8").

    `san_domains` are the domains that an identity's host name may stand in. `identity_sans` are the forms of alternative names that
    a certificate gets whenever its identity has such names, asked for or not. `wildcards` allows DNS names that start with
    `*`, where the identity has that very name, or a pattern allows every name that the wildcard stands for.

    `subject` puts the certificate's subject together; without it the granted one stands. `subject_required` are attributes that the
    certificate's subject has, `san_required` forms of alternative names of which it has at least one.

    `validity` None leaves it to the CA, and `max_validity` is the longest that the CA may choose. `backdate` sets notBefore back, for
    clients whose clocks are late (RULES F7). `csr_signature_hashes` are those that a request may be signed with; None: all that are
    accepted at all. `copy_extensions` are copied from the request where it asks for them (`kipuka.x509.copied`); the other fields are
    what `kipuka.x509.issuance.Issuance` says.

    `allow_expired_for` is how long after its end a certificate still renews (RULES B4), `channel_binding` whether a request has to be
    linked to its TLS connection (RULES G1), `revoke_replaced_after` how long after its renewal a certificate is revoked,
    `change_subject_name` whether a renewal may ask for other names (RULES F3).

    `generated_key` is made where the server makes a key and the request's own kind is not taken; None: the best that is.
    `require_encrypted_key`: it is handed out only encrypted to a key of the client's.

    Raises ValueError for a form, a domain or a pattern that can never match, and for an extension that is never copied.
    """

    name: str
    names: Literal["identity", "csr"] = "identity"
    san_domains: tuple[str, ...] = ()
    identity_sans: tuple[str, ...] = ()
    wildcards: bool = False
    reenrol_names: Literal["must-match", "from-certificate"] = "must-match"
    key_policy: KeyPolicy = field(default_factory=KeyPolicy)
    generated_key: KeyKind | None = None
    require_encrypted_key: bool = False
    validity: timedelta | None = None
    max_validity: timedelta | None = None
    backdate: timedelta = timedelta(minutes=5)
    unique_keys: bool = True
    key_usage: tuple[str, ...] | None = None
    extended_key_usage: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.CLIENT_AUTH,)
    extended_key_usage_critical: bool = False
    subject: ProfileSubject | None = None
    subject_required: tuple[str, ...] = ()
    subject_patterns: Mapping[str, tuple[str, ...]] = field(default_factory=_no_patterns)
    san_required: tuple[str, ...] = ()
    san_patterns: Mapping[str, tuple[str, ...]] = field(default_factory=_no_patterns)
    csr_signature_hashes: tuple[str, ...] | None = None
    certificate_policies: tuple[CertificatePolicy, ...] = ()
    ca_issuers: tuple[str, ...] = ()
    ocsp: tuple[str, ...] = ()
    crl_distribution_points: tuple[str, ...] = ()
    copy_extensions: tuple[x509.ObjectIdentifier, ...] = ()
    allow_expired_for: timedelta = timedelta(0)
    channel_binding: Literal["optional", "required"] = "optional"
    revoke_replaced_after: timedelta | None = None
    change_subject_name: bool = False

    def __post_init__(self) -> None:
        for domain in self.san_domains:
            normal_dns(domain)
        for name in (*self.subject_patterns, *self.subject_required):
            attribute_type(name)
        _check_forms((*self.identity_sans, *self.san_required), IDENTITY_SAN_FORMS)
        _check_forms(self.san_patterns, SAN_FORMS)
        for form, patterns in self.san_patterns.items():
            for pattern in patterns:
                check_pattern(form, pattern)
        for oid in self.copy_extensions:
            if oid in NEVER_COPIED:
                raise ValueError(f"the extension {oid.dotted_string} is never copied from a request")
        _check_periods(self.backdate, self.validity, self.max_validity)

    def validity_under(self, authority: timedelta) -> timedelta:
        """How long certificates are valid whose CA would say so long."""
        own = self.validity or authority
        return own if self.max_validity is None else min(own, self.max_validity)

    @property
    def issuance(self) -> Issuance:
        """What every certificate says."""
        return Issuance(
            key_usage=self.key_usage,
            extended_key_usage=self.extended_key_usage,
            extended_key_usage_critical=self.extended_key_usage_critical,
            certificate_policies=self.certificate_policies,
            ca_issuers=self.ca_issuers,
            ocsp=self.ocsp,
            crl_distribution_points=self.crl_distribution_points,
        )


def _check_forms(given: Iterable[str], known: Collection[str]) -> None:
    for form in given:
        if form not in known:
            raise ValueError(f"{form} is not one of {', '.join(known)}")


def _check_periods(backdate: timedelta, *validities: timedelta | None) -> None:
    if backdate < timedelta(0):
        raise ValueError("backdate is not negative")
    for validity in validities:
        if validity is not None and validity <= timedelta(0):
            raise ValueError("validity is longer than nothing")


@dataclass(frozen=True, kw_only=True, slots=True)
class Grant:
    """What a certificate will say: its subject, its extensions in order, and its alternative names as text."""

    subject: x509.Name
    extensions: tuple[x509.Extension[x509.ExtensionType], ...]
    names: tuple[str, ...]


def authorise(
    profile: Profile,
    identity: Identity,
    *,
    subject: x509.Name,
    sans: Sequence[x509.GeneralName],
    public_key: PublicKey,
    wants_ca: bool = False,
    asked_extensions: Sequence[x509.Extension[x509.ExtensionType]] = (),
    renewal: bool = False,
) -> Grant:
    """Decide what of a request is granted to an identity (RULES F1).

    `subject` and `sans` are what the CSR asks for, `wants_ca` whether it asks for CA:TRUE, `asked_extensions` those of the profile's
    `copy_extensions` that it asks for. Every other extension that a CSR may ask for is the profile's affair: its value is
    issued, whatever was asked for. What is fixed in the profile's template needs no pattern. A `renewal` keeps the subject it has: nothing is
    put into the template. Raises NameRefused, which names what is refused and the rule, and BadCSR.
    """
    if wants_ca:
        raise BadCSR("the CSR asks to become a certification authority", reason="ca_requested")
    if len(sans) > MOST_NAMES:
        raise NameRefused(f"the CSR asks for more than {MOST_NAMES} alternative names", reason="too_many_names")
    check_copied(asked_extensions)
    if profile.names == "identity":
        granted_subject = _subject_of(identity)
        permitted = {general_name_key(name): name for name in identity.permitted_names}
        hosts = _host_names(profile, identity)
        wanted = [*sans, *_unasked(profile, identity)]
        granted = [_identity_san(profile, identity, asked, permitted=permitted, hosts=hosts) for asked in wanted]
    else:
        fixed: _Fixed = set() if profile.subject is None else profile.subject.fixed
        granted_subject = _csr_subject(profile, subject, fixed=fixed)
        granted = [_csr_san(profile, asked) for asked in sans]
    if profile.subject is not None and not renewal:
        granted_subject = _filled(profile.subject, identity, granted_subject)
    alternative_names = tuple({general_name_key(name): name for name in granted}.values())
    _check_subject(granted_subject)
    # Before the sentence below, which names no rule that an administrator could look up.
    _check_required(profile, granted_subject, alternative_names)
    if not granted_subject.rdns and not alternative_names:
        raise NameRefused("the certificate would have no name: neither a subject nor an alternative name")
    return Grant(
        subject=granted_subject,
        extensions=_extensions(profile, public_key, alternative_names, granted_subject, asked_extensions),
        names=tuple(format_general_name(name) for name in alternative_names),
    )


def _filled(template: ProfileSubject, identity: Identity, granted: x509.Name) -> x509.Name:
    try:
        return template.fill(identity.name, granted)
    except ValueError as error:
        raise NameRefused(
            f"the subject cannot be made for {visible(identity.name)}: {error}", rule="subject"
        ) from error


def _check_required(profile: Profile, subject: x509.Name, names: Sequence[x509.GeneralName]) -> None:
    for name in profile.subject_required:
        if not subject.get_attributes_for_oid(attribute_type(name)):
            raise NameRefused(f"the subject has no {name}", rule="subject_required")
    forms = {_form(name) for name in names}
    for form in profile.san_required:
        if form not in forms:
            raise NameRefused(f"there is no alternative name of the form {form}", rule="san_required")


def _extensions(
    profile: Profile,
    public_key: PublicKey,
    names: Sequence[x509.GeneralName],
    subject: x509.Name,
    copied: Sequence[x509.Extension[x509.ExtensionType]],
) -> tuple[x509.Extension[x509.ExtensionType], ...]:
    try:
        return profile.issuance.extensions(public_key, names, critical_san=not subject.rdns, copied=copied)
    except ValueError as error:
        raise KeyRefused(f"{describe_key(public_key)}: {error}", rule="key_usage") from error


def _check_subject(subject: x509.Name) -> None:
    shown = format_dn(subject)
    if any(isinstance(attribute.value, str) and control_character(attribute.value) for attribute in subject):
        raise NameRefused(f"the subject {shown} is refused: it has control characters")
    try:
        faithful = same_name(parse_dn(shown), subject)
    except ValueError as error:
        raise NameRefused(f"the subject {shown} is refused: {error}") from error
    if not faithful:  # the record, the log and the certificate must speak of one name
        raise NameRefused(f"the subject {shown} is refused: it cannot be written as text")


# --- names = "identity"


def _subject_of(identity: Identity) -> x509.Name:
    if identity.subject is None:
        # The CSR's subject would be anybody's word. The name under which the identity is known is not.
        try:
            return subject_for(identity.name)
        except ValueError as error:
            raise NameRefused(f"the identity has no subject, and its name cannot be one: {error}") from error
    return identity.subject


def _identity_san(
    profile: Profile,
    identity: Identity,
    asked: x509.GeneralName,
    *,
    permitted: Mapping[Hashable, x509.GeneralName],
    hosts: AbstractSet[str],
) -> x509.GeneralName:
    granted = permitted.get(general_name_key(asked))
    if isinstance(asked, x509.DNSName):
        dns = _checked_dns(profile, asked)
        if granted is not None or dns in hosts:
            return x509.DNSName(dns)
    shown = format_general_name(asked)
    if granted is None:
        raise NameRefused(f"{shown} is not permitted for {visible(identity.name)}", rule="names")
    if isinstance(granted.value, str) and control_character(granted.value):
        raise NameRefused(f"{shown} is refused: it has control characters")
    return granted


def _unasked(profile: Profile, identity: Identity) -> list[x509.GeneralName]:
    """The names that the profile gives to whoever has them."""
    found = [
        name
        for name in identity.permitted_names
        if _form(name) in profile.identity_sans and (profile.wildcards or not _is_wildcard(name))
    ]
    if "dns" in profile.identity_sans:
        # A bare name is nobody's in a certificate; one with a domain of its own needs no other.
        found += [x509.DNSName(host) for host in sorted(_host_names(profile, identity)) if _is_whole(host, identity)]
    return found


def _form(name: x509.GeneralName) -> str | None:
    if isinstance(name, x509.OtherName):
        return _OTHER_NAME_FORMS.get(name.type_id)
    return _FORMS.get(type(name))


def _is_wildcard(name: x509.GeneralName) -> bool:
    return isinstance(name, x509.DNSName) and name.value.startswith("*")


def _is_whole(host: str, identity: Identity) -> bool:
    own = (identity.host_name or "").lower()
    return host == own if "." in own else "." in host


def _host_names(profile: Profile, identity: Identity) -> set[str]:
    if identity.host_name is None:
        return set()
    try:
        host = normal_dns(identity.host_name)
    except ValueError:  # a client id that is no host name is nobody's DNS name
        return set()
    return {host} | {f"{host}.{normal_dns(domain)}" for domain in profile.san_domains}


def _checked_dns(profile: Profile, asked: x509.DNSName) -> str:
    try:
        dns = normal_dns(asked.value, wildcard=True)
    except ValueError as error:
        raise NameRefused(f"{format_general_name(asked)} is refused: {error}") from error
    if dns.startswith("*.") and not profile.wildcards:
        raise NameRefused(f"{format_general_name(asked)} is refused: the profile allows no wildcards", rule="wildcards")
    return dns


# --- names = "csr"


_Fixed = AbstractSet[tuple[x509.ObjectIdentifier, str]]


def _csr_subject(profile: Profile, subject: x509.Name, *, fixed: _Fixed) -> x509.Name:
    return x509.Name(
        [
            x509.RelativeDistinguishedName([_csr_attribute(profile, attribute, fixed) for attribute in rdn])
            for rdn in subject.rdns
        ]
    )


def _csr_attribute(
    profile: Profile, attribute: x509.NameAttribute[str | bytes], fixed: _Fixed
) -> x509.NameAttribute[str]:
    kind, value = short_name(attribute.oid), attribute.value
    shown = format_dn(x509.Name([attribute]))
    patterns = [
        pattern
        for name, given in profile.subject_patterns.items()
        if attribute_type(name) == attribute.oid
        for pattern in given
    ]
    if isinstance(value, str) and (attribute.oid, value) in fixed:
        return text_attribute(attribute.oid, value)
    if not patterns:
        raise NameRefused(f"{shown} is refused: the profile has no pattern for {kind}", rule="subject_patterns")
    if not isinstance(value, str):
        raise NameRefused(f"{shown} is refused: it is not text")
    if not any(glob(pattern, value) for pattern in patterns):
        raise NameRefused(f"{shown} is refused: it fits no pattern of the profile", rule="subject_patterns")
    try:
        return text_attribute(attribute.oid, value)
    except ValueError as error:
        raise NameRefused(f"{shown} is refused: {error}") from error


def _csr_san(profile: Profile, asked: x509.GeneralName) -> x509.GeneralName:
    shown = format_general_name(asked)
    try:
        match asked:
            case x509.DNSName():
                dns = _checked_dns(profile, asked)
                form, fits, granted = "dns", _fits(dns_fits, dns), x509.DNSName(dns)
            case x509.IPAddress(value=ipaddress.IPv4Address() | ipaddress.IPv6Address()):
                form, fits, granted = "ip", _fits(ip_fits, str(asked.value)), asked
            case x509.RFC822Name():
                email = normal_email(asked.value)
                form, fits, granted = "email", _fits(email_fits, email), x509.RFC822Name(email)
            case x509.UniformResourceIdentifier():
                uri = normal_uri(asked.value)
                form, fits, granted = "uri", _fits(uri_fits, uri), x509.UniformResourceIdentifier(uri)
            case _:
                raise NameRefused(f"{shown} is refused: names of this form are not issued", rule="san_patterns")
    except ValueError as error:
        raise NameRefused(f"{shown} is refused: {error}") from error
    if not any(fits(pattern) for pattern in profile.san_patterns.get(form, ())):
        raise NameRefused(f"{shown} is refused: it fits no {form} pattern of the profile", rule="san_patterns")
    return granted


def _fits(test: Callable[[str, str], bool], name: str) -> Callable[[str], bool]:
    return lambda pattern: test(pattern, name)
