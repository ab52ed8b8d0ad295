"""Options that several commands share: the configuration file, and JSON output.

In the room: their names and defaults, and how a time is written. Not in the room: reading a configuration (`kipuka.runtime`).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, TypeVar

import click

__all__ = ["CONFIG_HELP", "config_file", "config_option", "json_option", "moment"]

F = TypeVar("F", bound=Callable[..., Any])

CONFIG_HELP = "The configuration file. Default: $KIPUKA_CONFIG, then ./kipuka.toml."


def config_file(given: Path | None) -> Path:
    """The configuration file that a command works with (RULES K6)."""
    if given is not None:
        return given
    return Path(os.environ.get("KIPUKA_CONFIG") or "kipuka.toml")


def _chosen(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path:
    del ctx, param
    return config_file(value)


def config_option(command: F) -> F:
    """Add `-c FILE`; the command is given the path as `config`."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path, dir_okay=True),
        default=None,
        callback=_chosen,
        metavar="FILE",
        help=CONFIG_HELP,
    )(command)


def json_option(command: F) -> F:
    """Add `--json`; the command is given `as_json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(command)


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """A callback: a date stands for its first moment in UTC, a time says its time zone (ISO 8601)."""
    if value is None:
        return None
    try:
        return datetime.combine(date.fromisoformat(value), time(), UTC)
    except ValueError:
        pass
    try:
        read = datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value} is neither a date like 2030-01-31 nor a time like 2030-01-31T12:00:00Z", ctx, param
        ) from error
    if read.tzinfo is None:
        raise click.BadParameter(f"{value} does not say its time zone: write {value}Z for UTC", ctx, param)
    return read
