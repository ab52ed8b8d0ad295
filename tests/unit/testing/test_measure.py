"""What the kit reads of processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from kipuka.testing.measure import connections, cpu_seconds, descriptors, family, resident_octets
from kipuka.testing.server import wait_until

PARENT = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"


@pytest.fixture
def parent():
    """A process with a child; both end with their standard input."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.stdin.close()


def test_a_family_is_the_process_and_its_descendants(parent):
    pids = wait_until(lambda: len(family(parent)) > 1 and family(parent), what="the child")
    assert pids[0] == parent
    assert set(family(os.getpid())) >= set(pids)


def test_a_process_that_is_gone_has_no_family():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert family(done.pid) == ()


def test_work_and_memory_are_seen():
    own = (os.getpid(),)
    before = cpu_seconds(own)
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert cpu_seconds(own) >= before + 0.05
    assert resident_octets(own) > 2**20


def test_descriptors_are_told_by_what_they_are(tmp_path):
    own = (os.getpid(),)
    before = descriptors(own)
    with (tmp_path / "x").open("w"), socket.socket(), socket.socket():
        assert descriptors(own) - before == {str(tmp_path / "x"): 1, "socket": 2}
    assert descriptors(own) == before


def test_connections_are_those_that_are_held_at_a_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        assert connections(port) == ()
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = listening.accept()
            with accepted:
                assert connections(port) == (f"127.0.0.1:{client.getsockname()[1]}",)
            assert connections(port) == ()
