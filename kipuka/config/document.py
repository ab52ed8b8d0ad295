"""The configuration as plain values: the TOML file with the environment laid over it.

In the room: reading the file, reading `KIPUKA_<SECTION>__<KEY>` variables, and remembering which value came from where. Not in
the room: what any key means.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from kipuka.api.errors import ConfigError, ConfigProblem

__all__ = ["Document", "KeyPath", "Override", "dotted", "read_document"]

PREFIX = "KIPUKA_"

KeyPath = tuple[str | int, ...]
"""Where a value stands: names of tables and keys, and positions in arrays of tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """One variable of the environment that was laid over the file."""

    variable: str
    text: str  # as it stands in the environment; it may be a secret


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """The values, before anyone has looked at their meaning."""

    file: Path
    sha256: str
    values: dict[str, Any]
    overrides: Mapping[KeyPath, Override]
    problems: tuple[ConfigProblem, ...]  # of the environment

    def origin(self, path: KeyPath) -> str:
        """The file, or the variable, that the value at this place comes from."""
        for length in range(len(path), 0, -1):
            override = self.overrides.get(path[:length])
            if override is not None:
                return _variable(override.variable)
        return str(self.file)

    def problem(self, path: KeyPath, problem: str, remedy: str) -> ConfigProblem:
        """A problem of the value at this place."""
        return ConfigProblem(file=self.origin(path), key=dotted(path, self.values), problem=problem, remedy=remedy)


def read_document(file: Path, environ: Mapping[str, str]) -> Document:
    """Read the file and lay the environment over it. Raises `ConfigError` when there is no TOML to speak of."""
    content = _read(file)
    values = _parse(file, content)
    overrides, problems = _lay_over(values, environ)
    return Document(
        file=file,
        sha256=hashlib.sha256(content).hexdigest(),
        values=values,
        overrides=overrides,
        problems=tuple(problems),
    )


def dotted(path: KeyPath, values: Mapping[str, Any]) -> str:
    """The key as a person would say it: `otp.token_length`, `ca[issuing].cert`, `est.label[0].name`.

    An item of an array of tables is called by its id, its name or its type, where it has one that no other item has.
    """
    text = ""
    here: Any = values
    for part in path:
        if isinstance(part, int):
            text += f"[{_item_name(here, part)}]"
            here = _child(here, part)
        else:
            text += f".{part}" if text else part
            here = _child(here, part)
    return text


def _item_name(items: Any, index: int) -> str:
    if not isinstance(items, list):
        return str(index)
    siblings = cast("list[Any]", items)
    for key in ("id", "name", "type"):
        named = [_child(item, key) for item in siblings]
        name = named[index] if index < len(named) else None
        if isinstance(name, str) and name and named.count(name) == 1:
            return name
    return str(index)


def _child(value: Any, part: str | int) -> Any:
    if isinstance(value, dict):
        return cast("dict[str | int, Any]", value).get(part)
    if isinstance(value, list) and isinstance(part, int):
        items = cast("list[Any]", value)
        return items[part] if part < len(items) else None
    return None


def _refused(file: str, problem: str, remedy: str) -> ConfigError:
    return ConfigError([ConfigProblem(file=file, key="", problem=problem, remedy=remedy)])


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError as error:
        remedy = "make one with `kipuka init DIR`, or name another with -c FILE or KIPUKA_CONFIG"
        raise _refused(str(file), "there is no such file", remedy) from error
    except IsADirectoryError as error:
        raise _refused(
            str(file), "it is a directory", f"name the file in it, for instance {file}/kipuka.toml"
        ) from error
    except OSError as error:
        problem = f"it cannot be read: {error.strerror or error}"
        raise _refused(str(file), problem, "let the account that kipuka runs under read it") from error


def _parse(file: Path, content: bytes) -> dict[str, Any]:
    if content.startswith(b"\xef\xbb\xbf"):
        raise _refused(str(file), "it starts with a byte order mark", "save it as UTF-8 without one")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _refused(str(file), f"it is not UTF-8 text (line {line})", "save it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        problem = f"it is not TOML: {error}"
        raise _refused(str(file), problem, "mend that line; strings stand in double quotes") from error
    except RecursionError as error:
        raise _refused(str(file), "it is nested too deep to be read", "take the nesting out") from error


def _variable(name: str) -> str:
    return f"environment variable {name}"


def _lay_over(
    values: dict[str, Any], environ: Mapping[str, str]
) -> tuple[dict[KeyPath, Override], Sequence[ConfigProblem]]:
    """Set each `KIPUKA_<SECTION>__<KEY>`. A variable without a double underscore is not ours to judge: KIPUKA_CONFIG names
    the file, and container platforms set variables such as KIPUKA_PORT for a service of that name.
    """
    overrides: dict[KeyPath, Override] = {}
    problems: list[ConfigProblem] = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or "__" not in name.removeprefix(PREFIX):
            continue
        parts = name.removeprefix(PREFIX).split("__")
        override = Override(variable=name, text=environ[name])
        if not all(parts):
            problem = "it does not name a section and a key"
            problems.append(_misnamed(name, problem, f"write it as {PREFIX}<SECTION>__<KEY>"))
            continue
        try:
            path, made = _set(values, parts, _typed(override.text))
        except _NoSuchPlaceError as error:
            problems.append(_misnamed(name, error.problem, error.remedy))
            continue
        overrides[path] = override
        for table in made:
            overrides.setdefault(table, override)
    return overrides, problems


def _misnamed(name: str, problem: str, remedy: str) -> ConfigProblem:
    return ConfigProblem(file=_variable(name), key="", problem=problem, remedy=remedy)


def _typed(text: str) -> Any:
    """The text as a TOML value where it is one (a number, true, an array, a quoted string), else as a string."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


class _NoSuchPlaceError(Exception):
    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


def _set(values: dict[str, Any], parts: Sequence[str], value: Any) -> tuple[KeyPath, list[KeyPath]]:
    """Put the value at that place; answers the place, and the tables that had to be made on the way."""
    path: list[str | int] = []
    made: list[KeyPath] = []
    here: Any = values
    for depth, part in enumerate(parts):
        last = depth == len(parts) - 1
        if isinstance(here, list):
            items = cast("list[Any]", here)
            if not part.isascii() or not part.isdigit() or int(part) >= len(items):
                problem = f"{dotted(tuple(path), values)} has no item {part.lower()}"
                raise _NoSuchPlaceError(problem, f"write a number from 0 to {len(items) - 1}, in the file's order")
            key: str | int = int(part)
            path.append(key)
            if last:
                items[key] = value
            else:
                here = items[key]
            continue
        if not isinstance(here, dict):
            problem = f"{dotted(tuple(path), values)} is a value, not a section"
            raise _NoSuchPlaceError(problem, "name the key itself")
        table = cast("dict[str, Any]", here)
        # keys in capitals (CN) are matched too, since variables are written in capitals
        name = next((known for known in table if known.lower() == part.lower()), part.lower())
        path.append(name)
        if last:
            table[name] = value
        else:
            if name not in table:
                table[name] = {}
                made.append(tuple(path))
            here = table[name]
    return tuple(path), made
