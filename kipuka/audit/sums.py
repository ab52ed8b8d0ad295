"""Counting what may happen very often, so that it is told in a bounded number of events.

In the room: how often what happened to which address since it was told last, and the clockwork that has it told. Not in the room: what is
counted, and the events it is told in (`kipuka.audit.failures`, `kipuka.http.reports`).

Whoever can reach the server can fail as often as he likes. So the first few of a kind and address are told one by one, and
the rest of each interval in one event with their number. Where too many addresses take part, the rest of them is told as one: the
counts take a bounded place in memory, and their events on disk.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

__all__ = ["INTERVAL", "MOST_SUMS", "Sum", "Tally", "summing"]

K = TypeVar("K", bound=Hashable)

INTERVAL = 60.0  # seconds
MOST_SUMS = 200
"""How many different sums an interval may have. What does not fit is summed over all addresses."""


@dataclass(frozen=True, slots=True)
class Sum(Generic[K]):
    """How often `what` happened to `address` (None: to addresses that are not told one by one), first and last when."""

    what: K
    address: str | None
    count: int
    first: datetime
    last: datetime


@dataclass(slots=True)
class _Counted:
    first: datetime  # of the untold
    last: datetime
    number: int = 0
    untold: int = 0

    def add(self, untold: int, first: datetime, last: datetime) -> None:
        self.first = min(self.first, first) if self.untold else first
        self.last = max(self.last, last) if self.untold else last
        self.untold += untold


class Tally(Generic[K]):
    """Counts of an interval. The first `one_by_one` of each are for the caller to tell; `take` has the rest.

    `what` is one of few: of addresses there may be any number.
    """

    def __init__(self, *, one_by_one: int, most: int, clock: Callable[[], datetime]) -> None:
        self._one_by_one = one_by_one
        self._most = most
        self._clock = clock
        self._counted: dict[tuple[K, str | None], _Counted] = {}

    def count(self, what: K, address: str) -> int:
        """Count one; the how-manieth of its kind it is, or 0 when its address is counted together with others."""
        place = self._place(what, address)
        now = self._clock()
        counted = self._counted.setdefault((what, place), _Counted(now, now))
        counted.number += 1
        if place is None or counted.number > self._one_by_one:
            counted.add(1, now, now)
        return 0 if place is None else counted.number

    def take(self) -> Sequence[Sum[K]]:
        """What was not told one by one, and begin anew."""
        counted, self._counted = self._counted, {}
        return [
            Sum(what, address, one.untold, one.first, one.last)
            for (what, address), one in counted.items()
            if one.untold
        ]

    def give_back(self, sums: Sequence[Sum[K]]) -> None:
        """What `take` gave could not be told: it belongs to the next sums."""
        for sum_ in sums:
            place = None if sum_.address is None else self._place(sum_.what, sum_.address)
            counted = self._counted.setdefault((sum_.what, place), _Counted(sum_.first, sum_.last))
            counted.add(sum_.count, sum_.first, sum_.last)

    def _place(self, what: K, address: str) -> str | None:
        known = (what, address) in self._counted
        return address if known or len(self._counted) < self._most else None


@asynccontextmanager
async def summing(sum_up: Callable[[], Awaitable[None]], *, interval: float = INTERVAL) -> AsyncGenerator[None, None]:
    """Call `sum_up`, which raises nothing, in each interval and at the end of the block: never twice at once."""
    ended = asyncio.Event()

    async def every_interval() -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await ended.wait()
            if ended.is_set():
                return
            await sum_up()

    summing_up = asyncio.create_task(every_interval(), name="kipuka-sums")
    try:
        yield
    finally:
        ended.set()  # it is not cancelled: what it is telling would be lost where that fails
        await asyncio.gather(summing_up, return_exceptions=True)
        await sum_up()
