"""An audit sink: one line of text per event, in a file of its own."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from kipuka.api import AuditSinkKind, ConfigPath, Section, hookimpl

KIPUKA_API = "1.0"


class LedgerSettings(Section):
    """The further keys of an [[audit.sink]] with type = "ledger"."""

    book: ConfigPath
    """Where the lines go."""

    closed_while: ConfigPath | None = None
    """While this file exists nothing can be written."""


class Ledger:
    """Writes, or refuses while it is closed."""

    def __init__(self, settings):
        self._settings = settings

    async def write(self, records):
        closed = self._settings.closed_while
        if closed is not None and closed.exists():
            raise OSError("the ledger is closed")
        await asyncio.to_thread(self._append, records)

    def _append(self, records):
        with self._settings.book.open("a", encoding="utf-8") as book:
            book.writelines(f"{record.node} {record.sequence} {record.event} {record.outcome}\n" for record in records)


@asynccontextmanager
async def open_ledger(settings, services):
    yield Ledger(settings)


@hookimpl
def kipuka_audit_sinks():
    return [AuditSinkKind(name="ledger", config=LedgerSettings, open=open_ledger)]
