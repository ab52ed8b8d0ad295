"""Several workers: one store, one audit chain, one count of everything; and what happens when one of them dies."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL

from kipuka.http.supervisor import SECOND_THOUGHT
from kipuka.store.turnstile import Turnstile
from kipuka.testing.client import basic, est_path
from kipuka.testing.pki import make_csr
from kipuka.testing.server import lives, wait_until

from .load import CACERTS, Load, connections_by_worker, enrolment, pid_of, rows, use_in_parallel

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

ANY_KEY = {"profile": [{"name": "default", "unique_keys": False}]}
TWO = {"server": {"workers": 2}, **ANY_KEY}


@pytest.fixture(scope="module")
def server(kipuka_servers):
    server = kipuka_servers(TWO)
    server.wait_for_workers(2)
    return server


@contextmanager
def together(found):
    """All the connections, closed at the end."""
    with ExitStack() as stack:
        yield [stack.enter_context(connection) for connections in found.values() for connection in connections]


def at_once(connections, requests):
    """Send a request on each connection at the same moment: the answers."""
    barrier = threading.Barrier(len(connections))
    answers = [None] * len(connections)

    def ask(index, connection, request):
        method, target, more = request
        octets = connection.format_request(method, target, **more)
        barrier.wait(30)
        connection.send(octets)
        answers[index] = connection.read_response(method)

    threads = [
        threading.Thread(target=ask, args=(index, connection, request))
        for index, (connection, request) in enumerate(zip(connections, requests, strict=True))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers


# --- one store ---


@pytest.mark.parametrize("max_uses", [1, 3])
def test_twenty_parallel_uses_on_two_workers_give_as_many_certificates_as_the_token_has_uses(server, max_uses):
    """Guarantee 2, over any number of workers."""
    token = server.make_token(f"parallel-{max_uses}", max_uses=max_uses)
    with together(connections_by_worker(server, count=10)) as connections:
        answers = at_once(connections, [enrolment(token) for _ in connections])
    assert sum(answer.status == 200 for answer in answers) == max_uses
    assert {answer.status for answer in answers} <= {200, 401, 503}
    view = server.view_token(token)
    assert (view["used"], view["held"]) == (max_uses, 0)


def test_failures_on_both_workers_are_counted_together(kipuka_servers):
    """RULES C4: the sixth failure locks the address, wherever the first five were."""
    policy = {"hash_algorithm": "sha256-hmac", "max_failures": 5, "failure_window": 600}
    server = kipuka_servers({**TWO, "otp": policy}, as_shipped=True)
    server.wait_for_workers(2)
    found = connections_by_worker(server, count=3)
    headers = {"Content-Type": "application/pkcs10", "Authorization": basic("wrong")}
    body = base64.b64encode(make_csr().der)
    with together(found):
        statuses = [
            connection.request("POST", est_path("simpleenroll"), headers=headers, body=body).status
            for pair in zip(*found.values(), strict=True)
            for connection in pair
        ]
    assert statuses == [401] * 5 + [429]


def test_both_workers_write_one_chain_and_the_sink_has_every_event_in_order(server):
    """Guarantee 7: one of them feeds the sinks, woken by the other's commits."""
    token = server.make_token("chained", max_uses=1000)
    with together(connections_by_worker(server, count=4)) as connections:
        for _ in range(5):
            answers = at_once(connections, [enrolment(token) for _ in connections])
            assert {answer.status for answer in answers} == {200}
    fingerprints = {certificate_id(answer) for answer in answers}
    wait_until(
        lambda: fingerprints <= {record["data"]["fingerprint"] for record in server.audit("certificate_issued")},
        what="the events in the sink",
    )
    sequences = [record["sequence"] for record in server.audit()]
    assert sequences == list(range(1, len(sequences) + 1))
    server.deployment.kipuka("audit", "verify")


def certificate_id(answer):
    return answer.certificate.fingerprint(hashes.SHA256()).hex()


