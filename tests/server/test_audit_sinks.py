"""Sinks of a real server through outages: what waits, what is refused meanwhile, and that nothing is missing afterwards."""

from __future__ import annotations

import json
import time

import pytest

from kipuka.audit.gate import RECHECK
from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until
from kipuka.testing.sink_file import read_records

pytestmark = pytest.mark.server


def numbers(file):
    """The sequence numbers in the whole lines of a file of the sink `file`, repeats left out."""
    return list(dict.fromkeys(record["sequence"] for record in read_records(file)))


@pytest.fixture(scope="module")
def server(kipuka_servers):
    """Two files: of `logs/strict.jsonl` nothing may be missing, `audit.jsonl` may fall behind."""
    server = kipuka_servers(
        {
            "audit": {
                "sink": [
                    {"type": "file", "path": "audit.jsonl"},
                    {"type": "file", "id": "strict", "path": "logs/strict.jsonl", "on_failure": "block"},
                ]
            }
        },
        start=False,
    )
    (server.deployment.directory / "logs").mkdir()
    return server.start()


def test_while_a_strict_sink_fails_nothing_is_issued_or_changed_and_then_nothing_is_missing(server):
    """RULES C3: 503 with Retry-After; what has to go on goes on; and DESIGN guarantee 7."""
    logs = server.deployment.directory / "logs"
    spare = server.make_token("before")
    device = server.enrol("before")
    logs.rename(logs.with_name("away"))

    def refused():
        return server.client().enroll(make_csr(), token="a wrong one, which is a 401 else").status == 503

    wait_until(refused, timeout=20, what="the refusal")
    time.sleep(2 * RECHECK.total_seconds())  # by now every worker has looked
    answer = server.client().enroll(make_csr(common_name="before"), token=spare.value)
    assert (answer.status, answer.text) == (503, "the audit log is not available, try again later")
    assert int(answer.header("Retry-After")) >= 1
    assert server.client(device).reenroll(make_csr(device.subject)).status == 503
    assert server.view_token(spare)["used"] == 0
    admin = server.admin("POST", "/admin/otp", {"client_id": "meanwhile"})
    assert (admin.status, json.loads(admin.body)["error"]) == (503, "audit_unavailable")
    assert admin.header("Retry-After")
    assert server.client().cacerts().status == 200
    assert server.client().enroll(make_csr()).status == 401
    assert server.admin("GET", "/admin/certificates").status == 200
    fingerprint = server.recorded(device.certificate)["id"]
    assert "revoked" in server.deployment.kipuka("cert", "revoke", fingerprint).stderr
    assert "enrolments_wait_for_audit_sinks" in server.stderr
    well, strict = json.loads(server.deployment.kipuka("audit", "sinks", "--json").stdout)
    assert (well["id"], well["failing_since"]) == ("file", None)
    assert (strict["id"], strict["on_failure"]) == ("strict", "block")
    assert strict["behind"] > 0
    assert strict["failing_since"] is not None
    assert strict["failing_since"] in server.deployment.kipuka("audit", "sinks").stdout

    logs.with_name("away").rename(logs)
    wait_until(
        lambda: server.client().enroll(make_csr(common_name="before"), token=spare.value).status == 200,
        timeout=20,
        what="the next enrolment",
    )
    assert "enrolments_go_on" in server.stderr
    last = server.wait_for_audit("certificate_revoked", fingerprint=fingerprint)["sequence"]
    file = logs / "strict.jsonl"
    wait_until(lambda: last in numbers(file), what="the strict sink's last event")
    assert numbers(file)[:last] == list(range(1, last + 1))
    assert "intact" in server.deployment.kipuka("audit", "verify", "--file", str(file)).stdout


def test_a_sink_that_may_fall_behind_stops_nobody_and_catches_up(kipuka_servers):
    """DESIGN guarantee 7: `on_failure = "continue"` is the default; also over a restart."""
    server = kipuka_servers({"audit": {"sink": [{"type": "file", "path": "logs/audit.jsonl"}]}}, start=False)
    logs = server.deployment.directory / "logs"
    logs.mkdir()
    server.start()
    server.enrol("before")
    logs.rename(logs.with_name("away"))
    for number in range(5):
        server.enrol(f"meanwhile-{number}")
    server.stop()
    logs.with_name("away").rename(logs)
    server.start()
    server.enrol("after")
    last = server.wait_for_audit("certificate_issued", subject="CN=after")["sequence"]
    assert numbers(logs / "audit.jsonl")[:last] == list(range(1, last + 1))
    assert "intact" in server.deployment.kipuka("audit", "verify", "--file", str(logs / "audit.jsonl")).stdout
