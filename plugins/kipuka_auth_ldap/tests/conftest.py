"""What the tests stand on: a directory of their own, one in a process, and servers that ask it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from kipuka.testing.server import Deployment, RunningServer

from .slapd import Slapd, find_slapd

_PATIENCE = 180
_PATIENT = {"hash_algorithm": "sha256-hmac", "max_failures": 10000}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent) and item.get_closest_marker("server") is not None:
            item.add_marker(pytest.mark.timeout(_PATIENCE))


@pytest.fixture(name="slapd", scope="session")
def _slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    if find_slapd() is None:
        reason = "slapd not found; as root run: apt install slapd"
        if os.environ.get("KIPUKA_TEST_TOOLS") == "all" or os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with Slapd(tmp_path_factory.mktemp("slapd")) as slapd:
        yield slapd


@pytest.fixture(name="deploy", scope="module")
def _deploy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Deployment]:
    """Makes deployments: one by `kipuka init`, the others as its copies."""
    template = Deployment.create(tmp_path_factory.mktemp("ldap") / "template")

    def make(changes: Mapping[str, object]) -> Deployment:
        made = template.copy(tmp_path_factory.mktemp("server") / "kipuka")
        made.configure({"otp": _PATIENT})
        made.configure(changes)
        return made

    return make


@pytest.fixture(name="serve", scope="module")
def _serve(deploy: Callable[..., Deployment]) -> Iterator[Callable[..., RunningServer]]:
    """Starts servers; all stop when the module ends, and none may have logged a traceback."""
    running: list[RunningServer] = []

    def start(changes: Mapping[str, object]) -> RunningServer:
        running.append(deploy(changes).serve())
        return running[-1].start()

    yield start
    for server in running:
        server.stop()
    assert [server.stderr for server in running if server.tracebacks()] == []
