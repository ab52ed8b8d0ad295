"""The commands of docs/plugins, run as they stand: a plugin is begun, installed with pip in an environment of its own, and its tests pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .pages import ROOT, blocks

PROJECTS = [ROOT, ROOT / "plugins" / "kipuka_auth_otp", ROOT / "plugins" / "kipuka_ca_local"]
PAGES = ["README.md", "tutorial.md"]

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """kipuka as an index would have it; everything else comes from the index that this machine uses."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in PROJECTS:
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
        subprocess.run(build, cwd=project, check=True, capture_output=True)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_that_begin_a_plugin_work_as_written(page, wheels, tmp_path):
    [block] = [block for block in blocks(ROOT / "docs" / "plugins" / page) if block.language == "console"]
    lines = block.text.splitlines()
    assert all(line.startswith("$ ") for line in lines)
    script = "set -euxo pipefail\n" + "".join(f"{line[2:]}\n" for line in lines)
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("KIPUKA_", "PYTEST_"))}
    environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environ['PATH']}"
    environ["PIP_FIND_LINKS"] = " ".join(filter(None, [os.environ.get("PIP_FIND_LINKS"), str(wheels)]))
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=580
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
