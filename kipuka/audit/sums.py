"""What may happen very often, told in a bounded number of events (RULES H1, I1).

In the room: counting by kind and address within an interval, and the failures that requests cause. Not in the room: what fails below HTTP
(`kipuka.http.reports`, by the same count), and lock-outs, which count every failure (`kipuka.store.lockouts`).

Whoever can connect could otherwise fill the audit log, and the disk under it, and make every enrolment wait for the writes. So of failures
of one address and reason the first are told one by one, and the rest of the interval in one event with their number. What succeeds
or changes anything is never summed up. A process that is killed takes the sums of its interval with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

import structlog

from kipuka.api.errors import BackendError
from kipuka.api.events import AdminDenied, AuditEvent, AuthenticationFailed, FailuresSummed, RequestRejected
from kipuka.api.storage import Tx, timestamp
from kipuka.store.context import AuditContext, audit_context
from kipuka.store.database import Store
from kipuka.store.lockouts import normal_address

__all__ = ["MOST_SUMS", "Failure", "Failures", "Sum", "Tally", "open_failures"]

K = TypeVar("K", bound=Hashable)

MOST_SUMS = 200
"""How many different sums an interval may have. What does not fit is summed over all addresses."""

Failure = AuthenticationFailed | AdminDenied | RequestRejected
"""What is summed up when there is much of it."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sum(Generic[K]):
    """How often `what` happened to `address`, and when; None: to addresses that are not told one by one."""

    what: K
    address: str | None
    count: int
    first: datetime | None = None
    last: datetime | None = None


class Tally(Generic[K]):
    """Counts of an interval. The first `one_by_one` of each are for the caller to tell; `take` has the rest."""

    def __init__(self, *, one_by_one: int, most: int) -> None:
        self._one_by_one = one_by_one
        self._most = most
        self._counts: dict[tuple[K, str | None], int] = {}
        self._rest: dict[tuple[K, str | None], Sum[K]] = {}

    def count(self, what: K, address: str, at: datetime | None = None) -> int:
        """Count one; the how-manieth of its kind it is, or 0 when its address is counted together with others."""
        key = (what, address)
        if key not in self._counts and len(self._counts) >= self._most:
            self._add(Sum(what, None, 1, at, at))
            return 0
        number = self._counts[key] = self._counts.get(key, 0) + 1
        if number > self._one_by_one:
            self._add(Sum(what, address, 1, at, at))
        return number

    def take(self) -> Sequence[Sum[K]]:
        """What was not told one by one, and begin anew."""
        rest, self._counts, self._rest = self._rest, {}, {}
        return list(rest.values())

    def give_back(self, untold: Sequence[Sum[K]]) -> None:
        """What could not be told after all is told with the next."""
        for one in untold:
            self._add(one)

    def _add(self, more: Sum[K]) -> None:
        key = (more.what, more.address)
        there = self._rest.get(key)
        if there is None and len(self._rest) >= 2 * self._most:  # sums that were given back have taken the room
            key, there = (more.what, None), self._rest.get((more.what, None))
        if there is not None:
            moments = [one for one in (there.first, there.last, more.first, more.last) if one is not None]
            first, last = (min(moments), max(moments)) if moments else (None, None)
            more = Sum(more.what, key[1], there.count + more.count, first, last)
        self._rest[key] = more


class Failures:
    """Records what requests fail of, each by itself or in sums. One for all requests of a process."""

    def __init__(self, store: Store, *, threshold: int) -> None:
        self._store = store
        self._threshold = threshold
        self._tally: Tally[tuple[str, str | None, str]] = Tally(one_by_one=threshold, most=MOST_SUMS)

    async def record(self, *failures: Failure) -> None:
        """Record failures of the request under way; returns when those that are told by themselves are durable.

        Raises `BackendError`.
        """
        client = audit_context.get().client_address
        address = "" if client is None else normal_address(client)
        now = self._store.clock()
        told = [one for one in failures if 0 < self._tally.count(_kind(one), address, now) <= self._threshold]
        if told:
            await self._store.write(partial(_audit_all, events=told))

    async def sum_up(self) -> None:
        """Record what has come together, and begin anew. What the store does not take is told with the next."""
        sums = self._tally.take()
        for number, one in enumerate(sums):
            try:
                await self._tell(one)
            except BackendError as error:
                log.error("failures_not_recorded", reason=error.reason, count=sum(rest.count for rest in sums[number:]))
                self._tally.give_back(sums[number:])
                return

    async def _tell(self, one: Sum[tuple[str, str | None, str]]) -> None:
        name, method, reason = one.what
        first, last = one.first or self._store.clock(), one.last or self._store.clock()
        event = FailuresSummed(
            event=name, method=method, reason=reason, count=one.count, first=timestamp(first), last=timestamp(last)
        )
        log.warning(
            "failures_summed", event_name=name, method=method, reason=reason, client=one.address, count=one.count
        )
        before = audit_context.set(AuditContext(client_address=one.address or None))
        try:
            await self._store.audit(event)
        finally:
            audit_context.reset(before)


def _kind(failure: Failure) -> tuple[str, str | None, str]:
    """What is counted together: the event, the method of proof, and the reason, which is one of a few words."""
    method = failure.method if isinstance(failure, AuthenticationFailed) else None
    return failure.name, method, failure.reason


def _audit_all(tx: Tx, *, events: Sequence[AuditEvent]) -> None:
    for event in events:
        tx.audit(event)


@asynccontextmanager
async def open_failures(store: Store, *, threshold: int, window: timedelta) -> AsyncGenerator[Failures]:
    """Failures that are summed up once in every `window`, and at the end of the block."""
    failures = Failures(store, threshold=threshold)
    stopped = asyncio.Event()

    async def every_window() -> None:
        while not stopped.is_set():
            try:
                async with asyncio.timeout(window.total_seconds()):
                    await stopped.wait()
            except TimeoutError:
                await failures.sum_up()

    summing = asyncio.create_task(every_window(), name="kipuka-failures")
    try:
        yield failures
    finally:
        stopped.set()  # not cancelled, since what it is telling would be lost
        await asyncio.gather(summing, return_exceptions=True)
        await failures.sum_up()
