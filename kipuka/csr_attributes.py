"""What a profile asks of certification requests before they are made (RFC 7030, 4.5; RFC 8951, section 4; RFC 9908).

In the room: from a profile to the answer of `csrattrs`. Not in the room: how the answer is written (`kipuka.est.csrattrs`), and the checks
that it foretells (`kipuka.x509.profiles`, `kipuka.x509.keys`, `kipuka.est.csr`, `kipuka.est.binding`).

**Asked is what is checked.** A client that does what the answer says passes the profile, as far as names that it fills in are ones it may
have. What is issued whatever a request says (key usages, the names of an identity) is not asked for: some clients cannot ask for it.

**One key.** An answer can name one type of key (RFC 9908, section 3.2: exactly one attribute; section 3.4: one field), a profile can take
several. One is named only where the profile takes fewer than by default, so that a client's usual key may be refused.

**A template only where it says more.** A client that knows templates must ignore everything beside one (RFC 9908, section 4), and a
template has no place for a hash nor for a challengePassword whose value the client computes. So what asks for one of these has no template.
Where there is one, the plain form stands beside it for older clients.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.x509.oid import ExtensionOID, NameOID, SignatureAlgorithmOID

from kipuka.distinguished_names import attribute_type, text_attribute
from kipuka.est.csr import SIGNATURE_HASHES
from kipuka.est.csrattrs import (
    CHALLENGE_PASSWORD,
    EC_PUBLIC_KEY,
    IDENTITY_LINKING,
    RSA_ENCRYPTION,
    CsrAttribute,
    CsrAttributes,
    ExtensionTemplate,
    KeyTemplate,
    NamePart,
    Template,
    alternative_names,
    encode,
    extension_request,
)
from kipuka.x509.keys import KeyPolicy
from kipuka.x509.names import normal_dns, normal_email, normal_uri
from kipuka.x509.profiles import Profile

__all__ = ["asked_of_requests", "csr_attributes"]

_PREFERRED = ("p256", "p384", "p521", "rsa", "ed25519", "ed448")
"""The kinds of keys (`kipuka.x509.keys.KEY_NAMES`), what most clients can make first."""

_CURVES = {  # RFC 5480, section 2.1.1.1
    "p256": x509.ObjectIdentifier("1.2.840.10045.3.1.7"),
    "p384": x509.ObjectIdentifier("1.3.132.0.34"),
    "p521": x509.ObjectIdentifier("1.3.132.0.35"),
}
_EDWARDS = {
    "ed25519": SignatureAlgorithmOID.ED25519,
    "ed448": SignatureAlgorithmOID.ED448,
}  # RFC 8410, section 3: key and signature

_USUAL_HASHES = frozenset({"sha256", "sha384", "sha512"})  # one of these every client signs with
_HASH_OF_CURVE = {"p384": "sha384", "p521": "sha512"}
_ECDSA: Mapping[str, x509.ObjectIdentifier] = {
    "sha256": SignatureAlgorithmOID.ECDSA_WITH_SHA256,
    "sha384": SignatureAlgorithmOID.ECDSA_WITH_SHA384,
    "sha512": SignatureAlgorithmOID.ECDSA_WITH_SHA512,
    "sha3-256": SignatureAlgorithmOID.ECDSA_WITH_SHA3_256,
    "sha3-384": SignatureAlgorithmOID.ECDSA_WITH_SHA3_384,
    "sha3-512": SignatureAlgorithmOID.ECDSA_WITH_SHA3_512,
}
_RSA: Mapping[str, x509.ObjectIdentifier] = {
    "sha256": SignatureAlgorithmOID.RSA_WITH_SHA256,
    "sha384": SignatureAlgorithmOID.RSA_WITH_SHA384,
    "sha512": SignatureAlgorithmOID.RSA_WITH_SHA512,
    "sha3-256": SignatureAlgorithmOID.RSA_WITH_SHA3_256,
    "sha3-384": SignatureAlgorithmOID.RSA_WITH_SHA3_384,
    "sha3-512": SignatureAlgorithmOID.RSA_WITH_SHA3_512,
}


def csr_attributes(profile: Profile) -> bytes | None:
    """The DER of what the profile asks for; None where it asks for nothing (204: RFC 8951, section 4)."""
    asked = asked_of_requests(profile)
    return encode(asked) if asked.items else None


def asked_of_requests(profile: Profile) -> CsrAttributes:
    """What the profile asks for, so that a request which obeys is one that it takes."""
    kind = _key(profile)
    digest = None if kind is None or kind in _EDWARDS else _hash(profile, kind)
    linked = profile.channel_binding == "required"
    subject, san = _names(profile)
    items: list[x509.ObjectIdentifier | CsrAttribute] = []
    if linked:
        # RFC 8951, section 4: the first must be there. RFC 7894, section 4: both, for clients old and new (RULES G1).
        items += [CHALLENGE_PASSWORD, IDENTITY_LINKING]
    if kind is not None:
        items.append(_key_attribute(profile, kind))
    items += [part.type for part in subject or ()]
    if san is not None:
        # RFC 9908, sections 3.2 and 5.2: the extension with its value, or its name alone where the value is the client's
        items.append(extension_request([san]) if san.is_whole else san.type)
    if digest is not None:
        items.append(digest)
    if (subject is not None or san is not None) and not linked and digest is None:
        template = Template(
            subject=None if subject is None else tuple((part,) for part in subject),
            key=None if kind is None else _key_template(profile, kind),
            attributes=() if san is None else (extension_request([san]),),
        )
        items.append(template.attribute)
    return CsrAttributes(tuple(items))


# --- The key and the signature


def _key(profile: Profile) -> str | None:
    """The kind of key to name; None where a client's usual key will do."""
    policy, usual = profile.key_policy, KeyPolicy()
    as_usual = usual.allowed <= policy.allowed and (policy.min_rsa_bits, policy.max_rsa_bits) == (
        usual.min_rsa_bits,
        usual.max_rsa_bits,
    )
    if as_usual and _any_hash(profile):
        return None
    return next(kind for kind in _PREFERRED if kind in policy.allowed)


