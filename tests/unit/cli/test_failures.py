"""Errors are one line each on stderr, with an exit code that says what sort they are."""

from __future__ import annotations

from datetime import timedelta

import click
import pytest
from click.testing import CliRunner

from kipuka.api import (
    AlreadyRunning,
    BackendUnavailable,
    ConfigError,
    ConfigProblem,
    PluginError,
    PluginFault,
    SchemaError,
    UnknownResource,
)
from kipuka.cli import Kipuka, main
from kipuka.cli.failures import ExitCode

PROBLEM = ConfigProblem(file="k.toml", key="otp.token_length", problem="12 is too short", remedy="write 16 or more")
FAULT = PluginFault(
    plugin="badge", distribution="kipuka-badge", version="1", stage="import", problem="it raised", remedy="mend it"
)


def told(error):
    """What a command that raises this prints, and its exit code."""

    @click.command()
    def command():
        raise error

    group = Kipuka("kipuka", invoke_without_command=True, callback=command.callback)
    result = CliRunner().invoke(group, [])
    return result.exit_code, result.stderr


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        pytest.param(
            ConfigError([PROBLEM, PROBLEM]),
            ExitCode.CONFIGURATION,
            ["error: k.toml: otp.token_length: 12 is too short; write 16 or more"] * 2,
            id="configuration, a line for each mistake",
        ),
        pytest.param(PluginError([FAULT]), ExitCode.CONFIGURATION, [f"error: {FAULT}"], id="plugin"),
        pytest.param(SchemaError("run it"), ExitCode.CONFIGURATION, ["error: run it"], id="schema"),
        pytest.param(AlreadyRunning("it runs"), ExitCode.ALREADY_RUNNING, ["error: it runs"], id="already running"),
        pytest.param(
            BackendUnavailable("too busy", retry_after=timedelta(seconds=1)),
            ExitCode.TRY_AGAIN,
            ["error: too busy"],
            id="try again",
        ),
        pytest.param(UnknownResource("there is none"), ExitCode.FAILED, ["error: there is none"], id="not there"),
        pytest.param(
            PermissionError(13, "Permission denied", "/x"),
            ExitCode.FAILED,
            ["error: /x: Permission denied"],
            id="operating system",
        ),
        pytest.param(
            ExceptionGroup("tasks", [ExceptionGroup("inner", [SchemaError("run it")])]),
            ExitCode.CONFIGURATION,
            ["error: run it"],
            id="out of a task group",
        ),
        pytest.param(KeyboardInterrupt(), ExitCode.INTERRUPTED, [], id="interrupted"),
    ],
)
def test_an_error_has_its_lines_and_its_exit_code(error, code, lines):
    assert told(error) == (int(code), "".join(f"{line}\n" for line in lines))


def test_the_text_of_an_unexpected_error_is_not_shown():
    """It may hold a value that is nobody's business."""
    code, text = told(ValueError("the password is hunter2"))
    assert code == ExitCode.FAILED
    assert text.startswith("error: internal error (ValueError)")
    assert "hunter2" not in text


def test_the_traceback_is_for_those_who_ask_for_it(monkeypatch):
    monkeypatch.setenv("KIPUKA_DEBUG", "1")
    group = Kipuka("kipuka", invoke_without_command=True, callback=lambda: 1 / 0)
    assert isinstance(CliRunner().invoke(group, []).exception, ZeroDivisionError)
    assert told(SchemaError("run it")) == (int(ExitCode.CONFIGURATION), "error: run it\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        pytest.param(
            ["cert", "list", "--nope"], "error: No such option '--nope'; see kipuka cert list --help", id="option"
        ),
        pytest.param(["--nope"], "error: No such option '--nope'; see kipuka --help", id="option of the whole"),
        pytest.param(["nobody"], "error: No such command 'nobody'; see kipuka --help", id="command"),
        pytest.param(["cert", "show"], "error: Missing argument 'ID'; see kipuka cert show --help", id="argument"),
    ],
)
def test_a_wrong_command_line_is_one_line_too(words, line):
    result = CliRunner().invoke(main, words, prog_name="kipuka")
    assert (result.exit_code, result.stderr) == (int(ExitCode.USAGE), f"{line}\n")


def test_a_group_without_a_command_shows_its_help():
    result = CliRunner().invoke(main, ["cert"], prog_name="kipuka")
    assert "Commands:" in result.output
    assert "error" not in result.output
