"""A private key in a signed and encrypted message, so that only its client can read it (RFC 7030, 4.4.2; RFC 5958, section 4).

In the room: EnvelopedData around SignedData around an AsymmetricKeyPackage, for the key transport of RSA and the key agreement of
elliptic curves, and the choice of algorithms. Not in the room: whose key it is encrypted to (`kipuka.est.keygen` reads whom
the request names, `kipuka.enrolment` finds the certificate).

`cryptography` writes messages of this kind too, but only around plain data; its primitives do the work here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes, padding
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ObjectIdentifier

__all__ = [
    "Algorithms",
    "KeyEncryption",
    "KeySigner",
    "choose",
    "enveloped",
    "key_identifier",
    "signs_messages",
    "unsuited",
]

_SIGNED_DATA = ObjectIdentifier("1.2.840.113549.1.7.2")  # RFC 5652, section 5.1
_ENVELOPED_DATA = ObjectIdentifier("1.2.840.113549.1.7.3")  # RFC 5652, section 6.1
_KEY_PACKAGE = ObjectIdentifier("2.16.840.1.101.2.1.2.78.5")  # RFC 5958, section 2: id-ct-KP-aKeyPackage
_CONTENT_TYPE = ObjectIdentifier("1.2.840.113549.1.9.3")  # RFC 5652, section 11.1
_MESSAGE_DIGEST = ObjectIdentifier("1.2.840.113549.1.9.4")  # RFC 5652, section 11.2
_EC_PUBLIC_KEY = ObjectIdentifier("1.2.840.10045.2.1")

_RSA_ENCRYPTION = ObjectIdentifier("1.2.840.113549.1.1.1")  # RFC 3370, section 4.2.1: PKCS #1 v1.5
_RSAES_OAEP = ObjectIdentifier("1.2.840.113549.1.1.7")  # RFC 3560
_MGF1 = ObjectIdentifier("1.2.840.113549.1.1.8")
_SHA256 = ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_SHA384 = ObjectIdentifier("2.16.840.1.101.3.4.2.2")
_SHA512 = ObjectIdentifier("2.16.840.1.101.3.4.2.3")

_AES_CBC: Mapping[ObjectIdentifier, int] = {  # RFC 3565, section 4.1, with the length of the key in octets
    ObjectIdentifier("2.16.840.1.101.3.4.1.42"): 32,
    ObjectIdentifier("2.16.840.1.101.3.4.1.22"): 24,
    ObjectIdentifier("2.16.840.1.101.3.4.1.2"): 16,
}
_AES_WRAP: Mapping[ObjectIdentifier, int] = {  # RFC 3565, section 4.2
    ObjectIdentifier("2.16.840.1.101.3.4.1.45"): 32,
    ObjectIdentifier("2.16.840.1.101.3.4.1.25"): 24,
    ObjectIdentifier("2.16.840.1.101.3.4.1.5"): 16,
}
_AGREEMENTS: Mapping[
    ObjectIdentifier, hashes.HashAlgorithm
] = {  # RFC 5753, section 7.1.4: dhSinglePass-stdDH-*kdf-scheme
    ObjectIdentifier("1.3.132.1.11.1"): hashes.SHA256(),
    ObjectIdentifier("1.3.132.1.11.2"): hashes.SHA384(),
    ObjectIdentifier("1.3.132.1.11.3"): hashes.SHA512(),
}
_CURVES = {
    "secp256r1": (ObjectIdentifier("1.2.840.10045.3.1.7"), ObjectIdentifier("1.3.132.1.11.1")),
    "secp384r1": (ObjectIdentifier("1.3.132.0.34"), ObjectIdentifier("1.3.132.1.11.2")),
    "secp521r1": (ObjectIdentifier("1.3.132.0.35"), ObjectIdentifier("1.3.132.1.11.3")),
}
"""Of each curve its own identifier, and the agreement whose hash is as strong (RFC 5753, section 8)."""

_OTHER_CIPHERS = frozenset(
    ObjectIdentifier(dotted)
    for dotted in (
        "1.2.840.113549.3.7",  # des-ede3-cbc
        "1.2.840.113549.3.2",  # rc2-cbc
        "1.3.14.3.2.7",  # des-cbc
        "2.16.840.1.101.3.4.1.6",  # aes128-GCM: not for EnvelopedData (RFC 5084)
        "2.16.840.1.101.3.4.1.26",
        "2.16.840.1.101.3.4.1.46",
        "2.16.840.1.101.3.4.1.7",  # aes128-CCM
        "2.16.840.1.101.3.4.1.27",
        "2.16.840.1.101.3.4.1.47",
        "1.2.392.200011.61.1.1.1.2",  # camellia128-cbc
        "1.2.392.200011.61.1.1.1.4",
    )
)
"""Ciphers that clients name, and that are not used here. Whoever names them alone can read nothing else."""


# --- the structures


@asn1.sequence
class _Algorithm:  # AlgorithmIdentifier (RFC 5280, section 4.1.1.2)
    id: ObjectIdentifier
    parameters: asn1.TLV


@asn1.sequence
class _BareAlgorithm:
    id: ObjectIdentifier


@asn1.sequence
class _IssuerAndSerial:  # RFC 5652, section 10.2.4
    issuer: asn1.TLV
    serial: int


@asn1.sequence
class _Attribute:  # RFC 5652, section 5.3
    type: ObjectIdentifier
    values: asn1.SetOf[asn1.TLV]


@asn1.sequence
class _SignedContent:  # EncapsulatedContentInfo (RFC 5652, section 5.2)
    type: ObjectIdentifier
    content: Annotated[bytes, asn1.Explicit(0)]


@asn1.sequence
class _SignerInfo:  # RFC 5652, section 5.3
    version: int
    signer: _IssuerAndSerial
    digest_algorithm: asn1.TLV
    attributes: Annotated[asn1.SetOf[_Attribute], asn1.Implicit(0)]
    signature_algorithm: asn1.TLV
    signature: bytes


@asn1.sequence
class _SignedData:  # RFC 5652, section 5.1
    version: int
    digest_algorithms: asn1.SetOf[asn1.TLV]
    content: _SignedContent
    certificates: Annotated[asn1.SetOf[asn1.TLV], asn1.Implicit(0)]
    signers: asn1.SetOf[_SignerInfo]


@asn1.sequence
class _TransportBySKI:  # KeyTransRecipientInfo (RFC 5652, section 6.2.1)
    version: int
    recipient: Annotated[bytes, asn1.Implicit(0)]
    algorithm: asn1.TLV
    key: bytes


@asn1.sequence
class _TransportByIssuer:
    version: int
    recipient: _IssuerAndSerial
    algorithm: asn1.TLV
    key: bytes


@asn1.sequence
class _OriginatorKey:  # OriginatorPublicKey (RFC 5652, section 6.2.2)
    algorithm: _Algorithm
    key: asn1.BitString


@asn1.sequence
class _RecipientKeyIdentifier:
    identifier: bytes


@asn1.sequence
class _AgreedBySKI:  # RecipientEncryptedKey
    recipient: Annotated[_RecipientKeyIdentifier, asn1.Implicit(0)]
    key: bytes


@asn1.sequence
class _AgreedByIssuer:
    recipient: _IssuerAndSerial
    key: bytes


@asn1.sequence
class _Agreement:  # KeyAgreeRecipientInfo, with the tag of a SEQUENCE
    version: int
    originator: Annotated[asn1.TLV, asn1.Explicit(0)]
    algorithm: _Algorithm
    keys: list[asn1.TLV]


@asn1.sequence
class _SharedInfo:  # ECC-CMS-SharedInfo (RFC 5753, section 7.2)
    key: _BareAlgorithm
    length: Annotated[bytes, asn1.Explicit(2)]


@asn1.sequence
class _EncryptedContent:  # EncryptedContentInfo (RFC 5652, section 6.1)
    type: ObjectIdentifier
    algorithm: _Algorithm
    content: Annotated[bytes, asn1.Implicit(0)]


@asn1.sequence
class _EnvelopedData:  # RFC 5652, section 6.1
    version: int
    recipients: asn1.SetOf[asn1.TLV]
    content: _EncryptedContent


@asn1.sequence
class _ContentInfo:  # RFC 5652, section 3
    type: ObjectIdentifier
    content: Annotated[_EnvelopedData, asn1.Explicit(0)]


@asn1.sequence
class _OneKey:  # AsymmetricKeyPackage (RFC 5958, section 2): a SEQUENCE OF, with one in it
    key: asn1.TLV


def _element(value: Any) -> asn1.TLV:
    return asn1.decode_der(asn1.TLV, asn1.encode_der(value))


def _retagged(tag: int, value: Any) -> asn1.TLV:
    """A SEQUENCE under another tag, as IMPLICIT has it in a CHOICE."""
    return asn1.decode_der(asn1.TLV, bytes([tag]) + asn1.encode_der(value)[1:])


def _bare(algorithm: ObjectIdentifier) -> asn1.TLV:
    return _element(_BareAlgorithm(id=algorithm))


def _with(algorithm: ObjectIdentifier, parameters: Any) -> _Algorithm:
    return _Algorithm(id=algorithm, parameters=_element(parameters))


def _issuer_and_serial(certificate: x509.Certificate) -> _IssuerAndSerial:
    issuer = asn1.decode_der(asn1.TLV, certificate.issuer.public_bytes())
    return _IssuerAndSerial(issuer=issuer, serial=certificate.serial_number)


# --- whom a key is encrypted to


def key_identifier(certificate: x509.Certificate) -> bytes:
    """By what a request names this certificate's key: its subjectKeyIdentifier, or the one of RFC 5280, section 4.2.1.2 (1)."""
    own = _own_identifier(certificate)
    return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest if own is None else own


