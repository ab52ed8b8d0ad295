"""What the kit reads of processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from kipuka.testing.measure import cpu_seconds, family, open_files, resident_octets
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


def test_work_memory_and_files_are_seen(tmp_path):
    own = (os.getpid(),)
    before = cpu_seconds(own)
    end = time.process_time() + 0.1
    while time.process_time() < end:
        pass
    assert cpu_seconds(own) >= before + 0.05
    assert resident_octets(own) > 2**20
    files = open_files(own)
    with (tmp_path / "x").open("w"):
        assert open_files(own) == files + 1
