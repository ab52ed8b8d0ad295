"""How many requests an address may send in a minute.

In the room: a bucket for each address, and the refusal of what is over it. Not in the room: the limit's origin (`kipuka.http.limits`),
and who tells of it (`kipuka.http.reports`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from kipuka.api import TooManyRequests
from kipuka.store.lockouts import normal_address

__all__ = ["Pace", "RequestRate"]

_MINUTE = 60.0
_MOST_ADDRESSES = 10_000
"""Of how many addresses we know what they have sent: of more, the one that has been quiet longest is forgotten."""


@dataclass(slots=True)
class _Bucket:
    left: float
    since: float


class RequestRate:
    """A bucket of `per_minute` requests for each address (of IPv6: each /64 network), filled evenly within a minute.

    So an address may send a minute's requests at once, and in the long run `per_minute` in each. `clock` gives seconds,
    and never goes back.
    """

    def __init__(self, *, per_minute: int, clock: Callable[[], float]) -> None:
        self._capacity = float(per_minute)
        self._per_second = per_minute / _MINUTE
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the one that has been quiet longest first

    def take(self, address: str) -> timedelta | None:
        """Count a request of an address, as `normal_address` gives it.

        None when it may be served, else how long it takes until another one may.
        """
        now = self._clock()
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = _Bucket(self._capacity, now)
            if len(self._buckets) > _MOST_ADDRESSES:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(address)
        bucket.left = min(self._capacity, bucket.left + (now - bucket.since) * self._per_second)
        bucket.since = now
        if bucket.left >= 1:
            bucket.left -= 1
            return None
        return timedelta(seconds=(1 - bucket.left) / self._per_second)


class Pace:
    """Refuses what an address asks too fast (RULES H1). `exceeded` hears the setting's name and the address."""

    def __init__(self, rate: RequestRate, *, exceeded: Callable[[str, str], None]) -> None:
        self._rate = rate
        self._exceeded = exceeded

    def keep(self, client_address: str) -> None:
        """Count a request. Raises `TooManyRequests`."""
        address = normal_address(client_address)
        wait = self._rate.take(address)
        if wait is not None:
            self._exceeded("max_requests_per_minute_per_address", address)
            raise TooManyRequests("too many requests", retry_after=wait)
