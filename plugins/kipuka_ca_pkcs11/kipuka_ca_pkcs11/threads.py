"""A bounded number of threads that wait for an HSM, so that nobody else has to.

In the room: handing work over, and giving up on it. Not in the room: the work.

The host's own pool is for everybody: an HSM that does not answer would take all of it. These threads are daemons, since nothing can end a call that
does not come back, and a server that stops must not wait for it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import timedelta
from typing import Generic, TypeVar, cast

from kipuka.api import BackendUnavailable

__all__ = ["Threads"]

T = TypeVar("T")

WAITING = 64
"""How many calls for each thread may wait before a caller is told to come back."""


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


class Threads:
    """At most `count` threads, started when they are needed. Used from one event loop."""

    def __init__(self, count: int, *, name: str) -> None:
        self._count = count
        self._name = name
        self._jobs: queue.SimpleQueue[_Job[object] | None] = queue.SimpleQueue()
        self._begun = 0  # calls that have not come back, whether anybody waits for them or not
        self._started = 0
        self._lock = threading.Lock()

    async def run(self, fn: Callable[[], T], *, patience: timedelta) -> T:
        """The result of `fn`. Raises BackendUnavailable when too many wait already, or when there is none within `patience`.

        A call that has not begun by then is not begun; one that has begun goes on for nobody.
        """
        if self._begun >= self._count * (1 + WAITING):
            raise BackendUnavailable("the HSM has too much to do", retry_after=timedelta(seconds=2), reason="hsm_busy")
        job = _Job(fn)
        with self._lock:
            self._begun += 1
        job.future.add_done_callback(self._forget)
        self._jobs.put(cast("_Job[object]", job))
        if self._started < min(self._count, self._begun):
            self._started += 1
            threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        try:
            async with asyncio.timeout(patience.total_seconds()):
                return await asyncio.wrap_future(job.future)
        except TimeoutError as error:
            detail = "the HSM does not answer in time"
            raise BackendUnavailable(detail, retry_after=timedelta(seconds=10), reason="hsm_timeout") from error

    def close(self) -> None:
        """Let the threads end after what they do now; nobody waits for them."""
        for _ in range(self._started):
            self._jobs.put(None)

    def _forget(self, _future: object) -> None:
        with self._lock:
            self._begun -= 1

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            del job
