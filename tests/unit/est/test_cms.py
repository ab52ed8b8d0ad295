"""The certs-only message, read back by our own reader, by cryptography's and by openssl."""

from __future__ import annotations

import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from kipuka.est.cms import certs_only, read_certs_only
from kipuka.testing import der
from kipuka.testing.pki import make_root

ROOT = make_root()
ISSUING = ROOT.issue_ca("Issuing CA")
DEVICE = ISSUING.issue_client("device-1", dns=("device-1.example",))
CHAIN = [DEVICE.certificate, ISSUING.certificate, ROOT.certificate]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_message_holds_exactly_the_certificates_given(count: int):
    """RFC 5272, section 4.1: the order says nothing."""
    message = certs_only(CHAIN[:count])
    assert set(read_certs_only(message)) == set(CHAIN[:count])
    assert set(pkcs7.load_der_pkcs7_certificates(message)) == set(CHAIN[:count])


def test_the_order_given_does_not_change_the_message():
    """DER sorts a SET OF (X.690, 11.6), so the answer to cacerts is the same on every node."""
    assert certs_only(CHAIN) == certs_only(CHAIN[::-1])


def test_a_certificate_given_twice_is_written_once():
    """A root that issues by itself is both issuer and root."""
    assert certs_only([ROOT.certificate, ROOT.certificate]) == certs_only([ROOT.certificate])


def test_the_message_is_a_signed_data_without_content_and_signers():
    """RFC 5652, section 5.1: version 1, id-data, no digest algorithm, no signer."""
    encoded = ROOT.certificate.public_bytes(Encoding.DER)
    assert certs_only([ROOT.certificate]) == der.sequence(
        der.object_identifier("1.2.840.113549.1.7.2"),
        der.context(
            0,
            der.sequence(
                der.integer(1),
                der.set_of(),
                der.sequence(der.object_identifier("1.2.840.113549.1.7.1")),
                der.context(0, encoded),
                der.set_of(),
            ),
        ),
    )


def test_openssl_reads_every_certificate(tmp_path):
    """Whoever cannot read it cannot enrol: openssl is what most clients are made of."""
    file = tmp_path / "certs.p7"
    file.write_bytes(certs_only(CHAIN))
    done = subprocess.run(
        ["openssl", "pkcs7", "-inform", "DER", "-in", str(file), "-print_certs"], capture_output=True, check=True
    )
    assert set(x509.load_pem_x509_certificates(done.stdout)) == set(CHAIN)


def test_a_message_without_a_certificate_is_not_written():
    """It would be an answer that says nothing."""
    with pytest.raises(ValueError, match="says nothing"):
        certs_only([])


GOOD = certs_only([ROOT.certificate])


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(GOOD[:-1], id="cut short"),
        pytest.param(GOOD + b"\0", id="something after it"),
        pytest.param(ROOT.certificate.public_bytes(Encoding.DER), id="a certificate"),
        pytest.param(GOOD.replace(b"\x01\x07\x02", b"\x01\x07\x03", 1), id="enveloped data"),
        pytest.param(GOOD.replace(b"\x01\x07\x01", b"\x01\x07\x05", 1), id="other content"),
        pytest.param(GOOD.replace(b"\x02\x01\x01\x31\x00", b"\x02\x01\x03\x31\x00", 1), id="version 3"),
        pytest.param(
            der.sequence(
                der.object_identifier("1.2.840.113549.1.7.2"),
                der.context(
                    0,
                    der.sequence(
                        der.integer(1),
                        der.set_of(),
                        der.sequence(der.object_identifier("1.2.840.113549.1.7.1")),
                        der.context(0, b""),
                        der.set_of(),
                    ),
                ),
            ),
            id="no certificate",
        ),
        pytest.param(
            der.sequence(
                der.object_identifier("1.2.840.113549.1.7.2"),
                der.context(
                    0,
                    der.sequence(
                        der.integer(1),
                        der.set_of(),
                        der.sequence(der.object_identifier("1.2.840.113549.1.7.1")),
                        der.context(0, ROOT.certificate.public_bytes(Encoding.DER)),
                        der.set_of(der.sequence()),
                    ),
                ),
            ),
            id="a signer",
        ),
    ],
)
def test_the_reader_takes_nothing_but_a_certs_only_message(message: bytes):
    """What a client or a test reads must be the one message that RFC 7030 knows here."""
    with pytest.raises(ValueError):  # noqa: PT011 -- the texts are of cryptography's parser
        read_certs_only(message)
