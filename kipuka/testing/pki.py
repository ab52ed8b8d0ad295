"""Throwaway public key infrastructure: keys, certificates and certification requests, good and bad.

In the room: `make_root` and `Credential` (a certificate with its key and the chain to send with it, which may sign
others, whether it should or not) and `make_csr`. Not in the room: any check of what is made. Everything is assembled by hand from DER, since a library that refuses MD5 cannot test a server that must.

    root = make_root()
    issuing = root.issue_ca("Issuing CA")
    device = issuing.issue_client("device-1", dns=("device-1.example",))
    csr = make_csr(common_name="device-1", dns=("device-1.example",))
"""

from __future__ import annotations

import base64
import ipaddress
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from kipuka.testing import der

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import mldsa  # which older releases of the library lack

__all__ = [
    "CLIENT_AUTH",
    "CMC_RA",
    "SERVER_AUTH",
    "Attribute",
    "Credential",
    "KeyKind",
    "PrivateKey",
    "Request",
    "SignatureKind",
    "common_name",
    "make_csr",
    "make_key",
    "make_root",
    "sign",
]

PrivateKey: TypeAlias = "rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey"
KeyKind = Literal[
    "rsa1024",
    "rsa2048",
    "rsa3072",
    "rsa4096",
    "p224",
    "p256",
    "p384",
    "p521",
    "k256",
    "ed25519",
    "ed448",
    "mldsa44",
    "mldsa65",
    "mldsa87",
]
SignatureKind = Literal["md5", "sha1", "sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512", "pss"]

CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CMC_RA = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")

_CURVES: Mapping[str, type[ec.EllipticCurve]] = {
    "p224": ec.SECP224R1,
    "p256": ec.SECP256R1,
    "p384": ec.SECP384R1,
    "p521": ec.SECP521R1,
    "k256": ec.SECP256K1,
}
_HASHES: Mapping[str, type[hashes.HashAlgorithm]] = {
    "md5": hashes.MD5,
    "sha1": hashes.SHA1,
    "sha256": hashes.SHA256,
    "sha384": hashes.SHA384,
    "sha512": hashes.SHA512,
    "sha3-256": hashes.SHA3_256,
    "sha3-384": hashes.SHA3_384,
    "sha3-512": hashes.SHA3_512,
}
_RSA_ALGORITHMS = {
    "md5": "1.2.840.113549.1.1.4",
    "sha1": "1.2.840.113549.1.1.5",
    "sha256": "1.2.840.113549.1.1.11",
    "sha384": "1.2.840.113549.1.1.12",
    "sha512": "1.2.840.113549.1.1.13",
    "sha3-256": "2.16.840.1.101.3.4.3.14",
    "sha3-384": "2.16.840.1.101.3.4.3.15",
    "sha3-512": "2.16.840.1.101.3.4.3.16",
}
_ECDSA_ALGORITHMS = {
    "sha1": "1.2.840.10045.4.1",
    "sha256": "1.2.840.10045.4.3.2",
    "sha384": "1.2.840.10045.4.3.3",
    "sha512": "1.2.840.10045.4.3.4",
    "sha3-256": "2.16.840.1.101.3.4.3.10",
    "sha3-384": "2.16.840.1.101.3.4.3.11",
    "sha3-512": "2.16.840.1.101.3.4.3.12",
}
_PURE_ALGORITHMS = {  # RFC 8410, 3; RFC 9881, 2: a key of these signs in one way, which hashes nothing before
    "Ed25519PrivateKey": "1.3.101.112",
    "Ed448PrivateKey": "1.3.101.113",
    "MLDSA44PrivateKey": "2.16.840.1.101.3.4.3.17",
    "MLDSA65PrivateKey": "2.16.840.1.101.3.4.3.18",
    "MLDSA87PrivateKey": "2.16.840.1.101.3.4.3.19",
}
_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)


