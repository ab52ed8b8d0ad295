"""What happens below HTTP and may happen very often, told to log and audit log in a bounded number of lines.

In the room: failed handshakes, and addresses that came up against a limit. Not in the room: the limits themselves, and what a
request causes.

Whoever can open connections could otherwise fill the audit log, and the disk under it, without ever proving anything. So of
failed handshakes the first few of an address and reason are told one by one, and the rest of each minute in one event
with their number; limits are always told so. Where too many addresses take part, the rest of them is told as one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from kipuka.api.events import AuditEvent, HandshakeFailed, LimitReached
from kipuka.http.tls import HandshakeFailure
from kipuka.store.context import AuditContext, audit_context
from kipuka.store.lockouts import normal_address

__all__ = ["Reports", "Sum", "Tally", "open_reports"]

K = TypeVar("K", bound=Hashable)

INTERVAL = 60.0  # seconds
ONE_BY_ONE = 5
"""How many failed handshakes of one address, listener and reason are told one by one in each interval."""
MOST_SUMS = 200
"""How many different sums an interval may have. What does not fit is summed over all addresses."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sum(Generic[K]):
    """How often `what` happened to `address`; None: to addresses that are not told one by one."""

    what: K
    address: str | None
    count: int


class Tally(Generic[K]):
    """Counts of an interval. The first `one_by_one` of each are for the caller to tell; `take` has the rest."""

    def __init__(self, *, one_by_one: int, most: int) -> None:
        self._one_by_one = one_by_one
        self._most = most
        self._counts: dict[tuple[K, str | None], int] = {}

    def count(self, what: K, address: str) -> int:
        """Count one; the how-manieth of its kind it is, or 0 when its address is counted together with others."""
        key = (what, address)
        if key not in self._counts and len(self._counts) >= self._most:
            rest = (what, None)
            self._counts[rest] = self._counts.get(rest, 0) + 1
            return 0
        self._counts[key] = self._counts.get(key, 0) + 1
        return self._counts[key]

    def take(self) -> Sequence[Sum[K]]:
        """What was not told one by one, and begin anew."""
        counts, self._counts = self._counts, {}
        untold = [
            Sum(what, address, number - (0 if address is None else self._one_by_one))
            for (what, address), number in counts.items()
        ]
        return [sum_ for sum_ in untold if sum_.count > 0]


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
