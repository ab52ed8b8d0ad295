"""Taking turns among processes that write one SQLite file.

In the room: two flocks and a time limit. Not in the room: SQLite, whose own busy handler lets a saturated writer starve the
others: who has just committed comes back first, while the others still sleep.

A writer locks NEXT, then HOLD, then lets go of NEXT; it writes, and lets go of HOLD. Whoever waits for HOLD owns NEXT, so the
process that has just written has to queue behind it. The kernel frees both when a process dies.

The locks are asked for without blocking, again and again, since a blocking flock cannot be given a limit: a process that was
stopped (SIGSTOP, or Ctrl-Z in a command) within its turn would hang every other one for good.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

__all__ = ["Turnstile", "TurnstileBlocked", "lock_file"]

_FIRST_PAUSE = 0.0001
_LONGEST_PAUSE = 0.002


class TurnstileBlocked(Exception):
    """No turn within the limit: another process holds the locks and does not go on."""


class Turnstile:
    """One process's place at the two locks `<stem>-next.lock` and `<stem>-hold.lock`. For one thread at a time."""

    def __init__(self, stem: Path, *, limit: timedelta) -> None:
        self._limit = limit.total_seconds()
        self._next = lock_file(stem.with_name(stem.name + "-next.lock"))
        try:
            self._hold = lock_file(stem.with_name(stem.name + "-hold.lock"))
        except BaseException:
            os.close(self._next)
            raise

    @contextmanager
    def turn(self) -> Generator[None]:
        """Wait for this process's turn and hold it. Raises `TurnstileBlocked` after the limit."""
        deadline = time.monotonic() + self._limit
        _lock(self._next, deadline)
        try:
            _lock(self._hold, deadline)
        finally:
            fcntl.flock(self._next, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._hold, fcntl.LOCK_UN)

    def close(self) -> None:
        """Give up the place."""
        os.close(self._next)
        os.close(self._hold)


def lock_file(path: Path) -> int:
    """Open a file to lock, made where it is missing, for its owner only."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _lock(descriptor: int, deadline: float) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                msg = "another process holds the database's turn and does not go on"
                raise TurnstileBlocked(msg) from None
            time.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        else:
            return
