"""A certification request (PKCS#10, RFC 2986) as a value that was checked once, at the door.

In the room: reading it, what it asks for, its challenge attributes, its self-signature. Not in the room: how it was
written into the body (`kipuka.est.wire`), the channel binding (`kipuka.est.binding`), which keys and names are granted
(`kipuka.x509`).

Requests come from anybody. The octets are walked first, with bounds on size, nesting and count. Then `cryptography`'s
declarative ASN.1 takes the structure apart; it keeps what it read octet for octet, and so can put it together again without
the challenge attributes. Its PKCS#10 parser at last reads the names, from a copy that holds nothing else, so that
whatever further extensions and attributes contain is never parsed. What is wrong raises BadCSR or ProofOfPossessionFailed,
with a sentence that repeats nothing the client sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtensionOID, NameOID

from kipuka.api.errors import BadCSR, ProofOfPossessionFailed

__all__ = ["MAX_REQUEST", "SIGNATURE_HASHES", "CertificateRequest", "NameChange"]

MAX_REQUEST = 64 * 1024
"""The longest request in bytes. The largest signatures in sight (SLH-DSA, 49,856 bytes) fit."""

_MAX_DEPTH = 16  # an ordinary request has 7 levels, one with PSS parameters 6
_MAX_ELEMENTS = 4096
_MAX_ATTRIBUTES = 32
_MAX_NAMES = 256  # alternative names asked for
_MAX_NAME_PARTS = 64

_MAX_RSA_BITS = 8192  # RULES F5
_MAX_RSA_EXPONENT_BITS = 257  # RULES F5: up to 2^256

_CHALLENGE_PASSWORD = ObjectIdentifier("1.2.840.113549.1.9.7")  # RFC 2985, section 5.4.1
_OTP_CHALLENGE = ObjectIdentifier("1.2.840.113549.1.9.16.2.56")  # RFC 7894, section 3.1
_REVOCATION_CHALLENGE = ObjectIdentifier("1.2.840.113549.1.9.16.2.57")  # RFC 7894, section 3.2
_IDENTITY_LINKING = ObjectIdentifier("1.2.840.113549.1.9.16.2.58")  # RFC 7894, section 3.3
_CHALLENGES = frozenset({_CHALLENGE_PASSWORD, _OTP_CHALLENGE, _REVOCATION_CHALLENGE, _IDENTITY_LINKING})
_CHANGE_SUBJECT_NAME = ObjectIdentifier("1.3.6.1.5.5.7.7.36")  # RFC 6402, section 2.8
_BAD_CHANGE = "csr_name_change"
_MAX_CHALLENGE = 255  # characters: RFC 2985, pkcs-9-ub-challengePassword; RFC 7894, section 3

_EXTENSION_REQUEST = ObjectIdentifier("1.2.840.113549.1.9.14")  # RFC 2985, section 5.4.2
_MICROSOFT_EXTENSION_REQUEST = ObjectIdentifier("1.3.6.1.4.1.311.2.1.14")  # the same thing, as older Windows sends it
_EXTENSION_REQUESTS = frozenset({_EXTENSION_REQUEST, _MICROSOFT_EXTENSION_REQUEST})
_SINGLE_VALUE = _CHALLENGES | _EXTENSION_REQUESTS | {_CHANGE_SUBJECT_NAME}
_READ_EXTENSIONS = frozenset({ExtensionOID.SUBJECT_ALTERNATIVE_NAME, ExtensionOID.BASIC_CONSTRAINTS})
_DIRECTORY_NAME = 0xA4  # the tag of this kind of GeneralName (RFC 5280, 4.2.1.6)

# The string types in names and challenges, by tag, with how their octets are read (X.690, 8.23). Those of a DirectoryString
# (RFC 5280, 4.1.2.4; RFC 7894, section 3), and others that clients are known to write.
_STRING_TYPES = {
    b"\x0c": "utf-8",
    b"\x12": "ascii",  # NumericString
    b"\x13": "ascii",  # PrintableString
    b"\x14": "latin-1",  # TeletexString, as everybody has it
    b"\x16": "ascii",  # IA5String
    b"\x1a": "ascii",  # VisibleString
    b"\x1c": "utf-32-be",  # UniversalString
    b"\x1e": "utf-16-be",  # BMPString
}
_BIT_STRING = b"\x03"
_SET = b"\x31"

# RFC 5280 Appendix A.1: ub-common-name, ub-country-name-alpha-length. Counted in octets of UTF-8, as `cryptography` does.
_LENGTHS = {
    NameOID.COMMON_NAME: (1, 64),
    NameOID.COUNTRY_NAME: (2, 2),
    NameOID.JURISDICTION_COUNTRY_NAME: (2, 2),
}

_RSA = ObjectIdentifier("1.2.840.113549.1.1.1")
_RSA_PSS = ObjectIdentifier("1.2.840.113549.1.1.10")
_EC = ObjectIdentifier("1.2.840.10045.2.1")

# The kinds of key whose signatures are worth a try, with the name of those that have one. Others (DSA, DH, unknown) cost
# CPU for numbers of the client's choice, or are no signature keys.
_KEY_TITLES = {
    _RSA: "RSA",
    _RSA_PSS: "RSA-PSS",
    _EC: "EC",
    ObjectIdentifier("1.3.101.112"): "Ed25519",
    ObjectIdentifier("1.3.101.113"): "Ed448",
    ObjectIdentifier("2.16.840.1.101.3.4.3.17"): "ML-DSA-44",
    ObjectIdentifier("2.16.840.1.101.3.4.3.18"): "ML-DSA-65",
    ObjectIdentifier("2.16.840.1.101.3.4.3.19"): "ML-DSA-87",
}
_CURVE_TITLES = {
    ObjectIdentifier("1.2.840.10045.3.1.7"): "P-256",
    ObjectIdentifier("1.3.132.0.34"): "P-384",
    ObjectIdentifier("1.3.132.0.35"): "P-521",
}

SIGNATURE_HASHES = ("sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512")
"""The hashes that a request's signature may have, by the names that `cryptography` gives them."""

