"""What is signed, and what never is: RFC 5280, RULES F6 and F7."""

from __future__ import annotations

import subprocess
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ObjectIdentifier

from kipuka.api import BackendFault, BackendUnavailable, ReportsHealth
from kipuka.testing.pki import common_name, make_key, make_root

SECOND = timedelta(seconds=1)


def spki(key):
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def compressed():
    """A P-256 key whose point is compressed (RFC 5480, 2.2): the same key, in other bytes."""
    point = make_key("p256").public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    return bytes.fromhex("3039301306072a8648ce3d020106082a8648ce3d030107032200") + point


def openssl(*arguments, content=None):
    run = subprocess.run(["openssl", *arguments], input=content, capture_output=True, check=False)
    assert run.returncode == 0, run.stderr.decode() + run.stdout.decode()
    return run.stdout.decode()


def verify(certificate, issuing, tmp_path):
    """`openssl verify` with the strictest reading of RFC 5280 that it has."""
    (tmp_path / "root.pem").write_bytes(issuing.root.pem)
    (tmp_path / "issuing.pem").write_bytes(issuing.pem)
    (tmp_path / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    openssl(
        "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", str(tmp_path / "root.pem"),
        "-untrusted", str(tmp_path / "issuing.pem"), str(tmp_path / "leaf.pem"),
    )  # fmt: skip


@pytest.mark.parametrize("subject_key", ["rsa2048", "p256", "p384", "p521", "ed25519"])
@pytest.mark.parametrize("ca_key", ["p256", "ed25519"])
async def test_every_kind_of_key_is_certified_and_verified_by_openssl(
    open_ca, make_order, tmp_path, ca_key, subject_key
):
    issuing = make_root(key=ca_key).issue_ca("Issuing CA", key=ca_key)
    ca = await open_ca(issuing)
    order = make_order(public_key=spki(make_key(subject_key)))
    certificate = (await ca.issue(order)).certificate
    verify(certificate, issuing, tmp_path)
    assert spki_of(certificate) == order.public_key


@pytest.mark.parametrize(
    ("ca_key", "algorithm", "threads"),
    [
        ("rsa2048", "sha256WithRSAEncryption", 1),
        ("rsa3072", "sha256WithRSAEncryption", 1),
        ("rsa4096", "sha384WithRSAEncryption", 1),
        ("p256", "ecdsa-with-SHA256", 0),
        ("p384", "ecdsa-with-SHA384", 0),
        ("p521", "ecdsa-with-SHA512", 0),
        ("ed25519", "ED25519", 0),
    ],
)
async def test_the_hash_goes_by_the_cas_key_and_rsa_signs_in_a_thread(
    open_ca, make_order, services, tmp_path, *, ca_key, algorithm, threads
):
    issuing = make_root().issue_ca("Issuing CA", key=ca_key)
    ca = await open_ca(issuing)
    certificate = (await ca.issue(make_order())).certificate
    verify(certificate, issuing, tmp_path)
    text = openssl("x509", "-noout", "-text", content=certificate.public_bytes(Encoding.PEM))
    assert f"Signature Algorithm: {algorithm}\n" in text
    assert services.blocking == threads


async def test_the_fields_are_those_of_rfc_5280(open_ca, make_order, services):
    issuing = make_root().issue_ca("Issuing CA", not_after=services.clock() + timedelta(days=365))
    ca = await open_ca(issuing)
    order = make_order()
    certificate = (await ca.issue(order)).certificate
    assert certificate.version is x509.Version.v3
    assert certificate.issuer == issuing.certificate.subject
    assert certificate.subject == order.subject
    assert spki_of(certificate) == order.public_key
    assert timedelta(0) <= order.not_before - certificate.not_valid_before_utc < SECOND
    assert timedelta(0) <= order.not_after - certificate.not_valid_after_utc < SECOND
    extensions = list(certificate.extensions)
    # the order's, as they were given and in their order; then those that are the CA's
    assert [(one.oid, one.critical, one.value) for one in extensions[:3]] == [
        (one.oid, one.critical, one.value) for one in order.extensions
    ]
    assert [(one.oid, one.critical) for one in extensions[3:]] == [
        (x509.BasicConstraints.oid, True),
        (x509.SubjectKeyIdentifier.oid, False),
        (x509.AuthorityKeyIdentifier.oid, False),
    ]
    assert extensions[3].value == x509.BasicConstraints(ca=False, path_length=None)
    assert extensions[4].value == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    identifier = issuing.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert extensions[5].value.key_identifier == identifier.digest


def spki_of(certificate):
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


async def test_the_issuers_own_identifier_is_used_however_it_was_made(open_ca, make_order):
    """RFC 5280, 4.2.1.1: it need not be a hash of the key."""
    odd = x509.Extension(x509.SubjectKeyIdentifier.oid, False, x509.SubjectKeyIdentifier(b"\x01\x02\x03"))
    key = make_key()
    root = make_root(key=key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(common_name("Issuing CA"))
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(root.certificate.not_valid_before_utc)
        .not_valid_after(root.certificate.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    from cryptography.hazmat.primitives.hashes import SHA256
    from kipuka_ca_local.backend import authority_key_identifier

    with_odd = builder.add_extension(odd.value, critical=False).sign(key, SHA256())
    without = builder.sign(key, SHA256())
    assert authority_key_identifier(with_odd).key_identifier == b"\1\2\3"
    assert (
        authority_key_identifier(without).key_identifier
        == x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    )


async def test_serial_numbers_are_random_positive_and_of_at_most_20_octets(open_ca, make_order):
    """RFC 5280, 4.1.2.2."""
    ca = await open_ca()
    serials = [(await ca.issue(make_order())).certificate.serial_number for _ in range(50)]
    assert len(set(serials)) == 50
    assert all(0 < serial < 1 << 159 for serial in serials)
    assert max(serials) > 1 << 150


async def test_validity_is_clipped_to_the_issuers(open_ca, make_order, services):
    now = services.clock().replace(microsecond=0)
    issuing = make_root().issue_ca(
        "Issuing CA", not_before=now - timedelta(minutes=1), not_after=now + timedelta(days=10)
    )
    ca = await open_ca(issuing)
    certificate = (await ca.issue(make_order())).certificate
    assert certificate.not_valid_before_utc == issuing.certificate.not_valid_before_utc
    assert certificate.not_valid_after_utc == issuing.certificate.not_valid_after_utc


async def test_validity_is_never_extended(open_ca, make_order, services):
    ca = await open_ca()
    order = make_order(not_after=services.clock() + timedelta(hours=1))
    assert (await ca.issue(order)).certificate.not_valid_after_utc <= order.not_after


async def test_a_ca_whose_certificate_has_expired_meanwhile_signs_nothing(open_ca, make_order, services):
    now = services.clock()
    ca = await open_ca(make_root().issue_ca("Issuing CA", not_after=now + timedelta(days=1)))
    assert isinstance(ca, ReportsHealth)
    assert await ca.health() is None
    services.clock.advance(timedelta(days=2))
    with pytest.raises(BackendUnavailable) as caught:
        await ca.issue(make_order())
    assert (caught.value.reason, caught.value.detail) == ("ca_expired", "the CA's certificate has expired")
    assert await ca.health() == "the CA's certificate has expired"
    services.clock.advance(timedelta(days=-3))
    services.clock.advance(timedelta(days=-365 * 50))
    assert await ca.health() == "the CA's certificate is not valid yet"


async def test_the_empty_subject_is_issued_with_its_critical_names(open_ca, make_order, tmp_path):
    """RFC 5280, 4.2.1.6: criticality is the order's."""
    issuing = make_root().issue_ca("Issuing CA")
    ca = await open_ca(issuing)
    names = x509.Extension(
        x509.SubjectAlternativeName.oid,
        True,
        x509.SubjectAlternativeName([x509.DNSName("device-1.example")]),
    )
    certificate = (await ca.issue(make_order(subject=x509.Name([]), extensions=(names,)))).certificate
    assert certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    verify(certificate, issuing, tmp_path)


async def test_basic_constraints_of_the_order_are_not_repeated(open_ca, make_order):
    ca = await open_ca()
    constraints = x509.BasicConstraints(ca=False, path_length=None)
    order = make_order(extensions=(x509.Extension(constraints.oid, True, constraints),))
    certificate = (await ca.issue(order)).certificate
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value == constraints


def usage(**set_bits):
    bits = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
        False,
    )  # fmt: skip
    return x509.KeyUsage(**{**bits, **set_bits})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        pytest.param(x509.BasicConstraints(ca=True, path_length=None), "order_for_a_ca", id="CA:TRUE"),
        pytest.param(x509.BasicConstraints(ca=True, path_length=0), "order_for_a_ca", id="CA:TRUE, pathlen 0"),
        pytest.param(usage(key_cert_sign=True), "order_for_a_ca", id="keyCertSign"),
        pytest.param(usage(digital_signature=True, crl_sign=True), "order_for_a_ca", id="cRLSign"),
        pytest.param(
            x509.UnrecognizedExtension(x509.BasicConstraints.oid, bytes.fromhex("30030101ff")),
            "bad_order",
            id="CA:TRUE as opaque bytes",
        ),
        pytest.param(
            x509.UnrecognizedExtension(x509.KeyUsage.oid, bytes.fromhex("03020106")),
            "bad_order",
            id="keyCertSign as opaque bytes",
        ),
        pytest.param(x509.SubjectKeyIdentifier(b"\1" * 20), "bad_order", id="SKI"),
        pytest.param(x509.AuthorityKeyIdentifier(b"\1" * 20, None, None), "bad_order", id="AKI"),
    ],
)
async def test_no_order_makes_a_ca(open_ca, make_order, value, reason):
    ca = await open_ca()
    with pytest.raises(BackendFault) as caught:
        await ca.issue(make_order(extensions=(x509.Extension(value.oid, True, value),)))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"public_key": b""}, id="no key"),
        pytest.param({"public_key": b"\x30\x03\x02\x01\x00"}, id="not a key"),
        pytest.param({"public_key": spki(make_key()) + b"\0"}, id="bytes after the key"),
        pytest.param({"public_key": compressed()}, id="a compressed point"),
        pytest.param(
            {
                "extensions": tuple(
                    x509.Extension(
                        ObjectIdentifier("1.2.3"),
                        False,
                        x509.UnrecognizedExtension(ObjectIdentifier("1.2.3"), b"\5\0"),
                    )
                    for _ in range(2)
                )
            },
            id="an extension twice",
        ),
    ],
)
async def test_an_order_that_cannot_be_made_into_a_certificate_is_a_fault(open_ca, make_order, changes):
    ca = await open_ca()
    with pytest.raises(BackendFault) as caught:
        await ca.issue(make_order(**changes))
    assert caught.value.reason == "bad_order"


async def test_an_order_that_ends_before_the_issuer_begins_is_a_fault(open_ca, make_order, services):
    ca = await open_ca()
    long_ago = services.clock() - timedelta(days=365 * 60)
    with pytest.raises(BackendFault):
        await ca.issue(make_order(not_before=long_ago, not_after=long_ago + timedelta(days=1)))
