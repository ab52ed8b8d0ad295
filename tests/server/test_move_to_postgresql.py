"""A deployment that outgrew SQLite goes on with PostgreSQL: devices, tokens, lock-outs, revocations, audit log and sinks."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from cryptography.hazmat.primitives import hashes

from kipuka.testing.pki import make_csr

pytestmark = [pytest.mark.server, pytest.mark.needs("postgres")]

LOCKED = "127.0.9.1"


@pytest.fixture
def target(kipuka_postgresql):
    """It stays until the tests end, since the certificates in it are linted when the server's module has ended."""
    return kipuka_postgresql.create_database()


def enrol(server, token, *, address="127.0.0.1"):
    csr = make_csr(common_name=token.client_id)
    return server.client().calling_from(address).enroll(csr, token=token.value)


def fingerprint(device):
    return device.certificate.fingerprint(hashes.SHA256()).hex()


def revoke(server, device):
    answer = server.admin("POST", f"/admin/certificates/{fingerprint(device)}/revoke", {"reason": "superseded"})
    assert answer.status == 200, answer.text


def leave_behind(server, token):
    """What an enrolment leaves that was under way when the server's processes died: a row, and a use that it holds."""
    row = {
        "id": "left-behind",
        "state": "reserved",
        "operation": "simpleenroll",
        "method": "otp",
        "identity_name": token.client_id,
        "claim_plugin": "otp",
        "claim_ref": token.id,
        "ca": "main",
        "profile": "default",
        "request_sha256": "00",
        "csr": b"",
        "node": server.audit()[-1]["node"],
        "process": "0000000000000000/0/0",
        "lease_until": "2999-01-01T00:00:00.000000Z",
        "created_at": "2026-01-01T00:00:00.000000Z",
    }
    names, places = ", ".join(row), ", ".join(f":{name}" for name in row)
    with closing(sqlite3.connect(server.deployment.database)) as connection, connection:
        connection.execute(f"INSERT INTO enrolments ({names}) VALUES ({places})", row)
        connection.execute("UPDATE otp_tokens SET held = 1 WHERE id = ?", (token.id,))


def sequences(server):
    return [event["sequence"] for event in server.audit()]


def verified(deployment, *words):
    return json.loads(deployment.kipuka("audit", "verify", "--json", *words).stdout)


def test_after_the_move_everything_goes_on_where_it_was(kipuka_servers, target):
    server = kipuka_servers({"audit": {"head_interval": 0.5}, "otp": {"max_failures": 5}})
    deployment, environ = server.deployment, {"DB_URL": target.url}
    device, gone = server.enrol("device"), server.enrol("gone")
    revoke(server, gone)
    held = server.make_token("held")
    used, unused, several = server.make_token("used"), server.make_token("unused"), server.make_token("s", max_uses=2)
    assert [enrol(server, token).status for token in (used, several)] == [200, 200]
    wrong = make_csr(common_name="x")
    statuses = [server.client().calling_from(LOCKED).enroll(wrong, token="of-nobody").status for _ in range(6)]
    assert statuses == [401] * 5 + [429]

    assert (
        "another kipuka server" in deployment.kipuka("db", "migrate-to", "env:DB_URL", environ=environ, expect=4).stderr
    )
    assert target.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []
    server.stop()
    leave_behind(server, held)
    before = verified(deployment)["chains"][0]
    certificates = json.loads(deployment.kipuka("cert", "list", "--json").stdout)
    told = deployment.kipuka("db", "migrate-to", "env:DB_URL", environ=environ).stdout
    assert 'url = "env:DB_URL"' in told
    assert f"certificates: {len(certificates)} rows copied" in told
    assert json.loads(deployment.kipuka("cert", "list", "--json").stdout) == certificates
    assert "otp_tokens: " in told
    assert deployment.settings["db"]["url"].startswith("sqlite:"), "the configuration is its owner's"
    assert verified(deployment)["chains"][0] == before, "the source is as it was"

    deployment.configure({"db": {"url": target.url}})
    assert target.execute("SELECT held FROM otp_tokens WHERE id = %s", held.id) == [(1,)]
    server.start()
    assert enrol(server, held).status == 200, "the use came back as it would have on SQLite"
    renewed = server.client(device).reenroll(make_csr(device.subject))
    assert renewed.status == 200, renewed.text
    refused = server.client(gone).reenroll(make_csr(gone.subject))
    assert (refused.status, refused.text.strip()) == (403, "client certificate revoked")
    assert enrol(server, used).status == 401
    assert enrol(server, unused, address=LOCKED).status == 429
    assert enrol(server, unused).status == 200
    assert [enrol(server, several).status for _ in range(2)] == [200, 401]
    server.stop()

    [chain] = verified(deployment, "--file", str(deployment.audit_file), "--against-database")["chains"]
    deployment.kipuka("audit", "verify", "--head", before["head"])
    assert chain["first"] == 1
    assert chain["last"] > before["last"]
    assert sequences(server) == list(range(1, chain["last"] + 1)), "nothing twice in the sink, and no gap"
    moved = server.audit("database_migrated")
    assert [event["sequence"] for event in moved] == [before["last"] + 1]
    assert moved[0]["data"]["rows"]["certificates"] == len(certificates)
    assert moved[0]["identity"].startswith("cli:")
