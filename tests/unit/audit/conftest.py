"""A store per test, over a copy of a database that was made once, and services for sinks."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kipuka.audit.chain import seal
from kipuka.store.database import Store, open_store
from kipuka.store.schema import upgrade
from kipuka.testing.clock import FakeClock


class ThreadServices:
    """The one service that sinks borrow."""

    async def run_blocking(self, fn, /, *args, **kwargs):
        return await asyncio.to_thread(fn, *args, **kwargs)


@pytest.fixture
def services() -> ThreadServices:
    return ThreadServices()


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "kipuka.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(empty_database, tmp_path / "kipuka.db"))


@pytest.fixture
def url(database: Path) -> str:
    return f"sqlite:///{database}"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def store(url: str, clock: FakeClock) -> AsyncIterator[Store]:
    async with open_store(url, node="alpha", clock=clock, seal=seal) as store:
        yield store
