"""A clock that stands still until a test moves it.

In the room: `FakeClock`. Not in the room: sleeping; time-outs of asyncio go by the real clock.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["FakeClock"]


class FakeClock:
    """Call it for the time, as kipuka calls `Services.clock`: aware, in UTC.

    It starts at the real time by default, so that certificates made beside it are valid.
    """

    def __init__(self, start: datetime | None = None) -> None:
        moment = datetime.now(UTC) if start is None else start
        if moment.tzinfo is None:
            msg = "a clock needs a time with a time zone"
            raise ValueError(msg)
        self._now = moment.astimezone(UTC)

    def __call__(self) -> datetime:
        """The time, as the test last set it."""
        return self._now

    def advance(self, by: timedelta | float) -> datetime:
        """Move on by a duration (a plain number is seconds), also backwards, and answer the new time."""
        self._now += by if isinstance(by, timedelta) else timedelta(seconds=by)
        return self._now

    def set(self, moment: datetime) -> None:
        """Move to that moment."""
        if moment.tzinfo is None:
            msg = "a clock needs a time with a time zone"
            raise ValueError(msg)
        self._now = moment.astimezone(UTC)
