"""The audit sink `syslog`, put together.

In the room: from records to messages on a link, one `write` at a time. Not in the room: how a message looks (`message`), how it
travels (`transport`), what can be configured (`settings`).
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from kipuka.api import AuditRecord, AuditSinkKind, Services, hookimpl
from kipuka.audit.syslog.message import FACILITIES, SEVERITIES, Originator, format_message
from kipuka.audit.syslog.settings import SyslogSettings, check_syslog, host_and_port, tls_context
from kipuka.audit.syslog.transport import (
    Link,
    connect_local,
    connect_tcp,
    connect_tls,
    connect_udp,
    end_with_nul,
    octet_counted,
)

__all__ = ["SyslogSink", "kipuka_audit_sinks", "open_syslog"]

KIPUKA_API = "1.0"


class SyslogSink:
    """Sends records as messages."""

    def __init__(self, link: Link, originator: Originator, services: Services, *, max_size: int) -> None:
        self._link = link
        self._originator = originator
        self._services = services
        self._max_size = max_size
        # A `write` that ran into its time limit may still be at work in its thread when the next one comes. That one fails at
        # once: were it to wait, a collector that hangs would take one thread of the host's pool after another.
        self._turn = threading.Lock()

    async def write(self, records: Sequence[AuditRecord], /) -> None:
        """Return when the operating system has taken the messages and the collector has not hung up. Raises OSError else."""
        await self._services.run_blocking(self._send, records)

    def close(self) -> None:
        """End the connection, unless a `write` hangs in it."""
        if self._turn.acquire(blocking=False):
            try:
                self._link.close()
            finally:
                self._turn.release()

    def _send(self, records: Sequence[AuditRecord]) -> None:
        if not self._turn.acquire(blocking=False):
            msg = "the write before to the collector has not come to its end"
            raise OSError(msg)
        try:
            self._link.send([format_message(one, self._originator, max_size=self._max_size) for one in records])
        finally:
            self._turn.release()


@asynccontextmanager
async def open_syslog(settings: SyslogSettings, services: Services) -> AsyncGenerator[SyslogSink]:
    """The sink. A server starts also while its collector is away; files that cannot be used are seen at once."""
    link = await services.run_blocking(_link, settings)
    originator = Originator(
        facility=FACILITIES[settings.facility],
        severities={
            "success": SEVERITIES[settings.severity_success],
            "failure": SEVERITIES[settings.severity_failure],
            "unknown": SEVERITIES[settings.severity_unknown],
        },
        hostname=settings.hostname or _this_machine(),
        app_name=settings.app_name,
        process=str(os.getpid()),
        enterprise=settings.enterprise_number,
    )
    sink = SyslogSink(link, originator, services, max_size=settings.size)
    try:
        yield sink
    finally:
        sink.close()


def _link(settings: SyslogSettings) -> Link:
    wait = settings.connect_timeout.total_seconds()
    if settings.transport == "unix":
        connect, frame = partial(connect_local, settings.path, wait), end_with_nul
    else:
        host, port = host_and_port(settings.address)
        frame = octet_counted
        match settings.transport:
            case "udp":
                connect = partial(connect_udp, host, port, wait)
            case "tcp":
                connect = partial(connect_tcp, host, port, wait)
            case "tls":
                context = tls_context(settings)
                name = settings.server_name or host
                connect = partial(connect_tls, host, port, wait, context=context, server_name=name)
    return Link(connect, frame=frame, timeout=settings.write_timeout.total_seconds())


def _this_machine() -> str:
    """The host's name as HOSTNAME takes it (RFC 5424, 6.2.4)."""
    return "".join(char for char in socket.gethostname() if "!" <= char <= "~") or "-"


@hookimpl
def kipuka_audit_sinks() -> list[AuditSinkKind[SyslogSettings]]:
    """The sink `syslog`."""
    return [AuditSinkKind(name="syslog", config=SyslogSettings, open=open_syslog, check=check_syslog)]
