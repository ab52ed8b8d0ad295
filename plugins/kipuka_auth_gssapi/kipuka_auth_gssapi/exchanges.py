"""Exchanges that wait for their next token.

In the room: which connection has which half-finished exchange, how many there may be, and for how long. Not in the room: what an
exchange is.

Anybody can begin one and leave it, without a ticket, so their number has a bound. A new one takes the place of the oldest:
to push out somebody else's between two of its tokens, an attacker would have to begin `MOST` in that time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Generic, TypeVar

__all__ = ["LIFETIME", "MOST", "Exchanges"]

T = TypeVar("T")

MOST = 128
"""Half-finished exchanges that one process keeps."""

LIFETIME = timedelta(seconds=30)
"""How long a client may take for its next token."""


class Exchanges(Generic[T]):
    """At most one exchange per connection, `most` in all, each for `lifetime`."""

    def __init__(self, *, clock: Callable[[], datetime], most: int = MOST, lifetime: timedelta = LIFETIME) -> None:
        self._clock = clock
        self._most = most
        self._lifetime = lifetime
        self._waiting: dict[str, tuple[datetime, T]] = {}  # oldest first

    def __len__(self) -> int:
        return len(self._waiting)

    def keep(self, connection: str, exchange: T) -> None:
        """Keep an exchange of a connection until its next token comes."""
        self._forget_late()
        self._waiting.pop(connection, None)
        while len(self._waiting) >= self._most:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[connection] = (self._clock() + self._lifetime, exchange)

    def take(self, connection: str) -> T | None:
        """The exchange of that connection, which is kept no longer: one token belongs to one step."""
        self._forget_late()
        found = self._waiting.pop(connection, None)
        return None if found is None else found[1]

    def _forget_late(self) -> None:
        now = self._clock()
        for connection, (until, _) in list(self._waiting.items()):
            if until > now:
                break
            del self._waiting[connection]
