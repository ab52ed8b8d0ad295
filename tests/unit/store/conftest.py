"""A store per test, over a copy of a database that was made once."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from kipuka.audit.chain import seal
from kipuka.store.database import Store, open_store
from kipuka.store.schema import upgrade
from kipuka.testing.clock import FakeClock


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
def opened(url: str, clock: FakeClock) -> Callable[..., AbstractAsyncContextManager[Store]]:
    def opened(**options: object) -> AbstractAsyncContextManager[Store]:
        return open_store(url, **{"node": "alpha", "clock": clock, "seal": seal, **options})

    return opened


@pytest.fixture
async def store(opened: Callable[..., AbstractAsyncContextManager[Store]]) -> AsyncIterator[Store]:
    async with opened() as store:
        yield store
