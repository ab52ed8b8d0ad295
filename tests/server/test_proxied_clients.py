"""Clients behind a load balancer: limits, lock-outs and audit are theirs, not the balancer's (RULES C4)."""

from __future__ import annotations

import pytest

from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until

pytestmark = pytest.mark.server

BALANCER = "127.0.0.9"


@pytest.fixture(scope="module")
def server(kipuka_servers):
    """It believes 127.0.0.9 and is strict with everybody."""
    return kipuka_servers(
        {
            "server": {
                "workers": 1,
                "proxy_protocol_from": [BALANCER],
                "max_requests_per_minute_per_address": 5,
            },
            "otp": {"max_failures": 2, "failure_window": 600},
            "audit": {"sink": [{"type": "file", "path": "audit.jsonl"}]},
        }
    )


def behind(server, address):
    return server.client().calling_from(BALANCER).forwarded_for(address)


def test_requests_are_counted_for_the_client(server):
    statuses = [behind(server, "192.0.2.1").cacerts().status for _ in range(6)]
    assert statuses == [200] * 5 + [429]
    assert behind(server, "192.0.2.2").cacerts().status == 200
    assert behind(server, "2001:db8::1").cacerts().status == 200


def test_failures_lock_the_client_out_and_the_audit_log_has_its_address(server):
    wrong = [behind(server, "192.0.2.3").enroll(make_csr(), token="wrong").status for _ in range(3)]
    assert wrong == [401, 401, 429]
    assert behind(server, "192.0.2.4").enroll(make_csr(), token="wrong").status == 401
    assert server.wait_for_audit("locked_out")["data"]["address"] == "192.0.2.3"
    wait_until(
        lambda: [record["client_address"] for record in server.audit("authentication_failed")][-1:] == ["192.0.2.4"],
        what="the event",
    )


def test_a_refused_header_is_audited_once_for_the_peer(server):
    client = server.client().calling_from(BALANCER)
    with pytest.raises(ConnectionError):
        client.cacerts()  # without any header
    record = server.wait_for_audit("handshake_failed", reason="proxy_header_missing")
    assert record["client_address"] == BALANCER


def test_a_header_from_anybody_else_is_a_failed_handshake(server):
    with pytest.raises(ConnectionError):
        server.client().calling_from("127.0.0.8").forwarded_for("192.0.2.5").cacerts()
    record = server.wait_for_audit("handshake_failed", reason="not_tls")
    assert record["client_address"] == "127.0.0.8"
