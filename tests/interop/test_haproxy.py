"""A load balancer that we did not write: haproxy spreads TCP over two servers that share a database (RULES C4, H3)."""

from __future__ import annotations

import csv
import socket
import subprocess
import threading
from collections import Counter

import pytest

from kipuka.testing.client import ESTClient
from kipuka.testing.pki import make_csr
from kipuka.testing.server import free_port, wait_until

pytestmark = [pytest.mark.server, pytest.mark.interop, pytest.mark.needs("haproxy"), pytest.mark.timeout(300)]

BALANCER = "127.0.0.9"
CONFIGURATION = """
global
    stats socket {folder}/haproxy.sock mode 600
defaults
    mode tcp
    timeout connect 5s
    timeout check 5s
    timeout client 60s
    timeout server 60s
frontend est
    bind 127.0.0.1:{port}
    default_backend kipuka
backend kipuka
    balance roundrobin
    source {balancer}
    option httpchk GET /readyz
    http-check expect status 200
    default-server check inter 200ms fall 2 rise 1 check-ssl check-sni localhost verify required ca-file {trust}
    server a 127.0.0.1:{a} send-proxy-v2 proxy-v2-options crc32c
    server b 127.0.0.1:{b} send-proxy-v2 proxy-v2-options crc32c
"""


class HAProxy:
    """A haproxy in front of two servers."""

    def __init__(self, folder, a, b):
        self.folder, self.port = folder, free_port()
        (folder / "trust.pem").write_bytes(a.deployment.trust)
        self._file = folder / "haproxy.cfg"
        self._file.write_text(
            CONFIGURATION.format(
                folder=folder, port=self.port, balancer=BALANCER, trust=folder / "trust.pem", a=a.port, b=b.port
            )
        )
        self._trust = a.deployment.trust

    def __enter__(self):
        with (self.folder / "haproxy.log").open("ab") as log:
            self._process = subprocess.Popen(
                ["haproxy", "-db", "-f", str(self._file)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(lambda: self.states() == {"a": "UP", "b": "UP"}, timeout=30, what="both servers")
        return self

    def __exit__(self, *_exception):
        self._process.terminate()
        self._process.wait(20)

    def states(self):
        """How haproxy finds each server: UP, DOWN, or on the way."""
        file = self.folder / "haproxy.sock"
        if not file.exists():
            return {}
        with socket.socket(socket.AF_UNIX) as asking:
            asking.connect(str(file))
            asking.sendall(b"show stat\n")
            text = b"".join(iter(lambda: asking.recv(65536), b"")).decode()
        rows = csv.DictReader(text.removeprefix("# ").splitlines())
        return {row["svname"]: row["status"] for row in rows if row["svname"] in {"a", "b"}}

    def client(self, source):
        return ESTClient(host="127.0.0.1", port=self.port, trust=self._trust, source=source)


@pytest.fixture(scope="module")
def nodes(kipuka_servers):
    """Two servers with one database, for whom the balancer speaks."""
    changes = {
        "server": {"workers": 1, "node": "a", "proxy_protocol_from": [BALANCER], "drain_delay": 5},
        "audit": {"sink": [{"type": "file", "path": "audit.jsonl"}]},
        "otp": {"max_failures": 5, "failure_window": 600},
        "profile": [{"name": "default", "unique_keys": False}],
    }
    a, b = kipuka_servers(changes, start=False), kipuka_servers(changes, start=False)
    b.deployment.configure({"server": {"node": "b"}, "db": {"url": f"sqlite:///{a.deployment.database}"}})
    return a.start(), b.start()


@pytest.fixture(scope="module")
def balancer(nodes, tmp_path_factory):
    with HAProxy(tmp_path_factory.mktemp("haproxy"), *nodes) as running:
        yield running


def requests_of(node, event, address):
    return [record for record in node.audit(event) if record["client_address"] == address]


def test_both_servers_know_the_clients_address(nodes, balancer):
    token = nodes[0].make_token("spread", max_uses=100)
    for _ in range(6):
        assert balancer.client("127.0.0.2").enroll(make_csr(common_name="spread"), token=token.value).status == 200
    for node in nodes:
        wait_until(lambda node=node: len(requests_of(node, "certificate_issued", "127.0.0.2")) == 3, what="the events")


def test_failures_of_a_client_lock_that_client_out_on_both_servers_and_nobody_else(nodes, balancer):
    bad, good = balancer.client("127.0.0.3"), balancer.client("127.0.0.4")
    statuses = [bad.enroll(make_csr(), token="wrong").status for _ in range(10)]
    assert statuses == [401] * 5 + [429] * 5  # round robin: both say so
    token = nodes[1].make_token("good", max_uses=2)
    for _ in range(2):
        assert good.enroll(make_csr(common_name="good"), token=token.value).status == 200

    def locks():
        return [record["data"]["address"] for node in nodes for record in node.audit("locked_out")]

    assert wait_until(locks, what="the event") == ["127.0.0.3"]


def test_probes_of_the_balancer_are_no_failed_handshakes(nodes, balancer):
    assert balancer.states() == {"a": "UP", "b": "UP"}
    for node in nodes:
        assert [record for record in node.audit("handshake_failed") if record["client_address"] == BALANCER] == []


def test_a_client_that_forges_a_header_gets_no_other_address(nodes, balancer):
    """What it sends comes after the balancer's header, and is no TLS."""
    forging = balancer.client("127.0.0.5").forwarded_for("192.0.2.1")
    with pytest.raises(ConnectionError):
        forging.cacerts()

    def told():
        return [
            record["data"]["reason"]
            for node in nodes
            for record in node.audit("handshake_failed")
            if record["client_address"] == "127.0.0.5"
        ]

    assert wait_until(told, what="the event") == ["not_tls"]


def test_one_server_after_the_other_restarts_and_no_client_notices(nodes, balancer):
    """RULES H3: a server that drains gets no new connections, and serves those that still come."""
    token = nodes[0].make_token("steady", max_uses=100000)
    outcomes, over = Counter(), threading.Event()

    def ask(source):
        client = balancer.client(source)
        while not over.is_set():
            try:
                outcomes[client.enroll(make_csr(common_name="steady"), token=token.value).status] += 1
            except OSError as error:
                outcomes[repr(error)] += 1

    threads = [threading.Thread(target=ask, args=(f"127.0.0.{last}",)) for last in (20, 21)]
    for thread in threads:
        thread.start()
    try:
        for name, node in zip("ab", nodes, strict=True):
            before = outcomes[200]
            assert node.stop() == 0
            assert balancer.states()[name].startswith("DOWN")
            node.start()
            wait_until(lambda name=name: balancer.states()[name] == "UP", timeout=30, what="the server's return")
            assert outcomes[200] > before
    finally:
        over.set()
        for thread in threads:
            thread.join(60)
    assert set(outcomes) == {200}
