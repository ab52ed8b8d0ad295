"""Services for sinks."""

from __future__ import annotations

import asyncio

import pytest


class ThreadServices:
    """The one service that sinks borrow."""

    async def run_blocking(self, fn, /, *args, **kwargs):
        return await asyncio.to_thread(fn, *args, **kwargs)


@pytest.fixture
def services() -> ThreadServices:
    return ThreadServices()
