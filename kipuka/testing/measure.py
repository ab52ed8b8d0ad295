"""What a server costs: CPU time, memory, open files and connections of its processes, read from /proc (Linux).

In the room: reading. Not in the room: what is too much.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["connections", "cpu_seconds", "descriptors", "family", "resident_octets"]

_LISTEN = "0A"  # linux/include/net/tcp_states.h
_TICKS = os.sysconf("SC_CLK_TCK")
_GONE = (FileNotFoundError, ProcessLookupError)  # before it was opened, and before it was read


def family(pid: int) -> tuple[int, ...]:
    """The process and its living descendants, itself first. One that has ended meanwhile is left out."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        one = waiting.pop(0)
        try:
            tasks = [int(entry.name) for entry in Path(f"/proc/{one}/task").iterdir()]
        except _GONE:
            continue
        found.append(one)
        for task in tasks:
            try:
                waiting += [
                    int(child) for child in Path(f"/proc/{one}/task/{task}/children").read_text("ascii").split()
                ]
            except _GONE:  # a thread that ended meanwhile
                continue
    return tuple(found)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes so far, in seconds, to a hundredth (proc(5), utime and stime); none of one that has ended."""
    ticks = 0
    for pid in pids:
        with suppress(*_GONE):
            # the second field is the name, in brackets, and may have anything in it
            columns = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
            ticks += int(columns[11]) + int(columns[12])
    return ticks / _TICKS


def resident_octets(pids: Iterable[int]) -> int:
    """Memory that is in RAM, in octets; what processes share is counted with each of them, and one that has ended has none."""
    pages = 0
    for pid in pids:
        with suppress(*_GONE):
            pages += int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def descriptors(pids: Iterable[int]) -> Counter[str]:
    """What the open descriptors are, and how many of each: paths, and else kinds (`socket`, `pipe`, `anon_inode`; proc(5))."""
    found: Counter[str] = Counter()
    for pid in pids:
        try:
            entries = list(Path(f"/proc/{pid}/fd").iterdir())
        except _GONE:
            continue
        for entry in entries:
            with suppress(*_GONE):  # closed meanwhile
                target = str(entry.readlink())
                found[target if target.startswith("/") else target.partition(":")[0]] += 1
    return found


def connections(port: int) -> tuple[str, ...]:
    """The peers, as `address:port`, of the TCP connections over IPv4 that some process here holds at its own `port`."""
    found: list[str] = []
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _number, own, peer, state, *_queues, inode = line.split()[:10]
        is_held = inode != "0"  # what a process has closed, or not accepted yet, has no inode
        if is_held and state != _LISTEN and int(own.rpartition(":")[2], 16) == port:
            address, _, number = peer.partition(":")
            found.append(f"{socket.inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder))}:{int(number, 16)}")
    return tuple(found)
