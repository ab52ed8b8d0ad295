"""An issuing certificate with its key and chain, read from PEM files and believed only after every check.

In the room: reading and refusing. Not in the room: signing (`kipuka_ca_local.backend`), making new ones (`kipuka_ca_local.creation`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from kipuka.api import CertificateChain
from kipuka_ca_local.keys import CAPrivateKey, accept

__all__ = ["Authority", "AuthorityError", "load_authority", "load_chain"]

_BEGIN = b"-----BEGIN CERTIFICATE-----"
_BEGIN_ANY = b"-----BEGIN "


class AuthorityError(Exception):
    """The files make no authority. `key` is the configuration key to look at; the text never has what is in a key file."""

    def __init__(self, key: str, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.key = key
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True, slots=True)
class Authority:
    """What issues: a private key and its certificate's chain, whose root is the last."""

    key: CAPrivateKey = field(repr=False)
    chain: CertificateChain


def load_authority(*, cert: Path, key: Path, password: bytes | None, chain: Path | None, now: datetime) -> Authority:
    """Read and check an authority. Raises AuthorityError, whose sentences are for the administrator.

    The certificates must be as `load_chain` says, and the key must be the first one's.
    """
    # The key before the chain above: whoever mixed up the two files hears that, not of signatures.
    certificates = _read_chain(cert, chain)
    private_key = _read_key(key, password)
    issuer = certificates[0]
    _check_validity(issuer, "cert", now)
    _check_may_sign(issuer, "cert", below=0)
    if private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != _spki_of(issuer):
        problem = f"{key} is not the key of the certificate in {cert}"
        raise AuthorityError("key", problem, "name the two that belong together")
    _check_chain(certificates, now)
    return Authority(key=private_key, chain=CertificateChain(tuple(certificates)))


def load_chain(*, cert: Path, chain: Path | None, now: datetime) -> CertificateChain:
    """Read and check an authority's certificates, wherever its key is. Raises AuthorityError.

    They must be CA certificates that may sign others, valid now, in order, each signed by the next, and the last by itself
    (RULES F7).
    """
    certificates = _read_chain(cert, chain)
    _check_validity(certificates[0], "cert", now)
    _check_may_sign(certificates[0], "cert", below=0)
    _spki_of(certificates[0])
    _check_chain(certificates, now)
    return CertificateChain(tuple(certificates))


def _read_chain(cert: Path, chain: Path | None) -> list[x509.Certificate]:
    certificates = _read_certificates("cert", cert)
    if chain is not None:
        above = _read_certificates("chain", chain)
        # A bundle that begins with the issuing certificate is as usual as one that does not.
        certificates += [one for one in above if one not in certificates]
    return certificates


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AuthorityError(
            setting, f"cannot read {path}: {error.strerror}", "make the file, or its permissions, right for the server"
        ) from error


def _read_certificates(setting: str, path: Path) -> list[x509.Certificate]:
    content = _read(setting, path)
    remedy = f"put certificates there that begin with {_BEGIN.decode()}"
    if _BEGIN not in content:
        raise AuthorityError(setting, f"there is no PEM certificate in {path}", remedy)
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise AuthorityError(setting, f"a certificate in {path} cannot be read", remedy) from error


def _read_key(path: Path, password: bytes | None) -> CAPrivateKey:
    content = _read("key", path)
    try:
        loaded = load_pem_private_key(content, password)
    except TypeError as error:  # how the library says that a password is needed, or is not
        if password is None:
            raise AuthorityError("key_password", f"{path} is encrypted", "give its password as key_password") from error
        raise AuthorityError("key_password", f"{path} is not encrypted", "leave key_password out") from error
    except UnsupportedAlgorithm as error:
        raise AuthorityError("key", f"the key in {path} is of an unknown type", "use another key") from error
    except ValueError as error:
        if password is None or _BEGIN_ANY not in content:
            remedy = "name a PEM file with a private key"
            raise AuthorityError("key", f"there is no private key in PEM in {path}", remedy) from error
        problem = f"{path} cannot be decrypted with key_password"
        raise AuthorityError("key_password", problem, "correct key_password") from error
    try:
        return accept(loaded)
    except ValueError as error:
        raise AuthorityError("key", f"the key in {path} cannot be used: {error}", "use another key") from error


