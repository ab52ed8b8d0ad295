"""Services for a backend that is only looked at.

In the room: a clock, a logger and threads. Not in the room: a store, so that looking changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ParamSpec, TypeVar, cast

import structlog
from structlog.typing import FilteringBoundLogger

from kipuka.api import BackendUnavailable, LockoutPolicy, Lockouts, ReadTx, Tx
from kipuka.api.events import AuditEvent
from kipuka.threads import BoundedThreads, open_threads

__all__ = ["NoStore"]

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True, slots=True)
class NoStore:
    """The services that a backend is lent while it is only looked at: a clock and threads, but no store."""

    now: datetime
    plugin: str

    @property
    def clock(self) -> Callable[[], datetime]:
        """The time of the check."""
        return lambda: self.now

    @property
    def log(self) -> FilteringBoundLogger:
        """A logger like any other."""
        log = cast("FilteringBoundLogger", structlog.get_logger(self.plugin))
        return log.bind(plugin=self.plugin)

    async def read(self, fn: Callable[[ReadTx], T], /) -> T:
        """Refused."""
        del fn
        raise _closed()

    async def write(self, fn: Callable[[Tx], T], /) -> T:
        """Refused."""
        del fn
        raise _closed()

    async def audit(self, event: AuditEvent, /) -> None:
        """Refused."""
        del event
        raise _closed()

    def open_threads(
        self, count: int, *, waiting: int, farewell: timedelta
    ) -> AbstractAsyncContextManager[BoundedThreads]:
        """Threads like any other."""
        return open_threads(count, waiting=waiting, name=f"kipuka-{self.plugin}", farewell=farewell)

    async def run_blocking(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in a thread."""
        return await asyncio.to_thread(fn, *args, **kwargs)

    def lockouts(self, policy: LockoutPolicy, /) -> Lockouts:
        """Refused."""
        del policy
        raise _closed()


def _closed() -> BackendUnavailable:
    return BackendUnavailable("the store is not open: the configuration is only checked", reason="check")
