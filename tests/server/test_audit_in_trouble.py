"""The audit log while collectors, workers and rows come to harm (DESIGN guarantee 7): one server of two workers over SQLite, and two
nodes of two workers each over one PostgreSQL.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from kipuka.testing.server import RunningServer, wait_until

from ..interop.rsyslog import Rsyslog  # noqa: TID252 - tests are no package that is installed
from .cluster import Cluster
from .load import pid_of

pytestmark = [pytest.mark.server, pytest.mark.needs("rsyslogd")]

SITES = {"SQLite": ["alpha"], "PostgreSQL": ["alpha", "beta"]}
"""The nodes of each."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Servers by the names of their nodes, which share a database, and each server's collector. `rows` runs a statement."""

    servers: Mapping[str, RunningServer]
    collectors: Mapping[str, Rsyslog]
    rows: Callable[[str], list[tuple]]

    @property
    def first(self):
        """The node whose worker is killed, that prunes, and that verifies the log of all."""
        return next(iter(self.servers))

    @property
    def last(self):
        """The node whose collector is killed and whose rows are changed: another one, where there are two."""
        return [*self.servers][-1]


@pytest.fixture(
    scope="module",
    params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.needs("postgres"))],
)
def site(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    with contextlib.ExitStack() as stack:
        collectors = {name: Rsyslog(folder / f"rsyslog-{name}") for name in SITES[request.param]}
        for collector in collectors.values():
            stack.callback(collector.stop)
            collector.start()
        made = {"SQLite": on_sqlite, "PostgreSQL": on_postgresql}[request.param](request, folder, stack, collectors)
        for name, server in made.servers.items():
            server.enrol(f"first-of-{name}")
            server.wait_for_audit("audit_head_signed", after=PLACE + 1)
        yield made


def sinks(collector):
    address = f"127.0.0.1:{collector.port}"
    return [
        {"type": "file", "path": "audit.jsonl"},
        {"type": "syslog", "id": "collector", "transport": "tcp", "address": address},
    ]


SIGNED_OFTEN = {"head_interval": 0.5}


def on_sqlite(request, _folder, _stack, collectors):
    changes = {
        "server": {"workers": 2, "node": "alpha"},
        "audit": {**SIGNED_OFTEN, "sink": sinks(collectors["alpha"])},
    }
    server = request.getfixturevalue("kipuka_servers")(changes)
    server.wait_for_workers(2)

    def rows(statement):
        with contextlib.closing(sqlite3.connect(server.deployment.database, timeout=20)) as connection, connection:
            return connection.execute(statement).fetchall()

    return Site(servers={"alpha": server}, collectors=collectors, rows=rows)


def on_postgresql(request, folder, stack, collectors):
    """Each node with a key of its own, which the other trusts."""
    postgresql, examine = (request.getfixturevalue(name) for name in ("kipuka_postgresql", "kipuka_examine"))
    cluster = Cluster(postgresql, folder, {"audit": SIGNED_OFTEN}, examine=examine)
    alpha, beta = (node.deployment for node in cluster.nodes)
    beta.kipuka("audit", "key", "create", "beta.key")
    beta.configure({"audit": {"node_key": "beta.key", "trusted_keys": [str(alpha.directory / "audit.pub")]}})
    alpha.configure({"audit": {"trusted_keys": [str(beta.directory / "beta.pub")]}})
    for name, deployment in (("alpha", alpha), ("beta", beta)):
        deployment.configure({"audit": {"sink": sinks(collectors[name])}})
    stack.enter_context(cluster)
    return Site(servers={"alpha": cluster.alpha, "beta": cluster.beta}, collectors=collectors, rows=cluster.rows)


def numbers(collector):
    """The sequence numbers that a collector has, repeats left out."""
    return list(dict.fromkeys(event["sequence"] for event in collector.events("tcp")))


def end_of(site, name):
    ((last,),) = site.rows(f"SELECT sequence FROM audit_heads WHERE node = '{name}'")
    return last


def place_of(site, name):
    """Up to which number the collector has been given the node's events."""
    ((place,),) = site.rows(f"SELECT sequence FROM audit_cursors WHERE node = '{name}' AND sink = 'collector'")
    return place


def begin_of(site, name):
    ((first,),) = site.rows(f"SELECT min(sequence) FROM audit_events WHERE node = '{name}'")
    return first


def require_everything(site, name):
    """The node's collector has that node's events up to now, in order and without a gap, and its copy verifies on every node."""
    collector = site.collectors[name]
    last = end_of(site, name)
    wait_until(lambda: numbers(collector)[-1:] >= [last], timeout=60, what=f"event {last} of {name}")
    assert {event["node"] for event in collector.events("tcp")} == {name}
    got = numbers(collector)
    assert got == list(range(1, len(got) + 1))
    copy = collector.copy("tcp")
    for server in site.servers.values():
        verified = server.deployment.kipuka("audit", "verify", "--file", str(copy), "--against-database")
        assert "intact" in verified.stdout


def state_of(server):
    """How the collector's sink does."""
    rows = json.loads(server.deployment.kipuka("audit", "sinks", "--json").stdout)
    return {row["id"]: row for row in rows}["collector"]


@contextlib.contextmanager
def load(site, name, count):
    """Enrolments under way, by turns on all nodes. Gives their futures, some of which are done: whether each got a certificate."""
    servers = [*site.servers.values()]

    def enrol(number):
        try:
            return servers[number % len(servers)].enrol(f"{name}-{number}") is not None
        except OSError:
            return False  # it was the connection of a worker that was killed

    with ThreadPoolExecutor(4) as pool:
        under_way = [pool.submit(enrol, number) for number in range(count)]
        wait_until(lambda: sum(one.done() for one in under_way) >= 6, timeout=60, what="some enrolments")
        yield under_way


def outcomes(under_way):
    return [one.result() for one in under_way]


def test_each_collector_gets_its_nodes_events_through_the_death_of_one(site):
    """Under load, with events it was given and has not read; another node's collector misses nothing meanwhile, and afterwards nothing is
    missing anywhere.
    """
    server = site.servers[site.last]
    with load(site, "through-the-kill", 48) as under_way:
        site.collectors[site.last].freeze()
        unread = end_of(site, site.last)
        wait_until(
            lambda: place_of(site, site.last) > unread, timeout=60, what="events that the collector does not read"
        )
        site.collectors[site.last].kill()
        assert all(outcomes(under_way))
    wait_until(lambda: state_of(server)["failing_since"] is not None, timeout=60, what="the failure")
    assert state_of(server)["behind"] > 0
    for name, other in site.servers.items():
        if name != site.last:
            assert state_of(other)["failing_since"] is None
            require_everything(site, name)
    site.collectors[site.last].start()
    require_everything(site, site.last)
    wait_until(lambda: state_of(server)["failing_since"] is None, timeout=60, what="the end of the failure")


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_collector_that_was_away_for_a_minute_under_load_misses_nothing(site):
    """All that it was to be given waits in the database, and comes in order when it is back."""
    collector = site.collectors[site.last]
    collector.kill()
    before, end = end_of(site, site.last), time.monotonic() + 60
    number = 0
    while time.monotonic() < end:
        with load(site, f"away-{number}", 40) as under_way:
            assert all(outcomes(under_way))
        number += 1
    waiting = end_of(site, site.last) - before
    assert waiting >= 100
    assert state_of(site.servers[site.last])["failing_since"] is not None
    collector.start()
    for name in site.servers:
        require_everything(site, name)
    print(f"{waiting} events waited for the collector of {site.last}", flush=True)


@pytest.mark.crash
def test_when_the_worker_that_feeds_the_sinks_is_killed_another_goes_on(site):
    """Under load; in order and without a gap, and what the first may not have sent for certain comes again."""
    server = site.servers[site.first]
    feeder = pid_of(server, 0)
    with load(site, "with-the-worker", 40) as under_way:
        os.kill(feeder, signal.SIGKILL)
        assert outcomes(under_way).count(False) <= 4, "what was in flight"
    workers = server.wait_for_workers(2, without=[feeder])
    assert pid_of(server, 0) in workers
    server.enrol("after-the-worker")
    for name in site.servers:
        require_everything(site, name)


def test_one_node_prunes_its_own_beginning_beside_the_servers(site):
    """RULES K7: no other's, and the log of all verifies on each; what comes is issued, signed and carried as before."""
    begins = {name: begin_of(site, name) for name in site.servers}

    def pruned():
        done = site.servers[site.first].deployment.kipuka("audit", "prune", "--before", "2999-01-01", "--json")
        return json.loads(done.stdout)["events"] > 20

    with load(site, "beside-the-prune", 16) as under_way:
        wait_until(pruned, timeout=60, what="events to prune")
        assert all(outcomes(under_way))
    pruned_to = begin_of(site, site.first) - 1
    assert pruned_to > 20
    for server in site.servers.values():
        chains = json.loads(server.deployment.kipuka("audit", "verify", "--json").stdout)["chains"]
        found = {chain["node"]: chain for chain in chains}
        assert found[site.first]["pruned"]["sequence"] == pruned_to
        for name in site.servers:
            if name != site.first:
                assert (found[name]["pruned"], found[name]["first"]) == (None, begins[name])
    for name in site.servers:
        require_everything(site, name)


NEWEST_OF_ALPHA = "(SELECT line, hash FROM audit_events WHERE node = 'alpha' ORDER BY sequence DESC LIMIT 1)"
WAYS = {
    "a field changed": ("UPDATE audit_events SET line = replace(line, 'a', 'b')", "the event was changed"),
    "its hash changed": ("UPDATE audit_events SET hash = 'x'", "the event was changed"),
    "removed": ("DELETE FROM audit_events", "sequence {place} is missing"),
    "another one put there": (
        f"UPDATE audit_events SET (line, hash) = {NEWEST_OF_ALPHA}",
        "the event was written as sequence",
    ),
}
PLACE = 3


def refused(site, *words):
    """What `kipuka audit verify` finds, on the first node."""
    return site.servers[site.first].deployment.kipuka("audit", "verify", *words, expect=1).stderr


@pytest.mark.parametrize("way", WAYS)
def test_what_was_done_to_one_nodes_chain_is_found_and_its_place_named(site, way):
    """RULES I1: beside the servers."""
    statement, finding = WAYS[way]
    place = max(begin_of(site, site.last), PLACE) + 1
    where = f"WHERE node = '{site.last}' AND sequence = {place}"
    site.rows(f"CREATE TABLE kept AS SELECT * FROM audit_events {where}")
    site.rows(f"{statement} {where}")
    try:
        found = refused(site)
    finally:
        site.rows(f"DELETE FROM audit_events {where}")
        site.rows("INSERT INTO audit_events SELECT * FROM kept")
        site.rows("DROP TABLE kept")
    assert f"node {site.last}, sequence {place}: {finding.format(place=place)}" in found
    assert site.first == site.last or f"error: node {site.first}" not in found
    site.servers[site.first].deployment.kipuka("audit", "verify")


def test_a_tail_that_was_cut_with_its_head_is_found(site):
    """The database's own head says nothing; the sinks' places do, and a collector's copy says what is gone."""
    require_everything(site, site.last)
    site.servers[site.last].stop()
    end = end_of(site, site.last)
    wait_until(lambda: numbers(site.collectors[site.last])[-1] == end, timeout=60, what="its last event")
    of_node = f"WHERE node = '{site.last}'"
    site.rows(f"DELETE FROM audit_events {of_node} AND sequence > {end - 3}")
    site.rows(
        "UPDATE audit_heads SET (sequence, hash) ="
        f" (SELECT sequence, hash FROM audit_events {of_node} ORDER BY sequence DESC LIMIT 1) {of_node}"
    )
    found = refused(site)
    assert f"node {site.last}, sequence {end - 2}: the sink collector has had events up to sequence {end}" in found
    copy = site.collectors[site.last].folder / "tcp.jsonl"
    found = refused(site, "--file", str(copy), "--against-database")
    for sequence in (end - 2, end - 1, end):
        assert f"node {site.last}, sequence {sequence}: the event is in the file, but not in the database" in found
    assert site.first == site.last or f"error: node {site.first}" not in found