_GOOD_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512, hashes.SHA3_256, hashes.SHA3_384, hashes.SHA3_512)

# What `cryptography` raises about the content of a well-formed request. Nothing else is expected, and tests/unit/est
# looks for it with thousands of damaged requests.
_PARSE_ERRORS = (
    ValueError,  # UnicodeDecodeError is one
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


# --- RFC 2986, section 4, as far as the octets must be taken apart and put together again


@asn1.sequence
class _NamePart:  # AttributeTypeAndValue
    type: ObjectIdentifier
    value: asn1.TLV


@asn1.sequence
class _Attribute:
    type: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _Extension:  # RFC 5280, 4.1
    type: ObjectIdentifier
    critical: Annotated[bool, asn1.Default(value=False)]
    value: bytes


@asn1.sequence
class _ExtensionRequest:  # an _Attribute, RFC 2985, section 5.4.2
    type: ObjectIdentifier
    values: asn1.SetOf[list[_Extension]]


@asn1.sequence
class _DirectoryName:  # directoryName in GeneralName, with its tag [4] changed to that of a SEQUENCE
    name: list[asn1.SetOf[_NamePart]]


@asn1.sequence
class _NameChangeAttribute:  # an _Attribute, RFC 6402, section 2.8
    type: ObjectIdentifier
    values: asn1.SetOf[list[asn1.TLV]]


@asn1.sequence
class _Wrapped:
    content: asn1.TLV


@asn1.sequence
class _RequestInfo:  # CertificationRequestInfo
    version: int
    subject: list[asn1.SetOf[_NamePart]]
    public_key: asn1.TLV
    attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(0)]


@asn1.sequence
class _Request:  # CertificationRequest
    info: _RequestInfo
    signature_algorithm: asn1.TLV
    signature: asn1.BitString


@asn1.sequence
class _PublicKeyInfo:  # RFC 5280, 4.1: SubjectPublicKeyInfo
    algorithm: list[asn1.TLV]
    key: asn1.BitString


@asn1.sequence
class _RSAPublicKey:  # RFC 8017, A.1.1
    modulus: int
    exponent: int


