"""`/healthz` and `/readyz` of a real server (RULES H3): who gets an answer, and when it is 503."""

from __future__ import annotations

import json
import signal
import socket
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from datetime import timedelta

import pytest

from kipuka.http.supervisor import SECOND_THOUGHT, STOP_MARGIN
from kipuka.testing.client import TLSAlert
from kipuka.testing.clock import FakeClock
from kipuka.testing.inprocess import InProcessServer
from kipuka.testing.pki import make_csr
from kipuka.testing.server import free_port, wait_until

pytestmark = pytest.mark.server

WELL = {"store": "ok", "ca": "ok", "audit": "ok", "plugins": "ok", "service": "ok"}


def ready(client):
    """Status and parts of `/readyz`."""
    answer = client.request("GET", "/readyz")
    body = json.loads(answer.body)
    assert body["ready"] is (answer.status == 200)
    return answer.status, body["parts"]


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers()


@pytest.fixture(scope="module")
def apart(kipuka_servers):
    """The admin interface on a listener of its own."""
    return kipuka_servers({"server": {"admin_listen": f"127.0.0.1:{free_port()}"}})


# --- who gets an answer ---


def listeners(server):
    admin = int(server.deployment.settings["server"]["admin_listen"].rpartition(":")[2])
    return [server.client(), replace(server.client(), port=admin)]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_both_listeners_answer_without_credentials(apart, method):
    for client in listeners(apart):
        alive, readiness = client.request(method, "/healthz"), client.request(method, "/readyz")
        assert (alive.status, readiness.status) == (200, 200)
        for answer in (alive, readiness):
            assert answer.header("Cache-Control") == "no-store"
            assert answer.all("Set-Cookie") == []
        if method == "GET":
            assert alive.body == b"ok\n"
            assert json.loads(readiness.body) == {"ready": True, "parts": WELL}
        else:
            assert (alive.body, readiness.body) == (b"", b"")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_other_methods_are_refused(server, path):
    answer = server.client().request("POST", path, body=b"x")
    assert answer.status == 405
    assert {"GET", "HEAD"} <= set(answer.header("Allow").split(", "))


@pytest.mark.parametrize("path", ["/health%7A", "/%72eadyz", "//readyz", "/readyz/", "/admin/readyz"])
def test_the_paths_are_written_in_one_way_only(server, path):
    assert server.client().request("GET", path).status in {401, 404}


def test_with_required_certificates_a_probe_needs_one(kipuka_servers):
    """RULES A2: no byte of HTTP without a certificate, for a probe neither."""
    server = kipuka_servers()
    device = server.enrol("probe")
    server.deployment.configure({"tls": {"client_auth": {"mode": "required"}}})
    server.restart()
    with pytest.raises(TLSAlert):
        server.client().request("GET", "/healthz")
    assert ready(server.client(device)) == (200, WELL)


def test_probes_are_neither_counted_nor_limited_nor_logged_one_by_one(kipuka_servers):
    server = kipuka_servers({"server": {"workers": 1, "max_requests_per_minute_per_address": 3}})
    with server.client().connect() as connection:
        statuses = {connection.request("GET", path).status for _ in range(20) for path in ("/healthz", "/readyz")}
    assert statuses == {200}
    assert server.client().request("GET", "/readyz", body=b"x" * 100_000).status == 200  # a body says nothing here
    assert server.client().cacerts().status == 200
    assert not [line for line in server.stderr.splitlines() if "/readyz" in line]


def test_what_is_refused_there_keeps_the_pace_of_all_requests(kipuka_servers):
    """RULES H1: each refusal is audited, and must not fill the disk."""
    server = kipuka_servers({"server": {"workers": 1, "max_requests_per_minute_per_address": 3}})
    statuses = [server.client().request("POST", "/readyz").status for _ in range(5)]
    assert statuses == [405] * 3 + [429] * 2


# --- when it is 503 ---