def _spki_of(certificate: x509.Certificate) -> bytes:
    try:
        public = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        problem = f"the public key of {_named(certificate)} cannot be read"
        raise AuthorityError("cert", problem, "use a certificate with another key") from error
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _check_chain(certificates: Sequence[x509.Certificate], now: datetime) -> None:
    for below, (lower, upper) in enumerate(pairwise(certificates), start=1):
        name = _named(upper)
        _check_validity(upper, "chain", now)
        _check_signature_hash(
            lower
        )  # before the signature itself: the library may refuse such a one without saying why
        try:
            lower.verify_directly_issued_by(upper)
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
            raise AuthorityError(
                "chain",
                f"{_named(lower)} is not signed by {name}, which follows it",
                "put the certificates in order: each is signed by the next, the last is the root",
            ) from error
        _check_may_sign(upper, "chain", below=sum(not _is_self_issued(one) for one in certificates[:below]))
    root = certificates[-1]
    if not _is_root(root):
        raise AuthorityError(
            "chain",
            f"the chain ends in {_named(root)}, which is not a root",
            "add the certificates above it, up to the one that is signed by itself",
        )


def _is_root(certificate: x509.Certificate) -> bool:
    if certificate.subject != certificate.issuer:
        return False
    if _weak_hash(certificate) is not None:
        # Nobody trusts a root for its own signature, so an old one may keep it; the library will not verify such.
        return True
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _check_validity(certificate: x509.Certificate, setting: str, now: datetime) -> None:
    if now > certificate.not_valid_after_utc:
        problem = f"{_named(certificate)} expired at {certificate.not_valid_after_utc:%Y-%m-%d %H:%M:%S} UTC"
        raise AuthorityError(setting, problem, "have it renewed")
    if now < certificate.not_valid_before_utc:
        problem = f"{_named(certificate)} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M:%S} UTC"
        raise AuthorityError(setting, problem, "look at the clock, or wait")


def _check_may_sign(certificate: x509.Certificate, setting: str, *, below: int) -> None:
    """RFC 5280, 4.2.1.3 and 4.2.1.9. `below` counts the CA certificates beneath that are not self-issued."""
    name = _named(certificate)
    remedy = "use a certificate that was made for a certification authority"
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise AuthorityError(setting, f"the extensions of {name} cannot be read", remedy) from error
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
    except x509.ExtensionNotFound:
        constraints = None
    if constraints is None or not constraints.ca:
        raise AuthorityError(setting, f"{name} is not a CA certificate: it lacks basicConstraints with CA:TRUE", remedy)
    if constraints.path_length is not None and below > constraints.path_length:
        problem = f"{name} allows {constraints.path_length} CA certificates under it, and the chain has {below}"
        raise AuthorityError(setting, problem, remedy)
    try:
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.key_cert_sign:
        raise AuthorityError(setting, f"{name} may not sign certificates: its keyUsage lacks keyCertSign", remedy)


def _check_signature_hash(certificate: x509.Certificate) -> None:
    weak = _weak_hash(certificate)
    if weak is not None:
        problem = f"{_named(certificate)} is signed with {weak}, which nobody should accept any more"
        raise AuthorityError("cert", problem, "have it signed anew with SHA-256 or better")


def _weak_hash(certificate: x509.Certificate) -> str | None:
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None  # verifying it will fail, and say so
    return algorithm.name.upper() if isinstance(algorithm, hashes.MD5 | hashes.SHA1) else None


def _is_self_issued(certificate: x509.Certificate) -> bool:
    return certificate.subject == certificate.issuer


def _named(certificate: x509.Certificate) -> str:
    return f"the certificate {certificate.subject.rfc4514_string()!r}"
