"""How much traffic one worker process takes, and the open files it needs for that.

In the room: the limits that `[server]` sets, divided among worker processes, and the process's limit of open files. Not in
the room: the counting (`kipuka.http.connections`, `kipuka.http.rates`).

Each worker counts for itself: a shared count would cost a lock for every connection. So each gets its part of every
limit, rounded up. The kernel spreads connections over the workers, but not evenly: with several workers an address can meet
its limit a little below the number that is configured, and never gets more than that number and one for each worker.
"""

from __future__ import annotations

import resource
from dataclasses import dataclass

from kipuka.config import ServerSection

__all__ = ["BACKLOG", "TrafficLimits", "files_needed", "limits_of_worker", "most_open_files", "raise_open_files"]

BACKLOG = 1024
"""How many connections may wait to be accepted; asyncio accepts as many in one go, before any of them can be refused."""

_OTHER_FILES = 256  # database, log, sinks, listening sockets, what plugins open, and connections that are being closed


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficLimits:
    """What one worker process takes. Per address: of IPv6, per /64 network."""

    connections: int
    connections_per_address: int
    requests_per_minute_per_address: int  # 0: any number


def limits_of_worker(server: ServerSection, *, workers: int) -> TrafficLimits:
    """The part of the configured limits that each of `workers` processes gets."""
    return TrafficLimits(
        connections=_part(server.max_connections, workers),
        connections_per_address=_part(server.max_connections_per_address, workers),
        requests_per_minute_per_address=_part(server.max_requests_per_minute_per_address, workers),
    )


def _part(limit: int, workers: int) -> int:
    return -(-limit // workers)


def files_needed(limits: TrafficLimits) -> int:
    """How many files a process with these limits may have open at once."""
    return limits.connections + BACKLOG + _OTHER_FILES


def most_open_files() -> int | None:
    """The hard limit of open files of this process; None where there is none."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if hard == resource.RLIM_INFINITY else hard


def raise_open_files(needed: int) -> bool:
    """Raise this process's limit of open files to `needed`, or as far as it may be; whether that is enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return True
    within = hard == resource.RLIM_INFINITY or hard >= needed
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed if within else hard, hard))
    return within
