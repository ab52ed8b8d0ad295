"""Ports that are given to one test alone."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import pytest

from kipuka.testing import ports
from kipuka.testing.measure import holds_socket, listeners
from kipuka.testing.ports import free_port
from kipuka.testing.server import lives

OTHER = """
from kipuka.testing.ports import free_port
print(*(free_port() for _ in range(500)), flush=True)
input()
"""


def test_another_process_is_given_other_ports_while_this_one_lives():
    own = {free_port() for _ in range(500)}
    with subprocess.Popen([sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        others = {int(text) for text in other.stdout.readline().split()}
        assert len(others) == 500
        assert not own & others
        assert not {free_port() for _ in range(500)} & others
        other.stdin.close()


def test_threads_are_given_different_ports():
    with ThreadPoolExecutor(8) as pool:
        given = list(pool.map(lambda _: free_port(), range(400)))
    assert len(set(given)) == 400


def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch):
    ours = [free_port() for _ in range(20)]
    monkeypatch.setattr(ports, "_order", deque(ours))
    monkeypatch.setattr(ports, "_given", deque())
    with socket.create_server(("127.0.0.1", ours[0])), socket.create_server(("127.0.0.1", ours[7])):
        given = [free_port() for _ in range(18)]
        assert sorted(given) == sorted({*ours} - {ours[0], ours[7]})
        with pytest.raises(LookupError):
            free_port()


def test_ports_that_were_given_long_ago_are_no_longer_kept(monkeypatch):
    """Else a process that lives for long would leave none to others."""
    ours = [free_port() for _ in range(20)]
    monkeypatch.setattr(ports, "_order", deque(ours))
    monkeypatch.setattr(ports, "_given", deque())
    monkeypatch.setattr(ports, "_KEPT", 10)
    assert [free_port() for _ in range(60)] == ours * 3
    taken = [port for port in ours if not may_be_locked(port)]
    assert sorted(taken) == sorted(ours[10:])


def may_be_locked(port):
    """Whether another process may be given the port."""
    code = f"import sys; from kipuka.testing import ports; sys.exit(not ports._lock({port}))"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_who_listens_is_told_by_its_socket():
    port = free_port()
    assert listeners(port) == frozenset()
    code = f"import socket; held = socket.create_server(('127.0.0.1', {port})); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        found = listeners(port)
        assert holds_socket(other.pid, found)
        assert not holds_socket(os.getpid(), found)
        other.stdin.close()
    assert listeners(port) == frozenset()
    assert not holds_socket(other.pid, found)


ONE_THREAD_LEFT = """
import ctypes, socket, threading, time
held = socket.create_server(("127.0.0.1", {port}))
def stay():
    print(flush=True)
    input()
threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall({exit}, 0)  # the first thread alone ends: the kernel calls the process a zombie
"""


def test_a_process_lives_until_its_last_thread_has_ended():
    """While it is being killed it is a zombie already, and its sockets still listen."""
    number = {"x86_64": 60, "aarch64": 93}[platform.machine()]  # asm/unistd.h: exit, of a thread
    port = free_port()
    code = ONE_THREAD_LEFT.format(port=port, exit=number)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert listeners(port)
        assert lives(process.pid)
        process.kill()
        process.wait()
        assert not lives(process.pid)
        assert listeners(port) == frozenset()
