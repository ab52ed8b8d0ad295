"""Every failure is either told one by one or in a sum, whatever comes in which order, and in bounded memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kipuka.audit.sums import Sum, Tally, summing
from kipuka.testing.clock import FakeClock

START = datetime(2030, 1, 1, tzinfo=UTC)
TOGETHER = None

WHATS = st.sampled_from(["unknown_token", "locked_out", "expired"])
ADDRESSES = st.sampled_from([f"192.0.2.{number}" for number in range(8)])
TAKE, LOSE = "take", "take what cannot be told"
STEPS = st.lists(st.one_of(st.tuples(WHATS, ADDRESSES), st.sampled_from([TAKE, LOSE])), max_size=200)


class Play:
    """A tally, and beside it what has become of each failure, counted plainly."""

    def __init__(self, *, one_by_one: int, most: int) -> None:
        self.clock = FakeClock(START)
        self.tally: Tally[str] = Tally(one_by_one=one_by_one, most=most, clock=self.clock)
        self.one_by_one = one_by_one
        self.told: Counter[tuple[str, str]] = Counter()
        self.sums: list[Sum[str]] = []

    def fail(self, what: str, address: str) -> None:
        self.clock.advance(1)
        if 0 < self.tally.count(what, address) <= self.one_by_one:
            self.told[what, address] += 1

    def take(self) -> None:
        self.sums += self.tally.take()

    def lose(self) -> None:
        self.tally.give_back(self.tally.take())


@given(steps=STEPS, one_by_one=st.integers(0, 5), most=st.integers(1, 10))
def test_what_is_told_and_what_is_summed_are_all_there_were(steps, one_by_one, most):
    play = Play(one_by_one=one_by_one, most=most)
    happened: Counter[tuple[str, str]] = Counter()
    for step in steps:
        if step == TAKE:
            play.take()
        elif step == LOSE:
            play.lose()
        else:
            happened[step] += 1
            play.fail(*step)
    play.take()
    for what in {what for what, _address in happened}:
        addresses = {address for kind, address in happened if kind == what}
        own = {
            address: play.told[what, address]
            + sum(one.count for one in play.sums if (one.what, one.address) == (what, address))
            for address in addresses
        }
        together = sum(one.count for one in play.sums if (one.what, one.address) == (what, TOGETHER))
        assert all(own[address] <= happened[what, address] for address in addresses)
        assert sum(own.values()) + together == sum(happened[what, address] for address in addresses)


@given(steps=st.lists(st.tuples(WHATS, ADDRESSES), max_size=100), one_by_one=st.integers(0, 5))
def test_where_there_is_room_each_address_and_kind_has_its_own_exact_sum_with_its_times(steps, one_by_one):
    play = Play(one_by_one=one_by_one, most=100)
    moments: dict[tuple[str, str], list[datetime]] = {}
    for step in steps:
        play.fail(*step)
        moments.setdefault(step, []).append(play.clock())
    play.take()
    untold = {key: times[one_by_one:] for key, times in moments.items() if len(times) > one_by_one}
    assert {(one.what, one.address): (one.count, one.first, one.last) for one in play.sums} == {
        key: (len(times), times[0], times[-1]) for key, times in untold.items()
    }
    assert play.told == {key: min(len(times), one_by_one) for key, times in moments.items() if one_by_one}


def test_a_botnet_is_told_in_a_bounded_number_of_sums():
    play = Play(one_by_one=20, most=200)
    for number in range(20_000):
        play.fail("unknown_token", f"2001:db8:0:{number:x}::/64")
    play.take()
    assert sum(play.told.values()) == 200
    assert [(one.address, one.count) for one in play.sums] == [(TOGETHER, 20_000 - 200)]


def test_each_interval_begins_anew():
    play = Play(one_by_one=2, most=10)
    for _ in range(2):
        for _ in range(5):
            play.fail("unknown_token", "192.0.2.1")
        play.take()
    assert play.told["unknown_token", "192.0.2.1"] == 4
    assert [one.count for one in play.sums] == [3, 3]


def test_sums_that_could_not_be_told_go_on_with_their_first_time():
    play = Play(one_by_one=1, most=10)
    for _ in range(3):
        play.fail("unknown_token", "192.0.2.1")
    play.lose()
    for _ in range(3):
        play.fail("unknown_token", "192.0.2.1")
    play.take()
    second, sixth = START + timedelta(seconds=2), START + timedelta(seconds=6)
    assert play.sums == [Sum("unknown_token", "192.0.2.1", 4, second, sixth)]


async def test_the_clockwork_sums_up_in_each_interval_and_at_the_end():
    times = 0
    enough = asyncio.Event()

    async def sum_up() -> None:
        nonlocal times
        times += 1
        if times == 3:
            enough.set()

    async with summing(sum_up, interval=0.001):
        async with asyncio.timeout(10):
            await enough.wait()
    within = times
    assert within >= 4
    async with summing(sum_up, interval=3600):
        assert times == within
    assert times == within + 1


async def test_the_clockwork_sums_up_at_the_end_of_a_block_that_fails():
    times = 0

    async def sum_up() -> None:
        nonlocal times
        times += 1

    with pytest.raises(RuntimeError, match="out"):
        async with summing(sum_up):
            raise RuntimeError("out")
    assert times == 1


async def test_a_sum_that_is_being_told_at_the_end_of_the_block_is_told_to_its_end():
    began, go_on, steps = asyncio.Event(), asyncio.Event(), []

    async def sum_up() -> None:
        began.set()
        await go_on.wait()
        steps.append("told")

    async with asyncio.timeout(10):
        async with summing(sum_up, interval=0.001):
            await began.wait()
            asyncio.get_running_loop().call_later(0.01, go_on.set)
        assert steps == ["told", "told"]
