"""What a server costs: CPU time, memory and open files of a process and all its descendants, read from /proc (Linux).

In the room: reading. Not in the room: what is too much.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["cpu_seconds", "family", "open_files", "resident_octets"]

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> tuple[int, ...]:
    """The process and its living descendants, itself first. One that has ended meanwhile is left out."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        one = waiting.pop(0)
        try:
            tasks = [int(entry.name) for entry in Path(f"/proc/{one}/task").iterdir()]
        except FileNotFoundError:
            continue
        found.append(one)
        for task in tasks:
            try:
                waiting += [
                    int(child) for child in Path(f"/proc/{one}/task/{task}/children").read_text("ascii").split()
                ]
            except FileNotFoundError:  # a thread that ended meanwhile
                continue
    return tuple(found)


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes so far, in seconds, to a hundredth (proc(5), utime and stime)."""
    ticks = 0
    for pid in pids:
        # the second field is the name, in brackets, and may have anything in it
        columns = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
        ticks += int(columns[11]) + int(columns[12])
    return ticks / _TICKS


def resident_octets(pids: Iterable[int]) -> int:
    """Memory that is in RAM, in octets; what processes share is counted with each of them."""
    page = os.sysconf("SC_PAGE_SIZE")
    return page * sum(int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) for pid in pids)


def open_files(pids: Iterable[int]) -> int:
    """How many descriptors are open."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)
