"""Half-finished exchanges are few and short-lived."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from kipuka_auth_gssapi.exchanges import LIFETIME, MOST, Exchanges

from kipuka.testing.clock import FakeClock


@pytest.fixture(name="clock")
def _clock():
    return FakeClock(datetime(2026, 6, 24, tzinfo=UTC))


@pytest.fixture(name="exchanges")
def _exchanges(clock):
    return Exchanges(clock=clock)


def test_an_exchange_belongs_to_its_connection_and_is_taken_once(exchanges):
    exchanges.keep("a", 1)
    assert exchanges.take("b") is None
    assert exchanges.take("a") == 1
    assert exchanges.take("a") is None


def test_a_connection_has_one_exchange(exchanges):
    exchanges.keep("a", 1)
    exchanges.keep("a", 2)
    assert len(exchanges) == 1
    assert exchanges.take("a") == 2


def test_two_hundred_half_finished_exchanges_are_no_more_than_the_bound(exchanges):
    for number in range(200):
        exchanges.keep(str(number), number)
        assert len(exchanges) <= MOST < 200
    assert exchanges.take("0") is None
    assert exchanges.take("199") == 199


def test_an_exchange_expires(exchanges, clock):
    exchanges.keep("a", 1)
    clock.advance(LIFETIME - timedelta(seconds=1))
    exchanges.keep("b", 2)
    clock.advance(timedelta(seconds=1))
    assert exchanges.take("a") is None
    assert len(exchanges) == 1
    assert exchanges.take("b") == 2