@dataclass(frozen=True, kw_only=True, slots=True)
class _KeyShape:
    """What a SubjectPublicKeyInfo says of itself, without loading the key."""

    algorithm: ObjectIdentifier
    curve: ObjectIdentifier | None = None
    modulus_bits: int = 0
    exponent_bits: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class NameChange:
    """The names that a renewed certificate is to have in place of its own: all of them (RFC 6402, section 2.8).

    What the attribute does not have is taken away: without a subject the new one is empty, without alternative names there are none.
    """

    subject: x509.Name
    sans: tuple[x509.GeneralName, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateRequest:
    """A PKCS#10 request that was read whole: what it says, and what may be kept of it.

    `stripped_der` and `info_sha256` leave out the challenge attributes: challengePassword (RFC 2985) and the three of
    RFC 7894, which hold channel bindings or passwords (RULES G2). Where there are none, `stripped_der` equals `der`;
    otherwise its signature no longer verifies, so verify first and keep afterwards.
    """

    der: bytes = field(repr=False)  # holds the challenges: never to be stored or logged
    subject: x509.Name
    public_key_der: bytes = field(repr=False)  # SubjectPublicKeyInfo
    key_description: str  # "RSA-2048", "P-256", "Ed25519"; a dotted number for kinds that are not known
    sans: tuple[x509.GeneralName, ...]
    challenge_password: str | None = field(repr=False)
    identity_linking: str | None = field(repr=False)  # estIdentityLinking, RFC 7894, section 3.3
    has_otp_challenge: bool  # RFC 7894, section 3.1; its value is kept nowhere
    has_revocation_challenge: bool  # RFC 7894, section 3.2
    stripped_der: bytes = field(repr=False)
    info_sha256: str  # lower-case hexadecimal; RULES D4
    wants_ca: bool  # basicConstraints with CA:TRUE is asked for
    name_change: NameChange | None  # ChangeSubjectName, RFC 6402, section 2.8

    @classmethod
    def from_der(cls, der: bytes) -> Self:
        """Read one DER CertificationRequest, and nothing after it.

        The public key is only looked at from outside and the signature not at all: `kipuka.x509.keys.check_key` and
        `verify_possession` do that. Raises BadCSR for everything that is not as RFC 2986 has it, for two attributes of
        one type or two extensions of one type, and for what is out of bounds.
        """
        _check_shape(der)
        try:
            request = asn1.decode_der(_Request, der)
        except _PARSE_ERRORS as error:
            raise _unreadable(der) from error
        info = request.info
        if info.version != 0:
            raise BadCSR("the version of the request is not 0", reason="csr_version")
        _check_name(info.subject)
        attributes = _unique(info.attributes.as_list())
        try:
            key = _key_shape(info.public_key)
        except _PARSE_ERRORS as error:
            raise BadCSR("the public key cannot be read") from error
        if key.algorithm == _EC and key.curve is None:
            # RFC 5480, section 2.1.1. Whoever may choose the base point knows a key for any public point (CVE-2020-0601).
            raise BadCSR("the key has curve parameters of its own, only named curves are taken", reason="csr_curve")
        subject, extensions = _read_names(request, _asked_for(attributes))
        kept = [attribute for attribute in attributes.values() if attribute.type not in _CHALLENGES]
        info.attributes = asn1.SetOf(kept)  # in `request`; all its other octets stay as they are
        return cls(
            der=der,
            subject=subject,
            public_key_der=asn1.encode_der(info.public_key),
            key_description=_describe(key),
            sans=_alternative_names(extensions),
            challenge_password=_challenge(attributes, _CHALLENGE_PASSWORD),
            identity_linking=_challenge(attributes, _IDENTITY_LINKING),
            has_otp_challenge=_challenge(attributes, _OTP_CHALLENGE) is not None,
            has_revocation_challenge=_challenge(attributes, _REVOCATION_CHALLENGE) is not None,
            stripped_der=asn1.encode_der(request),
            info_sha256=hashlib.sha256(asn1.encode_der(info)).hexdigest(),
            wants_ca=_wants_ca(extensions),
            name_change=_name_change(attributes, request),
        )

    def asked_extensions(self, wanted: Collection[ObjectIdentifier]) -> tuple[x509.Extension[x509.ExtensionType], ...]:
        """Those of the wanted extensions that the request asks for, in its order.

        Types that `cryptography` knows are read, and so will be written anew; of the others the value must be one DER element. Raises
        BadCSR, with the profile's rule, where one cannot be read.
        """
        if not wanted:
            return ()
        request = asn1.decode_der(_Request, self.der)  # it could be read before
        asked = [item for item in _all_asked_for(_unique(request.info.attributes.as_list())) if item.type in wanted]
        try:
            for extension in asked:
                _check_shape(extension.value)
            return tuple(_read_names(request, asked)[1])
        except BadCSR as error:
            detail = "an extension that would be copied from the request cannot be read"
            raise BadCSR(detail, reason="csr_extensions", rule="copy_extensions") from error

    def verify_possession(self, accepted_hashes: Collection[str] | None = None) -> None:
        """Check the request's self-signature (RFC 7030, section 3.4; RFC 2986, section 3).

        MD5, SHA-1 and SHA-224 are refused, and what is not among `accepted_hashes` (names of `SIGNATURE_HASHES`; signatures with a hash
        of their own, as of Ed25519, always are). No effort is spent on RSA keys beyond RULES F5 or on kinds of key that have
        no name here. Raises ProofOfPossessionFailed.
        """
        try:
            key = _key_shape(asn1.decode_der(asn1.TLV, self.public_key_der))
        except _PARSE_ERRORS as error:
            raise ProofOfPossessionFailed("the public key cannot be read") from error
        if key.algorithm not in _KEY_TITLES:
            raise ProofOfPossessionFailed("no signature of this kind of key can be verified", reason="key_kind_unknown")
        if key.modulus_bits > _MAX_RSA_BITS or key.exponent_bits > _MAX_RSA_EXPONENT_BITS:
            raise ProofOfPossessionFailed(
                f"the RSA key is too large to be verified, the limit is {_MAX_RSA_BITS} bits", reason="key_too_large"
            )
        try:
            parsed = x509.load_der_x509_csr(self.der)
            digest = parsed.signature_hash_algorithm  # None where the algorithm has a hash of its own, as Ed25519
            accepted = digest is None or isinstance(digest, _GOOD_HASHES)
            verified = accepted and parsed.is_signature_valid
        except _PARSE_ERRORS as error:
            raise ProofOfPossessionFailed("the signature of the request cannot be verified") from error
        if not accepted:
            raise ProofOfPossessionFailed(
                "the request is signed with a hash that is not accepted, use SHA-256 or better",
                reason="weak_signature_hash",
            )
        if digest is not None and accepted_hashes is not None and digest.name not in accepted_hashes:
            known = ", ".join(name for name in SIGNATURE_HASHES if name in accepted_hashes)
            raise ProofOfPossessionFailed(
                f"the request is signed with {digest.name}; accepted: {known}",
                reason="signature_hash_not_allowed",
                rule="csr_signature_hashes",
            )
        if not verified:
            raise ProofOfPossessionFailed("the signature of the request does not verify")

    def attribute(self, kind: ObjectIdentifier) -> bytes | None:
        """The DER of the attribute of that type, as the client wrote it; None where there is none.

        For what only some operations look at: nothing below the attribute's values was read yet.
        """
        attributes = asn1.decode_der(_Request, self.der).info.attributes.as_list()
        return next((asn1.encode_der(attribute) for attribute in attributes if attribute.type == kind), None)


# --- The walk over the octets


def _check_shape(der: bytes) -> None:
    """Walk all elements of a DER structure, in one loop, and raise BadCSR unless it is one, whole and of modest size.

    What is inside OCTET STRING and BIT STRING (extension values, the key) is left to the parsers, which do not recurse
    there. Indefinite and overlong lengths are BER, not DER (X.690, 8.1.3 and 10.1).
    """
    if len(der) > MAX_REQUEST:
        raise BadCSR(f"the request is longer than {MAX_REQUEST} bytes", reason="csr_too_large")
    ends = [len(der)]  # where each open element ends
    at = elements = 0
    while ends:
        if at == ends[-1]:
            ends.pop()
            continue
        if len(ends) == 1 and elements:
            raise BadCSR("there are bytes after the request", reason="csr_trailing_bytes")
        elements += 1
        if elements > _MAX_ELEMENTS:
            raise BadCSR("the request has too many elements", reason="csr_too_large")
        constructed, at, end = _element(der, at, ends[-1])
        if not constructed:
            at = end
        elif len(ends) > _MAX_DEPTH:
            raise BadCSR("the request is nested too deeply", reason="csr_too_deep")
        else:
            ends.append(end)
    if not elements:
        raise _truncated()


def _element(der: bytes, at: int, limit: int) -> tuple[bool, int, int]:
    """Whether the element at `at` is constructed, where its content begins and where it ends, which is within `limit`."""
    if limit - at < 2:
        raise _truncated()
    tag, length = der[at], der[at + 1]
    at += 2
    if tag & 0x1F == 0x1F:
        raise BadCSR("the request has an element with a tag that no request has", reason="csr_not_der")
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 3:
            raise BadCSR("the request has an element of indefinite or huge length", reason="csr_not_der")
        if limit - at < count:
            raise _truncated()
        length = int.from_bytes(der[at : at + count], "big")
        at += count
        if length < 0x80 or length.bit_length() <= 8 * (count - 1):
            raise BadCSR("the request has a length that is not written in the shortest way", reason="csr_not_der")
    if length > limit - at:
        raise _truncated()
    return bool(tag & 0x20), at, at + length


def _truncated() -> BadCSR:
    return BadCSR("the request is truncated, or a length in it is wrong", reason="csr_truncated")


def _unreadable(der: bytes) -> BadCSR:
    """The refusal of what is DER but no request, with a hint for the files that people send by mistake."""
    try:
        x509.load_der_x509_certificate(der)
    except _PARSE_ERRORS:
        return BadCSR("the body is DER, but not of a PKCS#10 certification request")
    return BadCSR("the body is a certificate, not a certification request")


# --- What it says


def _check_name(name: Sequence[asn1.SetOf[_NamePart]]) -> None:
    """Refuse values that are no text, and lengths that `cryptography` would only warn of, on the server's standard error."""
    parts = 0
    for relative_name in name:
        for part in relative_name.as_list():
            parts += 1
            if part.value.tag_bytes == _BIT_STRING and part.type == NameOID.X500_UNIQUE_IDENTIFIER:
                _check_bits(part.value)
                continue
            text = _text(part.value)
            if text is None:
                raise BadCSR("a name in the request has a value that is not a string", reason="csr_name")
            shortest, longest = _LENGTHS.get(part.type, (0, MAX_REQUEST))
            if not shortest <= len(text.encode()) <= longest:
                raise BadCSR("a common name or country in the request is empty or too long", reason="csr_name")
            if "\0" in text:
                raise BadCSR("a name in the request holds a NUL character", reason="csr_name")
    if parts > _MAX_NAME_PARTS:
        raise BadCSR(f"a name in the request has more than {_MAX_NAME_PARTS} parts", reason="csr_name")


def _check_bits(value: asn1.TLV) -> None:
    try:
        asn1.decode_der(asn1.BitString, asn1.encode_der(value))
    except _PARSE_ERRORS as error:
        raise BadCSR("a name in the request has a BIT STRING that is none", reason="csr_name") from error


def _text(value: asn1.TLV) -> str | None:
    """The text of a string of any type; None where it is not a string."""
    encoding = _STRING_TYPES.get(value.tag_bytes)
    if encoding is None:
        return None
    try:
        text = bytes(value.data).decode(encoding)
        text.encode()  # UTF-16 can hold halves of pairs, which are no text
    except UnicodeError:
        # Without the cause: it carries the octets, which may be a password.
        raise BadCSR("the request has a string that is not of the type it claims", reason="csr_string") from None
    return text


def _unique(attributes: Sequence[_Attribute]) -> dict[ObjectIdentifier, _Attribute]:
    """The attributes by type; X.501 has at most one of each, and at least one value in it (RFC 2986, section 4.1)."""
    if len(attributes) > _MAX_ATTRIBUTES:
        raise BadCSR(f"the request has more than {_MAX_ATTRIBUTES} attributes", reason="csr_attributes")
    by_type = {attribute.type: attribute for attribute in attributes}
    if len(by_type) != len(attributes) or len(_EXTENSION_REQUESTS & by_type.keys()) > 1:
        raise BadCSR("the request has an attribute twice", reason="csr_attributes")
    for attribute in attributes:
        values = len(attribute.values.as_list())
        # challengePassword, extensionRequest and those of RFC 7894 are SINGLE VALUE; of ChangeSubjectName two would contradict each other
        if values == 0 or (values > 1 and attribute.type in _SINGLE_VALUE):
            raise BadCSR("the request has an attribute without a value, or with too many", reason="csr_attributes")
    return by_type


def _challenge(attributes: dict[ObjectIdentifier, _Attribute], kind: ObjectIdentifier) -> str | None:
    attribute = attributes.get(kind)
    if attribute is None:
        return None
    value = attribute.values.as_list()[0]
    text = _text(value)
    if text is None:
        raise BadCSR("the challenge in the request is not a string", reason="csr_challenge")
    if not 1 <= len(text) <= _MAX_CHALLENGE:
        raise BadCSR(f"the challenge in the request has not 1 to {_MAX_CHALLENGE} characters", reason="csr_challenge")
    return text


def _asked_for(attributes: dict[ObjectIdentifier, _Attribute]) -> list[_Extension]:
    """The extensions that are asked for, of those that are always read."""
    return [extension for extension in _all_asked_for(attributes) if extension.type in _READ_EXTENSIONS]


def _all_asked_for(attributes: dict[ObjectIdentifier, _Attribute]) -> list[_Extension]:
    asked = [attributes[kind] for kind in _EXTENSION_REQUESTS if kind in attributes]
    if not asked:
        return []
    try:
        extensions = asn1.decode_der(_ExtensionRequest, asn1.encode_der(asked[0])).values.as_list()[0]
    except _PARSE_ERRORS as error:
        raise BadCSR("the extensions asked for cannot be read", reason="csr_extensions") from error
    # RFC 5280, 4.1.2.9: Extensions is never empty; 4.2: no type is there twice
    if not extensions or len({extension.type for extension in extensions}) != len(extensions):
        raise BadCSR("an extension is asked for twice, or none at all", reason="csr_extensions")
    return extensions


def _read_names(request: _Request, asked: list[_Extension]) -> tuple[x509.Name, x509.Extensions]:
    """The subject and these extensions, read by `cryptography` from a copy of the request that has no more than them."""
    for extension in asked:
        if extension.type == ExtensionOID.SUBJECT_ALTERNATIVE_NAME:
            _check_directory_names(extension.value)
    wanted: list[_Attribute] = []
    if asked:
        attribute = _ExtensionRequest(type=_EXTENSION_REQUEST, values=asn1.SetOf([asked]))
        wanted.append(asn1.decode_der(_Attribute, asn1.encode_der(attribute)))
    copy = _Request(
        info=_RequestInfo(
            version=0,
            subject=request.info.subject,
            public_key=request.info.public_key,
            attributes=asn1.SetOf(wanted),
        ),
        signature_algorithm=request.signature_algorithm,
        signature=request.signature,
    )
    stage = "the public key or the signature"
    try:
        parsed = x509.load_der_x509_csr(asn1.encode_der(copy))
        stage = "the subject"
        subject = parsed.subject
        stage = "an alternative name or basic constraint"
        extensions = parsed.extensions
    except _PARSE_ERRORS as error:
        raise BadCSR(f"{stage} in the request cannot be read") from error
    return subject, extensions


def _check_directory_names(names: bytes) -> None:
    """Hold the directory names among GeneralNames to the rules of the subject."""
    _, at, end = _element(names, 0, len(names))
    while at < end:
        begin = at
        _, _, at = _element(names, at, end)
        if names[begin] != _DIRECTORY_NAME:
            continue
        try:
            directory = asn1.decode_der(_DirectoryName, b"\x30" + names[begin + 1 : at])
        except _PARSE_ERRORS as error:
            raise BadCSR("a directory name in the request cannot be read", reason="csr_name") from error
        _check_name(directory.name)


def _name_change(attributes: dict[ObjectIdentifier, _Attribute], request: _Request) -> NameChange | None:
    """ChangeSubjectName: an optional Name and optional GeneralNames, of which one must be there (RFC 6402, section 2.8).

    Both are a SEQUENCE. A Name consists of SETs and GeneralNames of tagged elements, by which one alone is told from the other.
    """
    attribute = attributes.get(_CHANGE_SUBJECT_NAME)
    if attribute is None:
        return None
    try:
        fields = asn1.decode_der(_NameChangeAttribute, asn1.encode_der(attribute)).values.as_list()[0]
        names = [field for field in fields if bytes(field.data[:1]) not in {b"", _SET}]
        subjects = [field for field in fields if bytes(field.data[:1]) in {b"", _SET}]
        if not fields or [*subjects, *names] != fields or len(names) > 1 or len(subjects) > 1:
            raise BadCSR("the ChangeSubjectName of the request is not a name and alternative names", reason=_BAD_CHANGE)
        subject = (
            asn1.decode_der(_DirectoryName, asn1.encode_der(_Wrapped(content=subjects[0]))).name if subjects else []
        )
    except _PARSE_ERRORS as error:
        raise BadCSR("the ChangeSubjectName of the request cannot be read", reason=_BAD_CHANGE) from error
    _check_name(subject)
    asked = [
        _Extension(type=ExtensionOID.SUBJECT_ALTERNATIVE_NAME, critical=False, value=asn1.encode_der(field))
        for field in names
    ]
    renamed = _Request(
        info=_RequestInfo(
            version=0, subject=subject, public_key=request.info.public_key, attributes=request.info.attributes
        ),
        signature_algorithm=request.signature_algorithm,
        signature=request.signature,
    )
    new_subject, extensions = _read_names(renamed, asked)
    return NameChange(subject=new_subject, sans=_alternative_names(extensions))


def _alternative_names(extensions: x509.Extensions) -> tuple[x509.GeneralName, ...]:
    try:
        names = tuple(extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()
    if not 1 <= len(names) <= _MAX_NAMES:  # RFC 5280, 4.2.1.6: the sequence must contain at least one entry
        raise BadCSR(f"the request asks for no alternative name or for more than {_MAX_NAMES}", reason="csr_names")
    for name in names:
        match name:
            case x509.DNSName() | x509.RFC822Name() | x509.UniformResourceIdentifier():
                # IA5String (RFC 5280, 4.2.1.6); names beyond ASCII are written as A-labels and percent signs
                sound = name.value.isascii() and "\0" not in name.value
            case x509.IPAddress():
                # eight or thirty-two octets are an address with a mask, which only name constraints have
                sound = isinstance(name.value, IPv4Address | IPv6Address)
            case _:
                sound = True
        if not sound:
            raise BadCSR("an alternative name in the request is not of the type it claims", reason="csr_names")
    return names


def _wants_ca(extensions: x509.Extensions) -> bool:
    try:
        return extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


# --- The key, from outside


def _key_shape(public_key: asn1.TLV) -> _KeyShape:
    """Read a SubjectPublicKeyInfo without loading the key. Raises ValueError."""
    info = asn1.decode_der(_PublicKeyInfo, asn1.encode_der(public_key))
    if not 1 <= len(info.algorithm) <= 2:  # RFC 5280, 4.1.1.2: an identifier and at most one parameter
        raise ValueError("not an AlgorithmIdentifier")
    algorithm = _identifier(info.algorithm[0])
    if algorithm in {_RSA, _RSA_PSS}:
        key = asn1.decode_der(_RSAPublicKey, info.key.as_bytes())
        return _KeyShape(
            algorithm=algorithm, modulus_bits=key.modulus.bit_length(), exponent_bits=key.exponent.bit_length()
        )
    if algorithm == _EC and len(info.algorithm) == 2 and info.algorithm[1].tag_bytes == b"\x06":
        return _KeyShape(algorithm=algorithm, curve=_identifier(info.algorithm[1]))
    return _KeyShape(algorithm=algorithm)


def _identifier(element: asn1.TLV) -> ObjectIdentifier:
    return asn1.decode_der(ObjectIdentifier, asn1.encode_der(element))


def _describe(key: _KeyShape) -> str:
    title = _KEY_TITLES.get(key.algorithm, key.algorithm.dotted_string)
    if key.modulus_bits:
        return f"{title}-{key.modulus_bits}"
    if key.curve is not None:
        return _CURVE_TITLES.get(key.curve, f"EC {key.curve.dotted_string}")
    return title
