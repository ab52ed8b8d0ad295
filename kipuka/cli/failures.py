"""Errors as the command line tells them: a line on stderr for each thing that is wrong, and an exit code.

In the room: the exit codes and the translation. Not in the room: where errors come from.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from enum import IntEnum
from typing import IO, Any, cast

import click

from kipuka.api import AlreadyRunning, BackendError, KipukaError, StartupError

__all__ = ["ExitCode", "Failure", "Misused", "NotReady", "Occupied", "TryAgain", "reported"]


class ExitCode(IntEnum):
    """What a command's exit status says (docs/reference/errors.md)."""

    DONE = 0
    FAILED = 1  # it could not be done, or it found something: the line on stderr says what
    USAGE = 2  # the command line is wrong
    CONFIGURATION = 3  # the configuration, a plugin or the database's schema must be mended first
    ALREADY_RUNNING = 4  # another server of this node works on the same database
    TRY_AGAIN = 75  # the database or a CA is away or too busy; the same command may work later (EX_TEMPFAIL)
    INTERRUPTED = 130  # Ctrl-C


class Failure(click.ClickException):
    """It could not be done. Each line of the message is printed as an error of its own."""

    exit_code = ExitCode.FAILED

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the lines on stderr."""
        for line in self.message.splitlines() or [""]:
            click.echo(f"error: {line}", file=file, err=file is None)


class Misused(Failure):
    """The command line is wrong."""

    exit_code = ExitCode.USAGE


class NotReady(Failure):
    """The configuration, a plugin or the database's schema must be mended first."""

    exit_code = ExitCode.CONFIGURATION


class Occupied(Failure):
    """Another server of this node is at work."""

    exit_code = ExitCode.ALREADY_RUNNING


class TryAgain(Failure):
    """It may work later."""

    exit_code = ExitCode.TRY_AGAIN


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _usage(error: click.UsageError) -> str:
    """What is wrong with the command line, and where to read how it is right."""
    text = " ".join(error.format_message().split()).removesuffix(".")
    return text if error.ctx is None else f"{text}; see {error.ctx.command_path} --help"


def _translate(error: Exception) -> Failure:
    match error:
        case AlreadyRunning():
            return Occupied(str(error))
        case StartupError():
            return NotReady(str(error))
        case BackendError():
            return TryAgain(error.detail)
        case KipukaError():
            return Failure(str(error))
        case OSError():
            return Failure(_os_error(error))
        case _:
            name = type(error).__name__
            return Failure(f"internal error ({name}); set KIPUKA_DEBUG=1 and run it again to see where, and report it")


def _only(error: Exception) -> Exception:
    """The one error in a group of one: asynchronous clean-up wraps what a task raised."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    return _only(group.exceptions[0]) if len(group.exceptions) == 1 else group


@contextmanager
def reported() -> Generator[None, None, None]:
    """Turn what kipuka raises on purpose, and errors of the operating system, into a `Failure`.

    Anything else is a fault of kipuka or of a plugin: its text may hold values that are nobody's business, so only its type
    is told, unless KIPUKA_DEBUG is set, which lets the traceback through.
    """
    try:
        yield
    except click.UsageError as error:
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            raise  # not an error to the person who asked: the help is shown
        raise Misused(_usage(error)) from error
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except KeyboardInterrupt:
        raise click.exceptions.Exit(int(ExitCode.INTERRUPTED)) from None
    except BrokenPipeError:
        # The reader of our output has gone (`kipuka audit tail | head`): click ends quietly with status 1.
        raise
    except Exception as error:
        inner = _only(error)
        if os.environ.get("KIPUKA_DEBUG") and not isinstance(inner, KipukaError | OSError):
            raise
        raise _translate(inner) from error