def test_a_locked_database_is_a_503_in_bounded_time_and_then_it_is_ready_again(server):
    with closing(sqlite3.connect(server.deployment.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        # The lock is held until it was answered: whoever waited for it would wait for ever.
        wait_until(lambda: ready(server.client())[1]["store"] == "no answer in time", what="the 503")
        answer = server.client().request("GET", "/readyz")
        assert answer.status == 503
        assert int(answer.header("Retry-After")) >= 1
        assert server.client().request("GET", "/healthz").status == 200
        other.execute("ROLLBACK")
    wait_until(lambda: ready(server.client()) == (200, WELL), what="readiness")


def test_a_database_that_is_gone_is_a_503_and_then_it_is_ready_again(kipuka_servers):
    server = kipuka_servers()
    server.tracebacks_expected = True  # of jobs that could not be claimed meanwhile
    database = server.deployment.database
    away = database.rename(database.with_suffix(".away"))
    wait_until(lambda: ready(server.client())[0] == 503, what="the 503")
    _status, parts = ready(server.client())
    assert parts == {**WELL, "store": "not writable"}
    assert str(database.parent) not in json.dumps(parts)
    away.rename(database)
    wait_until(lambda: ready(server.client()) == (200, WELL), what="readiness")


def test_a_flood_while_the_database_hangs_is_answered_and_leaves_nothing_behind(server):
    """However many ask: one write waits in the queue, not one for each of them."""
    with closing(sqlite3.connect(server.deployment.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with server.client().connect() as connection:
            # the first ones may still have an answer from before
            wait_until(lambda: connection.request("GET", "/readyz").status == 503, what="the 503")
            assert {connection.request("GET", "/readyz").status for _ in range(200)} == {503}
        other.execute("ROLLBACK")
    wait_until(lambda: ready(server.client()) == (200, WELL), what="readiness")


def test_a_ca_that_cannot_sign_is_a_503(kipuka_template, tmp_path):
    deployment = kipuka_template.copy(tmp_path / "kipuka")
    clock = FakeClock()
    clock.set(deployment.authority().certificate.not_valid_before_utc + timedelta(days=1))
    with InProcessServer(deployment, clock=clock) as server:
        assert ready(server.client()) == (200, WELL)
        clock.advance(timedelta(days=365 * 40))
        wait_until(lambda: ready(server.client()) == (503, {**WELL, "ca": "not usable"}), what="the 503")


def test_a_sink_that_enrolments_wait_for_is_a_503_while_it_takes_nothing(kipuka_servers):
    sink = {"type": "file", "id": "strict", "path": "logs/strict.jsonl", "on_failure": "block"}
    server = kipuka_servers({"audit": {"sink": [sink]}}, start=False)
    logs = server.deployment.directory / "logs"
    logs.mkdir()
    server.start()
    assert ready(server.client()) == (200, WELL)
    logs.rename(logs.with_name("away"))
    server.make_token("an event for the sink")
    expected = (503, {**WELL, "audit": "not available"})
    wait_until(lambda: ready(server.client()) == expected, timeout=30, what="the 503")
    logs.with_name("away").rename(logs)
    wait_until(lambda: ready(server.client()) == (200, WELL), timeout=30, what="readiness")


# --- draining ---


def test_told_to_stop_it_is_not_ready_but_serves_new_connections_until_the_delay_is_over(kipuka_servers):
    server = kipuka_servers({"server": {"workers": 2, "drain_delay": 120}})
    server.wait_for_workers(2)
    token = server.make_token("late")
    process = server._process
    process.send_signal(signal.SIGTERM)
    wait_until(lambda: ready(server.client()) == (503, {**WELL, "service": "draining"}), what="the draining")
    for _ in range(10):
        assert ready(server.client())[0] == 503  # of whichever worker
    assert server.client().enroll(make_csr(common_name="late"), token=token.value).status == 200
    assert server.client().request("GET", "/healthz").status == 200
    time.sleep(SECOND_THOUGHT)  # one that came sooner would be taken for the same signal
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


@pytest.mark.slow
def test_the_delay_comes_to_its_end_by_itself_and_nobody_is_killed_meanwhile(kipuka_servers):
    delay = STOP_MARGIN + 1  # what a worker has to end in, were the delay not counted
    server = kipuka_servers({"server": {"workers": 2, "drain_delay": delay, "shutdown_timeout": 0.1}})
    server.wait_for_workers(2)
    assert server.stop() == 0
    assert "worker_killed" not in server.stderr
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
        pass


def test_without_a_delay_nothing_is_taken_any_more_at_once(kipuka_servers):
    server = kipuka_servers({"server": {"workers": 1}})
    assert server.stop() == 0
    assert "draining" not in server.stderr
