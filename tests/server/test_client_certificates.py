"""RULES B1: when a client certificate is good, as a table over real TLS; each bad row with its own audit reason."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from kipuka.testing.pki import CLIENT_AUTH, SERVER_AUTH, Credential, make_csr, make_root
from kipuka.testing.server import wait_until

pytestmark = pytest.mark.server

UNKNOWN = "certificate signed by unknown authority"
EXPIRED = "client certificate expired"
UNFIT = "client certificate not valid for client authentication"


@dataclass(frozen=True)
class Authorities:
    """The anchors of the server under test: a root in P-256, one in RSA, and an issuing CA alone whose root is none."""

    root: Credential
    rsa_root: Credential
    issuing_alone: Credential

    @property
    def pem(self):
        return self.root.pem + self.rsa_root.pem + self.issuing_alone.pem


@pytest.fixture(scope="module")
def authorities():
    return Authorities(
        root=make_root("Client Root"),
        rsa_root=make_root("Client RSA Root", key="rsa2048"),
        issuing_alone=make_root("Not an anchor").issue_ca("Anchor Without Root"),
    )


@pytest.fixture(scope="module")
def server(kipuka_servers, authorities):
    server = kipuka_servers({"tls": {"client_auth": {"trust_anchors": "clients.pem"}}}, start=False)
    (server.deployment.directory / "clients.pem").write_bytes(authorities.pem)
    return server.start()


def ago(**time):
    return datetime.now(UTC) - timedelta(**time)


def ahead(**time):
    return datetime.now(UTC) + timedelta(**time)


def deep(root, count):
    """A leaf with so many certificates above it, the root among them."""
    issuer = root
    for number in range(count - 1):
        issuer = issuer.issue_ca(f"Level {number}")
    return issuer.issue_client()


BAD = {
    "leaf_md5": (lambda a: a.rsa_root.issue_client(signature="md5"), UNFIT, "leaf_signature_md5"),
    "leaf_sha1": (lambda a: a.rsa_root.issue_client(signature="sha1"), UNFIT, "leaf_signature_sha1"),
    "leaf_rsa_1024": (lambda a: a.root.issue_client(key="rsa1024"), UNFIT, "leaf_key_too_small"),
    "leaf_is_a_ca": (
        lambda a: a.root.issue("ca", ca=True, extended_key_usage=(CLIENT_AUTH,)),
        UNFIT,
        "leaf_is_ca",
    ),
    "leaf_key_usage": (
        lambda a: a.root.issue("client", key_usage=("key_agreement",), extended_key_usage=(CLIENT_AUTH,)),
        UNFIT,
        "leaf_key_usage",
    ),
    "leaf_for_servers_only": (
        lambda a: a.root.issue("client", extended_key_usage=(SERVER_AUTH,)),
        UNFIT,
        "leaf_extended_key_usage",
    ),
    "leaf_expired": (lambda a: a.root.issue_client(not_after=ago(minutes=1)), EXPIRED, "expired"),
    "leaf_not_yet_valid": (lambda a: a.root.issue_client(not_before=ahead(hours=1)), UNFIT, "not_yet_valid"),
    "leaf_bad_signature": (lambda a: a.root.issue_client(break_signature=True), UNKNOWN, "bad_signature"),
    "leaf_self_signed": (
        lambda _a: make_root("me", ca=False, key_usage=("digital_signature",), extended_key_usage=(CLIENT_AUTH,)),
        UNKNOWN,
        "self_signed",
    ),
    "intermediate_rsa_1024": (
        lambda a: a.root.issue_ca(key="rsa1024").issue_client(),
        UNFIT,
        "intermediate_key_too_small",
    ),
    "intermediate_for_servers_only": (
        lambda a: a.root.issue_ca(extended_key_usage=(SERVER_AUTH,)).issue_client(),
        UNFIT,
        "intermediate_extended_key_usage",
    ),
    "intermediate_expired": (
        lambda a: a.root.issue_ca(not_after=ago(minutes=1)).issue_client(),
        UNKNOWN,
        "intermediate_expired",
    ),
    "path_length": (
        lambda a: a.root.issue_ca("Narrow", path_length=0).issue_ca("Below").issue_client(),
        UNKNOWN,
        "path_length",
    ),
    "name_constraints": (
        lambda a: a.root.issue_ca(permitted_dns=("good.example",)).issue_client(dns=("bad.example",)),
        UNKNOWN,
        "name_constraints",
    ),
    "depth_9": (lambda a: deep(a.root, 9), UNKNOWN, "too_deep"),
    "unknown_anchor": (lambda _a: make_root("Foreign").issue_ca("Theirs").issue_client(), UNKNOWN, "unknown_authority"),
}

GOOD = {
    "under_a_root": lambda a: a.root.issue_client(),
    "under_an_intermediate": lambda a: a.root.issue_ca().issue_client(),
    "issuing_ca_alone_as_anchor": lambda a: a.issuing_alone.issue_client(),
    "without_extended_key_usage": lambda a: a.root.issue("client"),
    "without_key_usage": lambda a: a.root.issue("client", key_usage=None),
    "intermediate_for_clients": lambda a: a.root.issue_ca(extended_key_usage=(CLIENT_AUTH,)).issue_client(),
    "within_name_constraints": lambda a: a.root.issue_ca(permitted_dns=("good.example",)).issue_client(
        dns=("a.good.example",)
    ),
    "depth_8": lambda a: deep(a.root, 8),
    "ed25519": lambda a: a.root.issue_client(key="ed25519"),
    "ecdsa_p256": lambda a: a.root.issue_client(key="p256"),
    "ecdsa_p384": lambda a: a.root.issue_client(key="p384"),
    "ecdsa_p521": lambda a: a.root.issue_client(key="p521"),
    "rsa": lambda a: a.rsa_root.issue_client(key="rsa2048"),
    "rsa_pss": lambda a: a.rsa_root.issue_client(key="rsa2048", signature="pss"),
}


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("row", BAD)
def test_a_bad_certificate_is_refused_with_its_own_reason(server, authorities, row, version):
    """RULES B1, B3: no row is accepted, and each is told apart in the audit log."""
    make, text, reason = BAD[row]
    before = server.last_sequence
    answer = server.client(make(authorities), tls_version=version).enroll(make_csr())
    assert (answer.status, answer.text) == (401, text)
    failed = server.wait_for_audit("authentication_failed", after=before, method="mtls")
    assert failed["data"]["reason"] == reason


def test_an_intermediate_that_is_not_sent_is_missed(server, authorities):
    """RULES B1: the path has to be shown; nothing is filled in from elsewhere."""
    leaf = authorities.root.issue_ca().issue_client()
    before = server.last_sequence
    answer = server.client().with_certificate(leaf, send_chain=False).enroll(make_csr())
    assert (answer.status, answer.text) == (401, UNKNOWN)
    failed = server.wait_for_audit("authentication_failed", after=before, method="mtls")
    assert failed["data"]["reason"] == "intermediate_missing"


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("row", GOOD)
def test_a_good_certificate_is_accepted(server, authorities, row, version):
    """RULES B1: none of the checks is stricter than it says."""
    device = GOOD[row](authorities)
    answer = server.client(device, tls_version=version).enroll(make_csr(common_name="x"))
    assert answer.status == 200, answer.text
    assert answer.certificate.subject == device.subject


def test_the_table_has_every_reason_but_once():
    """RULES B1: each row has its own audit reason."""
    reasons = [reason for _, _, reason in BAD.values()]
    assert len(set(reasons)) == len(reasons)


def test_validity_is_looked_at_on_every_request_of_a_connection(server, authorities):
    """RULES B2: a certificate that expires while its connection stays open is not good any more."""
    for seconds in (4, 12, 36):  # of a short life there may be nothing left on a busy machine
        device = authorities.root.issue_client(not_after=ahead(seconds=seconds))
        with server.client(device).connect() as connection:
            first = server.client(device).enroll(make_csr(), connection=connection)
            if first.status != 200:
                continue
            end = device.certificate.not_valid_after_utc + timedelta(seconds=1)
            wait_until(lambda end=end: datetime.now(UTC) > end, timeout=60, what="the end of the certificate")
            second = server.client(device).enroll(make_csr(), connection=connection)
            break
    assert first.status == 200, first.text
    assert (second.status, second.text) == (401, EXPIRED)


def test_a_client_certificate_of_the_servers_own_ca_is_foreign_where_it_is_no_anchor(server):
    """RULES A5: anchors are never implied."""
    own = server.deployment.authority().issue_client()
    answer = server.client(own).enroll(make_csr())
    assert (answer.status, answer.text) == (401, UNKNOWN)


def test_a_label_judges_by_its_own_anchors_also_on_one_connection(kipuka_servers):
    """RULES A1, B5: never by the union."""
    here, there = make_root("Here"), make_root("There")
    changes = {
        "tls": {"client_auth": {"trust_anchors": "here.pem"}},
        "est": {"label": [{"name": "there", "client_anchors": "there.pem"}]},
    }
    server = kipuka_servers(changes, start=False)
    (server.deployment.directory / "here.pem").write_bytes(here.pem)
    (server.deployment.directory / "there.pem").write_bytes(there.pem)
    server.start()
    for root, good, bad in ((here, None, "there"), (there, "there", None)):
        device = root.issue_client()
        client = server.client(device)
        with client.connect() as connection:
            refused = client.enroll(make_csr(), label=bad, connection=connection)
            accepted = client.enroll(make_csr(), label=good, connection=connection)
        assert (refused.status, refused.text) == (401, UNKNOWN)
        assert accepted.status == 200, accepted.text