def _any_hash(profile: Profile) -> bool:
    return profile.csr_signature_hashes is None or _USUAL_HASHES.issubset(profile.csr_signature_hashes)


def _hash(profile: Profile, kind: str) -> x509.ObjectIdentifier | None:
    """The signature algorithm to name, for a kind that does not imply it."""
    if profile.csr_signature_hashes is None or _any_hash(profile):
        return None
    accepted = profile.csr_signature_hashes
    fitting = _HASH_OF_CURVE.get(kind, "sha256")
    name = fitting if fitting in accepted else next(name for name in SIGNATURE_HASHES if name in accepted)
    return (_RSA if kind == "rsa" else _ECDSA)[name]


def _key_attribute(profile: Profile, kind: str) -> CsrAttribute:
    """RFC 9908, section 3.2: the type of the key, with the size of an RSA key or the curve of an EC key."""
    if kind == "rsa":
        return CsrAttribute(RSA_ENCRYPTION, (asn1.encode_der(profile.key_policy.min_rsa_bits),))
    if kind in _EDWARDS:
        return CsrAttribute(_EDWARDS[kind])
    return CsrAttribute(EC_PUBLIC_KEY, (asn1.encode_der(_CURVES[kind]),))


def _key_template(profile: Profile, kind: str) -> KeyTemplate:
    if kind == "rsa":
        return KeyTemplate.rsa(profile.key_policy.min_rsa_bits)
    if kind in _EDWARDS:
        return KeyTemplate(algorithm=_EDWARDS[kind])  # RFC 8410, section 3: no parameters
    return KeyTemplate(algorithm=EC_PUBLIC_KEY, parameters=asn1.encode_der(_CURVES[kind]))


# --- Names


def _names(profile: Profile) -> tuple[Sequence[NamePart] | None, ExtensionTemplate | None]:
    """What of the subject, and of alternative names, a request must have; for the subject None where a client's usual CN will do."""
    if profile.names == "identity":
        # The subject is the identity's whatever the request says. A form of name that is not given unasked has to be asked for.
        forms = [form for form in profile.san_required if form not in profile.identity_sans]
        return None, ExtensionTemplate(type=ExtensionOID.SUBJECT_ALTERNATIVE_NAME) if forms else None
    forms = list(profile.san_required)
    allowed = [attribute_type(name) for name, patterns in profile.subject_patterns.items() if patterns]
    if profile.subject is not None:
        wanted = [attribute_type(field) for field in sorted(profile.subject.fields - {"name"})]
    else:
        wanted = [attribute_type(name) for name in profile.subject_required]
        if not wanted and not forms:  # a certificate without any name is not issued
            wanted = [NameOID.COMMON_NAME] if NameOID.COMMON_NAME in allowed else allowed[:1]
            forms = [] if wanted else [form for form, patterns in profile.san_patterns.items() if patterns][:1]
    parts = [_part(profile, oid) for oid in dict.fromkeys(wanted)]
    unsaid = not parts and NameOID.COMMON_NAME in allowed
    return None if unsaid else parts, _alternative_names(profile, forms) if forms else None


def _part(profile: Profile, oid: x509.ObjectIdentifier) -> NamePart:
    patterns = [
        pattern for name, given in profile.subject_patterns.items() if attribute_type(name) == oid for pattern in given
    ]
    if len(patterns) == 1 and "*" not in patterns[0]:
        with suppress(ValueError):  # a value that no attribute can have: nothing is granted, whatever is asked for
            return NamePart.fixed(text_attribute(oid, patterns[0]))
    return NamePart(oid)


def _alternative_names(profile: Profile, forms: Sequence[str]) -> ExtensionTemplate:
    """subjectAltName: whole, where each form has one name only; with an address to fill in; else the client's to fill in."""
    names = {form: _only_name(form, profile.san_patterns.get(form, ())) for form in forms}
    whole = [name for name in names.values() if name is not None]
    gaps = [form for form, name in names.items() if name is None]
    value = None if set(gaps) - {"ip"} else alternative_names(whole, and_any_address=bool(gaps))
    return ExtensionTemplate(type=ExtensionOID.SUBJECT_ALTERNATIVE_NAME, value=value)


def _only_name(form: str, patterns: Sequence[str]) -> x509.GeneralName | None:
    """The one name that the patterns of a form allow; None where there are more."""
    if len(patterns) != 1 or "*" in patterns[0]:
        return None
    (pattern,) = patterns
    match form:
        case "dns":
            return x509.DNSName(normal_dns(pattern))
        case "email":
            return x509.RFC822Name(normal_email(pattern))
        case "uri":
            return x509.UniformResourceIdentifier(normal_uri(pattern))
        case _:
            network = ipaddress.ip_network(pattern)
            return x509.IPAddress(network.network_address) if network.num_addresses == 1 else None
