"""Administrators by certificate (RULES E1, E2), over real TLS; who is let in at all is `test_who_is_let_in`'s table."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.hashes import SHA256

from kipuka.api import StartupError
from kipuka.distinguished_names import parse_dn
from kipuka.testing.client import TLSAlert, bearer
from kipuka.testing.inprocess import InProcessServer
from kipuka.testing.pki import CLIENT_AUTH, SERVER_AUTH, make_root
from kipuka.testing.server import free_port

pytestmark = pytest.mark.server

ANCHORS = make_root("Administrators")
ALICE = ANCHORS.issue_client(parse_dn("CN=alice,OU=Admins,O=Example"))
MALLORY = ANCHORS.issue_client(parse_dn("CN=mallory,OU=Guests,O=Example"))
UNKNOWN = "certificate signed by unknown authority"


def with_certificates(servers, section, *, anchors=ANCHORS.pem, start=True, **changes):
    """A server with that `[admin.tls]`, whose anchors are in a file of their own."""
    tls = {"trust_anchors": "admin-anchors.pem", **section}
    admin = {"tls": tls, **changes.pop("admin", {})}
    server = servers({"admin": admin, **changes}, start=False, as_shipped=True)
    (server.deployment.directory / "admin-anchors.pem").write_bytes(anchors)
    return server.start() if start else server


@pytest.fixture(scope="module")
def optional(kipuka_servers):
    """Either suffices, and only some of those under the anchors are administrators."""
    return with_certificates(
        kipuka_servers, {"mode": "optional", "allow": ["CN=*,OU=Admins,O=Example", "email:*@admins.example"]}
    )


@pytest.fixture(scope="module")
def required(kipuka_servers):
    """Both are needed."""
    return with_certificates(kipuka_servers, {"mode": "required"})


def look(server, certificate=None, token=None, **headers):
    fields = headers if token is None else {"Authorization": bearer(token), **headers}
    return server.client(certificate).request("GET", "/admin/lockouts", headers=fields)


def detail(answer):
    return json.loads(answer.body)["detail"]


# --- who it was, in the audit log


def test_a_certificate_alone_is_an_administrator(optional):
    before = optional.last_sequence
    assert look(optional, ALICE).status == 200
    seen = optional.wait_for_audit("admin_access", after=before)
    assert seen["identity"] == "admin:certificate:CN=alice,OU=Admins,O=Example"
    assert seen["data"]["proofs"] == ["certificate:CN=alice,OU=Admins,O=Example"]
    assert seen["data"]["refused"] == []


def test_where_both_are_needed_both_are_told(required):
    before = required.last_sequence
    assert look(required, ALICE, required.deployment.admin_token).status == 200
    seen = required.wait_for_audit("admin_access", after=before)
    assert seen["identity"] == "admin:certificate:CN=alice,OU=Admins,O=Example"
    assert seen["data"]["proofs"] == [
        "certificate:CN=alice,OU=Admins,O=Example",
        "bearer:made by kipuka init",
    ]


def test_a_certificate_without_a_subject_is_told_by_its_fingerprint(optional):
    nameless = ANCHORS.issue(parse_dn(""), extended_key_usage=(CLIENT_AUTH,), email=("alice@admins.example",))
    before = optional.last_sequence
    assert look(optional, nameless).status == 200
    fingerprint = nameless.certificate.fingerprint(SHA256()).hex()
    assert (
        optional.wait_for_audit("admin_access", after=before)["identity"] == f"admin:certificate:sha256:{fingerprint}"
    )


def test_a_device_with_a_bearer_token_is_its_bearer_and_the_refused_certificate_is_told(optional):
    device = optional.deployment.authority().issue_client("device-1")
    before = optional.last_sequence
    assert look(optional, device, optional.deployment.admin_token).status == 200
    seen = optional.wait_for_audit("admin_access", after=before)
    assert seen["identity"] == "admin:bearer:made by kipuka init"
    assert seen["data"]["refused"] == ["certificate:unknown_authority"]


def test_every_refused_proof_is_told(optional):
    device = optional.deployment.authority().issue_client("device-1")
    before = optional.last_sequence
    answer = look(optional, device, "wrong")
    assert (answer.status, detail(answer)) == (401, UNKNOWN)
    assert answer.header("WWW-Authenticate") == 'Bearer realm="kipuka admin", error="invalid_token"'
    denied = optional.wait_for_audit("admin_denied", after=before)
    assert denied["data"]["reason"] == "unknown_authority"
    assert denied["data"]["refused"] == ["certificate:unknown_authority", "bearer:invalid_bearer_token"]
    assert [record["sequence"] > before for record in optional.audit("admin_denied")].count(True) == 1


# --- RULES E2: which certificates are administrators'


def test_a_certificate_that_no_pattern_fits_is_not_an_administrators(optional):
    """RULES E2, C3: 403, and no challenge: another certificate would not be asked for."""
    before = optional.last_sequence
    answer = look(optional, MALLORY)
    assert (answer.status, detail(answer)) == (403, "client certificate is not an administrator's")
    denied = optional.wait_for_audit("admin_denied", after=before)
    assert denied["data"]["reason"] == "certificate_not_allowed"
    assert look(optional, MALLORY, optional.deployment.admin_token).status == 200


def test_a_pattern_of_a_subject_is_no_pattern_of_text(optional):
    """RULES E2: what looks like two components in one value is one value."""
    pasted = ANCHORS.issue_client(parse_dn(r"CN=mallory\,OU=Admins,O=Example"))
    assert look(optional, pasted).status == 403


@pytest.mark.parametrize("allow", [[], ["CN=*"]], ids=["no patterns", "a pattern that everybody fits"])
@pytest.mark.parametrize("whose", ["issuing", "root"])
def test_the_start_is_refused_where_our_own_devices_could_administer(kipuka_template, tmp_path, whose, allow):
    """RULES E2."""
    deployment = kipuka_template.copy(tmp_path / "kipuka")
    issuing = deployment.authority()
    anchor = {"issuing": issuing, "root": issuing.root}[whose]
    (deployment.directory / "admin-anchors.pem").write_bytes(anchor.pem)
    section = {"mode": "optional", "trust_anchors": "admin-anchors.pem", "allow": allow}
    deployment.configure({"admin": {"tls": section}})
    with (
        pytest.raises(StartupError, match=r"every device could administer; write allow in"),
        InProcessServer(deployment),
    ):
        pass
    deployment.configure({"admin": {"tls": {"mode": "none"}}})
    with InProcessServer(deployment) as server:
        assert server.client().request("GET", "/.well-known/est/cacerts").status == 200


def test_our_own_ca_may_sign_administrators_where_patterns_tell_them_from_devices(kipuka_servers, kipuka_template):
    """RULES E2, B2: and what this server revoked is no administrator's any more, on an open connection too."""
    authority = kipuka_template.authority()
    server = with_certificates(
        kipuka_servers,
        {"mode": "optional", "allow": ["CN=boss"]},
        anchors=authority.pem,
    )
    boss, device = server.enrol("boss"), server.enrol("device-1")
    assert look(server, device).status == 403
    with server.client(boss).connect() as connection:
        assert connection.request("GET", "/admin/lockouts").status == 200
        revoke(server.deployment.database, boss)
        refused = connection.request("GET", "/admin/lockouts")
    assert (refused.status, detail(refused)) == (401, "client certificate revoked")


