"""What the tests stand on: a directory of their own, one in a process, and the plugin opened over it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kipuka.testing.fixtures import kipuka_servers, kipuka_template

from .slapd import Slapd, find_slapd

__all__ = ["kipuka_servers", "kipuka_template"]


@pytest.fixture(name="slapd", scope="session")
def _slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    if find_slapd() is None:
        reason = "slapd not found; as root run: apt install slapd"
        if os.environ.get("KIPUKA_TEST_TOOLS") == "all" or os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with Slapd(tmp_path_factory.mktemp("slapd")) as slapd:
        yield slapd
