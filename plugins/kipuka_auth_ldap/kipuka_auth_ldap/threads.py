"""The threads in which a directory is asked.

In the room: a pool of the plugin's own, and its bound. Not in the room: what runs there.

The host's pool (`Services.run_blocking`) has a few threads that all plugins share, for work that is short. A directory that hangs
would hold them for seconds each, and one-time passwords could not be checked meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import ParamSpec, TypeVar

__all__ = ["DirectoryThreads", "QueueFull", "open_threads"]

T = TypeVar("T")
P = ParamSpec("P")

WAITING = 8
"""So many calls wait for each thread."""


class QueueFull(Exception):
    """As many calls wait as may."""


class DirectoryThreads:
    """A pool of threads with a bounded queue. Made by `open_threads`."""

    def __init__(self, executor: ThreadPoolExecutor, size: int) -> None:
        self._executor = executor
        self._free = size * (1 + WAITING)

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run in a thread. Raises `QueueFull`. Who is cancelled stops waiting; the thread goes on to its own time limit."""
        if self._free <= 0:
            raise QueueFull
        self._free -= 1
        call = asyncio.get_running_loop().run_in_executor(self._executor, partial(fn, *args, **kwargs))
        call.add_done_callback(self._give_back)  # not when the caller stops waiting: the thread is still at work then
        return await asyncio.shield(call)

    def _give_back(self, call: asyncio.Future[T]) -> None:
        self._free += 1
        if not call.cancelled():
            call.exception()  # whoever waited has it; where nobody does any more, nobody misses it


@asynccontextmanager
async def open_threads(size: int) -> AsyncGenerator[DirectoryThreads, None]:
    """Threads until the end of the block, which waits for calls under way and drops those that have not begun."""
    executor = ThreadPoolExecutor(max_workers=size, thread_name_prefix="kipuka-ldap")
    try:
        yield DirectoryThreads(executor, size)
    finally:
        await asyncio.to_thread(executor.shutdown, wait=True, cancel_futures=True)
