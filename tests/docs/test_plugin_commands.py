"""The commands of docs/plugins, run as they stand: a plugin is begun, installed with pip in an environment of its own, and its tests pass."""

from __future__ import annotations

import os

import pytest

from ..wheels import build_wheel  # noqa: TID252 - tests are no package that is installed
from .pages import ROOT, blocks
from .shell import run

PROJECTS = [ROOT, ROOT / "plugins" / "kipuka_auth_otp", ROOT / "plugins" / "kipuka_ca_local"]
PAGES = ["README.md", "tutorial.md"]

pytestmark = [pytest.mark.server, pytest.mark.slow]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    """kipuka as an index would have it; everything else comes from the index that this machine uses."""
    folder = tmp_path_factory.mktemp("wheels")
    for project in PROJECTS:
        build_wheel(project, folder)
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_that_begin_a_plugin_work_as_written(page, wheels, tmp_path):
    [block] = [block for block in blocks(ROOT / "docs" / "plugins" / page) if block.language == "console"]
    lines = block.text.splitlines()
    assert all(line.startswith("$ ") for line in lines)
    script = "set -euxo pipefail\n" + "".join(f"{line[2:]}\n" for line in lines)
    links = " ".join(filter(None, [os.environ.get("PIP_FIND_LINKS"), str(wheels)]))
    done = run(script, tmp_path, {"PIP_FIND_LINKS": links}, timeout=580)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout
    assert "failed" not in done.stdout
