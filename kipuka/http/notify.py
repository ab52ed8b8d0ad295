"""Telling a service manager how the server does (sd_notify(3)).

In the room: one datagram to the socket that `NOTIFY_SOCKET` names; without the variable nobody is told. Not in the room: when
what is told.
"""

from __future__ import annotations

import os
import socket
import time

import structlog

__all__ = ["notify_ready", "notify_reloading", "notify_stopping"]

log = structlog.get_logger(__name__)


def notify_ready() -> None:
    """Connections are taken, or a reload has come to its end."""
    _notify("READY=1")


def notify_reloading() -> None:
    """A reload has begun; `notify_ready` follows, also when it is refused."""
    _notify(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def notify_stopping() -> None:
    """The server has begun to stop."""
    _notify("STOPPING=1")


def _notify(state: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = f"\0{address[1:]}"  # in the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto(state.encode("ascii"), address)
    except OSError as error:
        log.warning("service_manager_not_notified", state=state.partition("\n")[0], reason=error.strerror)
