"""The server's own certificate, issued by a CA of this server and recorded like any other.

In the room: what such a certificate contains, and recording it. Not in the room: files (`kipuka.cli.init`), and the
certificates of clients (`kipuka.enrolment`).
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from kipuka.api import BackendFault, CABackend, CertificateIssued, Issued, Order, Tx, timestamp
from kipuka.distinguished_names import subject_for
from kipuka.store import certificates, enrolments
from kipuka.store.database import Store
from kipuka.x509.issued import mismatch
from kipuka.x509.names import format_general_name, normal_dns

__all__ = ["ServerCertificate", "host_name", "issue_server_certificate"]

OPERATION = "server-certificate"
METHOD = "cli"
PROFILE = "tls-server"
BACKDATE = timedelta(minutes=5)


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerCertificate:
    """A new certificate and its key, both PEM: the certificate with its intermediates, without the root."""

    chain: bytes
    key: bytes


def host_name(text: str) -> x509.GeneralName:
    """The alternative name for a host given as a DNS name or an IP address. Raises ValueError with one sentence."""
    try:
        return x509.IPAddress(ipaddress.ip_address(text.removeprefix("[").removesuffix("]")))
    except ValueError:
        return x509.DNSName(normal_dns(text))


def _extensions(hosts: Sequence[x509.GeneralName]) -> tuple[x509.Extension[x509.ExtensionType], ...]:
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    values: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (usage, True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName(hosts), False),
    )
    return tuple(x509.Extension(value.oid, critical, value) for value, critical in values)


async def issue_server_certificate(
    store: Store,
    backend: CABackend,
    *,
    ca: str,
    hosts: Sequence[str],
    validity: timedelta,
    password: bytes | None = None,
) -> ServerCertificate:
    """Make a P-256 key, have the CA sign a certificate for these hosts, and record it with its audit event. With a
    password the key is encrypted.

    Raises `BackendFault` when the CA returns something else than was ordered.
    """
    names = tuple(host_name(host) for host in hosts)
    key = ec.generate_private_key(ec.SECP256R1())
    # The names that count are the alternative ones (RFC 6125); a common name has room for 64 characters only.
    subject = subject_for(hosts[0] if len(hosts[0]) <= 64 else "kipuka")
    request = x509.CertificateSigningRequestBuilder(subject).sign(key, hashes.SHA256())
    now = store.clock()
    csr = request.public_bytes(Encoding.DER)
    order = Order(
        id=secrets.token_hex(16),
        ca=ca,
        subject=subject,
        public_key=key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        extensions=_extensions(names),
        not_before=now - BACKDATE,
        not_after=now + validity,
        csr=csr,
        metadata={"label": "", "profile": PROFILE, "identity": METHOD},
    )
    answer = await backend.issue(order)
    chain = (await backend.ca_certificates()).certificates
    if not isinstance(answer, Issued):
        raise BackendFault("the CA did not issue the server's certificate at once", reason="ca_pending")
    certificate = answer.certificate
    wrong = mismatch(order, certificate, chain[0])
    if wrong is not None:
        raise BackendFault(f"the CA returned another certificate than was ordered: {wrong}", reason="ca_mismatch")
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    await _record(store, order=order, certificate=certificate, names=names)
    return ServerCertificate(
        chain=b"".join(item.public_bytes(Encoding.PEM) for item in (certificate, *chain[:-1])),
        key=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption),
    )


async def _record(
    store: Store, *, order: Order, certificate: x509.Certificate, names: Sequence[x509.GeneralName]
) -> None:
    now = store.clock()
    digest = hashes.Hash(hashes.SHA256())
    digest.update(order.csr)
    row = enrolments.NewEnrolment(
        id=order.id,
        operation=OPERATION,
        label=None,
        method=METHOD,
        identity_name=PROFILE,
        claim=None,
        ca=order.ca,
        profile=PROFILE,
        request_sha256=digest.finalize().hex(),
        csr=order.csr,
        process="command",
        lease_until=now,
        created_at=now,
    )
    formatted = tuple(format_general_name(name) for name in names)
    recorded = certificates.RecordedCertificate.of(
        certificate,
        ca=order.ca,
        label=None,
        profile=PROFILE,
        method=METHOD,
        identity_name=PROFILE,
        enrolment=order.id,
        issued_at=now,
        names=formatted,
    )
    event = CertificateIssued(
        enrolment=order.id,
        operation=OPERATION,
        label=None,
        method=METHOD,
        ca=order.ca,
        profile=PROFILE,
        serial=recorded.serial,
        fingerprint=recorded.fingerprint,
        subject=recorded.subject,
        names=formatted,
        not_before=timestamp(recorded.not_before),
        not_after=timestamp(recorded.not_after),
        channel_binding=None,
        generated_key=None,
        key_protection=None,
        key_recipient=None,
        on_behalf_of=None,
        renamed_from=None,
    )

    def unit(tx: Tx) -> None:
        enrolments.record(tx, row, recorded, None, exists=False)
        tx.audit(event)

    await store.write(unit)
