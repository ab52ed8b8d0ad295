"""The ground on which the crash tests build their sites."""

from __future__ import annotations

import contextlib

import pytest

from kipuka.testing.postgresql import PostgreSQLServer

from . import sites


@pytest.fixture(scope="module")
def own_postgresql():
    """A PostgreSQL for the tests of one module, since they kill it."""
    with PostgreSQLServer() as server:
        yield server


@pytest.fixture(scope="module")
def grounds(kipuka_servers, kipuka_examine, request):
    """What `sites` builds on, in a folder, for a block."""

    def running():
        server = request.getfixturevalue("own_postgresql")
        return server if server.is_running else server.start()  # a test that failed may have left it dead

    @contextlib.contextmanager
    def make(folder):
        with contextlib.ExitStack() as stack:
            yield sites.Ground(kipuka_servers, running, kipuka_examine, folder, stack)

    return make


@pytest.fixture
def ground(grounds, tmp_path):
    """The same for one test."""
    with grounds(tmp_path) as ground:
        yield ground