@pytest.mark.slow
def test_two_saturated_workers_get_fair_shares_and_nobody_waits_for_ever(server):
    """DESIGN, the turnstile: shares within 20 % of each other, and no wait above 50 times the median."""
    per_worker, enough = 8, 600  # of so many the shares say something, however fast the machine is
    token = server.make_token("fair", max_uses=1000000)
    found = connections_by_worker(server, count=per_worker)
    before = server.last_sequence
    waits, over = [], threading.Event()

    def ask(connection):
        method, target, more = enrolment(token)  # one for all: what is measured is the server
        octets = connection.format_request(method, target, **more)
        while not over.is_set():
            began = time.monotonic()
            connection.send(octets)
            assert connection.read_response(method).status == 200
            waits.append(time.monotonic() - began)

    with together(found) as connections:
        first = rows(server, "SELECT max(rowid) FROM enrolments")[0][0]
        threads = [threading.Thread(target=ask, args=(connection,)) for connection in connections]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(waits) >= enough, timeout=200, what="enrolments")
        finally:
            over.set()
        for thread in threads:
            thread.join(60)
    shares = Counter(process for (process,) in rows(server, "SELECT process FROM enrolments WHERE rowid > ?", first))
    print(f"shares {sorted(shares.values())}, median {statistics.median(waits):.4f} s, longest {max(waits):.4f} s")
    assert len(shares) == 2
    assert max(shares.values()) <= 1.2 * min(shares.values())
    assert max(waits) <= 50 * statistics.median(waits)
    assert before < server.last_sequence


# --- a worker dies ---


@pytest.fixture
def two(kipuka_servers):
    """A server of two workers of its own."""
    server = kipuka_servers(TWO)
    server.wait_for_workers(2)
    yield server
    if server.is_running:
        server.stop()


@pytest.mark.crash
@pytest.mark.parametrize("slot", [pytest.param(0, id="the one that feeds the sinks"), pytest.param(1, id="the other")])
def test_only_the_connections_of_a_killed_worker_fail_and_it_is_replaced(two, slot):
    """Item 1."""
    found = connections_by_worker(two, count=3)
    victim, sibling = pid_of(two, slot), pid_of(two, 1 - slot)
    with together(found):
        os.kill(victim, signal.SIGKILL)
        for connection in found[1 - slot]:
            for _ in range(3):
                assert connection.request("GET", CACERTS).status == 200
        assert all(connection.is_closed() for connection in found[slot])
    for _ in range(10):  # a connection that waits in the queue of both finds the living one
        assert two.client().cacerts().status == 200
    assert sibling in two.wait_for_workers(2, without=[victim])
    died = two.wait_for_audit("worker_died", worker=slot)["data"]
    assert (died["pid"], died["cause"]) == (victim, "signal 9 (SIGKILL)")
    started = two.wait_for_audit("worker_started", worker=slot, replaces=victim)["data"]
    with together(connections_by_worker(two, count=1)):
        pass
    assert started["pid"] in two.workers()
    assert len(two.audit("server_started")) == 1
    assert two.stop() == 0
    assert [record["event"] for record in two.audit()].count("server_stopped") == 1
    sequences = [record["sequence"] for record in two.audit()]
    assert sorted(set(sequences)) == list(range(1, max(sequences) + 1))  # at least once, and nothing is missing
    two.deployment.kipuka("audit", "verify")


@pytest.mark.crash
def test_the_use_that_a_killed_worker_held_comes_back_at_once(two):
    """Guarantee 2: not after the lease, and without touching what the living sibling holds."""
    with closing(Turnstile(two.deployment.database, limit=timedelta(seconds=20))) as turnstile:
        process = None
        while process is None:  # a worker that is quicker than this process, on a busy machine, has come to an end
            token = two.make_token("held")
            process, answer = enrol_and_kill(two, turnstile, token)
    assert isinstance(answer, OSError)
    victim = pid_of(two, int(process.split("/")[1]))
    wait_until(lambda: two.view_token(token)["held"] == 0, what="the use")
    assert two.view_token(token)["used"] == 0
    two.wait_for_audit("enrolment_recovered")
    wait_until(lambda: victim not in two.workers(), what="the worker's end")
    assert two.client().enroll(make_csr(common_name="held"), token=token.value).status == 200


def enrol_and_kill(server, turnstile, token):
    """Kill the worker that holds a reservation: its name, or None where it was not held up; and what the client was answered."""
    answers = []

    def enrol():
        try:
            answers.append(server.client().enroll(make_csr(common_name="held"), token=token.value).status)
        except OSError as error:
            answers.append(error)

    client = threading.Thread(target=enrol)
    with turnstile.turn():  # from now on we stand in the queue whenever the worker wants a turn
        client.start()
        time.sleep(0.2)
    process = between_reservation_and_record(server, turnstile, answers)
    client.join(30)
    return process, answers[0]


def between_reservation_and_record(server, turnstile, answers):
    """Kill the worker that holds a reservation while the turn to write is ours, so that it cannot come to an end."""
    while not answers:
        with turnstile.turn():
            held = rows(server, "SELECT process FROM enrolments WHERE state = 'reserved'")
            if held:
                process = held[0][0]
                os.kill(pid_of(server, int(process.split("/")[1])), signal.SIGKILL)
                return process
    return None


