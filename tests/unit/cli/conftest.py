"""Commands run inside the test's process, over a deployment that `kipuka init` made."""

from __future__ import annotations

import json
import logging

import pytest
import structlog
from click.testing import CliRunner

from kipuka.cli import main


@pytest.fixture(autouse=True)
def logging_is_put_back():
    """Commands configure logging for a process of their own; the test's process is not theirs."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.fixture
def deployment(kipuka_template, tmp_path, monkeypatch):
    """A deployment of its own, where the test stands; no variable of the environment speaks for another."""
    made = kipuka_template.copy(tmp_path / "deployment")
    monkeypatch.chdir(made.directory)
    monkeypatch.delenv("KIPUKA_CONFIG", raising=False)
    return made


@pytest.fixture
def kipuka():
    """Runs a command, and expects its exit code."""

    def run(*words, expect=0, env=None):
        result = CliRunner().invoke(main, [str(word) for word in words], env=env)
        assert result.exit_code == expect, (
            f"kipuka {' '.join(map(str, words))}: exit {result.exit_code}\n{result.output}\n{result.exception!r}"
        )
        return result

    return run


@pytest.fixture
def kipuka_json(kipuka):
    """Runs a command with --json, and reads what it printed."""

    def run(*words, expect=0):
        return json.loads(kipuka(*words, "--json", expect=expect).stdout)

    return run
