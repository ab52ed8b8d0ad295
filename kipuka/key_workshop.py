"""Where RSA keys are made for clients: one thread that nothing else needs, and a short queue before it (RULES J1).

In the room: how many may wait, how long, and how much that thread stands back. Not in the room: making a key (`kipuka.x509.generate`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from kipuka.api import BackendUnavailable
from kipuka.threads import BoundedThreads, open_threads
from kipuka.x509.generate import GeneratedKey, KeyKind, generate

__all__ = ["KeyWorkshop", "open_key_workshop"]

QUEUE = 16
"""How many clients may wait for an RSA key in one process (RULES J1)."""

TIMEOUT = timedelta(seconds=20)
"""How long one may wait, the making included."""

NICENESS = 10
"""How much the thread that makes RSA keys stands behind everything else in the process."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyWorkshop:
    """Makes one key at a time. Made by `open_key_workshop`."""

    threads: BoundedThreads

    async def make(self, kind: KeyKind) -> GeneratedKey:
        """A new private key. Raises `BackendUnavailable` when too many wait for one, or it takes too long."""
        try:
            return await self.threads.run(partial(generate, kind), patience=TIMEOUT)
        except TimeoutError as error:
            detail = "it took too long to make a private key, try again"
            raise BackendUnavailable(detail, retry_after=timedelta(seconds=10), reason="key_timeout") from error


@asynccontextmanager
async def open_key_workshop() -> AsyncGenerator[KeyWorkshop, None]:
    """A workshop until the end of the block, which waits for the key that is being made."""
    async with open_threads(1, waiting=QUEUE, name="kipuka-keys", niceness=NICENESS, farewell=None) as threads:
        yield KeyWorkshop(threads=threads)