@pytest.mark.crash
def test_workers_end_when_their_supervisor_is_killed_and_a_new_server_starts(two):
    """They hold the node, and nobody would look after them."""
    workers = two.wait_for_workers(2)
    os.kill(two.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(lives, workers)), what="the workers' end")
    wait_until(lambda: not two.is_running, what="the supervisor's end")
    two.start()
    assert two.client().cacerts().status == 200
    assert two.stop() == 0


@pytest.mark.crash
def test_workers_end_with_their_supervisor_though_nobody_reads_their_log_any_more(kipuka_servers):
    """A write to a closed pipe raises, and must not keep them from ending."""
    deployment = kipuka_servers(TWO, start=False).deployment
    command = [str(Path(sys.executable).with_name("kipuka")), "serve", "-c", str(deployment.config_file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        server = deployment.serve()
        wait_until(lambda: len(server.audit("worker_started")) == 2, timeout=60, what="two workers")
        workers = [record["data"]["pid"] for record in server.audit("worker_started")]
        process.stderr.close()
        process.kill()
    wait_until(lambda: not any(map(lives, workers)), timeout=30, what="the workers' end")


# --- stop ---


def test_sigterm_under_load_answers_every_request_whose_header_was_complete(two):
    """Item 1: and the process ends before it would be killed."""
    token = two.make_token("loader", max_uses=1000000)
    device = two.enrol("loaded")
    slow = [two.client().connect() for _ in range(8)]
    with ExitStack() as stack:
        method, target, more = enrolment(token)
        octets = slow[0].format_request(method, target, **more)
        for connection in slow:  # the header is complete, the body is not
            stack.enter_context(connection)
            connection.send(octets[:-10])
        with Load(two, device, token) as load:
            wait_until(lambda: len(load.asked) > 100, timeout=60, what="some load")
            asked = time.monotonic()
            os.kill(two.pid, signal.SIGTERM)
            time.sleep(0.5)
            for connection in slow:
                connection.send(octets[-10:])
                assert connection.read_response("POST").status == 200
            assert two.stop() == 0
    assert [one for one in load.failures() if one.sent < asked] == []
    assert [record["event"] for record in two.audit()][-2:] == ["server_stopped", "audit_head_signed"]
    issued = sum(one.status == 200 and one.kind != "fresh cacerts" for one in load.asked)
    assert issued
    two.deployment.kipuka("audit", "verify")


class LastFlight:
    """A client whose Finished and first request are ready to go out together (TLS 1.3)."""

    def __init__(self, server, request):
        self._tls = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
        self._tls.set_connect_state()
        self._socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        while True:
            try:
                self._tls.do_handshake()
                break
            except SSL.WantReadError:
                self._socket.sendall(self._tls.bio_read(65536))
                self._tls.bio_write(self._socket.recv(65536))
        self._tls.send(request)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def send(self, _octets):
        self._socket.sendall(self._tls.bio_read(65536))

    def status(self):
        """The status of the answer, 0 for none."""
        head = b""
        while b"\r\n" not in head:
            try:
                head += self._tls.recv(65536)
            except SSL.WantReadError:
                data = self._socket.recv(65536)
                if not data:
                    return 0
                self._tls.bio_write(data)
            except SSL.ZeroReturnError:
                return 0
        return int(head.split()[1])


def test_what_has_arrived_before_sigterm_is_answered_though_no_worker_has_read_it(two):
    """Item 1: also on a connection that counts as idle, and on one whose handshake is not finished on our side."""
    workers = two.wait_for_workers(2)
    octets = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: x\r\n\r\n"
    with ExitStack() as stack:
        idle = [stack.enter_context(two.client().connect()) for _ in range(12)]
        for connection in idle:
            assert connection.request("GET", CACERTS).status == 200
        fresh = [stack.enter_context(LastFlight(two, octets)) for _ in range(12)]
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        for connection in (*idle, *fresh):
            connection.send(octets)
        os.kill(two.pid, signal.SIGTERM)
        wait_until(lambda: "server_stopping" in two.stderr, what="the stop")
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        assert [connection.read_response().status for connection in idle] == [200] * len(idle)
        assert [connection.status() for connection in fresh] == [200] * len(fresh)
        wait_until(lambda: not two.is_running, timeout=30, what="the end")


def test_a_second_signal_drops_the_requests_that_are_still_there(kipuka_servers):
    """Ctrl-C, and again: whoever waits for a client that does not go on need not wait for the time-out."""
    patient = {"workers": 2, "shutdown_timeout": 600, "body_timeout": 600}
    server = kipuka_servers({**TWO, "server": patient})
    server.wait_for_workers(2)
    with server.client().connect() as connection:
        connection.send(b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        time.sleep(0.3)
        os.kill(server.pid, signal.SIGINT)
        wait_until(lambda: "server_stopping" in server.stderr, what="the stop")
        time.sleep(SECOND_THOUGHT)  # one that came sooner would be taken for the same signal
        assert server.is_running
        assert server.stop() == 0  # which gives up after 30 seconds
    assert [record["event"] for record in server.audit()][-2:] == ["server_stopped", "audit_head_signed"]


def test_signals_to_a_worker_are_left_to_its_supervisor(two):
    """Service managers and terminals signal every process of a server at once."""
    workers = two.wait_for_workers(2)
    for pid in workers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(pid, number)
    for _ in range(4):
        assert two.client().cacerts().status == 200
    assert two.workers() == workers


def test_the_service_manager_is_told(kipuka_servers, tmp_path):
    """sd_notify(3): what `Type=notify-reload` of systemd waits for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(30)
        manager.bind(str(tmp_path / "notify"))
        server = kipuka_servers(TWO, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert manager.recv(4096) == b"READY=1"
        server.reload()
        first, second = manager.recv(4096).split(b"\n")
        assert first == b"RELOADING=1"
        assert second.startswith(b"MONOTONIC_USEC=")
        assert manager.recv(4096) == b"READY=1"
        assert server.stop() == 0
        assert manager.recv(4096) == b"STOPPING=1"


# --- start ---


def test_the_start_is_told_once_for_all_workers(server):
    # a head may be signed before the second worker serves
    events = [record["event"] for record in server.audit() if record["event"] != "audit_head_signed"]
    assert events.count("server_started") == 1
    first = events.index("configuration_loaded")
    assert events[first : first + 4] == ["configuration_loaded", "server_started", "worker_started", "worker_started"]
    (started,) = server.audit("server_started")
    assert started["data"]["pid"] == server.pid
    assert {record["data"]["pid"] for record in server.audit("worker_started")} == set(server.workers())
    assert json.loads(json.dumps(started))["outcome"] == "success"


def on_the_same_node(server, deployment):
    del deployment
    return server.deployment


def on_the_same_port(server, deployment):
    deployment.configure({"server": {"listen": f"127.0.0.1:{server.port}"}})
    return deployment


def of_no_version(server, deployment):
    del server
    with closing(sqlite3.connect(deployment.database)) as database:
        database.execute("DROP TABLE alembic_version_kipuka")
    return deployment


@pytest.mark.parametrize(
    ("prepare", "code", "says"),
    [
        pytest.param(on_the_same_node, 4, "error: another kipuka server with [server] node", id="the node is taken"),
        pytest.param(on_the_same_port, 3, "error: cannot listen on 127.0.0.1 port", id="the address is taken"),
        pytest.param(of_no_version, 3, "kipuka db upgrade", id="a worker finds another schema"),
    ],
)
def test_what_hinders_the_start_is_one_line_whoever_found_it(server, kipuka_servers, prepare, code, says):
    """The supervisor, or the first worker: the command tells it as if there were one process."""
    deployment = prepare(server, kipuka_servers(TWO, start=False).deployment)
    done = deployment.kipuka("serve", "-c", str(deployment.config_file), expect=code)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error")]
    assert says in line
    assert "Traceback" not in done.stderr
    assert server.client().cacerts().status == 200


@pytest.mark.slow
@pytest.mark.parametrize("uses", [1, 3, 10])
def test_of_two_hundred_parallel_uses_exactly_as_many_as_allowed_get_a_certificate(server, uses):
    """Guarantee 2: over two workers; each certificate is recorded once."""
    token = server.make_token(f"crowd-{uses}", max_uses=uses)
    answers = use_in_parallel(token, [server.client() for _ in range(200)])
    assert {answer.status for answer in answers} == {200, 401}
    issued = [answer.certificate for answer in answers if answer.status == 200]
    fingerprints = sorted(certificate.fingerprint(hashes.SHA256()).hex() for certificate in issued)
    assert len(set(fingerprints)) == uses
    recorded = rows(server, "SELECT fingerprint FROM certificates WHERE subject = ?", f"CN={token.client_id}")
    assert sorted(name for (name,) in recorded) == fingerprints
    assert rows(server, "SELECT used, held FROM otp_tokens WHERE id = ?", token.id) == [(uses, 0)]
    events = "SELECT count(*) FROM audit_events WHERE event = 'certificate_issued' AND line LIKE ?"
    assert rows(server, events, f'%CN={token.client_id}"%') == [(uses,)]
    server.deployment.kipuka("audit", "verify")
