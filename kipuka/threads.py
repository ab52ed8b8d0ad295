"""Bounded pools of threads for what would block the event loop.

In the room: handing work over, how much of it may wait, giving up on it, and the end of a pool. Not in the room: the work.

The threads are daemons, since nothing can end a call that does not come back, and a process that stops must not wait for it. Whether a
pool's end waits for calls under way, and how long, is for whoever closes it to say.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Generic, TypeVar

from kipuka.api import BackendUnavailable

__all__ = ["BoundedThreads", "open_threads"]

T = TypeVar("T")


class _Job(Generic[T]):
    def __init__(self, fn: Callable[[], T]) -> None:
        self.future: Future[T] = Future()
        self._fn = fn

    def run(self) -> None:
        if not self.future.set_running_or_notify_cancel():
            return  # nobody waits for it any more
        try:
            result = self._fn()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class BoundedThreads:
    """At most `count` threads, started when they are needed, and room for `waiting` calls more. Used from one event loop.

    `niceness`: how much the threads stand behind everything else in the process.
    """

    def __init__(self, count: int, *, waiting: int, name: str, niceness: int = 0) -> None:
        self._count = count
        self._bound = count + waiting
        self._name = name
        self._niceness = niceness
        self._jobs: deque[_Job[Any]] = deque()
        self._outstanding: set[Future[Any]] = set()  # waiting or under way, whether anybody waits for them or not
        self._started = 0
        self._closed = False
        self._changed = threading.Condition()  # guards all of the above

    async def run(self, fn: Callable[[], T], /, *, patience: timedelta | None = None) -> T:
        """The result of `fn`, which is run in a thread.

        Raises BackendUnavailable when too many calls wait already, or the pool is closed, and TimeoutError when there is no result
        within `patience`. Whoever gives up, by `patience` or by being cancelled, frees the place of a call that has not begun: it
        never is. One that has begun goes on for nobody, and keeps its thread.
        """
        job = _Job(fn)
        self._put(job)
        async with asyncio.timeout(None if patience is None else patience.total_seconds()):
            return await asyncio.wrap_future(job.future)

    async def close(self, farewell: timedelta | None) -> None:
        """Take no more, drop what has not begun, and wait for what has: for as long as `farewell` says, or until it ends.

        Whoever waits for a call that is dropped hears BackendUnavailable.
        """
        with self._changed:
            self._closed = True
            dropped = [*self._jobs]
            self._jobs.clear()
            under_way = self._outstanding.difference(job.future for job in dropped)
            self._changed.notify_all()
        for job in dropped:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(_unavailable("the server is stopping"))
        if not under_way:
            return
        calls = [asyncio.wrap_future(future) for future in under_way]
        try:
            await asyncio.wait(calls, timeout=None if farewell is None else farewell.total_seconds())
        finally:
            for call in calls:
                if not call.cancel() and not call.cancelled():  # a thread is not to call an event loop that has ended
                    call.exception()  # whoever asked has it

    def _put(self, job: _Job[Any]) -> None:
        with self._changed:
            if self._closed or len(self._outstanding) >= self._bound:
                raise _unavailable("the server is stopping" if self._closed else "the server is too busy")
            self._outstanding.add(job.future)
            self._jobs.append(job)
            if self._started < min(self._count, len(self._outstanding)):
                self._started += 1
                threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
            self._changed.notify()
        job.future.add_done_callback(partial(self._settled, job))

    def _settled(self, job: _Job[Any], future: Future[Any]) -> None:
        with self._changed:
            self._outstanding.discard(future)
            if future.cancelled():
                with contextlib.suppress(ValueError):  # a thread may have taken it in this moment
                    self._jobs.remove(job)

    def _work(self) -> None:
        _stand_back(self._niceness)
        while (job := self._take()) is not None:
            job.run()
            del job  # with what it holds

    def _take(self) -> _Job[Any] | None:
        with self._changed:
            while not self._jobs:
                if self._closed:
                    return None
                self._changed.wait()
            return self._jobs.popleft()


def _unavailable(detail: str) -> BackendUnavailable:
    return BackendUnavailable(detail, retry_after=timedelta(seconds=2), reason="pool_full")


def _stand_back(niceness: int) -> None:
    """Linux gives each thread a niceness of its own. A hardened service may forbid to change it: the queue is bounded all the same."""
    if niceness:
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)


@asynccontextmanager
async def open_threads(
    count: int, *, waiting: int, name: str, farewell: timedelta | None, niceness: int = 0
) -> AsyncGenerator[BoundedThreads, None]:
    """Threads until the end of the block, which waits for calls under way as `BoundedThreads.close` says."""
    threads = BoundedThreads(count, waiting=waiting, name=name, niceness=niceness)
    try:
        yield threads
    finally:
        await threads.close(farewell)