def _own_identifier(certificate: x509.Certificate) -> bytes | None:
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return None


def unsuited(certificate: x509.Certificate) -> str | None:
    """Why nothing can be encrypted to this certificate's key, as the end of a sentence; None where it can.

    RFC 7030, section 4.4.1.2: the key explicitly supports key transport or key agreement, or its use is unrestricted.
    """
    key = certificate.public_key()
    try:
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        usage = None
    except (x509.DuplicateExtension, ValueError):
        return "the extensions of its certificate cannot be read"
    match key:
        case rsa.RSAPublicKey():
            if usage is not None and not usage.key_encipherment:
                return "its certificate does not allow keyEncipherment"
        case ec.EllipticCurvePublicKey():
            if key.curve.name not in _CURVES:
                return "its curve is not one of P-256, P-384 and P-521"
            if usage is not None and not usage.key_agreement:
                return "its certificate does not allow keyAgreement"
        case _:
            return "keys of its kind can only sign"
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Algorithms:
    """What a message for one client is made with. `agreement` and `wrap` matter to elliptic curves, `transport` to RSA."""

    content: ObjectIdentifier
    transport: ObjectIdentifier
    agreement: ObjectIdentifier
    wrap: ObjectIdentifier


def choose(certificate: x509.Certificate, capabilities: Sequence[ObjectIdentifier]) -> Algorithms:
    """What the client prefers of what is known here; AES-256 and SHA-2 where it does not say (RFC 8551, section 2.7.1).

    Raises ValueError with one sentence where the client can read none of it.
    """
    content = next((found for found in capabilities if found in _AES_CBC), None)
    wrap = next((found for found in capabilities if found in _AES_WRAP), None)
    if content is None and wrap is None and not _OTHER_CIPHERS.isdisjoint(capabilities):
        raise ValueError(
            "the SMIMECapabilities in the request have no cipher that is used here: AES-128, AES-192 or AES-256 in CBC mode"
        )
    length = 32
    if content is not None:
        length = _AES_CBC[content]
    elif wrap is not None:
        length = _AES_WRAP[wrap]
    key = certificate.public_key()
    strongest = _CURVES[key.curve.name][1] if isinstance(key, ec.EllipticCurvePublicKey) else next(iter(_AGREEMENTS))
    return Algorithms(
        content=content or _of_length(_AES_CBC, length),
        # RFC 8551, section 2.3: what every receiver has. Who knows better says so.
        transport=next((found for found in capabilities if found in {_RSA_ENCRYPTION, _RSAES_OAEP}), _RSA_ENCRYPTION),
        agreement=next((found for found in capabilities if found in _AGREEMENTS), strongest),
        wrap=wrap or _of_length(_AES_WRAP, length),
    )


