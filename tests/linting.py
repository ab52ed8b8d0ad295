"""Certificates under a linter that others wrote: pkilint, with its rules of RFC 5280 and of what binds a certificate to its issuer's.

In the room: linting one certificate, and all that a server of the suite has issued, each shape once. Not in the room: what is wrong with
certificates that tests make themselves, on purpose (`kipuka.testing.pki`).
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.server import Deployment

__all__ = ["Linting", "lint", "shape"]


def _excused(code: str, message: str) -> bool:
    """pkilint asks for two labels in a DNS name. RFC 1034, section 3.5, which RFC 5280 refers to, is content with one, and so are sites with
    host names such as `localhost`.
    """
    return code == "pkix.invalid_domain_name_syntax" and re.search(r'"(\*\.)?[A-Za-z0-9-]+"$', message) is not None


@cache
def _validators():
    """Of a certificate alone, and of one with its issuer: what to decode in both, what is looked for in the issuer's, and in the other."""
    from pkilint import document, pkix, validation
    from pkilint.pkix import algorithm, certificate, extension, key, name
    from pkilint.pkix.certificate import certificate_extension, certificate_key
    from pyasn1_alt_modules import rfc5280

    alone = certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )
    decoding = validation.ValidatorContainer(
        validators=[
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
            pkix.create_signature_algorithm_identifier_decoder(
                algorithm.SIGNATURE_ALGORITHM_IDENTIFIER_MAPPINGS, path="certificate.tbsCertificate.signature"
            ),
            certificate.create_spki_decoder(
                key.SUBJECT_PUBLIC_KEY_ALGORITHM_IDENTIFIER_MAPPINGS,
                key.SUBJECT_KEY_PARAMETER_ALGORITHM_IDENTIFIER_MAPPINGS,
            ),
        ],
        path="certificate",
    )
    of_issuer = validation.ValidatorContainer(
        validators=[
            name.IssuerSubjectNameBinaryEqualValidator(
                path="certificate.tbsCertificate.subject",
                subject_document_issuer_dn_path="subject:certificate.tbsCertificate.issuer",
            ),
            extension.IssuerSubjectKeyIdentifierBinaryEqualValidator(
                subject_auth_key_id_retriever=lambda node: document.get_document_by_name(
                    node, "subject"
                ).get_extension_by_oid(rfc5280.id_ce_authorityKeyIdentifier)
            ),
            certificate_extension.IssuerSubjectPolicyChainValidator(),
        ]
    )
    of_subject = validation.ValidatorContainer(
        validators=[
            certificate_key.SubjectSignatureVerificationValidator(
                tbs_node_retriever=lambda node: node.navigate("^.tbsCertificate"), path="certificate.signature"
            )
        ]
    )
    return alone, decoding, of_issuer, of_subject


def lint(der: bytes, issuer: bytes | None = None) -> list[str]:
    """What pkilint calls an error or a warning in a certificate, and in its relation to its issuer's; one line each."""
    from pkilint import loader
    from pkilint.validation import ValidationFindingSeverity

    alone, decoding, of_issuer, of_subject = _validators()
    load = loader.RFC5280CertificateDocumentLoader().load_der_document
    results = list(alone.validate(load(der, "certificate").root))
    if issuer is not None:
        documents = {}
        documents["issuer"] = load(issuer, "issuer", "issuer", documents)
        documents["subject"] = load(der, "subject", "subject", documents)
        for found in documents.values():
            results += decoding.validate(found.root)
        results += of_issuer.validate(documents["issuer"].root)
        results += of_subject.validate(documents["subject"].root)
    return [
        f"{told.finding.severity} {told.finding.code} {told.message or ''} at {result.node.path}"
        for result in results
        for told in result.finding_descriptions
        if told.finding.severity <= ValidationFindingSeverity.WARNING
        and not _excused(told.finding.code, told.message or "")
    ]


def shape(certificate: x509.Certificate) -> tuple[object, ...]:
    """What two certificates share of which a linter would say the same: kinds, and names but for their letters and figures."""
    key = certificate.public_key()
    size = key.key_size if isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey) else 0
    life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    return (
        certificate.issuer,
        certificate.signature_algorithm_oid,
        type(key),
        size,
        life.days,
        tuple((attribute.oid, attribute._type, _outline(str(attribute.value))) for attribute in certificate.subject),
        tuple((found.oid, found.critical, _outline(_content(found.value))) for found in certificate.extensions),
    )


def _content(value: x509.ExtensionType) -> str:
    """What stands in an extension; of key identifiers only how long they are."""
    match value:
        case x509.SubjectKeyIdentifier() | x509.AuthorityKeyIdentifier():
            return str(len(value.public_bytes()))
        case _:
            return repr(value)


def _outline(text: str) -> str:
    return re.sub(r"[0-9]+", "0", re.sub(r"[a-z]+", "a", text))


class Linting:
    """Lints what servers have issued, and remembers which shapes were good."""

    def __init__(self) -> None:
        self._good: set[tuple[object, ...]] = set()

    def examine(self, deployment: Deployment) -> list[str]:
        """What is said against the certificates in a stopped server's record, and against none of its shape before.

        Every certificate of the record is looked at, in SQLite or in PostgreSQL, and linted unless one of the same shape was good in this process. A record
        that its test has spoilt or removed is passed over where it was a file; a PostgreSQL that does not answer is a fault of the test.
        """
        try:
            issued, authorities = list(deployment.issued()), _authorities(deployment)
        except (LookupError, ValueError, OSError, sqlite3.Error):
            return []
        return list(self._examine(issued, authorities))

    def _examine(self, issued: Iterable[bytes], authorities: dict[x509.Name, bytes]) -> Iterator[str]:
        for der in issued:
            certificate = x509.load_der_x509_certificate(der)
            found = shape(certificate)
            if found in self._good:
                continue
            said = lint(der, authorities.get(certificate.issuer))
            if not said:
                self._good.add(found)
                continue
            text = certificate.public_bytes(Encoding.PEM).decode()
            yield "\n".join(["pkilint says of an issued certificate:", *said, text])


def _authorities(deployment: Deployment) -> dict[x509.Name, bytes]:
    """The issuing certificates of the local CAs, by their subject."""
    found: dict[x509.Name, bytes] = {}
    for item in deployment.settings.get("ca", ()):
        file = deployment.directory / str(item.get("cert", ""))
        if file.is_file():
            (certificate, *_) = x509.load_pem_x509_certificates(file.read_bytes())
            found[certificate.subject] = certificate.public_bytes(Encoding.DER)
    return found