def make_key(kind: KeyKind = "p256") -> PrivateKey:
    """A new private key."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    if kind in {"mldsa44", "mldsa65", "mldsa87"}:
        return _make_mldsa_key(kind)
    if kind.startswith("rsa"):
        return rsa.generate_private_key(public_exponent=65537, key_size=int(kind.removeprefix("rsa")))
    return ec.generate_private_key(_CURVES[kind]())


def _make_mldsa_key(kind: str) -> PrivateKey:
    from cryptography.hazmat.primitives.asymmetric import mldsa  # see above

    match kind:
        case "mldsa44":
            return mldsa.MLDSA44PrivateKey.generate()
        case "mldsa65":
            return mldsa.MLDSA65PrivateKey.generate()
        case _:
            return mldsa.MLDSA87PrivateKey.generate()


def common_name(text: str) -> x509.Name:
    """The name `CN=text`."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def sign(key: PrivateKey, content: bytes, kind: SignatureKind = "sha256") -> tuple[bytes, bytes]:
    """Sign, and answer the DER AlgorithmIdentifier and the signature. Keys of Edwards curves and
    of ML-DSA have one kind of signature only.
    """
    if isinstance(key, rsa.RSAPrivateKey):
        if kind == "pss":
            sha256 = der.algorithm("2.16.840.1.101.3.4.2.1", der.null())
            parameters = der.sequence(
                der.context(0, sha256),
                der.context(1, der.algorithm("1.2.840.113549.1.1.8", sha256)),
                der.context(2, der.integer(32)),
            )
            pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
            return der.algorithm("1.2.840.113549.1.1.10", parameters), key.sign(content, pss, hashes.SHA256())
        algorithm = der.algorithm(_RSA_ALGORITHMS[kind], der.null())
        return algorithm, key.sign(content, padding.PKCS1v15(), _HASHES[kind]())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return der.algorithm(_ECDSA_ALGORITHMS[kind]), key.sign(content, ec.ECDSA(_HASHES[kind]()))
    return der.algorithm(_PURE_ALGORITHMS[type(key).__name__]), key.sign(content)


def _algorithm_of(key: PrivateKey, kind: SignatureKind) -> bytes:
    return sign(key, b"", kind)[0]


