"""What a server costs: CPU time, memory, open files and connections of its processes, read from /proc (Linux).

In the room: reading. Not in the room: what is too much.
"""

from __future__ import annotations

import os
import socket
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

__all__ = [
    "connections",
    "cpu_seconds",
    "descriptors",
    "family",
    "holds_socket",
    "listeners",
    "open_files",
    "resident_octets",
]

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
    targets = [target for pid in pids for target in open_files(pid)]
    return Counter(target if target.startswith("/") else target.partition(":")[0] for target in targets)


def open_files(pid: int) -> tuple[str, ...]:
    """What each open descriptor of the process is: a path, or such as `socket:[4711]` (proc(5)). None of one that has ended."""
    found: list[str] = []
    with suppress(*_GONE):
        for entry in list(Path(f"/proc/{pid}/fd").iterdir()):
            with suppress(*_GONE):  # closed meanwhile
                found.append(str(entry.readlink()))
    return tuple(found)


def holds_socket(pid: int, inodes: frozenset[str]) -> bool:
    """Whether the process has one of these sockets open; False where it has ended."""
    return not {f"socket:[{inode}]" for inode in inodes}.isdisjoint(open_files(pid))


def listeners(port: int) -> frozenset[str]:
    """The sockets (their inodes) that listen on that port of 127.0.0.1, learned without connecting: a connection leaves traces."""
    wanted = f"0100007F:{port:04X}"
    return frozenset(inode for own, _, state, inode in _sockets() if own == wanted and state == _LISTEN)


def connections(port: int) -> tuple[str, ...]:
    """The peers, as `address:port`, of the TCP connections over IPv4 that some process here holds at its own `port`."""
    found: list[str] = []
    for own, peer, state, inode in _sockets():
        is_held = inode != "0"  # what a process has closed, or not accepted yet, has no inode
        if is_held and state != _LISTEN and int(own.rpartition(":")[2], 16) == port:
            address, _, number = peer.partition(":")
            found.append(f"{socket.inet_ntoa(int(address, 16).to_bytes(4, sys.byteorder))}:{int(number, 16)}")
    return tuple(found)


def _sockets() -> Iterator[tuple[str, str, str, str]]:
    """Of each TCP socket over IPv4: its own address, its peer's, state and inode, as /proc writes them."""
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _number, own, peer, state, *_queues, inode = line.split()[:10]
        yield own, peer, state, inode
