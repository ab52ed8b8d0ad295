"""A collector that we did not write: rsyslog takes the events of a real server, over TCP, UDP and a local socket, through an outage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from kipuka.testing.server import wait_until

from .rsyslog import Rsyslog

pytestmark = [pytest.mark.server, pytest.mark.interop]


@pytest.fixture(scope="module")
def rsyslog(tmp_path_factory) -> Iterator[Rsyslog]:
    if shutil.which("rsyslogd") is None:
        pytest.fail("rsyslogd is not there: make test-tools")
    collector = Rsyslog(tmp_path_factory.mktemp("rsyslog"))
    collector.start()
    yield collector
    collector.stop()


@pytest.fixture(scope="module")
def server(kipuka_servers, rsyslog):
    address = f"127.0.0.1:{rsyslog.port}"
    sinks = [
        {"type": "file", "path": "audit.jsonl"},
        {"type": "syslog", "id": "tcp", "transport": "tcp", "address": address},
        {"type": "syslog", "id": "udp", "transport": "udp", "address": address},
        {"type": "syslog", "id": "unix", "address": str(rsyslog.folder / "log")},
    ]
    return kipuka_servers({"audit": {"sink": sinks}})


def test_every_event_arrives_and_the_collectors_copy_verifies(server, rsyslog):
    """RULES I1: what rsyslog wrote down is the chain, to the letter of its JSON."""
    server.enrol("to-rsyslog")
    last = server.wait_for_audit("certificate_issued", subject="CN=to-rsyslog")["sequence"]
    for way in ("tcp", "udp", "unix"):
        wait_until(lambda way=way: [e["sequence"] for e in rsyslog.events(way)][-1:] >= [last], what=f"{way}.jsonl")
        copy = rsyslog.copy(way)
        assert "intact" in server.deployment.kipuka("audit", "verify", "--file", str(copy)).stdout
    facts = rsyslog.folder / "tcp.facts"
    (line,) = wait_until(
        lambda: [line for line in facts.read_text().split("\n")[:-1] if f' sequence="{last}" ' in line], what="its line"
    )
    assert line.startswith("86 kipuka certificate_issued [kipuka@32473 node=")
    assert ' identity="otp:to-rsyslog"' in line


def test_after_an_outage_of_the_collector_nothing_is_missing(server, rsyslog):
    """DESIGN guarantee 7."""
    rsyslog.stop()
    for number in range(5):
        server.enrol(f"in-the-dark-{number}")
    last = server.wait_for_audit("certificate_issued", subject="CN=in-the-dark-4")["sequence"]
    rsyslog.start()
    for way in ("tcp", "unix"):
        wait_until(
            lambda way=way: last in {event["sequence"] for event in rsyslog.events(way)},
            timeout=30,
            what=f"{way}.jsonl",
        )
        got = list(dict.fromkeys(event["sequence"] for event in rsyslog.events(way)))
        assert got[: got.index(last) + 1] == list(range(1, last + 1))
        copy = rsyslog.copy(way)
        assert "intact" in server.deployment.kipuka("audit", "verify", "--file", str(copy)).stdout


def test_a_collector_that_is_killed_under_load_has_everything_in_order_when_it_is_back(server, rsyslog):
    """DESIGN guarantee 7: however long it is away; the server goes on meanwhile, and says what is behind."""
    server.enrol("before the kill")

    def state():
        return {row["id"]: row for row in json.loads(server.deployment.kipuka("audit", "sinks", "--json").stdout)}

    with ThreadPoolExecutor(max_workers=2) as pool:
        enrolments = [pool.submit(server.enrol, f"through-the-kill-{number}") for number in range(30)]
        wait_until(lambda: sum(one.done() for one in enrolments) >= 5, what="some enrolments")
        rsyslog.kill()
        for one in enrolments:
            one.result()
    wait_until(lambda: state()["tcp"]["failing_since"] is not None, timeout=30, what="the failure")
    assert state()["tcp"]["behind"] > 0
    assert state()["file"]["failing_since"] is None
    last = server.last_sequence
    rsyslog.start()
    wait_until(lambda: last in {event["sequence"] for event in rsyslog.events("tcp")}, timeout=60, what="tcp.jsonl")
    got = list(dict.fromkeys(event["sequence"] for event in rsyslog.events("tcp")))
    assert got[: got.index(last) + 1] == list(range(1, last + 1))
    wait_until(lambda: state()["tcp"]["failing_since"] is None, what="the end of the failure")
    copy = rsyslog.copy("tcp")
    assert "intact" in server.deployment.kipuka("audit", "verify", "--file", str(copy), "--against-database").stdout
