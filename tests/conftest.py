"""Fixtures of the whole suite: those of the kit, how its modules are spread over processes, and the tools that tests need."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest_plugins = ["kipuka.testing.fixtures"]

_WHOLE_SERVER = {"crash", "server", "interop", "hostile"}
_PATIENCE = 600
"""Seconds for one test over a real server, which may have to start some: plenty, also on a busy machine."""


def _load_tools():
    """`scripts/tools.py`, which knows how a tool is recognised and which package brings it."""
    file = Path(__file__).parent.parent / "scripts" / "tools.py"
    spec = importlib.util.spec_from_file_location("kipuka_test_tools", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_TOOLS = _load_tools()


@pytest.hookimpl(tryfirst=True)  # before the fixtures, which use the tools
def pytest_runtest_setup(item):
    """`needs("pki")`: where a tool is missing the test is skipped, but fails where `make test` or the CI has them all."""
    names = [name for marker in item.iter_markers("needs") for name in marker.args]
    absent = _TOOLS.missing(names)
    if absent:
        packages = " ".join(package for name in absent for package in _TOOLS.tool(name).packages)
        reason = f"{', '.join(absent)} not found; as root run: apt install {packages}"
        if os.environ.get("KIPUKA_TEST_TOOLS") == "all" or os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


@pytest.hookimpl(tryfirst=True)  # before xdist, which reads the groups in the same hook
def pytest_collection_modifyitems(items):
    """A module of tests over a real server stays in one process (`--dist loadgroup`): it starts its server once."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here) and item.path.relative_to(here).parts[0] in _WHOLE_SERVER:
            item.add_marker(pytest.mark.xdist_group(item.path.name))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_PATIENCE))


STRANGER = Path(__file__).parent / "stranger"


def _install(name, scratch, target):
    """Install one of the distributions under tests/stranger into a folder, by pip (or uv where there is no pip)."""
    source = scratch / name
    shutil.copytree(STRANGER / name, source)
    shutil.copy(STRANGER / "wheel_backend.py", source)
    where = ["--no-deps", "--no-index", "--target", str(target), str(source)]
    if importlib.util.find_spec("pip") is not None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--no-build-isolation", "--root-user-action=ignore", *where]
    else:
        uv = shutil.which("uv") or pytest.fail("neither pip nor uv is there to install a plugin with")
        command = [uv, "pip", "install", "--quiet", "--no-build-isolation", *where]
    subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """Makes a folder of installed distributions of strangers: `environ=site("badge_and_smithy")`."""

    def make(*names):
        scratch = tmp_path_factory.mktemp("stranger")
        target = scratch / "site"
        for name in names:
            _install(name, scratch, target)
        return {"PYTHONPATH": str(target)}

    return make
