"""A store per test, on each of the databases, over a copy of a database that was made once: for the store and for the audit log."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import sqlalchemy

from kipuka.audit.chain import seal
from kipuka.store.database import Store, open_store
from kipuka.store.dialect import dialect_for
from kipuka.store.schema import upgrade
from kipuka.testing.clock import FakeClock
from kipuka.testing.postgresql import Database

BOTH = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgresql", id="postgresql", marks=pytest.mark.needs("postgres")),
]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "kipuka.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def empty_postgresql(kipuka_postgresql) -> Database:
    made = kipuka_postgresql.create_database()
    upgrade(made.url)
    return made


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """The file of a test that is about SQLite."""
    return Path(shutil.copy(empty_database, tmp_path / "kipuka.db"))


@pytest.fixture
def postgresql(kipuka_postgresql, empty_postgresql: Database):
    """The database of a test that is about PostgreSQL."""
    made = kipuka_postgresql.create_database(template=empty_postgresql.name)
    yield made
    kipuka_postgresql.drop_database(made.name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """On both databases, but a test that asks for `database` on SQLite only, one that asks for `postgresql` on that only."""
    if "url" not in metafunc.fixturenames:
        return
    asked = metafunc.definition._fixtureinfo.argnames
    kinds = [kind for kind in BOTH if not {"database", "postgresql"} & {*asked} or _NAMES[kind.id] in asked]
    metafunc.parametrize("url", kinds, indirect=True)


_NAMES = {"sqlite": "database", "postgresql": "postgresql"}


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """The URL of the test's database."""
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('database')}"
    return request.getfixturevalue("postgresql").url


@pytest.fixture
def sql(url: str) -> Callable[..., list[tuple]]:
    """Runs statements on the database, each committed, over a connection of its own beside the store.

    A statement with values for its `:names` is a pair; with several sets of them it is run once for each.
    """

    def sql(*statements: str | tuple[str, Mapping | Sequence[Mapping]]) -> list[tuple]:
        engine = dialect_for(url).schema_engine()
        rows: list[tuple] = []
        try:
            for one in statements:
                statement, values = (one, None) if isinstance(one, str) else one
                with engine.connect() as connection, connection.begin():
                    result = connection.execute(sqlalchemy.text(statement), values)
                    rows = [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()
        return rows

    return sql


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
