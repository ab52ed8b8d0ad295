"""The fake clock moves when it is told to, and only then."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from kipuka.testing.clock import FakeClock


def test_a_fake_clock_stands_still():
    clock = FakeClock()
    assert clock() is clock()


def test_a_fake_clock_starts_at_the_real_time():
    assert abs(FakeClock()() - datetime.now(UTC)) < timedelta(seconds=5)


def test_a_fake_clock_moves_by_durations_and_by_seconds():
    clock = FakeClock(datetime(2030, 1, 1, tzinfo=UTC))
    assert clock.advance(timedelta(hours=1)) == datetime(2030, 1, 1, 1, tzinfo=UTC)
    assert clock.advance(-60) == datetime(2030, 1, 1, 0, 59, tzinfo=UTC)
    clock.set(datetime(2031, 1, 1, 2, tzinfo=timezone(timedelta(hours=2))))
    assert clock() == datetime(2031, 1, 1, tzinfo=UTC)
    assert clock().tzinfo is UTC


@pytest.mark.parametrize("act", [FakeClock, FakeClock().set], ids=["start", "set"])
def test_a_fake_clock_refuses_a_time_without_a_zone(act):
    with pytest.raises(ValueError, match="time zone"):
        act(datetime(2030, 1, 1))  # noqa: DTZ001 - the very thing that is refused
