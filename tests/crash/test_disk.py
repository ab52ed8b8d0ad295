"""A disk in trouble, under a steady load: refused cleanly, nothing lost, and no restart needed (guarantees 1 and 2)."""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import timedelta
from functools import partial
from random import Random

import pytest

from kipuka.store.turnstile import Turnstile
from kipuka.testing.measure import family, resident_octets
from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until

from . import sites, trouble, verdict
from .crowd import Crowd

pytestmark = [pytest.mark.server, pytest.mark.crash, pytest.mark.timeout(300)]

AWAY = (503, "the server's store is not available")
PATIENCE = timedelta(seconds=60)
LIBRARY = pytest.mark.needs("gcc")


@pytest.fixture
def scene(kipuka_servers, tmp_path):
    with contextlib.ExitStack() as stack:
        yield trouble.Scene(kipuka_servers, tmp_path, stack)


def answers_cleanly(site, device, token):
    """What writes is a 503 that says when to try again; what only reads is as always."""
    before = site.client().cacerts().body
    for _ in range(3):
        by_token = site.client().enroll(make_csr(common_name=token.client_id), token=token.value)
        by_certificate = site.client(device).reenroll(make_csr(device.subject, key=device.key))
        for answer in (by_token, by_certificate):
            assert (answer.status, answer.body) == (503, b"the server's store is not available\n")
            assert answer.header("Retry-After") == "5"
            assert answer.header("Content-Type") == "text/plain; charset=utf-8"
            assert answer.header("WWW-Authenticate") is None
        made = site.servers[0].admin("POST", "/admin/otp", {"client_id": "device-1"})
        assert (made.status, made.header("Retry-After")) == (503, "5")
        assert json.loads(made.body)["error"] == "store_unavailable"
        assert json.loads(made.body)["detail"] == "the server's store is not available"
        answer = site.client().cacerts()
        assert (answer.status, answer.body) == (200, before)


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(trouble.full, id="a full file system"),
        pytest.param(trouble.no_space, id="writes find no space", marks=LIBRARY),
        pytest.param(trouble.read_only, id="a file system that became read-only", marks=LIBRARY),
        pytest.param(trouble.broken, id="writes fail", marks=LIBRARY),
        pytest.param(trouble.moved, id="the file is moved away"),
        pytest.param(trouble.unmounted, id="the file system is unmounted"),
    ],
)
def test_trouble_is_a_clean_503_and_nothing_is_lost_and_nothing_needs_a_restart(scene, tmp_path, kind):
    """Guarantees 1 and 2: the same processes go on when the disk is well again."""
    disk = kind(scene)
    site = disk.site
    (server,) = site.servers
    processes = (server.pid, server.wait_for_workers(sites.WORKERS))
    with Crowd(site, tmp_path / "journals") as crowd:
        device = crowd.enrol_one("renews")
        token = crowd.make_token("patient")
        crowd.make_tokens(Random(7030), 10)
        crowd.begin()
        wait_until(partial(crowd.has_received, 20), timeout=60, what="certificates")
        with disk.going_on():
            wait_until(lambda: crowd.has_heard(2, AWAY) and crowd.has_heard(20), timeout=60, what="refusals")
            received = crowd.received
            answers_cleanly(site, device, token)
            assert crowd.received == received
        wait_until(partial(crowd.has_received, received + 20), timeout=60, what="certificates again")
        crowd.end()
        site.wait_until_well()
        assert verdict.judge(crowd.journals, site.database_url) == []
        assert {what for what in crowd.heard if not isinstance(what, tuple)} == set()  # no connection broke
    assert disk.says in server.stderr
    assert "event_name=request_rejected" not in server.stderr  # a refusal does not wait for the store in turn
    assert processes == (server.pid, server.workers())
    answer = site.client().enroll(make_csr(common_name=token.client_id), token=token.value)
    assert answer.status == 200, answer.text
    site.audit_verify()


# --- slow ---

CROWD = 500
QUEUE = 40  # of each worker
LET_IN = sites.WORKERS * (QUEUE + 64)  # those that wait, and a batch that is being written
TOO_BUSY = (503, "the server is too busy")


@pytest.mark.needs("gcc")
def test_a_slow_disk_serves_some_and_the_rest_is_refused_at_once(kipuka_servers, tmp_path):
    """Two seconds for each commit, then none at all, and 500 requests in one moment: queue and memory are bounded."""
    changes = {"db": {"queue_limit": QUEUE}, "server": {"max_connections_per_address": 4000}}
    with contextlib.ExitStack() as stack:
        disk = trouble.slow(trouble.Scene(kipuka_servers, tmp_path, stack, changes))
        site = disk.site
        (server,) = site.servers
        turnstile = stack.enter_context(contextlib.closing(Turnstile(server.deployment.database, limit=PATIENCE)))
        processes = (server.pid, server.wait_for_workers(sites.WORKERS))
        crowd = stack.enter_context(Crowd(site, tmp_path / "journals"))
        shared = crowd.make_token("shared", max_uses=CROWD)
        crowd.begin()
        wait_until(partial(crowd.has_received, 20), timeout=60, what="certificates")
        start = threading.Barrier(CROWD + 1)
        with disk.going_on():
            clients = [threading.Thread(target=crowd.enrol_once, args=(shared, start)) for _ in range(CROWD)]
            for client in clients:
                client.start()
            start.wait(120)  # they are connected
            before = resident_octets(family(server.pid))
            with turnstile.turn():
                received = crowd.received
                start.wait(120)
                wait_until(lambda: crowd.has_heard(CROWD - LET_IN, TOO_BUSY), timeout=60, what="refusals")
                assert site.client().cacerts().status == 200
                assert resident_octets(family(server.pid)) < before + 64 * 2**20
                assert crowd.received <= received + QUEUE * sites.WORKERS  # answered before we had the turn
            for client in clients:
                client.join(120)
                assert not client.is_alive()
            wait_until(partial(crowd.has_received, crowd.received + 1), timeout=60, what="a certificate, slowly")
        wait_until(partial(crowd.has_received, crowd.received + 20), timeout=60, what="certificates as before")
        crowd.end()
        site.wait_until_well()
        assert verdict.judge(crowd.journals, site.database_url) == []
        assert {what for what in crowd.heard if not isinstance(what, tuple)} == set()  # no connection broke
        assert processes == (server.pid, server.workers())
        site.audit_verify()
