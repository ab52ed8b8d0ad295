"""From `[[profile]]` to the profile that is applied."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

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
    assert [usage.dotted_string for usage in profile.extended_key_usage] == ["1.3.6.1.5.5.7.3.1", "1.2.3.4"]
    assert dict(profile.subject_patterns) == {"CN": ("*.example.com",)}
    assert dict(profile.san_patterns) == {"dns": ("*.example.com",), "ip": ("10.0.0.0/8",)}


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
