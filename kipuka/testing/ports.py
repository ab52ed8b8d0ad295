"""Ports for the servers of tests.

In the room: `free_port`. Not in the room: listening, and who does (`kipuka.testing.measure`).
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
import threading
from collections import deque
from pathlib import Path

__all__ = ["free_port"]

_RANGE = range(20000, 32000)
"""Below what the kernel gives to outgoing connections, so that none of these takes a port that was given and is not listened on yet."""
_KEPT = 1500
"""As many ports are kept from other processes: those that were given last. What was given before is listened on by now, or never will be."""

_turn = threading.Lock()
_order: deque[int] = deque(random.sample(_RANGE, len(_RANGE)))
_given: deque[int] = deque()  # those that are locked, the oldest first
_held: list[int] = []  # the descriptor of the file of locks, once there is one


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, and that no other process of this user is given, while this one lives and goes on with it.

    To look whether a port is free says nothing of the moment at which it is listened on: two processes of one test run would now and then
    find the same one. Each port is an octet of a file, which whoever is given the port locks. Raises LookupError where none is left.
    """
    with _turn:
        for _ in _RANGE:
            port = _order[0]
            _order.rotate(-1)
            if port not in _given and _lock(port):
                _given.append(port)
                if len(_given) > _KEPT:
                    fcntl.lockf(_held[0], fcntl.LOCK_UN, 1, _given.popleft())
                if _is_free(port):
                    return port
    msg = f"no port from {_RANGE.start} to {_RANGE.stop - 1} is free"
    raise LookupError(msg)


def _lock(port: int) -> bool:
    if not _held:
        file = Path(tempfile.gettempdir()) / f"kipuka-test-ports-{os.getuid()}"
        _held.append(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        fcntl.lockf(_held[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # it ends with the process, and is not inherited
    except OSError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
