"""The audit log of two nodes with two workers each on one PostgreSQL: verified, pruned and carried to sinks (DESIGN guarantee 7)."""

from __future__ import annotations

import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from kipuka.testing.server import wait_until

from ..interop.rsyslog import Rsyslog  # noqa: TID252 - tests are no package that is installed
from .cluster import Cluster
from .load import pid_of

pytestmark = [pytest.mark.server, pytest.mark.needs("postgres", "rsyslogd")]


@pytest.fixture(scope="module")
def collectors(tmp_path_factory):
    """A collector for each node, by its name."""
    made = {name: Rsyslog(tmp_path_factory.mktemp(f"rsyslog-{name}")) for name in ("alpha", "beta")}
    for collector in made.values():
        collector.start()
    yield made
    for collector in made.values():
        collector.stop()


@pytest.fixture(scope="module")
def cluster(kipuka_postgresql, tmp_path_factory, collectors):
    """Each node with a key of its own, which the other trusts."""
    cluster = Cluster(kipuka_postgresql, tmp_path_factory.mktemp("cluster"), {"audit": {"head_interval": 0.5}})
    alpha, beta = (node.deployment for node in cluster.nodes)
    beta.kipuka("audit", "key", "create", "beta.key")
    beta.configure({"audit": {"node_key": "beta.key", "trusted_keys": [str(alpha.directory / "audit.pub")]}})
    alpha.configure({"audit": {"trusted_keys": [str(beta.directory / "beta.pub")]}})
    for name, node in zip(collectors, cluster.nodes, strict=True):
        address = f"127.0.0.1:{collectors[name].port}"
        sinks = [
            {"type": "file", "path": "audit.jsonl"},
            {"type": "syslog", "id": "collector", "transport": "tcp", "address": address},
        ]
        node.deployment.configure({"audit": {"sink": sinks}})
    with cluster:
        for name, node in zip(collectors, cluster.nodes, strict=True):
            node.enrol(f"first-of-{name}")
            node.wait_for_audit("audit_head_signed", after=PLACE + 1)
        yield cluster


def numbers(collector):
    """The sequence numbers that a collector has, repeats left out."""
    return list(dict.fromkeys(event["sequence"] for event in collector.events("tcp")))


def last_of(cluster, name):
    ((last,),) = cluster.rows("SELECT sequence FROM audit_heads WHERE node = %s", name)
    return last


def first_of(cluster, name):
    ((first,),) = cluster.rows("SELECT min(sequence) FROM audit_events WHERE node = %s", name)
    return first


def require_everything(cluster, collectors, name):
    """The node's collector has that node's events up to now, in order and without a gap, and its copy verifies."""
    collector = collectors[name]
    last = last_of(cluster, name)
    wait_until(lambda: numbers(collector)[-1:] >= [last], timeout=60, what=f"event {last} of {name}")
    assert {event["node"] for event in collector.events("tcp")} == {name}
    got = numbers(collector)
    assert got == list(range(got[0], got[0] + len(got)))
    copy = collector.folder / "tcp.jsonl"
    for node in cluster.nodes:
        verified = node.deployment.kipuka("audit", "verify", "--file", str(copy), "--against-database")
        assert "intact" in verified.stdout


def behind(node):
    rows = json.loads(node.deployment.kipuka("audit", "sinks", "--json").stdout)
    return {row["id"]: row for row in rows}["collector"]


def enrol_on_both(cluster, pool, name, count):
    """Enrolments under way, by turns on both nodes."""
    return [pool.submit(cluster.nodes[number % 2].enrol, f"{name}-{number}") for number in range(count)]


def test_each_nodes_collector_gets_that_nodes_events_through_the_death_of_one(cluster, collectors):
    """Under load; the other node's collector misses nothing meanwhile, and afterwards nothing is missing anywhere."""
    with ThreadPoolExecutor(4) as pool:
        enrolments = enrol_on_both(cluster, pool, "through-the-kill", 32)
        wait_until(lambda: sum(one.done() for one in enrolments) >= 6, timeout=60, what="some enrolments")
        collectors["beta"].kill()
        for one in enrolments:
            one.result()
    wait_until(lambda: behind(cluster.beta)["failing_since"] is not None, timeout=60, what="the failure")
    assert behind(cluster.beta)["behind"] > 0
    assert behind(cluster.alpha)["failing_since"] is None
    require_everything(cluster, collectors, "alpha")
    collectors["beta"].start()
    require_everything(cluster, collectors, "beta")
    for name in collectors:
        assert numbers(collectors[name])[0] == 1
    wait_until(lambda: behind(cluster.beta)["failing_since"] is None, timeout=60, what="the end of the failure")


