"""One server of a node: a second is refused, and the end is clean. What SIGKILL leaves behind is tried in tests/crash."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.server, pytest.mark.crash, pytest.mark.timeout(300)]


def test_a_second_server_on_the_same_store_is_refused(kipuka_servers):
    """`AlreadyRunning`: a node has one server; the first goes on."""
    server = kipuka_servers()
    second = server.deployment.kipuka("serve", "-c", str(server.deployment.config_file), expect=None)
    assert second.returncode != 0
    assert "Traceback" not in second.stderr
    assert server.client().cacerts().status == 200


def test_sigterm_stops_cleanly_and_says_so(kipuka_servers):
    """Item 3: a clean stop, exit code 0, the last event in the audit log."""
    server = kipuka_servers()
    with server.client().connect() as idle:
        idle.request("GET", "/.well-known/est/cacerts")
        assert server.stop() == 0
        assert idle.is_closed()
    assert [record["event"] for record in server.audit()[-2:]] == ["server_stopped", "audit_head_signed"]
    server.deployment.kipuka("audit", "verify")
