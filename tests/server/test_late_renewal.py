"""Renewal with an expired certificate: where a profile allows it, for whom and how long (RULES B4)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from kipuka.testing.pki import CLIENT_AUTH, CMC_RA, make_csr, make_root
from kipuka.x509.revocation import Reason

from .records import record, revoke

pytestmark = pytest.mark.server

EXPIRED = (403, "client certificate expired")
HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def other():
    return make_root("Another CA")


@pytest.fixture(scope="module")
def server(kipuka_servers, other):
    """In mode required, so that an expired certificate has to pass the handshake too (RULES A2)."""
    server = kipuka_servers(
        {
            "tls": {"client_auth": {"mode": "required", "trust_anchors": "both.pem"}},
            "est": {"label": [{"name": "factory"}, {"name": "strict", "profile": "strict"}]},
            "profile": [{"name": "default", "allow_expired_for": 3600}, {"name": "strict"}],
        },
        start=False,
    )
    own = (server.deployment.directory / "client-anchors.pem").read_bytes()
    (server.deployment.directory / "both.pem").write_bytes(own + other.pem)
    return server.start()


def expired(issuer, name="late", *, since=timedelta(minutes=1), usages=(CLIENT_AUTH,)):
    end = datetime.now(UTC) - since
    return issuer.issue(name, not_before=end - 24 * HOUR, not_after=end, extended_key_usage=usages)


def renew(server, device, *, label=None, version=None):
    csr = make_csr(device.subject, key=device.key)
    return server.client(device, tls_version=version).reenroll(csr, label=label)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
def test_a_recorded_certificate_renews_within_the_time_after_its_end(server, version):
    """RULES B4, A2: also in mode required; and the audit log says since when it had been expired."""
    device = expired(server.deployment.authority(), f"late-{version}")
    record(server.deployment, device)
    before = server.last_sequence
    renewed = renew(server, device, version=version)
    assert renewed.status == 200, renewed.text
    assert renewed.certificate.subject == device.subject
    name = f"CN=late-{version}"
    known = server.wait_for_audit("authentication_succeeded", after=before, subject_name=name)
    assert datetime.fromisoformat(known["data"]["expired_at"]) == device.certificate.not_valid_after_utc


def test_it_renews_at_its_own_label(server):
    """RULES B5."""
    device = expired(server.deployment.authority(), "of-the-factory")
    record(server.deployment, device, label="factory")
    assert renew(server, device, label="factory").status == 200


REFUSED = {
    "expired for longer": (lambda s, _o: expired(s.deployment.authority(), since=2 * HOUR), {}, None),
    "recorded at another label": (lambda s, _o: expired(s.deployment.authority()), {"label": "factory"}, None),
    "at a label whose profile does not allow it": (
        lambda s, _o: expired(s.deployment.authority()),
        {"label": "strict"},
        "strict",
    ),
    "not recorded": (lambda s, _o: expired(s.deployment.authority()), None, None),
    "of another CA": (lambda _s, o: expired(o), {"ca": "another"}, None),
    "of a registration authority": (
        lambda s, _o: expired(s.deployment.authority(), usages=(CLIENT_AUTH, CMC_RA)),
        {},
        None,
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_no_other_expired_certificate_renews(server, other, case):
    """RULES B4: only what this server has recorded at this label, never a registration authority's."""
    make, recorded, label = REFUSED[case]
    device = make(server, other)
    if recorded is not None:
        record(server.deployment, device, **recorded)
    before = server.last_sequence
    answer = renew(server, device, label=label)
    assert (answer.status, answer.text) == EXPIRED
    server.wait_for_audit("authentication_failed", after=before, reason="expired")


def test_a_revoked_one_does_not_renew(server):
    """RULES B4: and the client hears that it was revoked."""
    device = expired(server.deployment.authority(), "taken-back")
    record(server.deployment, device)
    revoke(server.deployment, device, Reason.CESSATION_OF_OPERATION)
    answer = renew(server, device)
    assert (answer.status, answer.text) == (403, "client certificate revoked")


def test_it_is_good_for_renewal_only(server):
    """RULES B4: not for simpleenroll."""
    device = expired(server.deployment.authority(), "late-elsewhere")
    record(server.deployment, device)
    answer = server.client(device).enroll(make_csr(device.subject, key=device.key))
    assert (answer.status, answer.text) == EXPIRED


def test_an_expired_authority_in_its_path_stands_in_the_way(server, other):
    """RULES B4: the time after the end is the certificate's own."""
    issuing = other.issue_ca("Gone", not_after=datetime.now(UTC) - timedelta(minutes=1))
    device = expired(issuing, "orphan")
    record(server.deployment, device)
    answer = renew(server, device)
    assert (answer.status, answer.text) == (403, "certificate signed by unknown authority")


def test_a_valid_certificate_is_not_told_as_expired(server):
    device = server.deployment.authority().issue_client("in-time")
    record(server.deployment, device)
    before = server.last_sequence
    assert renew(server, device).status == 200
    known = server.wait_for_audit("authentication_succeeded", after=before, subject_name="CN=in-time")
    assert known["data"]["expired_at"] is None


def test_every_usage_counts_by_itself():
    """RULES F4: neither anyExtendedKeyUsage nor a certificate without usages is a registration authority's."""
    from kipuka.x509.purposes import has_usage

    root = make_root()
    any_usage = x509.ObjectIdentifier("2.5.29.37.0")
    for usages, is_one in (((CMC_RA,), True), ((CLIENT_AUTH, any_usage), False), ((), False), (None, False)):
        given = None if usages is None else usages
        certificate = root.issue("x", extended_key_usage=given or None).certificate
        assert has_usage(certificate, CMC_RA) is is_one
