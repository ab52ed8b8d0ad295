"""RULES H1 as clients and auditors see it: the rate of requests, and floods that are audited in sums."""

from __future__ import annotations

import contextlib
import socket

import pytest

from kipuka.testing.client import est_path
from kipuka.testing.pki import make_csr

pytestmark = pytest.mark.server

CACERTS = est_path("cacerts")


@pytest.fixture(scope="module")
def strict(kipuka_servers):
    """A server that takes ten requests a minute and two connections of an address, all in one worker."""
    limits = {"workers": 1, "max_requests_per_minute_per_address": 10, "max_connections_per_address": 2}
    return kipuka_servers({"server": limits}, as_shipped=True)


def test_too_many_requests_of_an_address_are_a_429_and_others_are_served(strict):
    client = strict.client().calling_from("127.0.0.2")
    with client.connect() as connection:  # one, so that it does not take until the next request would be taken
        answers = [client.request("GET", CACERTS, connection=connection) for _ in range(11)]
    answers.append(client.cacerts())
    assert [answer.status for answer in answers] == [200] * 10 + [429] * 2
    assert answers[-1].text == "too many requests"
    assert answers[-1].header("Content-Type") == "text/plain; charset=utf-8"
    assert 1 <= int(answers[-1].header("Retry-After")) <= 6
    assert client.enroll(make_csr(), token="x" * 20).status == 429
    admin = client.request("GET", "/admin/lockouts", headers={"Authorization": "Bearer x"})
    assert admin.status == 429
    assert b'"error": "too_many_requests"' in admin.body
    assert strict.client().calling_from("127.0.0.3").cacerts().status == 200


def test_floods_are_audited_in_sums(strict):
    """Not a row for each request, connection or handshake that was refused."""
    client = strict.client().calling_from("127.0.0.4")
    statuses = [client.cacerts().status for _ in range(60)]
    assert statuses[:10] == [200] * 10
    assert statuses.count(429) >= 40  # those that a minute has, and what comes again while sixty are asked
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(socket.socket()) for _ in range(30)]
        for plain in opened:
            plain.bind(("127.0.0.5", 0))
            plain.connect((strict.host, strict.port))
        for refused in opened[2:]:
            with contextlib.suppress(ConnectionResetError):
                assert refused.recv(1) == b""
    for _ in range(40):
        with socket.socket() as plain, contextlib.suppress(ConnectionError):
            plain.bind(("127.0.0.6", 0))
            plain.connect((strict.host, strict.port))
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while plain.recv(100):
                pass
    strict.stop()
    met = {
        (record["data"]["limit"], record["data"]["address"]): record["data"]["count"]
        for record in strict.audit("limit_reached")
    }
    assert met["max_requests_per_minute_per_address", "127.0.0.4"] == statuses.count(429)
    assert met["max_connections_per_address", "127.0.0.5"] == 28
    assert all(record["client_address"] is None for record in strict.audit("limit_reached"))
    failed = [record["data"] for record in strict.audit("handshake_failed") if record["client_address"] == "127.0.0.6"]
    assert {data["reason"] for data in failed} == {"plain_http_request"}
    assert len(failed) == 6
    assert sum(data["count"] for data in failed) == 40
    assert strict.audit("request_rejected") == []
    assert strict.audit("admin_denied") == []
