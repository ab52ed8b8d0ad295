"""scripts/environment.py: two at once in one checkout take turns.

The checkout is a small one: no requirement has to be fetched, and its build backend is the one of the strangers' distributions.
"""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "small"
version = "1"
"""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "scripts").mkdir()
    for name in ("environment.py", "tools.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    (tmp_path / "requirements").mkdir()
    (tmp_path / "requirements" / "run.txt").touch()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    shutil.copy(ROOT / "tests" / "stranger" / "wheel_backend.py", tmp_path)
    backend = "from wheel_backend import build_wheel\n\nbuild_editable = build_wheel\n"
    (tmp_path / "backend.py").write_text(backend, encoding="utf-8")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "__init__.py").touch()
    return tmp_path


def start(checkout):
    return subprocess.Popen(
        [sys.executable, "scripts/environment.py", "run"],
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_of_two_at_once_one_makes_the_environment(checkout):
    both = [start(checkout), start(checkout)]
    told = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    for once in ("making the environment", "installing requirements/run.txt"):
        assert sum(text.count(once) for text in told) == 1, told
    third = start(checkout)
    assert (third.communicate()[0], third.returncode) == ("", 0)


def test_who_has_to_wait_says_so_in_one_line_and_goes_on_after_the_other(checkout):
    with (checkout / ".venv.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = start(checkout)
        assert waiting.stdout.readline() == "waiting for another make, which works on .venv\n"
        assert not (checkout / ".venv").exists()
    told, _ = waiting.communicate()
    assert waiting.returncode == 0, told
    assert told.splitlines()[0] == "making the environment in .venv"
    assert (checkout / ".venv" / "kipuka-environment.json").exists()
