"""RULES H1: a bucket of requests for each address."""

from __future__ import annotations

from datetime import timedelta

from kipuka.http.rates import RequestRate


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_requests_may_come_at_once_and_then_one_by_one() -> None:
    clock = Clock()
    rate = RequestRate(per_minute=6, clock=clock)
    assert [rate.take("192.0.2.1") for _ in range(6)] == [None] * 6
    assert rate.take("192.0.2.1") == timedelta(seconds=10)
    clock.now += 9
    assert rate.take("192.0.2.1") == timedelta(seconds=1)
    clock.now += 1
    assert rate.take("192.0.2.1") is None
    assert rate.take("192.0.2.1") == timedelta(seconds=10)


def test_an_address_that_was_quiet_has_a_minutes_requests_and_no_more() -> None:
    clock = Clock()
    rate = RequestRate(per_minute=3, clock=clock)
    rate.take("192.0.2.1")
    clock.now += 3600
    assert [rate.take("192.0.2.1") is None for _ in range(4)] == [True, True, True, False]


def test_each_address_has_its_own() -> None:
    rate = RequestRate(per_minute=1, clock=Clock())
    assert rate.take("192.0.2.1") is None
    assert rate.take("192.0.2.2") is None
    assert rate.take("192.0.2.1") is not None


def test_what_is_remembered_is_bounded() -> None:
    rate = RequestRate(per_minute=1, clock=Clock())
    for number in range(20_000):
        rate.take(str(number))
    assert len(rate._buckets) == 10_000
    assert rate.take("19999") is not None
    assert rate.take("5") is None
