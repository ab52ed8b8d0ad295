"""What `[[profile]]` says, over the wire: refusals name their rule to the client and to the auditor, and certificates are as they were ordered."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from kipuka.distinguished_names import format_dn, parse_dn
from kipuka.testing.pki import make_csr, make_key

pytestmark = pytest.mark.server

PRIVATE = x509.ObjectIdentifier("1.3.6.1.4.1.99999.7")
STRICT = {
    "name": "strict",
    "names": "csr",
    "key_types": ["rsa", "p256"],
    "min_rsa_bits": 3072,
    "csr_signature_hashes": ["sha256"],
    "subject_patterns": {"CN": ["device-*"]},
    "subject_required": ["CN"],
    "san_patterns": {"dns": ["*.example.com"]},
    "san_required": ["dns"],
    "copy_extensions": [PRIVATE.dotted_string],
}
FULL = {
    "name": "full",
    "subject": "CN={CN},O=Example,C=DE",
    "subject_required": ["O"],
    "key_usage": ["digitalSignature", "contentCommitment", "keyAgreement"],
    "extended_key_usage": ["clientAuth", "1.3.6.1.4.1.99999.1"],
    "certificate_policies": [{"oid": "1.3.6.1.4.1.99999.2", "cps": "http://pki.example.com/cps"}],
    "ca_issuers": ["http://pki.example.com/ca.cer"],
    "ocsp": ["http://ocsp.example.com"],
    "crl_distribution_points": ["http://pki.example.com/ca.crl"],
    "copy_extensions": ["tlsFeature"],
    "max_validity_days": 10,
}


@pytest.fixture(scope="module")
def server(kipuka_servers):
    labels = [{"name": profile["name"], "profile": profile["name"]} for profile in (STRICT, FULL)]
    return kipuka_servers({"est": {"label": labels}, "profile": [{"name": "default"}, STRICT, FULL]})


def asked(value: bytes, *, critical: bool = False):
    return x509.Extension(PRIVATE, critical, x509.UnrecognizedExtension(PRIVATE, value))


@pytest.mark.parametrize(
    ("rule", "status", "csr"),
    [
        ("key_types", 400, {"key": "ed25519"}),
        ("min_rsa_bits", 400, {"key": "rsa2048"}),
        ("csr_signature_hashes", 400, {"signature": "sha384"}),
        ("copy_extensions", 400, {"extensions": (asked(b"\5\0", critical=True),)}),
        ("copy_extensions", 400, {"extensions": (asked(b"\5"),)}),
        ("subject_patterns", 403, {"common_name": "dc1"}),
        ("subject_required", 403, {"common_name": None}),
        ("san_patterns", 403, {"dns": ("a.example.org",)}),
        ("san_required", 403, {"dns": ()}),
        ("wildcards", 403, {"dns": ("*.example.com",)}),
    ],
)
def test_a_refusal_names_its_rule_and_gives_the_use_back(server, rule, status, csr):
    """RULES C2, C3: 400 for a bad key, request or proof of possession, 403 for a name."""
    token = server.make_token(label="strict")
    after = server.last_sequence
    answer = server.client().enroll(make_csr(**({"dns": ("a.example.com",)} | csr)), token=token.value, label="strict")
    assert (answer.status, answer.text.rstrip().endswith(f"(rule {rule})")) == (status, True), answer.text
    server.wait_for_audit("certificate_refused", after=after, rule=rule, detail=answer.text.rstrip())
    assert server.view_token(token)["used"] == 0


def test_a_request_that_breaks_no_rule_gets_its_certificate(server):
    token = server.make_token(label="strict")
    request = make_csr(dns=("a.example.com",), extensions=(asked(b"\x0c\2hi"),))
    answer = server.client().enroll(request, token=token.value, label="strict")
    assert answer.status == 200, answer.text
    copied = answer.certificate.extensions.get_extension_for_oid(PRIVATE)
    assert (copied.critical, copied.value.value) == (False, b"\x0c\2hi")


def test_a_certificate_says_all_that_its_profile_says(server):
    """RULES F4, F6, F7: nothing else, and no longer than the profile allows, whatever the CA's own period is."""
    token = server.make_token("device-1", label="full")
    staple = x509.TLSFeature([x509.TLSFeatureType.status_request])
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    wanted = tuple(x509.Extension(value.oid, False, value) for value in (staple, usages))
    answer = server.client().enroll(make_csr(common_name="x", extensions=wanted), token=token.value, label="full")
    assert answer.status == 200, answer.text
    certificate = answer.certificate
    assert format_dn(certificate.subject) == "CN=device-1,O=Example,C=DE"
    found = {extension.oid: extension for extension in certificate.extensions}
    assert found.keys() == {
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.AUTHORITY_INFORMATION_ACCESS,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
        ExtensionOID.TLS_FEATURE,
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
    usage = found[ExtensionOID.KEY_USAGE].value
    assert (usage.digital_signature, usage.content_commitment, usage.key_agreement) == (True, True, True)
    assert [oid.dotted_string for oid in found[ExtensionOID.EXTENDED_KEY_USAGE].value] == [
        "1.3.6.1.5.5.7.3.2",
        "1.3.6.1.4.1.99999.1",
    ]
    assert found[ExtensionOID.TLS_FEATURE].value == staple
    assert 9 < (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() / 86400 < 10.1


def test_a_device_renews_under_a_profile_that_puts_subjects_together(server):
    """RULES F2: the subject of the certificate, not put together once more."""
    device = server.enrol("device-2", label="full")
    subject = parse_dn("CN=device-2,O=Example,C=DE")
    assert device.subject == subject
    answer = server.client(device).reenroll(make_csr(subject=subject), label="full")
    assert answer.status == 200, answer.text
    assert answer.certificate.subject == subject
    refused = server.client(device).reenroll(make_csr(common_name="device-2"), label="full")
    assert (refused.status, "(rule reenrol_names)" in refused.text) == (403, True), refused.text


def test_a_key_that_has_another_holder_is_refused_by_its_rule(server):
    key = make_key("p256")
    for client_id, status in (("first", 200), ("second", 400)):
        token = server.make_token(client_id, label="full")
        answer = server.client().enroll(make_csr(key=key), token=token.value, label="full")
        assert answer.status == status, answer.text
    assert answer.text.rstrip() == "the key is recorded for another name, make a new one (rule unique_keys)"
