"""Fixtures of the whole suite: those of the kit, and how its modules are spread over processes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["kipuka.testing.fixtures"]

_WHOLE_SERVER = {"server", "interop", "hostile"}
_PATIENCE = 180
"""Seconds for one test over a real server, which may have to start some: plenty, also on a busy machine."""


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """A module of tests over a real server stays in one process (`--dist loadgroup`): it starts its server once."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in _WHOLE_SERVER:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_PATIENCE))