def _of_length(lengths: Mapping[ObjectIdentifier, int], wanted: int) -> ObjectIdentifier:
    return next(algorithm for algorithm, length in lengths.items() if length == wanted)


# --- the signature


@dataclass(frozen=True, kw_only=True, slots=True)
class KeySigner:
    """Who answers for a key that was made here: a certificate, first of those that go along, and its private key.

    Raises ValueError for a kind of key that no signature of a message is made with here.
    """

    certificates: tuple[x509.Certificate, ...]
    key: PrivateKeyTypes = field(repr=False)

    def __post_init__(self) -> None:
        _digest_of(self.key)

    def sign(self, package: bytes) -> bytes:
        """The DER of a SignedData of this content (RFC 5652, section 5; RFC 5958, section 2)."""
        identifier, digest = _digest_of(self.key)
        hashed = hashes.Hash(digest)
        hashed.update(package)
        attributes = asn1.SetOf(
            [
                _Attribute(type=_CONTENT_TYPE, values=asn1.SetOf([_element(_KEY_PACKAGE)])),
                _Attribute(type=_MESSAGE_DIGEST, values=asn1.SetOf([_element(hashed.finalize())])),
            ]
        )
        algorithm, signature = self._signature(asn1.encode_der(attributes), digest)
        signer = _SignerInfo(
            version=1,
            signer=_issuer_and_serial(self.certificates[0]),
            digest_algorithm=_bare(identifier),
            attributes=attributes,
            signature_algorithm=algorithm,
            signature=signature,
        )
        chain = dict.fromkeys(certificate.public_bytes(Encoding.DER) for certificate in self.certificates)
        return asn1.encode_der(
            _SignedData(
                version=3,  # RFC 5652, section 5.1: the content is not id-data
                digest_algorithms=asn1.SetOf([_bare(identifier)]),
                content=_SignedContent(type=_KEY_PACKAGE, content=package),
                certificates=asn1.SetOf([asn1.decode_der(asn1.TLV, der) for der in chain]),
                signers=asn1.SetOf([signer]),
            )
        )

    def _signature(self, content: bytes, digest: hashes.HashAlgorithm) -> tuple[asn1.TLV, bytes]:
        match self.key:
            case rsa.RSAPrivateKey():
                return _element(_with(_RSA_ENCRYPTION, asn1.Null())), self.key.sign(
                    content, rsa_padding.PKCS1v15(), digest
                )
            case ec.EllipticCurvePrivateKey():
                return _bare(_ECDSA[digest.name]), self.key.sign(content, ec.ECDSA(digest))
            case ed25519.Ed25519PrivateKey():
                return _bare(_ED25519), self.key.sign(content)
            case _:
                raise AssertionError(type(self.key))  # refused in __post_init__