def _public_der(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def _extension(oid: x509.ObjectIdentifier, value: bytes, *, critical: bool) -> bytes:
    flag = (der.tlv(0x01, b"\xff"),) if critical else ()
    return der.sequence(der.object_identifier(oid.dotted_string), *flag, der.octet_string(value))


def _encode_extension(extension: x509.Extension[x509.ExtensionType]) -> bytes:
    return _extension(extension.oid, extension.value.public_bytes(), critical=extension.critical)


def _time(moment: datetime) -> bytes:
    moment = moment.astimezone(UTC)
    if 1950 <= moment.year < 2050:  # RFC 5280, 4.1.2.5
        return der.tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())
    return der.tlv(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


def _key_usage(names: Sequence[str]) -> x509.KeyUsage:
    return x509.KeyUsage(**{usage: usage in names for usage in _KEY_USAGES})


def _alternative_names(
    dns: Sequence[str], ip: Sequence[str], email: Sequence[str], uri: Sequence[str]
) -> list[x509.GeneralName]:
    return [
        *(x509.DNSName(name) for name in dns),
        *(x509.IPAddress(ipaddress.ip_address(address)) for address in ip),
        *(x509.RFC822Name(address) for address in email),
        *(x509.UniformResourceIdentifier(location) for location in uri),
    ]


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A certificate with its private key, and the certificates above it.

    `chain` is what goes over the wire after the leaf: the intermediates, without the root.
    """

    key: PrivateKey = field(repr=False)
    der: bytes = field(repr=False)
    issuer: Credential | None = field(default=None, repr=False)

    @cached_property
    def certificate(self) -> x509.Certificate:
        """The certificate, parsed."""
        return x509.load_der_x509_certificate(self.der)

    @property
    def subject(self) -> x509.Name:
        """The certificate's subject."""
        return self.certificate.subject

    @property
    def root(self) -> Credential:
        """The self-signed end of the chain."""
        return self if self.issuer is None else self.issuer.root

    @property
    def chain(self) -> tuple[Credential, ...]:
        """The issuers between this certificate and its root, nearest first."""
        if self.issuer is None or self.issuer.issuer is None:
            return ()
        return (self.issuer, *self.issuer.chain)

    @property
    def pem(self) -> bytes:
        """The certificate alone, as PEM."""
        return _pem("CERTIFICATE", self.der)

    @property
    def chain_pem(self) -> bytes:
        """The certificate and its chain, as PEM, leaf first, without the root."""
        return self.pem + b"".join(above.pem for above in self.chain)

    def key_pem(self, passphrase: bytes | None = None) -> bytes:
        """The private key as PKCS#8 PEM, encrypted where a passphrase is given."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption(),
        )

    def write(self, directory: Path, name: str) -> tuple[Path, Path]:
        """Write `name.crt` (with its chain) and `name.key` (mode 0600) and answer both paths."""
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        certificate.write_bytes(self.chain_pem)
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem())
        return certificate, key

    def issue(
        self,
        subject: x509.Name | str,
        *,
        key: PrivateKey | KeyKind = "p256",
        ca: bool | None = False,
        path_length: int | None = None,
        key_usage: Sequence[str] | None = ("digital_signature",),
        extended_key_usage: Sequence[x509.ObjectIdentifier] | None = None,
        dns: Sequence[str] = (),
        ip: Sequence[str] = (),
        email: Sequence[str] = (),
        uri: Sequence[str] = (),
        names: Sequence[x509.GeneralName] = (),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        signature: SignatureKind = "sha256",
        permitted_dns: Sequence[str] = (),
        extensions: Sequence[x509.Extension[x509.ExtensionType]] = (),
        serial: int | None = None,
        version: int = 2,
        break_signature: bool = False,
    ) -> Credential:
        """Sign anything under this certificate's name and key.

        `None` for `ca`, `key_usage` or `extended_key_usage` leaves the extension out. `version` is the encoded one (2
        for X.509 v3). Validity is an hour back to a day ahead where nothing else is said.
        """
        holder = make_key(key) if isinstance(key, str) else key
        content = _tbs(
            issuer=self.subject,
            issuer_key=self.key,
            subject=common_name(subject) if isinstance(subject, str) else subject,
            public_key=holder,
            not_before=not_before,
            not_after=not_after,
            signature=signature,
            serial=serial,
            version=version,
            extensions=_extensions(
                public_key=holder,
                issuer_key=self.key,
                ca=ca,
                path_length=path_length,
                key_usage=key_usage,
                extended_key_usage=extended_key_usage,
                names=[*_alternative_names(dns, ip, email, uri), *names],
                permitted_dns=permitted_dns,
                more=extensions,
            ),
        )
        return Credential(
            key=holder, der=_signed(content, self.key, signature, break_signature=break_signature), issuer=self
        )

    def issue_ca(
        self,
        name: str = "Test Issuing CA",
        *,
        key: PrivateKey | KeyKind = "p256",
        path_length: int | None = None,
        extended_key_usage: Sequence[x509.ObjectIdentifier] | None = None,
        permitted_dns: Sequence[str] = (),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        signature: SignatureKind = "sha256",
    ) -> Credential:
        """A certification authority below this one."""
        return self.issue(
            name,
            key=key,
            ca=True,
            path_length=path_length,
            key_usage=("key_cert_sign", "crl_sign"),
            extended_key_usage=extended_key_usage,
            permitted_dns=permitted_dns,
            not_before=not_before,
            not_after=not_after,
            signature=signature,
        )

    def issue_client(
        self,
        subject: x509.Name | str = "device-1",
        *,
        key: PrivateKey | KeyKind = "p256",
        dns: Sequence[str] = (),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        signature: SignatureKind = "sha256",
        break_signature: bool = False,
    ) -> Credential:
        """A good certificate for TLS clients."""
        return self.issue(
            subject,
            key=key,
            extended_key_usage=(CLIENT_AUTH,),
            dns=dns,
            not_before=not_before,
            not_after=not_after,
            signature=signature,
            break_signature=break_signature,
        )

    def issue_server(self, *hosts: str, key: PrivateKey | KeyKind = "p256") -> Credential:
        """A good certificate for a TLS server; hosts are DNS names or IP addresses, `localhost` where none is given."""
        dns: list[str] = []
        ip: list[str] = []
        for host in hosts or ("localhost",):
            try:
                ip.append(str(ipaddress.ip_address(host)))
            except ValueError:
                dns.append(host)
        return self.issue((hosts or ("localhost",))[0], key=key, extended_key_usage=(SERVER_AUTH,), dns=dns, ip=ip)


def make_root(
    name: str = "Test Root CA",
    *,
    key: PrivateKey | KeyKind = "p256",
    not_before: datetime | None = None,
    not_after: datetime | None = None,
    signature: SignatureKind = "sha256",
    ca: bool | None = True,
    key_usage: Sequence[str] | None = ("key_cert_sign", "crl_sign"),
    extended_key_usage: Sequence[x509.ObjectIdentifier] | None = None,
) -> Credential:
    """A self-signed certificate: a root CA, or with `ca=False` somebody who vouches for nobody but himself."""
    holder = make_key(key) if isinstance(key, str) else key
    subject = common_name(name)
    content = _tbs(
        issuer=subject,
        issuer_key=holder,
        subject=subject,
        public_key=holder,
        not_before=not_before,
        not_after=not_after,
        signature=signature,
        serial=None,
        version=2,
        extensions=_extensions(
            public_key=holder,
            issuer_key=holder,
            ca=ca,
            path_length=None,
            key_usage=key_usage,
            extended_key_usage=extended_key_usage,
            names=[],
            permitted_dns=(),
            more=(),
        ),
    )
    return Credential(key=holder, der=_signed(content, holder, signature, break_signature=False))


def _extensions(
    *,
    public_key: PrivateKey,
    issuer_key: PrivateKey,
    ca: bool | None,
    path_length: int | None,
    key_usage: Sequence[str] | None,
    extended_key_usage: Sequence[x509.ObjectIdentifier] | None,
    names: Sequence[x509.GeneralName],
    permitted_dns: Sequence[str],
    more: Sequence[x509.Extension[x509.ExtensionType]],
) -> list[bytes]:
    encoded: list[bytes] = []

    def add(value: x509.ExtensionType, *, critical: bool = False) -> None:
        encoded.append(_extension(value.oid, value.public_bytes(), critical=critical))

    add(x509.SubjectKeyIdentifier.from_public_key(public_key.public_key()))
    add(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()))
    if ca is not None:
        add(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True)
    if key_usage is not None:
        add(_key_usage(key_usage), critical=True)
    if extended_key_usage is not None:
        add(x509.ExtendedKeyUsage(extended_key_usage))
    if names:
        add(x509.SubjectAlternativeName(names))
    if permitted_dns:
        add(x509.NameConstraints([x509.DNSName(name) for name in permitted_dns], None), critical=True)
    encoded.extend(_encode_extension(extension) for extension in more)
    return encoded


def _tbs(
    *,
    issuer: x509.Name,
    issuer_key: PrivateKey,
    subject: x509.Name,
    public_key: PrivateKey,
    not_before: datetime | None,
    not_after: datetime | None,
    signature: SignatureKind,
    serial: int | None,
    version: int,
    extensions: Sequence[bytes],
) -> bytes:
    """TBSCertificate (RFC 5280, 4.1)."""
    now = datetime.now(UTC)
    start = not_before or min(now, not_after or now) - timedelta(hours=1)
    end = not_after or max(now, start) + timedelta(days=1)
    return der.sequence(
        *((der.context(0, der.integer(version)),) if version else ()),
        der.integer(secrets.randbits(126) | 1 if serial is None else serial),
        _algorithm_of(issuer_key, signature),
        issuer.public_bytes(),
        der.sequence(_time(start), _time(end)),
        subject.public_bytes(),
        _public_der(public_key),
        *((der.context(3, der.sequence(*extensions)),) if version == 2 else ()),
    )


def _signed(content: bytes, key: PrivateKey, kind: SignatureKind, *, break_signature: bool) -> bytes:
    algorithm, signature = sign(key, content + b"!" if break_signature else content, kind)
    return der.sequence(content, algorithm, der.bit_string(signature))


@dataclass(frozen=True, kw_only=True, slots=True)
class Attribute:
    """An attribute of a certification request: its type, and the DER of each of its values (RFC 2986, 4.1)."""

    oid: str
    values: tuple[bytes, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """A certification request in DER, with the key it is for."""

    key: PrivateKey = field(repr=False)
    der: bytes = field(repr=False)

    @property
    def pem(self) -> bytes:
        """The request as PEM, with the label that OpenSSL writes."""
        return _pem("CERTIFICATE REQUEST", self.der)


def _pem(label: str, content: bytes) -> bytes:
    text = base64.b64encode(content)
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return b"\n".join([f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----".encode(), b""])


def make_csr(
    subject: x509.Name | None = None,
    *,
    common_name: str | None = "device-1",
    key: PrivateKey | KeyKind = "p256",
    dns: Sequence[str] = (),
    ip: Sequence[str] = (),
    email: Sequence[str] = (),
    uri: Sequence[str] = (),
    names: Sequence[x509.GeneralName] = (),
    challenge_password: str | bytes | None = None,
    extensions: Sequence[x509.Extension[x509.ExtensionType]] = (),
    attributes: Sequence[Attribute] = (),
    signature: SignatureKind = "sha256",
    signing_key: PrivateKey | None = None,
    public_key_der: bytes | None = None,
    version: int = 0,
    break_signature: bool = False,
) -> Request:
    """A PKCS#10 certification request (RFC 2986), as odd as it is asked to be.

    `common_name=None` without a subject makes the empty subject. `challenge_password` is written as a PrintableString
    where it is text, and as an OCTET STRING where it is bytes. `attributes` come last, and may repeat one that is
    there. `signing_key` signs in place of the key, `public_key_der` (a SubjectPublicKeyInfo) is claimed in place of the key's.
    """
    holder = make_key(key) if isinstance(key, str) else key
    if subject is None:
        parts = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        subject = x509.Name(parts)
    encoded: list[bytes] = []
    asked = [_encode_extension(extension) for extension in extensions]
    alternative = [*_alternative_names(dns, ip, email, uri), *names]
    if alternative:
        value = x509.SubjectAlternativeName(alternative)
        asked.insert(0, _extension(value.oid, value.public_bytes(), critical=False))
    if asked:
        encoded.append(der.sequence(der.object_identifier("1.2.840.113549.1.9.14"), der.set_of(der.sequence(*asked))))
    if challenge_password is not None:
        text = (
            der.printable(challenge_password)
            if isinstance(challenge_password, str)
            else der.octet_string(challenge_password)
        )
        encoded.append(der.sequence(der.object_identifier("1.2.840.113549.1.9.7"), der.set_of(text)))
    encoded.extend(
        der.sequence(der.object_identifier(attribute.oid), der.set_of(*attribute.values)) for attribute in attributes
    )
    info = der.sequence(
        der.integer(version),
        subject.public_bytes(),
        _public_der(holder) if public_key_der is None else public_key_der,
        der.context(0, b"".join(sorted(encoded))),
    )
    return Request(key=holder, der=_signed(info, signing_key or holder, signature, break_signature=break_signature))
