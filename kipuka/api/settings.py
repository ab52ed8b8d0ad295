"""What the pydantic models of configuration sections are made of.

In the room: the base model of a section, and types for paths, secrets and durations. Not in the room: reading TOML (`kipuka.config`).
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, SecretStr, ValidationInfo

__all__ = ["ConfigPath", "Seconds", "Secret", "Section", "resolve_secret"]


class Section(BaseModel):
    """The base of every section's model: frozen, unknown keys refused, every field described.

    Since API 1.0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


def _base(info: ValidationInfo) -> Path:
    context = cast("dict[str, object] | None", info.context)
    base = context.get("base") if context else None
    return base if isinstance(base, Path) else Path.cwd()


def _resolve_path(value: object, info: ValidationInfo) -> object:
    if not isinstance(value, str | Path):
        return value
    if not str(value) or "\0" in str(value):
        msg = "an empty path, or one with a NUL character"
        raise ValueError(msg)
    try:
        return _base(info) / Path(value).expanduser()
    except RuntimeError as error:  # there is no such user, or no home directory
        msg = f"cannot resolve the ~ of {value}"
        raise ValueError(msg) from error


def resolve_secret(value: object, info: ValidationInfo) -> object:
    """The text that `file:PATH` or `env:NAME` stands for; anything else as it is (RULES K6). For pydantic's `BeforeValidator`.

    Since API 1.0.
    """
    if not isinstance(value, str):
        return value
    if value.startswith("env:"):
        name = value.removeprefix("env:")
        if name not in os.environ:
            msg = f"the environment variable {name} is not set"
            raise ValueError(msg)
        return os.environ[name]
    if value.startswith("file:"):
        path = cast("Path", _resolve_path(value.removeprefix("file:"), info))
        try:
            return path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            msg = f"cannot read {path}: {reason}"
            raise ValueError(msg) from error
    return value


def _to_duration(value: object) -> object:
    if isinstance(value, bool):
        msg = "a number of seconds is needed, not a boolean"
        raise ValueError(msg)  # noqa: TRY004 - pydantic collects ValueError, and only that
    if not isinstance(value, int | float):
        return value
    try:
        return timedelta(seconds=value)
    except OverflowError as error:
        msg = "the number of seconds is too large"
        raise ValueError(msg) from error


ConfigPath = Annotated[Path, BeforeValidator(_resolve_path)]
"""A path; a relative one is relative to the configuration file (RULES K6).

Since API 1.0.
"""

Secret = Annotated[SecretStr, BeforeValidator(resolve_secret)]
"""A secret value, written out, or as `file:PATH` or `env:NAME` (RULES K6). Never shown by repr or dumps.

Since API 1.0.
"""

Seconds = Annotated[
    timedelta, BeforeValidator(_to_duration), PlainSerializer(lambda d: d.total_seconds(), return_type=float)
]
"""A duration, written as a number of seconds.

Since API 1.0.
"""