def revoke(database, credential):
    """What a revocation leaves in the record."""
    fingerprint = credential.certificate.fingerprint(SHA256()).hex()
    with sqlite3.connect(database) as store:
        changed = store.execute(
            "UPDATE certificates SET state = 'revoked', revoked_at = issued_at WHERE fingerprint = ?", (fingerprint,)
        )
        assert changed.rowcount == 1


# --- RULES B: an administrator's certificate is judged like any other


BAD = {
    "expired": (
        lambda: ANCHORS.issue_client("alice", not_after=datetime.now(UTC) - timedelta(minutes=1)),
        "client certificate expired",
        "expired",
    ),
    "for servers": (
        lambda: ANCHORS.issue("alice", extended_key_usage=(SERVER_AUTH,)),
        "client certificate not valid for client authentication",
        "leaf_extended_key_usage",
    ),
    "SHA-1": (
        lambda: make_anchored("rsa2048").issue_client("alice", signature="sha1"),
        "client certificate not valid for client authentication",
        "leaf_signature_sha1",
    ),
    "a CA": (
        lambda: ANCHORS.issue("alice", ca=True, extended_key_usage=(CLIENT_AUTH,)),
        "client certificate not valid for client authentication",
        "leaf_is_ca",
    ),
    "foreign": (lambda: make_root("Foreign").issue_client("alice"), UNKNOWN, "intermediate_missing"),
    "forged": (lambda: ANCHORS.issue_client("alice", break_signature=True), UNKNOWN, "bad_signature"),
}


def make_anchored(key):
    return ANCHORS.issue_ca("RSA below", key=key)


