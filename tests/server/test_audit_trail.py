"""The audit log of a real server over time: signed, pruned beside it, and flooded (DESIGN guarantee 7)."""

from __future__ import annotations

import json

import pytest

from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers({"audit": {"head_interval": 0.2}})


def verified(server, *words):
    return json.loads(server.deployment.kipuka("audit", "verify", "--json", *words).stdout)


def test_heads_are_signed_while_the_server_runs_and_every_sink_has_them(server):
    """RULES I1: an auditor with the sink's file and the public key needs nothing of this machine."""
    server.enrol("signed")
    issued = server.wait_for_audit("certificate_issued", subject="CN=signed")["sequence"]
    wait_until(
        lambda: any(head["data"]["covered_sequence"] >= issued for head in server.audit("audit_head_signed")),
        what="a signature over the enrolment",
    )
    public = server.deployment.directory / "audit.pub"
    wait_until(lambda: quiet(server), what="a sink that has everything")
    report = verified(server, "--file", str(server.deployment.audit_file), "--node-key", str(public))
    assert report["intact"]
    assert report["chains"][0]["signed"]["sequence"] >= issued


def quiet(server):
    return server.deployment.audit_file.read_bytes().endswith(b"\n")


def test_a_server_that_has_stopped_leaves_nothing_but_the_signature_itself_uncovered(kipuka_servers):
    server = kipuka_servers({"audit": {"head_interval": 3600}})
    server.enrol("before the stop")
    server.stop()
    [chain] = verified(server)["chains"]
    assert chain["signed"]["events_after"] == 1
    assert server.audit()[-1]["event"] == "audit_head_signed", "the sink has it too"
    assert server.audit()[-2]["event"] == "server_stopped"


def test_events_are_pruned_beside_a_server_under_way(server):
    """RULES K7."""
    for number in range(5):
        server.enrol(f"old-{number}")
    kipuka = server.deployment.kipuka

    def pruned():
        return json.loads(kipuka("audit", "prune", "--before", "2999-01-01", "--json").stdout)["events"] > 20

    wait_until(pruned, timeout=20, what="events to prune")
    token = server.make_token("new")
    assert server.client().enroll(make_csr(common_name="new"), token=token.value).status == 200
    told = server.wait_for_audit("audit_pruned")
    wait_until(
        lambda: any(head["data"]["covered_sequence"] >= told["sequence"] for head in server.audit("audit_head_signed")),
        what="a signature after the prune",
    )
    report = verified(server)
    assert report["intact"]
    assert report["chains"][0]["pruned"]["sequence"] >= told["data"]["pruned_sequence"]
    assert report["chains"][0]["first"] > 20
    wait_until(lambda: quiet(server), what="a sink that has everything")
    assert verified(server, "--file", str(server.deployment.audit_file), "--against-database")["intact"]


def test_a_flood_of_failures_is_few_events_and_every_one_is_counted(kipuka_servers):
    """RULES C4, I1: the lock-out comes as ever; in the log the flood is a handful of events, whose numbers add up."""
    server = kipuka_servers(
        {
            "server": {"workers": 1, "max_requests_per_minute_per_address": 0},
            "otp": {"max_failures": 5},
            "audit": {"flood_threshold": 4, "flood_window": 3600},
        }
    )
    device = server.enrol("good")
    flood = 60
    client = server.client()
    statuses = [client.enroll(make_csr(), token="a wrong one").status for _ in range(flood)]
    assert statuses[:5] == [401] * 5
    assert set(statuses[6:]) == {429}
    for number in range(30):
        assert client.request("GET", f"/nothing/{number}").status == 404
    assert server.client(device).reenroll(make_csr(device.subject)).status == 200, "nobody else waits"
    server.stop()
    single = server.audit("authentication_failed")
    assert {kind: len([one for one in single if one["data"]["kind"] == kind]) for kind in ("wrong", "locked")} == {
        "wrong": 4,
        "locked": 4,
    }
    assert len(server.audit("locked_out")) == 1
    sums = {(one["data"]["event"], one["data"]["reason"]): one["data"] for one in server.audit("failures_summed")}
    assert (
        len(single) + sum(data["count"] for (name, _), data in sums.items() if name == "authentication_failed") == flood
    )
    assert len(server.audit("request_rejected")) == 4
    assert sums["request_rejected", "unknown_resource"]["count"] == 26
    assert all(data["first"] <= data["last"] for data in sums.values())
    assert server.audit()[-2]["event"] == "server_stopped", "the sums come before it"
    assert len(server.audit("certificate_issued")) == 2 + 1, "the server's own, and two of the device"
