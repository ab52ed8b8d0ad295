"""SIGKILL in the middle of a run of enrolments (guarantees 1 and 2): what a client holds is in the record, what a token
lost is a recorded certificate, and the audit log is whole."""

from __future__ import annotations

import threading
import time
from functools import partial

import pytest

from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until

pytestmark = [pytest.mark.server, pytest.mark.crash, pytest.mark.timeout(300)]

CLIENTS = 6


class Crowd:
    """Clients that enrol one after the other until the server is gone."""

    def __init__(self, server, tokens):
        self._server = server
        self._tokens = iter(tokens)
        self._lock = threading.Lock()
        self.received = []
        self.tried = []
        self._threads = [threading.Thread(target=self._run) for _ in range(CLIENTS)]

    def start(self):
        for thread in self._threads:
            thread.start()

    def join(self):
        for thread in self._threads:
            thread.join(60)

    def has_received(self, count):
        return len(self.received) >= count

    def _next(self):
        with self._lock:
            token = next(self._tokens, None)
            if token is not None:
                self.tried.append(token)
            return token

    def _run(self):
        client = self._server.client()
        while (token := self._next()) is not None:
            try:
                answer = client.enroll(make_csr(common_name=token.client_id), token=token.value)
            except (OSError, ValueError):
                return
            if answer.status == 200:
                self.received.append((token, answer.certificate))


@pytest.mark.parametrize(
    "rounds", [pytest.param(3), pytest.param(30, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_after_sigkill_every_received_certificate_is_recorded_and_every_token_accounted_for(kipuka_servers, rounds):
    """Guarantees 1, 2 and 7, again and again on one database, at another moment each time."""
    server = kipuka_servers({"profile": [{"name": "default", "unique_keys": False}]})
    for turn in range(rounds):
        tokens = [server.make_token(f"crash-{turn}-{number}") for number in range(120)]
        crowd = Crowd(server, tokens)
        crowd.start()
        enough = 5 + 7 * (turn % 9)
        wait_until(partial(crowd.has_received, enough), timeout=60, what="some certificates")
        time.sleep(0.013 * (turn % 7))
        server.kill()
        crowd.join()
        server.start()
        for token, certificate in crowd.received:
            found = server.recorded(certificate)
            assert found is not None, token
            assert found["subject"] == f"CN={token.client_id}"
        for token in crowd.tried:
            wait_until(lambda token=token: server.view_token(token)["held"] == 0, what="recovery")
            view = server.view_token(token)
            issued = {  # by sequence: a sink gets each record at least once
                record["sequence"]
                for record in server.audit("certificate_issued")
                if record["identity"] == f"otp:{token.client_id}"
            }
            assert view["used"] == len(issued) <= 1
            if view["used"] == 0:
                answer = server.client().enroll(make_csr(common_name=token.client_id), token=token.value)
                assert answer.status == 200, answer.text
        server.deployment.kipuka("audit", "verify")
    started = server.audit("server_started")
    assert len(started) == rounds + 1
    sequences = [record["sequence"] for record in server.audit()]
    assert sorted(set(sequences)) == list(range(1, max(sequences) + 1))  # at least once, and nothing is missing
    assert len(server.audit("server_stopped")) == 0


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
    assert [record["event"] for record in server.audit()][-2:] == ["server_stopped", "audit_head_signed"]
    server.deployment.kipuka("audit", "verify")