@pytest.mark.parametrize("version", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize(("make", "text", "reason"), BAD.values(), ids=list(BAD))
def test_a_certificate_that_is_not_good_is_refused_with_its_text(required, make, text, reason, version):
    """RULES B1, B3, B4: nothing that EST's judgement refuses is good for an administrator; expired is expired."""
    before = required.last_sequence
    headers = {"Authorization": bearer(required.deployment.admin_token)}
    answer = required.client(make(), tls_version=version).request("GET", "/admin/lockouts", headers=headers)
    assert (answer.status, detail(answer)) == (403, text)
    assert answer.all("WWW-Authenticate") == []
    denied = required.wait_for_audit("admin_denied", after=before)
    assert (denied["data"]["reason"], denied["data"]["refused"]) == (reason, [f"certificate:{reason}"])


# --- RULES E3: bearer tokens beside certificates


def test_only_the_holder_of_a_certificate_can_try_tokens(kipuka_servers):
    """RULES E1, E3: without a good certificate no token is looked at; with one, wrong tokens are counted and locked."""
    server = with_certificates(kipuka_servers, {"mode": "required"})
    for _ in range(8):
        assert look(server, None, "wrong").status == 403
    assert look(server, ALICE, server.deployment.admin_token).status == 200
    answers = [look(server, ALICE, "wrong").status for _ in range(6)]
    assert answers == [401, 401, 401, 401, 401, 429]
    locked = look(server, ALICE, server.deployment.admin_token)
    assert (locked.status, detail(locked)) == (429, "too many failures, locked out")
    assert locked.header("Retry-After") is not None


def test_a_good_certificate_is_not_locked_out_by_wrong_tokens(kipuka_servers):
    """RULES C4: a lock stops tokens only."""
    server = with_certificates(kipuka_servers, {"mode": "optional"})
    for _ in range(6):
        look(server, None, "wrong")
    assert look(server, None, server.deployment.admin_token).status == 429
    assert look(server, ALICE).status == 200


def test_without_bearer_tokens_a_certificate_is_all_there_is(kipuka_servers):
    """RULES C3: then only a certificate would do: 403, and no challenge."""
    server = with_certificates(kipuka_servers, {"mode": "optional"}, admin={"bearer_token": None})
    assert look(server, ALICE).status == 200
    for answer in (look(server), look(server, None, "any")):
        assert (answer.status, detail(answer)) == (403, "client certificate required")
        assert answer.all("WWW-Authenticate") == []


def test_a_foreign_page_may_not_use_an_administrators_certificate(optional):
    """RULES C5: a browser would present it unasked."""
    answer = look(optional, ALICE, **{"Sec-Fetch-Site": "cross-site"})
    assert answer.status == 403
    assert look(optional, ALICE, Origin="https://elsewhere.example").status == 403


# --- a listener of their own


def test_on_a_listener_of_their_own_the_handshake_fails_without_an_administrators_certificate(kipuka_servers):
    """RULES A2: no byte of HTTP arrives; the other listener asks EST's question only."""
    port = free_port()
    server = with_certificates(kipuka_servers, {"mode": "required"}, server={"admin_listen": f"127.0.0.1:{port}"})
    device = server.deployment.authority().issue_client("device-1")
    before = server.last_sequence
    for version in ("TLSv1.2", "TLSv1.3"):
        for certificate in (None, device):
            with pytest.raises(TLSAlert):
                replace(server.client(certificate, tls_version=version), port=port).request("GET", "/admin/lockouts")
    failed = server.wait_for_audit("handshake_failed", after=before)
    assert failed["data"] == {"listener": "admin", "reason": "certificate_required", "count": 1}
    token = server.deployment.admin_token
    assert server.admin("GET", "/admin/lockouts", token=token, port=port, certificate=ALICE).status == 200
    assert server.admin("GET", "/admin/lockouts", token=token, certificate=ALICE).status == 404
    assert server.client().request("GET", "/.well-known/est/cacerts").status == 200


def test_the_names_of_both_purposes_are_hinted_on_a_shared_listener(optional):
    """RULES A1: the hint is the union, the verdict never."""
    asked = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{optional.port}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    ).stdout
    names = asked.partition("Acceptable client certificate CA names\n")[2].partition("\n---")[0]
    issuing = optional.deployment.authority().certificate.subject.rfc4514_string().removeprefix("CN=")
    assert f"CN = {issuing}" in names.replace("CN=", "CN = ")
    assert "CN = Administrators" in names.replace("CN=", "CN = ")
