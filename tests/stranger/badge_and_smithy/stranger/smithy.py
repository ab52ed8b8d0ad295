"""A CA backend in memory: a new root at every start. `behave` makes it do what no CA should."""

from __future__ import annotations

import asyncio
import datetime as dt
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kipuka.api import (
    BackendUnavailable,
    CABackendKind,
    CertificateChain,
    ConfigPath,
    Issued,
    Pending,
    Section,
    hookimpl,
)

KIPUKA_API = "1.0"

Behaviour = Literal[
    "sign", "unavailable", "raise", "hang", "pending", "other_key", "other_subject", "other_names", "ca", "other_issuer"
]


class SmithySettings(Section):
    """The further keys of a [[ca]] with backend = "smithy"."""

    behave: Behaviour = "sign"
    """What it does with an order."""

    behave_file: ConfigPath | None = None
    """A file whose content replaces `behave` at each order, so that a test can change it under way."""

    retry_after: int = 7
    """Seconds that it promises when an order is pending."""


def make_authority(name):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


class Smithy:
    """Signs at once, or does what it was told to do instead."""

    def __init__(self, settings):
        self._settings = settings
        self._key, self._certificate = make_authority("Smithy Root")

    async def ca_certificates(self):
        return CertificateChain((self._certificate,))

    def pending(self, ref):
        return Pending(ref=ref, retry_after=dt.timedelta(seconds=self._settings.retry_after))

    def behaviour(self):
        file: Path | None = self._settings.behave_file
        return file.read_text().strip() if file is not None and file.exists() else self._settings.behave

    async def issue(self, order):
        behaviour = self.behaviour()
        if behaviour == "unavailable":
            raise BackendUnavailable("the smithy is closed")
        if behaviour == "raise":
            raise RuntimeError("the hammer broke")
        if behaviour == "hang":
            await asyncio.Event().wait()
        if behaviour == "pending":
            return self.pending(order.id)
        return Issued(certificate=self.forge(order, behaviour))

    def forge(self, order, behaviour):
        key, issuer = self._key, self._certificate
        if behaviour == "other_issuer":
            key, issuer = make_authority("Smithy Root")
        public_key = serialization.load_der_public_key(order.public_key)
        subject = order.subject
        if behaviour == "other_key":
            public_key = ec.generate_private_key(ec.SECP256R1()).public_key()
        if behaviour == "other_subject":
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "somebody else")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(order.not_before)
            .not_valid_after(order.not_after)
            .add_extension(x509.BasicConstraints(ca=behaviour == "ca", path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        )
        for extension in order.extensions:
            if behaviour == "other_names" and isinstance(extension.value, x509.SubjectAlternativeName):
                continue
            builder = builder.add_extension(extension.value, critical=extension.critical)
        if behaviour == "other_names":
            extra = x509.SubjectAlternativeName([x509.DNSName("dc.example")])
            builder = builder.add_extension(extra, critical=False)
        return builder.sign(key, hashes.SHA256())


@asynccontextmanager
async def open_smithy(settings, services):
    yield Smithy(settings)


KIND = CABackendKind(name="smithy", config=SmithySettings, open=open_smithy, remote=False)


@hookimpl
def kipuka_ca_backends():
    return [KIND]
