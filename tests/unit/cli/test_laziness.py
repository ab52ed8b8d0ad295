"""What is not used is not imported."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def modules_after(code, cwd, *, environ=None):
    """The modules that a fresh interpreter has when it has run this code."""
    program = f"{code}\nimport sys\nprint(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


HELP = """
from click.testing import CliRunner
from kipuka.cli import main
result = CliRunner().invoke(main, ["--help"])
assert "otp" in result.output and "kipuka-auth-otp" in result.output, result.output
"""


def test_help_lists_plugins_without_importing_any(tmp_path):
    """RULES K2: an entry point's name is the sub-command, known without importing anything."""
    found = modules_after(HELP, tmp_path)
    assert not {name for name in found if name.startswith(("kipuka_auth_otp", "kipuka_ca_local", "quart", "alembic"))}
    assert "kipuka.mtls" not in found


SERVE = """
import asyncio, os
from pathlib import Path
import kipuka.cli.check, kipuka.http.supervisor, kipuka.cli.serve
from kipuka.runtime import compose, open_foundation, open_runtime
async def main():
    composition = compose(Path("kipuka.toml"), {})
    async with open_foundation(composition) as foundation, open_runtime(composition, foundation):
        pass
asyncio.run(main())
"""


@pytest.mark.timeout(120)
def test_serve_never_imports_alembic(deployment):
    found = modules_after(SERVE, deployment.directory)
    assert "kipuka.http.app" in found
    assert not {name for name in found if name.partition(".")[0] in {"alembic", "mako"}}


def test_a_plugin_that_is_not_used_is_not_imported(deployment):
    deployment.configure({"otp": None})
    found = modules_after(SERVE, deployment.directory)
    assert "kipuka_ca_local.plugin" in found
    assert not {name for name in found if name.startswith("kipuka_auth_otp")}
