"""The throwaway PKI makes what it says, as OpenSSL's command line and cryptography see it."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from kipuka.testing import der
from kipuka.testing.pki import CLIENT_AUTH, SERVER_AUTH, Attribute, common_name, make_csr, make_key, make_root


def verify(leaf, *anchors, untrusted=(), options=("-purpose", "sslclient"), tmp_path):
    """OpenSSL's verdict on the leaf: an empty text, or its complaint."""
    (tmp_path / "anchors.pem").write_bytes(b"".join(anchor.pem for anchor in anchors))
    (tmp_path / "untrusted.pem").write_bytes(b"".join(above.pem for above in untrusted))
    (tmp_path / "leaf.pem").write_bytes(leaf.pem)
    command = ["openssl", "verify", "-CAfile", tmp_path / "anchors.pem", *options]
    if untrusted:
        command += ["-untrusted", tmp_path / "untrusted.pem"]
    done = subprocess.run([*command, tmp_path / "leaf.pem"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def root():
    return make_root()


@pytest.fixture(scope="module")
def issuing(root):
    return root.issue_ca("Issuing")


@pytest.mark.parametrize("key", ["rsa2048", "p256", "p384", "p521", "ed25519", "ed448"])
def test_a_client_certificate_of_each_key_type_is_good_to_openssl(root, issuing, key, tmp_path):
    leaf = issuing.issue_client("device-1", key=key)
    assert verify(leaf, root, untrusted=leaf.chain, tmp_path=tmp_path) == ""


@pytest.mark.parametrize("key", ["rsa2048", "p256", "p384", "p521", "ed25519"])
def test_an_authority_of_each_key_type_signs_what_openssl_verifies(key, tmp_path):
    root = make_root(key=key)
    assert verify(root.issue_client(), root, tmp_path=tmp_path) == ""


@pytest.mark.parametrize("kind", ["sha256", "sha384", "sha512", "pss"])
def test_an_rsa_authority_signs_with_each_algorithm(kind, tmp_path):
    root = make_root(key="rsa2048", signature=kind)
    assert verify(root.issue_client(signature=kind), root, tmp_path=tmp_path) == ""


@pytest.mark.parametrize("kind", ["md5", "sha1"])
def test_a_weak_signature_is_made_and_verifies_as_such(kind, tmp_path):
    root = make_root(key="rsa2048")
    leaf = root.issue_client(signature=kind)
    assert leaf.certificate.signature_hash_algorithm.name == kind
    weak_allowed = ("-purpose", "sslclient", "-auth_level", "0")
    assert verify(leaf, root, options=weak_allowed, tmp_path=tmp_path) == ""


def test_the_chain_has_the_intermediates_nearest_first_and_no_root(root):
    one = root.issue_ca("one")
    two = one.issue_ca("two")
    leaf = two.issue_client()
    assert leaf.chain == (two, one)
    assert leaf.root is root
    assert root.chain == ()
    assert leaf.chain_pem == leaf.pem + two.pem + one.pem


@pytest.mark.parametrize(
    ("oddity", "complaint"),
    [
        pytest.param({"break_signature": True}, "signature failure", id="bad signature"),
        pytest.param({"extended_key_usage": (SERVER_AUTH,)}, "purpose", id="server only"),
        pytest.param({"not_after": datetime.now(UTC) - timedelta(days=1)}, "expired", id="expired"),
        pytest.param({"not_before": datetime.now(UTC) + timedelta(hours=1)}, "not yet valid", id="not yet valid"),
    ],
)
def test_an_odd_leaf_is_refused_by_openssl_for_its_oddity(root, oddity, complaint, tmp_path):
    leaf = root.issue("odd", **{"extended_key_usage": (CLIENT_AUTH,), **oddity})
    assert complaint in verify(leaf, root, tmp_path=tmp_path)


def test_a_broken_path_length_is_refused_by_openssl(root, tmp_path):
    narrow = root.issue_ca("narrow", path_length=0)
    leaf = narrow.issue_ca("too deep").issue_client()
    assert "path length" in verify(leaf, root, untrusted=leaf.chain, tmp_path=tmp_path)


def test_a_broken_name_constraint_is_refused_by_openssl(root, tmp_path):
    narrow = root.issue_ca("narrow", permitted_dns=("good.example",))
    inside = narrow.issue_client(dns=("a.good.example",))
    outside = narrow.issue_client(dns=("a.bad.example",))
    assert verify(inside, root, untrusted=inside.chain, tmp_path=tmp_path) == ""
    assert "permitted subtree" in verify(outside, root, untrusted=outside.chain, tmp_path=tmp_path)


def test_a_self_signed_leaf_vouches_for_itself_only(root, tmp_path):
    leaf = make_root("alone", ca=False, key_usage=("digital_signature",), extended_key_usage=(CLIENT_AUTH,))
    assert leaf.certificate.issuer == leaf.certificate.subject
    assert "self-signed" in verify(leaf, root, tmp_path=tmp_path)


def test_a_year_beyond_2049_is_written_as_generalized_time(root):
    late = datetime(2061, 2, 3, 4, 5, 6, tzinfo=UTC)
    assert root.issue_client(not_after=late).certificate.not_valid_after_utc == late


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("rsa1024", rsa.RSAPublicKey), ("p384", ec.EllipticCurvePublicKey), ("ed25519", ed25519.Ed25519PublicKey)],
)
def test_a_csr_carries_its_key_and_a_signature_that_verifies(kind, expected):
    request = x509.load_der_x509_csr(make_csr(key=kind).der)
    assert request.is_signature_valid
    assert isinstance(request.public_key(), expected)


def test_a_csr_carries_names_challenge_and_attributes():
    made = make_csr(
        common_name="device-7",
        dns=("device-7.example",),
        ip=("192.0.2.7",),
        challenge_password="c2VjcmV0",
        attributes=(Attribute(oid="1.2.3.4", values=(der.utf8("odd"),)),),
    )
    request = x509.load_der_x509_csr(made.der)
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert request.subject == common_name("device-7")
    assert names.get_values_for_type(x509.DNSName) == ["device-7.example"]
    assert request.attributes.get_attribute_for_oid(x509.ObjectIdentifier("1.2.840.113549.1.9.7")).value == b"c2VjcmV0"
    assert request.attributes.get_attribute_for_oid(x509.ObjectIdentifier("1.2.3.4")).value == b"odd"
    assert x509.load_pem_x509_csr(made.pem) == request


def test_a_csr_is_broken_on_request():
    assert not x509.load_der_x509_csr(make_csr(break_signature=True).der).is_signature_valid
    assert not x509.load_der_x509_csr(make_csr(signing_key=make_key()).der).is_signature_valid
    assert x509.load_der_x509_csr(make_csr(common_name=None).der).subject == x509.Name([])


def test_written_keys_are_private_to_their_owner(root, tmp_path):
    certificate, key = root.issue_client().write(tmp_path, "client")
    assert key.stat().st_mode & 0o777 == 0o600
    assert certificate.read_bytes().count(b"BEGIN CERTIFICATE") == 1
