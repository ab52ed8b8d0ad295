"""Clients that break one rule of a profile, and no other.

In the room: a request taken apart, so that one part of it can be changed; for each rule that can refuse a first request by itself, the changes that
break it (`BREAKERS`), and the same for what is refused whatever a profile says (`ALWAYS_REFUSED`); the rules that the code knows. Not in the room: the
request that obeys, from which they start (`kipuka.testing.obedient`), and any judgement of what comes of it.

    parts = Parts.of(obedient_csr(asked, values=values))
    for rule, breaker in BREAKERS.items():
        for broken in breaker(profile, identity, parts):
            ...  # `broken.request().der` is refused, and the refusal's `rule` is this one

A breaker gives nothing where the profile has not its rule, or where no request could break it: names that are the identity's whatever is
asked for break no rule about the subject.
"""

from __future__ import annotations

import ast
import ipaddress
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Self, cast

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtensionOID, NameOID

from kipuka.api import Identity
from kipuka.distinguished_names import attribute_type
from kipuka.est.csr import SIGNATURE_HASHES, CertificateRequest
from kipuka.testing import der
from kipuka.testing.pki import Attribute, KeyKind, PrivateKey, Request, SignatureKind, make_csr, make_key
from kipuka.x509.keys import KEY_NAMES
from kipuka.x509.patterns import dns_fits, email_fits, glob, ip_fits, uri_fits
from kipuka.x509.profiles import Profile

__all__ = ["ALWAYS_REFUSED", "BREAKERS", "ELSEWHERE", "Breaker", "Parts", "rules_of_the_code"]

_OTP_CHALLENGE = "1.2.840.113549.1.9.16.2.56"  # RFC 7894, section 3.1
_REVOCATION_CHALLENGE = "1.2.840.113549.1.9.16.2.57"  # RFC 7894, section 3.2
_LARGEST_RSA = 4200
"""Bits of the largest RSA key that is made; larger ones take minutes, and are claimed without a private key."""

_KINDS: Mapping[str, KeyKind] = {
    "rsa": "rsa3072",
    "p256": "p256",
    "p384": "p384",
    "p521": "p521",
    "ed25519": "ed25519",
    "ed448": "ed448",
}
_UNKNOWN_KINDS: Sequence[KeyKind] = ("p224", "k256")
"""Kinds of keys that no profile takes."""


# --- A request, taken apart


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """What a request consists of. `linking` is the base64 of a channel binding, for the challengePassword; `public_key` is a SubjectPublicKeyInfo that is
    claimed in place of the key's.
    """

    subject: x509.Name
    names: tuple[x509.GeneralName, ...]
    key: PrivateKey
    signature: SignatureKind
    linking: str | None
    extensions: tuple[x509.Extension[x509.ExtensionType], ...] = ()
    attributes: tuple[Attribute, ...] = ()
    public_key: bytes | None = None
    break_signature: bool = False

    @classmethod
    def of(cls, request: Request) -> Self:
        """Take a request apart that has no extensions but alternative names. Raises BadCSR for one that cannot be read."""
        csr = CertificateRequest.from_der(request.der)
        digest = x509.load_der_x509_csr(request.der).signature_hash_algorithm
        return cls(
            subject=csr.subject,
            names=csr.sans,
            key=request.key,
            signature="sha256" if digest is None else cast("SignatureKind", digest.name),
            linking=csr.identity_linking or csr.challenge_password,
        )

    def request(self) -> Request:
        """The request, signed anew."""
        return make_csr(
            self.subject,
            key=self.key,
            names=self.names,
            challenge_password=self.linking,
            extensions=self.extensions,
            attributes=self.attributes,
            signature=self.signature,
            public_key_der=self.public_key,
            break_signature=self.break_signature,
        )


Breaker = Callable[[Profile, Identity, Parts], Iterator[Parts]]
"""Requests that break one rule of the profile, made from one that breaks none."""


# --- Keys and signatures


@cache
def _key(kind: KeyKind) -> PrivateKey:
    return make_key(kind)