def signs_messages(certificate: x509.Certificate) -> bool:
    """Whether a `KeySigner` can be made of this certificate and its key."""
    return isinstance(certificate.public_key(), rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey)


_ED25519 = ObjectIdentifier("1.3.101.112")  # RFC 8419
_ECDSA = {  # RFC 5754, section 3.3
    "sha256": ObjectIdentifier("1.2.840.10045.4.3.2"),
    "sha384": ObjectIdentifier("1.2.840.10045.4.3.3"),
    "sha512": ObjectIdentifier("1.2.840.10045.4.3.4"),
}


def _digest_of(key: PrivateKeyTypes) -> tuple[ObjectIdentifier, hashes.HashAlgorithm]:
    match key:
        case rsa.RSAPrivateKey():
            return _SHA256, hashes.SHA256()
        case ec.EllipticCurvePrivateKey():
            if key.curve.key_size > 384:
                return _SHA512, hashes.SHA512()
            return (_SHA384, hashes.SHA384()) if key.curve.key_size > 256 else (_SHA256, hashes.SHA256())
        case ed25519.Ed25519PrivateKey():
            return _SHA512, hashes.SHA512()  # RFC 8419, section 3.1
        case _:
            raise ValueError("its key is not RSA, ECDSA or Ed25519")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyEncryption:
    """What this server encrypts private keys with: who signs, and to whom it may encrypt beside the client that asks.

    `signer` is None where the server has no key that signs such messages. `recipients` are by their `key_identifier`.
    """

    signer: KeySigner | None = None
    recipients: Mapping[bytes, x509.Certificate] = field(default_factory=dict[bytes, x509.Certificate])

    def find(self, identifier: bytes, own: x509.Certificate | None) -> x509.Certificate | None:
        """The certificate that this identifier names: the client's own, or one that an administrator has listed."""
        return own if own is not None and key_identifier(own) == identifier else self.recipients.get(identifier)


# --- the encryption


