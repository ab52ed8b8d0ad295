"""From `[[profile]]` to the profile that is applied."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.x509 import ObjectIdentifier
from cryptography.x509.oid import ExtendedKeyUsageOID

from kipuka.x509.copied import NEVER_COPIED
from kipuka.x509.profiles import Profile
from tests.unit.config.conftest import GOOD, problems, settled


def test_a_profile_named_default_is_there_without_being_written(tmp_path):
    settings = settled(tmp_path, GOOD)
    profile = settings.labels[None].profile
    assert profile is settings.profiles["default"]
    assert (profile.names, profile.reenrol_names, profile.unique_keys) == ("identity", "must-match", True)
    assert profile.extended_key_usage == (ExtendedKeyUsageOID.CLIENT_AUTH,)
    assert profile.key_policy.allowed == {"rsa", "p256", "p384", "p521", "ed25519"}
    assert profile.validity is None
    assert profile.backdate == timedelta(minutes=5)


def test_every_key_of_a_profile_arrives(tmp_path):
    """RULES K5, F5, F7."""
    text = """
    [[profile]]
    name = "web"
    names = "csr"
    san_domains = ["Example.COM"]
    wildcards = true
    reenrol_names = "from-certificate"
    key_types = ["rsa"]
    min_rsa_bits = 3072
    validity_days = 0.5
    backdate_minutes = 0
    unique_keys = false
    allow_expired_for = 86400
    channel_binding = "required"
    revoke_replaced_after = 3600
    change_subject_name = true
    extended_key_usage = ["serverAuth", "1.2.3.4"]
    subject_patterns = { CN = ["*.example.com"] }
    san_patterns = { dns = ["*.example.com"], ip = ["10.0.0.0/8"] }
    [est]
    default_profile = "web"
    """
    profile = settled(tmp_path, GOOD + text).labels[None].profile
    assert (profile.name, profile.names, profile.reenrol_names) == ("web", "csr", "from-certificate")
    assert profile.san_domains == ("example.com",)
    assert profile.wildcards
    assert (profile.key_policy.allowed, profile.key_policy.min_rsa_bits) == ({"rsa"}, 3072)
    assert (profile.validity, profile.backdate) == (timedelta(hours=12), timedelta(0))
    assert not profile.unique_keys
    assert (profile.allow_expired_for, profile.channel_binding) == (timedelta(days=1), "required")
    assert profile.revoke_replaced_after == timedelta(hours=1)
    assert profile.change_subject_name
    assert [usage.dotted_string for usage in profile.extended_key_usage] == ["1.3.6.1.5.5.7.3.1", "1.2.3.4"]
    assert dict(profile.subject_patterns) == {"CN": ("*.example.com",)}
    assert dict(profile.san_patterns) == {"dns": ("*.example.com",), "ip": ("10.0.0.0/8",)}


def test_every_key_of_what_is_issued_arrives(tmp_path):
    """RULES F4, K5. URIs are written in their normal form."""
    text = """
    [[profile]]
    name = "full"
    key_types = ["rsa", "p256"]
    max_rsa_bits = 4096
    csr_signature_hashes = ["sha384", "sha3-512"]
    max_validity_days = 30
    key_usage = ["digitalSignature", "keyAgreement"]
    extended_key_usage = ["timeStamping"]
    extended_key_usage_critical = true
    subject = "CN={CN},O=Example"
    subject_required = ["commonName", "O"]
    san_required = ["dns", "upn"]
    certificate_policies = [{ oid = "1.2.3.4", cps = "HTTP://PKI.example.com/cps" }, { oid = "1.2.3.5" }]
    ca_issuers = ["http://pki.example.com/ca.cer"]
    ocsp = ["http://ocsp.example.com/"]
    crl_distribution_points = ["ldap://pki.example.com/cn=ca?certificateRevocationList"]
    copy_extensions = ["tlsFeature", "1.2.3.4"]
    [est]
    default_profile = "full"
    """
    profile = settled(tmp_path, GOOD + text).labels[None].profile
    assert (profile.key_policy.min_rsa_bits, profile.key_policy.max_rsa_bits) == (2048, 4096)
    assert profile.csr_signature_hashes == ("sha384", "sha3-512")
    assert (profile.validity, profile.max_validity) == (None, timedelta(days=30))
    assert profile.validity_under(timedelta(days=365)) == timedelta(days=30)
    assert profile.validity_under(timedelta(days=3)) == timedelta(days=3)
    assert profile.key_usage == ("digitalSignature", "keyAgreement")
    assert profile.extended_key_usage_critical
    assert profile.subject is not None
    assert profile.subject.template.text == "CN={CN},O=Example"
    assert (profile.subject_required, profile.san_required) == (("CN", "O"), ("dns", "upn"))
    assert [(policy.oid.dotted_string, policy.cps) for policy in profile.certificate_policies] == [
        ("1.2.3.4", "http://pki.example.com/cps"),
        ("1.2.3.5", None),
    ]
    assert profile.ca_issuers == ("http://pki.example.com/ca.cer",)
    assert profile.ocsp == ("http://ocsp.example.com/",)
    assert profile.crl_distribution_points == ("ldap://pki.example.com/cn=ca?certificateRevocationList",)
    assert [oid.dotted_string for oid in profile.copy_extensions] == ["1.3.6.1.5.5.7.1.24", "1.2.3.4"]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        pytest.param('extended_key_usage = ["anything"]', "extended_key_usage[0]", id="unknown usage"),
        pytest.param('extended_key_usage = ["2.5.29.37.0"]', "extended_key_usage[0]", id="anyExtendedKeyUsage"),
        pytest.param('extended_key_usage = ["1.3.6.1.5.5.7.3.9"]', "extended_key_usage[0]", id="OCSPSigning"),
        pytest.param('extended_key_usage = ["clientAuth", "1.3.6.1.5.5.7.3.2"]', "extended_key_usage[1]", id="twice"),
        pytest.param('extended_key_usage = ["cmcRA"]', "extended_key_usage[0]", id="cmcRA without clientAuth"),
        pytest.param(
            'names = "csr"\nsubject_patterns = { CN = ["a"] }\nextended_key_usage = ["clientAuth", "1.3.6.1.5.5.7.3.28"]',
            "extended_key_usage[1]",
            id="cmcRA for whoever asks",
        ),
        pytest.param('san_domains = [".example.com"]', "san_domains[0]", id="leading dot"),
        pytest.param('san_domains = ["10.0.0.1"]', "san_domains[0]", id="address"),
        pytest.param('subject_patterns = { CN = ["*"] }', "subject_patterns", id="patterns without csr"),
        pytest.param('names = "csr"\nsubject_patterns = { XX = ["*"] }', "subject_patterns.XX", id="no attribute"),
        pytest.param('names = "csr"\nsan_patterns = { ip = ["10.0.0.1/8"] }', "san_patterns.ip[0]", id="host bits"),
        pytest.param('names = "csr"\nsan_patterns = { dns = ["a b"] }', "san_patterns.dns[0]", id="space"),
        pytest.param('names = "csr"\nsan_patterns = { dn = ["a"] }', "san_patterns.dn", id="no form"),
        pytest.param('names = "csr"\nidentity_sans = ["dns"]', "identity_sans", id="names of nobody"),
        pytest.param('identity_sans = ["directory"]', "identity_sans[0]", id="no form of an identity"),
        pytest.param('extended_key_usage = ["timeStamping"]', "extended_key_usage", id="timeStamping, not critical"),
        pytest.param(
            "extended_key_usage = []\nextended_key_usage_critical = true", "extended_key_usage_critical", id="no usage"
        ),
        pytest.param('key_usage = ["keyCertSign"]', "key_usage[0]", id="signs certificates"),
        pytest.param("key_usage = []", "key_usage", id="no key usage"),
        pytest.param('key_usage = ["keyEncipherment"]', "key_usage", id="no usage for an EC key"),
        pytest.param("min_rsa_bits = 4096\nmax_rsa_bits = 3072", "min_rsa_bits", id="no RSA key"),
        pytest.param('csr_signature_hashes = ["sha1"]', "csr_signature_hashes[0]", id="SHA-1"),
        pytest.param("csr_signature_hashes = []", "csr_signature_hashes", id="no hash"),
        pytest.param("validity_days = 30\nmax_validity_days = 10", "validity_days", id="longer than the longest"),
        pytest.param('subject = "{CN}"', "subject", id="no subject"),
        pytest.param('subject = "CN={FOO}"', "subject", id="no field"),
        pytest.param('subject_required = ["FOO"]', "subject_required[0]", id="no attribute to require"),
        pytest.param('san_required = ["rid"]', "san_required[0]", id="no form to require"),
        pytest.param('names = "csr"\nsan_required = ["dns"]', "san_required[0]", id="required, and refused"),
        pytest.param('names = "csr"\nsan_required = ["upn"]', "san_required[0]", id="required, and never issued"),
        pytest.param('certificate_policies = [{ oid = "any" }]', "certificate_policies[0].oid", id="no policy"),
        pytest.param(
            'certificate_policies = [{ oid = "1.2.3", cps = "see here" }]', "certificate_policies[0].cps", id="no CPS"
        ),
        pytest.param(
            'certificate_policies = [{ oid = "1.2.3" }, { oid = "1.2.3" }]',
            "certificate_policies[1]",
            id="policy twice",
        ),
        pytest.param('ca_issuers = ["ftp://a.example/ca"]', "ca_issuers[0]", id="no scheme of today"),
        pytest.param('ocsp = ["http://"]', "ocsp[0]", id="no host"),
        pytest.param(
            'crl_distribution_points = ["http://a.example/c", "HTTP://A.example/c"]',
            "crl_distribution_points[1]",
            id="place twice",
        ),
        pytest.param('copy_extensions = ["mustStaple"]', "copy_extensions[0]", id="no extension"),
        pytest.param('copy_extensions = ["1.2.3", "1.2.3"]', "copy_extensions[1]", id="copied twice"),
        pytest.param("key_types = []", "key_types", id="no key"),
        pytest.param('key_types = ["dsa"]', "key_types[0]", id="unknown key"),
        pytest.param("validity_days = 0", "validity_days", id="no validity"),
        pytest.param("allow_expired_for = -1", "allow_expired_for", id="expired in the future"),
        pytest.param("allow_expired_for = 31536001", "allow_expired_for", id="expired for more than a year"),
        pytest.param("revoke_replaced_after = 59", "revoke_replaced_after", id="revoked at once"),
        pytest.param("channel_binding = true", "channel_binding", id="no binding"),
        pytest.param("backdate_minutes = -1", "backdate_minutes", id="in the future"),
    ],
)
def test_a_profile_that_cannot_be_meant_is_refused(tmp_path, text, key):
    """RULES F1, F4, F5."""
    found = problems(tmp_path, GOOD + f'[[profile]]\nname = "web"\n{text}\n')
    assert f"profile[web].{key}" in found
    assert all(place.startswith("profile[web].") for place in found)


@pytest.mark.parametrize("oid", sorted(oid.dotted_string for oid in NEVER_COPIED))
def test_what_decides_what_a_certificate_is_worth_is_never_copied(tmp_path, oid):
    """RULES F4: usages, constraints, key identifiers, CT's poison and the like are no client's word."""
    text = f'[[profile]]\nname = "web"\ncopy_extensions = ["{oid}"]\n'
    assert list(problems(tmp_path, GOOD + text)) == ["profile[web].copy_extensions[0]"]
    with pytest.raises(ValueError, match="never copied"):
        Profile(name="web", copy_extensions=(ObjectIdentifier(oid),))