@cache
def _rsa(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def _signed_with(profile: Profile, parts: Parts, key: PrivateKey) -> Parts:
    """With another key, and a hash that the profile takes."""
    accepted = profile.csr_signature_hashes
    hashes = parts.signature if accepted is None or parts.signature in accepted else accepted[0]
    return replace(parts, key=key, signature=cast("SignatureKind", hashes))


def _other_kinds(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    _ = identity
    refused = [_KINDS[kind] for kind in KEY_NAMES if kind not in profile.key_policy.allowed]
    for kind in (*refused, *_UNKNOWN_KINDS):
        yield _signed_with(profile, parts, _key(kind))


def _small_rsa(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    _ = identity
    if "rsa" in profile.key_policy.allowed:
        yield _signed_with(profile, parts, _rsa(profile.key_policy.min_rsa_bits - 8))


def _large_rsa(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    _ = identity
    bits = profile.key_policy.max_rsa_bits + 8
    if "rsa" not in profile.key_policy.allowed:
        return
    if bits <= _LARGEST_RSA:
        yield _signed_with(profile, parts, _rsa(bits))
        return
    claimed = rsa.RSAPublicNumbers(65537, 2 ** (bits - 1) + 1).public_key()
    yield replace(parts, public_key=claimed.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def _other_hash(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    _ = identity
    if profile.csr_signature_hashes is None:
        return
    key = _hashing_key(profile, parts)
    for name in SIGNATURE_HASHES:
        if key is not None and name not in profile.csr_signature_hashes:
            yield replace(parts, key=key, signature=cast("SignatureKind", name))


def _hashing_key(profile: Profile, parts: Parts) -> PrivateKey | None:
    """A key of which a hash is signed, as the profile takes it: the request's own, or another; None where it takes no such key."""
    if isinstance(parts.key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        return parts.key
    for kind in ("p256", "p384", "p521"):
        if kind in profile.key_policy.allowed:
            return _key(kind)
    return _rsa(profile.key_policy.min_rsa_bits) if "rsa" in profile.key_policy.allowed else None


def _unlinked(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """RFC 7030, section 3.5: no binding; something else in its place, as `openssl req` asks for it (`kipuka.est.binding`)."""
    _ = identity
    if profile.channel_binding == "required":
        yield replace(parts, linking=None)
        yield replace(parts, linking="a password")


# --- Extensions


def _extension(
    oid: x509.ObjectIdentifier, value: bytes, *, critical: bool = False
) -> x509.Extension[x509.ExtensionType]:
    return x509.Extension(oid, critical, x509.UnrecognizedExtension(oid, value))


def _badly_copied(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """Extensions that the profile copies, but not so: critical, unreadable, or too large."""
    _ = identity
    for oid in profile.copy_extensions:
        known = oid == ExtensionOID.TLS_FEATURE
        sound = x509.TLSFeature([x509.TLSFeatureType.status_request]).public_bytes() if known else der.null()
        bad = [_extension(oid, sound, critical=True), _extension(oid, sound[:1])]
        if not known:
            bad.append(_extension(oid, der.octet_string(bytes(2000))))
        for extension in bad:
            yield replace(parts, extensions=(*parts.extensions, extension))


def _wants_ca(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    _ = profile, identity
    value = x509.BasicConstraints(ca=True, path_length=None)
    yield replace(parts, extensions=(*parts.extensions, x509.Extension(value.oid, critical=True, value=value)))


# --- The subject


def _subject(parts: Parts, attributes: Sequence[x509.NameAttribute[str]]) -> Parts:
    return replace(parts, subject=x509.Name(attributes))


def _without(parts: Parts, oid: x509.ObjectIdentifier) -> Parts:
    return _subject(parts, [item for item in _attributes(parts) if item.oid != oid])


def _attributes(parts: Parts) -> list[x509.NameAttribute[str]]:
    return [cast("x509.NameAttribute[str]", item) for item in parts.subject]


def _unfitting_subject(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """A type without a pattern, and each attribute with a value that fits none."""
    _ = identity
    if profile.names != "csr":
        return
    present = _attributes(parts)
    patterns = {attribute_type(name): given for name, given in profile.subject_patterns.items()}
    for oid, value in ((NameOID.LOCALITY_NAME, "Nowhere"), (NameOID.TITLE, "Director")):
        if oid not in patterns:
            yield _subject(parts, [*present, x509.NameAttribute(oid, value)])
    for at, attribute in enumerate(present):
        stranger = x509.NameAttribute(attribute.oid, "zz" if attribute.oid == NameOID.COUNTRY_NAME else "stranger")
        fixed = profile.subject is not None and (attribute.oid, stranger.value) in profile.subject.fixed
        if not fixed and not any(glob(pattern, stranger.value) for pattern in patterns.get(attribute.oid, ())):
            yield _subject(parts, [*present[:at], stranger, *present[at + 1 :]])


def _lacking_subject(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """Without an attribute that the certificate's subject has to have, where that is the request's subject."""
    _ = identity
    if profile.names == "csr" and profile.subject is None:
        for name in profile.subject_required:
            yield _without(parts, attribute_type(name))


def _unfilled_subject(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """Without what a field of the profile's subject is filled with, or with two of it."""
    _ = identity
    if profile.names != "csr" or profile.subject is None:
        return
    for field in sorted(profile.subject.fields - {"name"}):
        oid = attribute_type(field)
        yield _without(parts, oid)
        for attribute in _attributes(parts):
            if attribute.oid == oid:
                yield _subject(parts, [*_attributes(parts), attribute])


# --- Alternative names

_STRANGERS: Mapping[str, x509.GeneralName] = {
    "dns": x509.DNSName("stranger.example.org"),
    "ip": x509.IPAddress(ipaddress.ip_address("192.0.2.66")),
    "email": x509.RFC822Name("stranger@example.org"),
    "uri": x509.UniformResourceIdentifier("urn:stranger:2"),
}
_FITS: Mapping[str, Callable[[str, str], bool]] = {
    "dns": dns_fits,
    "ip": ip_fits,
    "email": email_fits,
    "uri": uri_fits,
}
_OTHER_FORMS: Sequence[x509.GeneralName] = (
    x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])),
    x509.RegisteredID(x509.ObjectIdentifier("1.3.6.1.4.1.99999.3")),
    x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), der.utf8("stranger@EXAMPLE.ORG")),
)


def _and(parts: Parts, name: x509.GeneralName) -> Parts:
    return replace(parts, names=(*parts.names, name))


def _unfitting_names(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """A name of each form that fits no pattern of it, and forms that have none."""
    _ = identity
    if profile.names != "csr":
        return
    for form, name in _STRANGERS.items():
        if not any(_FITS[form](pattern, str(name.value)) for pattern in profile.san_patterns.get(form, ())):
            yield _and(parts, name)
    for name in _OTHER_FORMS:
        yield _and(parts, name)


def _names_of_others(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """A name of each form that the identity has not."""
    if profile.names == "identity":
        for name in (*_STRANGERS.values(), *_OTHER_FORMS):
            if name not in identity.permitted_names:
                yield _and(parts, name)


def _wildcards(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """A wildcard that the identity has, or that fits a pattern, so that nothing else is wrong with it."""
    if profile.wildcards:
        return
    if profile.names == "identity":
        own = [name for name in identity.permitted_names if isinstance(name, x509.DNSName)]
        names = [name.value for name in own if name.value.startswith("*.")]
    else:
        patterns = profile.san_patterns.get("dns", ())
        names = [
            f"*.{rest.replace('*', 'a')}"
            for first, _, rest in (item.partition(".") for item in patterns)
            if first == "*"
        ]
    for name in names:
        yield _and(parts, x509.DNSName(name))


def _lacking_names(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """Without the names of a form that the certificate has to have, where they come of the request alone."""
    _ = identity
    for form in profile.san_required:
        kind = type(_STRANGERS[form])
        if form not in profile.identity_sans:
            yield replace(parts, names=tuple(name for name in parts.names if not isinstance(name, kind)))


# --- Whatever a profile says


def _linked_elsewhere(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    """RULES G1: the binding of another connection, by its form."""
    _ = profile, identity
    yield replace(parts, linking="A" * 43 + "=")


def _weakly_signed(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    _ = identity
    key = _hashing_key(profile, parts)
    if key is not None:
        yield replace(parts, key=key, signature="sha1")


def _badly_signed(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
    _ = profile, identity
    yield replace(parts, break_signature=True)


def _challenging(oid: str) -> Breaker:
    def breaker(profile: Profile, identity: Identity, parts: Parts) -> Iterator[Parts]:
        _ = profile, identity
        yield replace(parts, attributes=(*parts.attributes, Attribute(oid=oid, values=(der.utf8("secret"),))))

    return breaker


BREAKERS: Mapping[str, Breaker] = {
    "key_types": _other_kinds,
    "min_rsa_bits": _small_rsa,
    "max_rsa_bits": _large_rsa,
    "csr_signature_hashes": _other_hash,
    "channel_binding": _unlinked,
    "copy_extensions": _badly_copied,
    "subject": _unfilled_subject,
    "subject_patterns": _unfitting_subject,
    "subject_required": _lacking_subject,
    "names": _names_of_others,
    "san_patterns": _unfitting_names,
    "san_required": _lacking_names,
    "wildcards": _wildcards,
}
"""By the rule of the profile that they break."""

ELSEWHERE: Mapping[str, str] = {
    "key_usage": "the configuration refuses a profile that takes a kind of key which can have none of its usages",
    "unique_keys": "it takes a certificate of somebody else with the same key",
    "require_encrypted_key": "it takes a serverkeygen (RULES J1)",
    "reenrol_names": "it takes a renewal (RULES F2)",
    "change_subject_name": "it takes a renewal (RULES F3)",
    "san_domains": "it takes a registration authority (RULES F4)",
}
"""The rules that a first request by itself cannot break, and why."""

ALWAYS_REFUSED: Mapping[str, Breaker] = {
    "ca_requested": _wants_ca,
    "binding_mismatch": _linked_elsewhere,
    "weak_signature_hash": _weakly_signed,
    "proof_of_possession_failed": _badly_signed,
    "otp_challenge": _challenging(_OTP_CHALLENGE),
    "revocation_challenge": _challenging(_REVOCATION_CHALLENGE),
}
"""By the reason for the audit: what no profile decides has no rule."""


# --- What the code knows


def rules_of_the_code() -> frozenset[str]:
    """Every rule that a refusal of this version can name, read from the sources of `kipuka`: so a new one is not overlooked.

    Raises AssertionError for a rule that is given in another way than by a literal, a choice of two, or a constant of its module.
    """
    return frozenset(rule for source in _sources(files("kipuka")) for rule in _rules_in(ast.parse(source)))


def _sources(folder: Traversable) -> Iterator[str]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "testing":
            yield from _sources(entry)
        elif entry.name.endswith(".py"):
            yield entry.read_text(encoding="utf-8")


def _rules_in(module: ast.Module) -> Iterator[str]:
    constants = {
        target.id: node.value
        for node in module.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(module):
        if isinstance(node, ast.keyword) and node.arg == "rule":
            yield from _literals(node.value, constants)


def _literals(value: ast.expr, constants: Mapping[str, ast.expr]) -> Iterator[str]:
    match value:
        case ast.Constant(value=str() as rule):
            yield rule
        case ast.IfExp(body=body, orelse=other):
            yield from _literals(body, constants)
            yield from _literals(other, constants)
        case ast.Name(id="rule") | ast.Attribute(attr="rule"):  # handed on: it was given somewhere else
            return
        case ast.Name(id=name) if name in constants:
            yield from _literals(constants[name], constants)
        case _:
            msg = f"a rule is given as {ast.unparse(value)}, which nobody can list"
            raise AssertionError(msg)
