"""A CA that signs for everybody, or does what no CA may."""

import datetime as dt
from contextlib import asynccontextmanager

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from kipuka.api import CABackendKind, CertificateChain, Issued, hookimpl
from stranger_unruly.behaviour import Settings, misbehave

KIPUKA_API = "1.0"


class UnrulyCA:
    def __init__(self, settings):
        self.settings = settings
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Unruly Root")])
        now = dt.datetime.now(dt.UTC)
        builder = self._builder(name, name, self.key.public_key(), now - dt.timedelta(days=1), now.replace(year=2090))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.certificate = builder.sign(self.key, hashes.SHA256())

    def _builder(self, subject, issuer, public_key, start, end):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False)
        )

    async def ca_certificates(self):
        instead = await misbehave(self.settings, "ca_certificates")
        return CertificateChain((self.certificate,)) if instead is None else instead[0]

    async def issue(self, order):
        instead = await misbehave(self.settings, "issue")
        if instead is not None:
            return instead[0]
        key = serialization.load_der_public_key(order.public_key)
        builder = self._builder(order.subject, self.certificate.subject, key, order.not_before, order.not_after)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        for extension in order.extensions:
            builder = builder.add_extension(extension.value, critical=extension.critical)
        return Issued(certificate=builder.sign(self.key, hashes.SHA256()))

    async def health(self):
        instead = await misbehave(self.settings, "ca_health")
        return None if instead is None else instead[0]


@asynccontextmanager
async def open_authority(settings, services):
    yield UnrulyCA(settings)


@hookimpl
def kipuka_ca_backends():
    return [CABackendKind(name="unruly_ca", config=Settings, open=open_authority, remote=False)]
