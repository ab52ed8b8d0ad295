"""What is still to be written, once the store takes it again.

In the room: units whose write failed because the database was away, and the task that hands them in again. Not in the room: the queue and the
transaction (`writer`), and what is left when the process dies: that is found by the recovery of the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import structlog

from kipuka.api.errors import BackendUnavailable
from kipuka.api.storage import Tx
from kipuka.store.context import AuditContext
from kipuka.store.writer import Writer

__all__ = ["Debts"]

log = structlog.get_logger(__name__)

_FIRST_PAUSE = timedelta(milliseconds=100)
_LONGEST_PAUSE = timedelta(seconds=2)


class Debts:
    """Units that are owed to one writer, at most `limit`. For one event loop."""

    def __init__(self, writer: Writer, *, limit: int) -> None:
        self._writer = writer
        self._limit = limit
        self._units: list[tuple[Callable[[Tx], Any], AuditContext]] = []
        self._task: asyncio.Task[None] | None = None

    def add(self, fn: Callable[[Tx], Any], context: AuditContext) -> bool:
        """Owe one more. False where the limit is reached."""
        if len(self._units) >= self._limit:
            return False
        self._units.append((fn, context))
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._pay(), name="kipuka-debts")
        return True

    def end(self) -> None:
        """Try no more."""
        if self._task is not None:
            self._task.cancel()

    async def _pay(self) -> None:
        pause = _FIRST_PAUSE
        while self._units:
            await asyncio.sleep(pause.total_seconds())
            pause = min(pause * 2, _LONGEST_PAUSE)
            tried = tuple(self._units)
            outcomes = await asyncio.gather(*(self._write(*unit) for unit in tried), return_exceptions=True)
            for unit, outcome in zip(tried, outcomes, strict=True):
                if isinstance(outcome, BackendUnavailable):
                    continue
                self._units.remove(unit)
                if isinstance(outcome, BaseException):
                    log.error("owed_write_failed", error=repr(outcome))

    async def _write(self, fn: Callable[[Tx], Any], context: AuditContext) -> object:
        return await self._writer.submit(fn, context, under_way=True)