def enveloped(private_key: bytes, *, signer: KeySigner, recipient: x509.Certificate, chosen: Algorithms) -> bytes:
    """The DER of a ContentInfo with a private key (the DER of a PrivateKeyInfo) that the recipient alone can read.

    What is encrypted is the SignedData itself, as its type, id-signedData, says, without a ContentInfo around it.
    """
    package = asn1.encode_der(_OneKey(key=asn1.decode_der(asn1.TLV, private_key)))
    content_key, iv = os.urandom(_AES_CBC[chosen.content]), os.urandom(16)
    padder = padding.PKCS7(128).padder()  # RFC 5652, section 6.3
    padded = padder.update(signer.sign(package)) + padder.finalize()
    encryptor = Cipher(algorithms.AES(content_key), modes.CBC(iv)).encryptor()
    encrypted = encryptor.update(padded) + encryptor.finalize()
    version, recipient_info = _recipient_info(recipient, content_key, chosen)
    return asn1.encode_der(
        _ContentInfo(
            type=_ENVELOPED_DATA,
            content=_EnvelopedData(
                version=version,
                recipients=asn1.SetOf([recipient_info]),
                content=_EncryptedContent(type=_SIGNED_DATA, algorithm=_with(chosen.content, iv), content=encrypted),
            ),
        )
    )


def _recipient_info(certificate: x509.Certificate, content_key: bytes, chosen: Algorithms) -> tuple[int, asn1.TLV]:
    """The version of EnvelopedData that goes with it (RFC 5652, section 6.1), and the RecipientInfo."""
    match certificate.public_key():
        case rsa.RSAPublicKey() as key:
            return _transport(certificate, key, content_key, chosen)
        case ec.EllipticCurvePublicKey() as key:
            return 2, _agreement(certificate, key, content_key, chosen)
        case key:
            raise AssertionError(type(key))  # `unsuited` says so before


def _transport(
    certificate: x509.Certificate, key: rsa.RSAPublicKey, content_key: bytes, chosen: Algorithms
) -> tuple[int, asn1.TLV]:
    """RFC 5652, section 6.2.1."""
    if chosen.transport == _RSAES_OAEP:
        sha256 = hashes.SHA256()
        parameters = _OAEPParameters(hash=_BareAlgorithm(id=_SHA256), mask=_with(_MGF1, _BareAlgorithm(id=_SHA256)))
        algorithm = _element(_with(_RSAES_OAEP, parameters))
        encrypted = key.encrypt(content_key, rsa_padding.OAEP(rsa_padding.MGF1(sha256), sha256, None))
    else:
        algorithm = _element(_with(_RSA_ENCRYPTION, asn1.Null()))
        encrypted = key.encrypt(content_key, rsa_padding.PKCS1v15())
    identifier = _own_identifier(certificate)
    if identifier is None:
        by_issuer = _issuer_and_serial(certificate)
        return 0, _element(_TransportByIssuer(version=0, recipient=by_issuer, algorithm=algorithm, key=encrypted))
    return 2, _element(_TransportBySKI(version=2, recipient=identifier, algorithm=algorithm, key=encrypted))


@asn1.sequence
class _OAEPParameters:  # RSAES-OAEP-params (RFC 4055, section 4.1)
    hash: Annotated[_BareAlgorithm, asn1.Explicit(0)]
    mask: Annotated[_Algorithm, asn1.Explicit(1)]


def _agreement(
    certificate: x509.Certificate, key: ec.EllipticCurvePublicKey, content_key: bytes, chosen: Algorithms
) -> asn1.TLV:
    """RFC 5753, section 3.1: ephemeral-static ECDH; RFC 5652, section 6.2.2."""
    ephemeral = ec.generate_private_key(key.curve)
    length = _AES_WRAP[chosen.wrap]
    shared_info = _SharedInfo(key=_BareAlgorithm(id=chosen.wrap), length=(8 * length).to_bytes(4, "big"))
    derivation = X963KDF(_AGREEMENTS[chosen.agreement], length, asn1.encode_der(shared_info))
    wrapped = aes_key_wrap(derivation.derive(ephemeral.exchange(ec.ECDH(), key)), content_key)
    identifier = _own_identifier(certificate)
    if identifier is None:
        for_whom = _element(_AgreedByIssuer(recipient=_issuer_and_serial(certificate), key=wrapped))
    else:
        for_whom = _element(_AgreedBySKI(recipient=_RecipientKeyIdentifier(identifier=identifier), key=wrapped))
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    originator = _OriginatorKey(
        algorithm=_with(_EC_PUBLIC_KEY, _CURVES[key.curve.name][0]), key=asn1.BitString(point, 0)
    )
    return _retagged(
        0xA1,  # kari [1] in RecipientInfo
        _Agreement(
            version=3,
            originator=_retagged(0xA1, originator),  # originatorKey [1] in OriginatorIdentifierOrKey
            algorithm=_with(chosen.agreement, _BareAlgorithm(id=chosen.wrap)),
            keys=[for_whom],
        ),
    )
