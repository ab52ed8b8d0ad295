"""A database in trouble, under a steady load: refused cleanly, nothing lost, and no restart needed (guarantees 1 and 2)."""

from __future__ import annotations

import json
import threading
from functools import partial
from random import Random

import pytest

from kipuka.testing.measure import family, resident_octets
from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until

from . import sites, trouble, verdict
from .crowd import Crowd

pytestmark = [pytest.mark.server, pytest.mark.crash, pytest.mark.timeout(300)]

AWAY = (503, "the server's store is not available")
LIBRARY = pytest.mark.needs("gcc")
POSTGRESQL = pytest.mark.needs("postgres")


def answers_cleanly(disk, device, token):
    """What writes is a 503 that says when to try again; what only reads is as always."""
    site = disk.site
    told = {"store_unavailable": "the server's store is not available"}
    if disk.is_slow:
        told["store_too_slow"] = "the server's store is too slow"
    before = site.client().cacerts().body
    for _ in range(1 if disk.is_slow else 3):
        by_token = site.client().enroll(make_csr(common_name=token.client_id), token=token.value)
        by_certificate = site.client(device).reenroll(make_csr(device.subject, key=device.key))
        for answer in (by_token, by_certificate):
            assert (answer.status, answer.text) in {(503, text) for text in told.values()}
            assert answer.header("Retry-After") == "5"
            assert answer.header("Content-Type") == "text/plain; charset=utf-8"
            assert answer.header("WWW-Authenticate") is None
        for server in site.servers:
            made = server.admin("POST", "/admin/otp", {"client_id": "device-1"})
            assert (made.status, made.header("Retry-After")) == (503, "5")
            assert json.loads(made.body)["detail"] == told[json.loads(made.body)["error"]]
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
        pytest.param(trouble.stopped, id="PostgreSQL is stopped", marks=POSTGRESQL),
        pytest.param(trouble.hanging, id="PostgreSQL does not answer", marks=POSTGRESQL),
        pytest.param(trouble.takes_no_writes, id="PostgreSQL is read-only", marks=POSTGRESQL),
        pytest.param(trouble.full_disk, id="PostgreSQL has a full file system", marks=POSTGRESQL),
    ],
)
def test_trouble_is_a_clean_503_and_nothing_is_lost_and_nothing_needs_a_restart(ground, kind):
    """Guarantees 1 and 2: the same processes go on when the database is well again."""
    disk = kind(trouble.Scene(ground, {"db": {"commit_timeout": 3}}))
    site = disk.site
    processes = processes_of(site)
    with Crowd(site, ground.folder / "journals") as crowd:
        device = crowd.enrol_one("renews")
        token = crowd.make_token("patient")
        crowd.make_tokens(Random(7030), 10)
        crowd.begin()
        wait_until(partial(crowd.has_received, 20), timeout=60, what="certificates")
        with disk.going_on():
            enough = 6 if disk.is_slow else 20
            wait_until(lambda: crowd.has_heard(2, AWAY) and crowd.has_heard(enough), timeout=60, what="refusals")
            received = crowd.received
            if not disk.some_writes_succeed:
                answers_cleanly(disk, device, token)
                assert crowd.received == received
        wait_until(partial(crowd.has_received, crowd.received + 20), timeout=60, what="certificates again")
        crowd.end()
        site.wait_until_well()
        assert verdict.judge(crowd.journals, site.database_url) == []
        assert {what for what in crowd.heard if not isinstance(what, tuple)} == set()  # no connection broke
    assert any(disk.says in server.stderr for server in site.servers)
    for server in site.servers:
        assert "event_name=request_rejected" not in server.stderr  # a refusal does not wait for the store in turn
    assert processes == processes_of(site)
    answer = site.client().enroll(make_csr(common_name=token.client_id), token=token.value)
    assert answer.status == 200, answer.text
    site.audit_verify()


def processes_of(site):
    """Supervisors and workers."""
    return [(server.pid, server.wait_for_workers(sites.WORKERS)) for server in site.servers]


# --- slow ---

TOO_BUSY = (503, "the server is too busy")


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(
    ("kind", "clients", "queue"),
    [
        pytest.param(trouble.slow, 500, 40, id="SQLite"),
        pytest.param(trouble.slow_postgresql, 60, 3, id="PostgreSQL", marks=POSTGRESQL),
    ],
)
def test_a_slow_disk_serves_some_and_the_rest_is_refused_at_once(ground, kind, clients, queue):
    """Two seconds for each commit, then none at all, and hundreds of requests in one moment: queue and memory are bounded."""
    changes = {"db": {"queue_limit": queue}, "server": {"max_connections_per_address": 4000}}
    disk = kind(trouble.Scene(ground, changes))
    site = disk.site
    workers = sites.WORKERS * len(site.servers)
    let_in = workers * 2 * queue  # those that wait, and a batch that is being written
    processes = processes_of(site)
    with Crowd(site, ground.folder / "journals") as crowd:
        # Several, since PostgreSQL has those that hold uses of the same token wait for each other.
        tokens = [crowd.make_token(f"shared-{number}", max_uses=clients) for number in range(50)]
        crowd.begin()
        wait_until(partial(crowd.has_received, 20), timeout=60, what="certificates")
        start = threading.Barrier(clients + 1)
        with disk.going_on():
            threads = [
                threading.Thread(target=crowd.enrol_once, args=(tokens[number % len(tokens)], start))
                for number in range(clients)
            ]
            for thread in threads:
                thread.start()
            start.wait(120)  # they are connected
            before = memory_of(site)
            with disk.turn():
                received = crowd.received
                start.wait(120)
                wait_until(lambda: crowd.has_heard(clients - let_in, TOO_BUSY), timeout=60, what="refusals")
                assert site.client().cacerts().status == 200
                assert memory_of(site) < before + 64 * 2**20
                assert crowd.received <= received + queue * workers  # answered before we had the turn
            for thread in threads:
                thread.join(120)
                assert not thread.is_alive()
            wait_until(partial(crowd.has_received, crowd.received + 1), timeout=60, what="a certificate, slowly")
        wait_until(partial(crowd.has_received, crowd.received + 20), timeout=60, what="certificates as before")
        crowd.end()
        site.wait_until_well()
        assert verdict.judge(crowd.journals, site.database_url) == []
        assert {what for what in crowd.heard if not isinstance(what, tuple)} == set()  # no connection broke
    assert processes == processes_of(site)
    site.audit_verify()


def memory_of(site):
    """Octets of all processes of the servers."""
    return sum(resident_octets(family(server.pid)) for server in site.servers)
