"""Re-enrolment: whose certificates may be renewed, where, and under which names (RFC 7030, 4.2.2; RULES B4, B5, F2, F5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from kipuka.testing.pki import Credential, common_name, make_csr, make_root

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(kipuka_servers):
    foreign = make_root("Partner")
    server = kipuka_servers(
        {
            "est": {"label": [{"name": "factory"}, {"name": "lenient", "profile": "lenient"}]},
            "tls": {"client_auth": {"trust_anchors": "both.pem"}},
            "profile": [{"name": "default"}, {"name": "lenient", "reenrol_names": "from-certificate"}],
        },
        start=False,
    )
    own = (server.deployment.directory / "client-anchors.pem").read_bytes()
    (server.deployment.directory / "both.pem").write_bytes(own + foreign.pem)
    server.foreign = foreign
    return server.start()


@pytest.fixture(scope="module")
def device(server):
    return server.enrol("renewing")


@pytest.mark.parametrize("new_key", [False, True])
@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_device_renews_with_its_old_key_or_a_new_one(server, device, new_key, version):
    """RFC 7030, 4.2.2: the new certificate has the same names, a serial of its own, and is recorded."""
    csr = make_csr(device.subject, key="p384" if new_key else device.key)
    renewed = server.client(device, tls_version=version).reenroll(csr).certificate
    assert renewed.subject == device.subject
    assert renewed.serial_number != device.certificate.serial_number
    assert server.recorded(renewed)["identity"]


def test_a_chain_of_renewals_goes_on(server):
    """The renewed certificate renews in its turn."""
    device = server.enrol("long-lived")
    for _ in range(3):
        csr = make_csr(device.subject)
        renewed = server.client(device).reenroll(csr).certificate
        device = Credential(key=csr.key, der=renewed.public_bytes(Encoding.DER))
    assert device.subject == common_name("long-lived")


def test_another_subject_is_refused_and_the_right_one_told(server, device):
    """RULES F2: a refusal names what was expected."""
    answer = server.client(device).reenroll(make_csr(common_name="domain-controller"))
    assert answer.status == 403
    assert "CN=renewing" in answer.text


def test_other_alternative_names_are_refused(server):
    """RULES F2: SANs must be the certificate's, no more and no fewer."""
    token = server.make_token("named", san=["DNS:named.example"])
    csr = make_csr(dns=("named.example",))
    issued = server.client().enroll(csr, token=token.value).certificate
    device = Credential(key=csr.key, der=issued.public_bytes(Encoding.DER))
    client = server.client(device)
    for dns in ((), ("named.example", "dc.example"), ("dc.example",)):
        answer = client.reenroll(make_csr(device.subject, key=device.key, dns=dns))
        assert answer.status == 403
        assert "named.example" in answer.text
    assert client.reenroll(make_csr(device.subject, key=device.key, dns=("NAMED.example",))).status == 200


def test_names_are_compared_by_meaning_not_by_octets(server, device):
    """RULES F2; RFC 5280, 7.1: case and inner white space do not matter, the encoding neither."""
    shouted = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "RENEWING", _ASN1Type.PrintableString)])
    answer = server.client(device).reenroll(make_csr(shouted, key=device.key))
    assert answer.status == 200, answer.text


def test_a_lenient_profile_issues_the_certificates_names(server):
    """RULES F2: `reenrol_names = "from-certificate"`."""
    device = server.enrol("forgetful", label="lenient")
    renewed = server.client(device).reenroll(make_csr(common_name="what was it"), label="lenient").certificate
    assert renewed.subject == common_name("forgetful")


def test_a_certificate_of_another_ca_enrols_but_does_not_renew(server):
    """RULES B5: certificates of other CAs use simpleenroll; the refusal names this label's CA."""
    device = server.foreign.issue_client("partner-device")
    csr = make_csr(device.subject, key=device.key)
    refused = server.client(device).reenroll(csr)
    assert refused.status == 403
    assert server.deployment.authority().subject.rfc4514_string() in refused.text
    assert server.client(device).enroll(csr).status == 200


def test_a_certificate_renews_at_the_label_it_was_recorded_for(server):
    """RULES B5: the refusal says where."""
    device = server.enrol("at-the-factory", label="factory")
    csr = make_csr(device.subject, key=device.key)
    refused = server.client(device).reenroll(csr)
    assert refused.status == 403
    assert "factory" in refused.text
    assert server.client(device).reenroll(csr, label="factory").status == 200


def test_an_expired_certificate_does_not_renew(server):
    """RULES B4: `allow_expired_for` is 0."""
    device = server.deployment.authority().issue_client("late", not_after=datetime.now(UTC) - timedelta(seconds=30))
    refused = server.client(device).reenroll(make_csr(device.subject, key=device.key))
    assert (refused.status, refused.text) == (403, "client certificate expired")


def test_a_key_of_another_identity_is_refused_and_the_option_named(server, device):
    """RULES F5: `unique_keys`; whose key it is is nobody else's business."""
    token = server.make_token("impostor")
    answer = server.client().enroll(make_csr(key=device.key), token=token.value)
    assert answer.status == 400
    assert "unique_keys" in answer.text
    assert "renewing" not in answer.text
    assert server.client().enroll(make_csr(), token=token.value).status == 200


def test_keys_may_be_shared_where_the_profile_says_so(kipuka_servers):
    """RULES F5: `unique_keys = false`."""
    server = kipuka_servers({"profile": [{"name": "default", "unique_keys": False}]})
    device = server.enrol("first")
    answer = server.client().enroll(make_csr(key=device.key), token=server.make_token("second").value)
    assert answer.status == 200
    server.stop()
