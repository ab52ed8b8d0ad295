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
    pruned = []

    def enough():
        """Not all at once, where the sink has not had them yet."""
        pruned.append(json.loads(kipuka("audit", "prune", "--before", "2999-01-01", "--json").stdout)["events"])
        return sum(pruned) > 20

    wait_until(enough, timeout=120, what="events to prune")
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
