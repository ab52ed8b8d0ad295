"""Leases of periodic jobs."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from kipuka.store import jobs

MINUTE = timedelta(minutes=1)


async def test_a_job_is_one_holders_until_its_lease_has_run_out(store, clock):
    def claim(holder, name="crl"):
        return store.write(partial(jobs.claim, name=name, holder=holder, lease=MINUTE))

    assert await claim("a")
    assert not await claim("b")
    assert await claim("b", "other")
    clock.advance(59)
    assert await claim("a"), "the holder renews it"
    clock.advance(59)
    assert not await claim("b")
    clock.advance(2)
    assert await claim("b"), "a is dead"
    assert not await claim("a")
