"""Requests as the openssl command makes them: what most people will send."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from kipuka.api.errors import BadCSR, ProofOfPossessionFailed
from kipuka.est.csr import CertificateRequest
from kipuka.est.wire import decode_request

pytestmark = pytest.mark.interop

KEYS = {
    "RSA-2048": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "P-256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "P-384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "P-521": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
    "Ed25519": ["-algorithm", "ED25519"],
    "Ed448": ["-algorithm", "ED448"],
}


def openssl(*arguments: str, cwd: Path) -> bytes:
    return subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, check=True).stdout


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("keys")
    for name, arguments in KEYS.items():
        openssl("genpkey", *arguments, "-out", f"{name}.pem", cwd=directory)
    return directory


def request(keys: Path, key: str, *arguments: str) -> bytes:
    return openssl("req", "-new", "-key", f"{key}.pem", "-subj", "/O=Example/CN=device-1", *arguments, cwd=keys)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(
    "form", [[], ["-text"], ["-outform", "DER"], ["-newhdr"]], ids=["PEM", "text", "DER", "newhdr"]
)
def test_what_openssl_writes_is_read_and_believed(keys: Path, key: str, form: list[str]):
    """Each kind of key in each form of output, with names asked for."""
    body = request(keys, key, "-addext", "subjectAltName=DNS:device-1.example,IP:192.0.2.1", *form)
    csr = CertificateRequest.from_der(decode_request(body))
    assert csr.subject.rfc4514_string() == "CN=device-1,O=Example"
    assert csr.key_description == key
    assert len(csr.sans) == 2
    csr.verify_possession()


@pytest.mark.parametrize(
    ("digest", "padding"),
    [
        *((digest, "pkcs1") for digest in ("sha256", "sha384", "sha512", "sha3-256")),
        *((digest, "pss") for digest in ("sha256", "sha384", "sha512")),
    ],
)
def test_rsa_signatures_of_openssl_verify(keys: Path, digest: str, padding: str):
    """PKCS#1 v1.5 and PSS (RFC 8017)."""
    body = request(keys, "RSA-2048", f"-{digest}", "-sigopt", f"rsa_padding_mode:{padding}")
    CertificateRequest.from_der(decode_request(body)).verify_possession()


def test_a_request_signed_with_sha1_by_openssl_is_refused(keys: Path):
    """MD5 and SHA-1 prove nothing."""
    csr = CertificateRequest.from_der(decode_request(request(keys, "RSA-2048", "-sha1")))
    with pytest.raises(ProofOfPossessionFailed, match="hash"):
        csr.verify_possession()


def test_the_challenge_password_that_openssl_asks_for_is_read(keys: Path):
    """From the `attributes` section of its configuration, as many people have it."""
    (keys / "challenge.cnf").write_text(
        "[req]\nprompt=no\ndistinguished_name=dn\nattributes=attr\n[dn]\nCN=device-1\n[attr]\nchallengePassword=secret12\n"
    )
    body = openssl("req", "-new", "-key", "P-256.pem", "-config", "challenge.cnf", cwd=keys)
    csr = CertificateRequest.from_der(decode_request(body))
    assert csr.challenge_password == "secret12"
    assert b"secret12" not in csr.stripped_der
    csr.verify_possession()


def test_openssl_reads_what_is_kept_of_a_request(keys: Path):
    """The stripped request is DER that others read too, with the names in it."""
    (keys / "names.cnf").write_text(
        "[req]\nprompt=no\ndistinguished_name=dn\nattributes=attr\nreq_extensions=ext\n[dn]\nCN=device-1\n"
        "[attr]\nchallengePassword=secret12\n[ext]\nsubjectAltName=DNS:device-1.example\nbasicConstraints=CA:TRUE\n"
    )
    body = openssl("req", "-new", "-key", "P-256.pem", "-config", "names.cnf", cwd=keys)
    csr = CertificateRequest.from_der(decode_request(body))
    assert csr.wants_ca
    assert csr.sans == (x509.DNSName("device-1.example"),)
    (keys / "kept.der").write_bytes(csr.stripped_der)
    text = openssl("req", "-inform", "DER", "-in", "kept.der", "-noout", "-text", cwd=keys).decode()
    assert "DNS:device-1.example" in text
    assert "challengePassword" not in text


def test_explicit_curve_parameters_are_refused(keys: Path):
    """RFC 5480, section 2.1.1: only named curves; parameters of the client's choice are an attack (CVE-2020-0601)."""
    openssl(
        "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-pkeyopt", "ec_param_enc:explicit",
        "-out", "explicit.pem", cwd=keys,
    )  # fmt: skip
    with pytest.raises(BadCSR) as refused:
        CertificateRequest.from_der(decode_request(request(keys, "explicit")))
    assert refused.value.reason == "csr_curve"


def test_a_key_that_is_for_pss_only_is_read(keys: Path):
    """id-RSASSA-PSS (RFC 4055): named for what it is; whether it is taken is the profile's affair."""
    openssl("genpkey", "-algorithm", "RSA-PSS", "-pkeyopt", "rsa_keygen_bits:2048", "-out", "pss-only.pem", cwd=keys)
    csr = CertificateRequest.from_der(decode_request(request(keys, "pss-only")))
    assert csr.key_description == "RSA-PSS-2048"
