"""What `Services.open_threads` promises: a bound, an end to waiting, and an end of the pool that a hanging call cannot hold up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from datetime import timedelta

import pytest

from kipuka.api import BackendUnavailable
from kipuka.threads import open_threads

NOW, SOON, LONG = timedelta(0), timedelta(seconds=0.05), timedelta(seconds=20)


async def test_so_many_run_so_many_wait_and_the_rest_is_refused():
    go = threading.Event()
    async with open_threads(2, waiting=3, name="t", farewell=LONG) as threads:
        calls = [asyncio.ensure_future(threads.run(lambda: go.wait(20))) for _ in range(7)]
        for call in calls[5:]:
            with pytest.raises(BackendUnavailable) as full:
                await call
            assert full.value.reason == "pool_full"
        go.set()
        assert await asyncio.gather(*calls[:5]) == [True] * 5
        assert await threads.run(lambda: 7) == 7


async def test_whoever_gives_up_frees_the_place_of_what_has_not_begun_and_of_nothing_else():
    go, begun = threading.Event(), []
    async with open_threads(1, waiting=1, name="t", farewell=LONG) as threads:
        hanging = asyncio.ensure_future(threads.run(lambda: go.wait(20)))
        await asyncio.sleep(0)
        for _ in range(3):
            with pytest.raises(TimeoutError):
                await threads.run(lambda: begun.append(1), patience=SOON)
        cancelled = asyncio.ensure_future(threads.run(lambda: begun.append(1)))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert not threads._jobs
        go.set()
        assert await hanging
        assert await threads.run(lambda: 7) == 7
    assert begun == []


async def test_an_error_is_raised_where_the_result_is_awaited():
    async with open_threads(1, waiting=1, name="t", farewell=NOW) as threads:
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)


async def test_the_end_waits_for_what_is_under_way_and_drops_what_has_not_begun():
    begun, go, ended = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        go.wait(20)
        ended.append(1)

    async with open_threads(1, waiting=1, name="t", farewell=LONG) as threads:
        calls = [asyncio.ensure_future(threads.run(work)) for _ in range(2)]
        await asyncio.to_thread(begun.wait, 20)
        asyncio.get_running_loop().call_later(0.05, go.set)
    assert ended == [1]
    assert await calls[0] is None
    with pytest.raises(BackendUnavailable):
        await calls[1]
    with pytest.raises(BackendUnavailable):
        await threads.run(work)


async def test_a_call_that_never_returns_does_not_hold_up_the_end():
    go, begun = threading.Event(), threading.Event()
    async with asyncio.timeout(10):
        async with open_threads(1, waiting=1, name="t", farewell=NOW) as threads:
            call = asyncio.ensure_future(threads.run(lambda: (begun.set(), go.wait(30))))
            await asyncio.to_thread(begun.wait, 20)
    assert not call.done()
    call.cancel()
    go.set()


HANG = """
import asyncio, threading
from datetime import timedelta
from kipuka.threads import open_threads

async def main():
    begun = threading.Event()
    async with open_threads(1, waiting=1, name="t", farewell=timedelta(0)) as threads:
        call = asyncio.ensure_future(threads.run(lambda: (begun.set(), threading.Event().wait())))
        await asyncio.to_thread(begun.wait, 20)
        call.cancel()
    print("left", flush=True)

asyncio.run(main())
"""


def test_a_call_that_never_returns_does_not_keep_the_process():
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "left\n"), done.stderr
