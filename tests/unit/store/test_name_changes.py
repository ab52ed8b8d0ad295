"""Approved changes of names: one for a certificate, good once and for a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

from kipuka.store import name_changes
from kipuka.store.name_changes import NameChangeApproval

DAY = timedelta(days=1)


def approval(clock, **changes):
    made = NameChangeApproval(certificate="aa" * 32, subject="CN=new", names=("DNS:new.example",), until=clock() + DAY)
    return replace(made, **changes)


async def test_an_approval_is_found_until_it_ends(store, clock):
    made = approval(clock)
    await store.write(partial(name_changes.approve, approval=made))
    find = partial(name_changes.find, certificate=made.certificate)
    assert await store.read(find) == made
    assert await store.read(partial(name_changes.find, certificate="bb" * 32)) is None
    clock.advance(DAY + timedelta(seconds=1))
    assert await store.read(find) is None
    assert await store.write(partial(name_changes.use, approval=made)) is False


async def test_it_is_good_once(store, clock):
    made = approval(clock)
    await store.write(partial(name_changes.approve, approval=made))
    used = [await store.write(partial(name_changes.use, approval=made)) for _ in range(2)]
    assert used == [True, False]


async def test_a_later_one_takes_its_place(store, clock):
    """And what was read of the first is not good any more."""
    first, second = approval(clock), approval(clock, subject="CN=other")
    for made in (first, second):
        await store.write(partial(name_changes.approve, approval=made))
    assert await store.read(partial(name_changes.find, certificate=first.certificate)) == second
    assert await store.write(partial(name_changes.use, approval=first)) is False
    assert await store.write(partial(name_changes.use, approval=second)) is True


async def test_what_was_withdrawn_is_good_for_nothing(store, clock):
    """Also in the hands of a renewal that has read it before."""
    made = approval(clock)
    await store.write(partial(name_changes.approve, approval=made))
    withdrawn = [await store.write(partial(name_changes.withdraw, certificate=made.certificate)) for _ in range(2)]
    assert withdrawn == [made, None]
    assert await store.write(partial(name_changes.use, approval=made)) is False


async def test_those_that_have_ended_are_forgotten_and_no_others(store, clock):
    ended, standing = approval(clock), approval(clock, certificate="bb" * 32, until=clock() + 2 * DAY)
    for made in (ended, standing):
        await store.write(partial(name_changes.approve, approval=made))
    clock.advance(DAY)
    assert await store.read(name_changes.any_ended) is False, "until is the last moment at which it is good"
    clock.advance(timedelta(microseconds=1))
    assert await store.write(partial(name_changes.withdraw, certificate=ended.certificate)) is None
    assert await store.read(name_changes.any_ended) is True
    assert [await store.write(name_changes.forget_ended) for _ in range(2)] == [1, 0]
    assert await store.read(name_changes.any_ended) is False
    assert await store.read(partial(name_changes.find, certificate=standing.certificate)) == standing