@pytest.mark.crash
def test_when_the_worker_that_feeds_the_sinks_is_killed_another_goes_on(cluster, collectors):
    """Under load; in order and without a gap, and what the first may not have sent for certain comes again."""
    feeder = pid_of(cluster.alpha, 0)

    def enrol(number):
        try:
            return cluster.nodes[number % 2].enrol(f"with-the-worker-{number}") is not None
        except OSError:
            return False  # it was the worker's connection

    with ThreadPoolExecutor(4) as pool:
        enrolments = [pool.submit(enrol, number) for number in range(40)]
        wait_until(lambda: sum(one.done() for one in enrolments) >= 6, timeout=60, what="some enrolments")
        os.kill(feeder, signal.SIGKILL)
        lost = [one.result() for one in enrolments].count(False)
    assert lost <= 4, "what was in flight"
    (_, successor) = sorted(cluster.alpha.wait_for_workers(2, without=[feeder]))
    assert pid_of(cluster.alpha, 0) == successor
    cluster.alpha.enrol("after-the-worker")
    for name in collectors:
        require_everything(cluster, collectors, name)


def test_one_node_prunes_its_own_beginning_beside_both_servers(cluster, collectors):
    """RULES K7: not the other's, and the log of both verifies on each; what comes is issued, signed and carried as before."""
    before = first_of(cluster, "beta")

    def pruned():
        done = cluster.alpha.deployment.kipuka("audit", "prune", "--before", "2999-01-01", "--json")
        return json.loads(done.stdout)["events"] > 20

    with ThreadPoolExecutor(4) as pool:
        enrolments = enrol_on_both(cluster, pool, "beside-the-prune", 16)
        wait_until(pruned, timeout=60, what="events to prune")
        for one in enrolments:
            one.result()
    assert first_of(cluster, "alpha") > 20
    assert first_of(cluster, "beta") == before
    for node in cluster.nodes:
        chains = json.loads(node.deployment.kipuka("audit", "verify", "--json").stdout)["chains"]
        pruned_of = {chain["node"]: chain["pruned"] for chain in chains}
        assert pruned_of["alpha"]["sequence"] == first_of(cluster, "alpha") - 1
        assert pruned_of["beta"] is None
    for name in collectors:
        require_everything(cluster, collectors, name)


PLACE = 3
OF_ALPHA = "(SELECT line, hash FROM audit_events WHERE node = 'alpha' ORDER BY sequence DESC LIMIT 1)"
WAYS = {
    "a field changed": ("UPDATE audit_events SET line = replace(line, 'a', 'b')", "the event was changed"),
    "its hash changed": ("UPDATE audit_events SET hash = 'x'", "the event was changed"),
    "removed": ("DELETE FROM audit_events", f"sequence {PLACE} is missing"),
    "another node's put there": (
        f"UPDATE audit_events SET (line, hash) = {OF_ALPHA}",
        "the event was written as sequence",
    ),
}


def refused(node, *words):
    """What `kipuka audit verify` finds, on that node."""
    done = node.deployment.kipuka("audit", "verify", *words, expect=1)
    return done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_what_was_done_to_one_nodes_chain_is_found_and_named_on_the_other(cluster, way):
    """RULES I1."""
    statement, finding = WAYS[way]
    row = cluster.rows("SELECT * FROM audit_events WHERE node = 'beta' AND sequence = %s", PLACE)[0]
    cluster.rows(f"{statement} WHERE node = 'beta' AND sequence = %s", PLACE)
    try:
        found = refused(cluster.alpha)
    finally:
        cluster.rows("DELETE FROM audit_events WHERE node = 'beta' AND sequence = %s", PLACE)
        cluster.rows("INSERT INTO audit_events VALUES (%s, %s, %s, %s, %s, %s)", *row)
    assert f"node beta, sequence {PLACE}: {finding}" in found
    assert "error: node alpha" not in found
    cluster.verify()


def test_a_tail_that_was_cut_with_its_head_is_found_on_the_other_node(cluster, collectors):
    """Guarantee 7: the database's own head says nothing; the sinks' places do, and a collector's copy says what is gone."""
    require_everything(cluster, collectors, "beta")
    cluster.beta.stop()
    wait_until(lambda: numbers(collectors["beta"])[-1] == last_of(cluster, "beta"), timeout=60, what="its last event")
    end = last_of(cluster, "beta")
    cluster.rows("DELETE FROM audit_events WHERE node = 'beta' AND sequence > %s", end - 3)
    cluster.rows(
        "UPDATE audit_heads SET (sequence, hash) ="
        " (SELECT sequence, hash FROM audit_events WHERE node = 'beta' ORDER BY sequence DESC LIMIT 1) WHERE node = 'beta'"
    )
    found = refused(cluster.alpha)
    assert f"node beta, sequence {end - 2}: the sink collector has had events up to sequence {end}" in found
    copy = collectors["beta"].folder / "tcp.jsonl"
    found = refused(cluster.alpha, "--file", str(copy), "--against-database")
    for sequence in (end - 2, end - 1, end):
        assert f"node beta, sequence {sequence}: the event is in the file, but not in the database" in found
    assert "error: node alpha" not in found
