"""`kipuka ca create`: a root, and an issuing CA under it, with keys of their own.

In the room: making them and writing their files. Not in the room: the command itself and the configuration file, which are the host's.

The root signs once, here. Its key is not named in the settings, and the server never reads it: it should be moved off the machine.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from cryptography.x509.oid import NameOID

from kipuka.api import CAPlan, CertificateChain, CreatedCA, StartupError
from kipuka_ca_local.keys import CAPrivateKey, signature_hash

__all__ = ["FILES", "LocalCACreator", "certify", "check_plan", "make_directory", "names", "write_all"]

ISSUING_CERTIFICATE = "issuing.pem"
ISSUING_KEY = "issuing.key"
ROOT_CERTIFICATE = "root.pem"
ROOT_KEY = "root.key"
FILES = (ROOT_CERTIFICATE, ROOT_KEY, ISSUING_CERTIFICATE, ISSUING_KEY)

BACKDATE = timedelta(hours=1)
"""So that the first certificates, themselves set back by some minutes (RULES F7), and devices whose clocks are behind, find it valid."""

COMMON_NAME_LENGTH = 64  # RFC 5280, appendix A.1: ub-common-name; the library counts octets of UTF-8
ROOT_SUFFIX = " Root"

_MAKERS: Mapping[str, Callable[[], CAPrivateKey]] = {
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa4096": lambda: rsa.generate_private_key(65537, 4096),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalCACreator:
    """The ability `CreatesCA`."""

    def create(self, plan: CAPlan, /) -> CreatedCA:
        """Make the CA in `plan.directory`, which is made with mode 0700 where it is missing.

        Files: `root.pem`, `root.key`, `issuing.pem`, `issuing.key`; keys have mode 0600 from their first byte. Raises FileExistsError
        rather than overwrite one, and StartupError for a plan that makes no sense; then nothing is left behind.
        """
        root_name, issuing_name = names(plan)
        check_plan(plan, _MAKERS)
        if plan.options:
            msg = f"the plugin local has no option {', '.join(sorted(plan.options))}"
            raise StartupError(msg)
        maker = _MAKERS[plan.key_type]
        for name in FILES:
            if os.path.lexists(plan.directory / name):
                raise FileExistsError(f"{plan.directory / name} exists: a CA is never overwritten")
        now = datetime.now(UTC).replace(microsecond=0)
        root_key, issuing_key = maker(), maker()
        root = certify(
            subject=root_name,
            public_key=root_key.public_key(),
            issuer=root_name,
            issuer_key=root_key,
            now=now,
            lifetime=timedelta(days=plan.root_days),
            path_length=None,
        )
        issuing = certify(
            subject=issuing_name,
            public_key=issuing_key.public_key(),
            issuer=root_name,
            issuer_key=root_key,
            now=now,
            lifetime=timedelta(days=min(plan.issuing_days, plan.root_days)),
            path_length=0,
        )
        contents = (
            (ROOT_CERTIFICATE, root.public_bytes(Encoding.PEM), 0o644),
            (ROOT_KEY, _pem(root_key, plan.passphrase), 0o600),
            (ISSUING_CERTIFICATE, issuing.public_bytes(Encoding.PEM), 0o644),
            (ISSUING_KEY, _pem(issuing_key, plan.passphrase), 0o600),
        )
        make_directory(plan.directory)
        files = write_all(plan.directory, contents)
        return CreatedCA(
            chain=CertificateChain((issuing, root)),
            settings={
                "cert": str(plan.directory / ISSUING_CERTIFICATE),
                "key": str(plan.directory / ISSUING_KEY),
                "chain": str(plan.directory / ROOT_CERTIFICATE),
            },
            files=files,
        )


def names(plan: CAPlan) -> tuple[x509.Name, x509.Name]:
    """The subjects of root and issuing CA. Raises StartupError for a name that no certificate can have."""
    text = plan.common_name
    if not text or not text.isprintable() or text != text.strip():
        msg = "the CA's name is empty, starts or ends with a space, or has control characters"
        raise StartupError(msg)
    if len((text + ROOT_SUFFIX).encode("utf-8")) > COMMON_NAME_LENGTH:
        msg = f"the CA's name is longer than {COMMON_NAME_LENGTH - len(ROOT_SUFFIX)} characters (octets of UTF-8)"
        raise StartupError(msg)
    return (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text + ROOT_SUFFIX)]),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]),
    )


def check_plan(plan: CAPlan, key_types: Iterable[str]) -> None:
    """Raise StartupError for a plan that makes no sense, or a key type that is not among those."""
    if plan.key_type not in (known := tuple(key_types)):
        msg = f"there is no key type {plan.key_type!r}; there are {', '.join(known)}"
        raise StartupError(msg)
    if not 1 <= plan.issuing_days <= 36500 or not 1 <= plan.root_days <= 36500:
        msg = "a CA is made for 1 to 36500 days"
        raise StartupError(msg)
    if plan.passphrase == b"":
        msg = "the passphrase is empty"
        raise StartupError(msg)


def certify(
    *,
    subject: x509.Name,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey,
    issuer: x509.Name,
    issuer_key: CAPrivateKey,
    now: datetime,
    lifetime: timedelta,
    path_length: int | None,
) -> x509.Certificate:
    """A CA certificate, signed with the issuer's key."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + lifetime)
        # RFC 5280, 4.2.1.9 and 4.2.1.3: both critical in a CA certificate.
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    return builder.sign(issuer_key, signature_hash(issuer_key))


def _pem(key: CAPrivateKey, passphrase: bytes | None) -> bytes:
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def make_directory(directory: Path) -> None:
    """Make it with mode 0700 where it is missing. Raises StartupError where others could write into it."""
    try:
        directory.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not directory.is_dir():
            raise
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & 0o022:
            msg = (
                f"{directory} has mode {mode:04o}: others could put their own files in place of the CA's; chmod 700 it"
            )
            raise StartupError(msg) from None


def write_all(directory: Path, contents: tuple[tuple[str, bytes, int], ...]) -> tuple[Path, ...]:
    """Write each file, durably; when one cannot be written, none stays."""
    written: list[Path] = []
    try:
        for name, content, mode in contents:
            path = directory / name
            # The mode holds from the first byte, and nothing that is there already is followed or overwritten.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
    return tuple(written)
