"""Memory goes back to the system when a crowd has gone.

In the room: when that is worth the while, and how it is done. Not in the room: what a connection holds.

The objects of a connection refer to each other, so that only Python's collector of cycles finds them; with the many objects
of a server it looks at the old ones very rarely. And the C library keeps what was freed between blocks still in use. Without
this a server that once had thousands of connections would stay as large as it was then.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable

import structlog

__all__ = ["Crowd", "settle", "tidy_after_crowds"]

INTERVAL = 5.0  # seconds
_LEAST = 100
"""How many connections must have gone for it to be worth a collection, which takes some tenths of a second."""

log = structlog.get_logger(__name__)


def settle() -> None:
    """The process has what it will always have: the collector need not look at it again.

    Without this the many objects of modules make each full collection slow, and so rare that what short-lived
    connections leave piles up. For a process that does nothing else but serve. After a reload it is called again, so that
    what belonged to the old runtime goes.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


class Crowd:
    """Whether most of a crowd has gone."""

    def __init__(self) -> None:
        self._peak = 0

    def is_gone(self, *, now: int, peak: int) -> bool:
        """Told how many are there now, and how many there were at most since it was asked last. True once for each crowd."""
        self._peak = max(self._peak, peak)
        if self._peak - now < _LEAST or now > self._peak / 2:
            return False
        self._peak = now
        return True


async def tidy_after_crowds(size: Callable[[], int], take_peak: Callable[[], int]) -> None:
    """For ever: look at the number of connections, and give memory back after it has fallen a lot."""
    crowd = Crowd()
    while True:
        await asyncio.sleep(INTERVAL)
        if crowd.is_gone(now=size(), peak=take_peak()):
            await asyncio.sleep(INTERVAL)  # their tasks end after them, and hold what is to be found
            found = gc.collect()
            _trim()
            log.info("memory_tidied", objects=found)


def _trim() -> None:
    """Have the C library give back what is free. Only glibc has to be asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
