"""What happens below HTTP and may happen very often, told to log and audit log in a bounded number of lines.

In the room: failed handshakes, and addresses that came up against a limit. Not in the room: the limits themselves, and what a
request causes (`kipuka.audit.sums`, where the count is too).

Whoever can open connections could otherwise fill the audit log, and the disk under it, without ever proving anything. So of
failed handshakes the first few of an address and reason are told one by one, and the rest of each minute in one event
with their number; limits are always told so. Where too many addresses take part, the rest of them is told as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import structlog

from kipuka.api.events import AuditEvent, HandshakeFailed, LimitReached
from kipuka.audit.sums import MOST_SUMS, Tally
from kipuka.http.tls import HandshakeFailure
from kipuka.store.context import AuditContext, audit_context
from kipuka.store.lockouts import normal_address

__all__ = ["Reports", "open_reports"]

INTERVAL = 60.0  # seconds
ONE_BY_ONE = 5
"""How many failed handshakes of one address, listener and reason are told one by one in each interval."""

log = structlog.get_logger(__name__)


class Reports:
    """Takes note at once, and tells by `record`, which may take its time."""

    def __init__(self, record: Callable[[AuditEvent], Awaitable[None]]) -> None:
        self._record = record
        self._handshakes: Tally[tuple[str, str]] = Tally(one_by_one=ONE_BY_ONE, most=MOST_SUMS)
        self._limits: Tally[str] = Tally(one_by_one=0, most=MOST_SUMS)
        self._telling: set[asyncio.Task[None]] = set()

    def handshake_failed(self, failure: HandshakeFailure) -> None:
        """A handshake did not come to its end."""
        address = failure.client_address
        what = (failure.listener, failure.reason)
        if not 0 < self._handshakes.count(what, normal_address(address) if address else "") <= ONE_BY_ONE:
            return
        log.info(
            "handshake_failed",
            listener=failure.listener,
            client=address,
            reason=failure.reason,
            detail=failure.detail,
        )
        self._tell(HandshakeFailed(listener=failure.listener, reason=failure.reason, count=1), address)

    def limit_reached(self, limit: str, address: str) -> None:
        """An address, as `normal_address` gives it, met a limit. The log hears of the first in each interval."""
        if self._limits.count(limit, address) == 1:
            log.warning("limit_reached", limit=limit, client=address)

    def sum_up(self) -> None:
        """Tell what has come together, and begin anew."""
        for sum_ in self._handshakes.take():
            listener, reason = sum_.what
            log.info("handshakes_failed", listener=listener, client=sum_.address, reason=reason, count=sum_.count)
            self._tell(HandshakeFailed(listener=listener, reason=reason, count=sum_.count), sum_.address)
        for sum_ in self._limits.take():
            log.info("limit_reached", limit=sum_.what, client=sum_.address, count=sum_.count)
            self._tell(LimitReached(limit=sum_.what, address=sum_.address, count=sum_.count), None)

    async def told(self) -> None:
        """Return when all is recorded."""
        while self._telling:
            await asyncio.wait(self._telling)

    def _tell(self, event: AuditEvent, address: str | None) -> None:
        async def tell() -> None:
            audit_context.set(AuditContext(client_address=address))
            await self._record(event)

        task = asyncio.get_running_loop().create_task(tell(), name=f"report {event.name}")
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)


@asynccontextmanager
async def open_reports(record: Callable[[AuditEvent], Awaitable[None]]) -> AsyncGenerator[Reports, None]:
    """Reports that are summed up once a minute, and at the end of the block. `record` raises nothing."""
    reports = Reports(record)

    async def every_interval() -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            reports.sum_up()

    summing = asyncio.create_task(every_interval(), name="reports")
    try:
        yield reports
    finally:
        summing.cancel()
        await asyncio.gather(summing, return_exceptions=True)
        reports.sum_up()
        await reports.told()
