"""scripts/tools.py: the tools of the tests are there, or one sentence says what to install."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent.parent / "scripts" / "tools.py"


def ask(*names, path):
    """Run it where nothing can be installed: there is no apt-get on that path."""
    return subprocess.run(
        [sys.executable, str(SCRIPT), *names], env={"PATH": str(path)}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("name", "packages"),
    [
        pytest.param("socat", "socat", id="a program has its package's name"),
        pytest.param("jdk", "default-jdk-headless", id="another name"),
        pytest.param("pki", "strongswan-pki libstrongswan-standard-plugins", id="two packages"),
    ],
)
def test_what_is_missing_is_named_with_the_line_to_install_it(tmp_path, name, packages):
    done = ask(name, path=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {name} not found; as root run: apt install {packages}\n"


def test_a_program_on_the_path_is_there(tmp_path):
    program = tmp_path / "socat"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    done = ask("socat", path=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
