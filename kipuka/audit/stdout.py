"""The audit sink `stdout`: JSON lines on standard output, for a service manager or container that collects them.

In the room: writing lines. Not in the room: the operational log, which goes to standard error.

A built-in that is a plugin like any other: it imports `kipuka.api` only.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from kipuka.api import AuditRecord, AuditSinkKind, Section, Services, hookimpl

__all__ = ["StdoutSink", "StdoutSinkSettings", "kipuka_audit_sinks"]

KIPUKA_API = "1.0"


class StdoutSinkSettings(Section):
    """Audit events as JSON lines on standard output. There is nothing to set."""


class StdoutSink:
    """Writes records to standard output; whoever reads it keeps them."""

    def __init__(self, services: Services) -> None:
        self._services = services
        # A reader that hangs takes one thread of the host's pool, and not one more with every attempt.
        self._turn = threading.Lock()

    async def write(self, records: Sequence[AuditRecord], /) -> None:
        """Write the records and flush. Raises OSError when nobody reads any more."""
        # Not in the event loop: a reader that is slow would hold it up.
        await self._services.run_blocking(self._print, "".join(f"{record.to_json()}\n" for record in records))

    def _print(self, text: str) -> None:
        if not self._turn.acquire(blocking=False):
            msg = "the write before to standard output has not come to its end"
            raise OSError(msg)
        try:
            sys.stdout.write(text)
            sys.stdout.flush()
        finally:
            self._turn.release()


@asynccontextmanager
async def open_stdout_sink(_settings: StdoutSinkSettings, services: Services) -> AsyncGenerator[StdoutSink]:
    """The sink."""
    yield StdoutSink(services)


@hookimpl
def kipuka_audit_sinks() -> list[AuditSinkKind[StdoutSinkSettings]]:
    """The sink `stdout`."""
    return [AuditSinkKind(name="stdout", config=StdoutSinkSettings, open=open_stdout_sink)]
