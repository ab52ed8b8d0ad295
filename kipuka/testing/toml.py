"""TOML from plain dictionaries, so that a test can take a configuration apart and put it together changed.

In the room: `dumps` and `merged`. Not in the room: reading, which `tomllib` does, and keeping comments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import cast

__all__ = ["dumps", "merged"]


def merged(document: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    """The document with the changes laid over it: tables are merged, everything else replaced, and None removes."""
    result = dict(document)
    for key, value in changes.items():
        present = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping):
            below = cast("Mapping[str, object]", present if isinstance(present, Mapping) else {})
            result[key] = merged(below, cast("Mapping[str, object]", value))
        else:
            result[key] = value
    return result


def dumps(document: Mapping[str, object]) -> str:
    """Write the document: plain values first, then its tables, each under a header of its own."""
    return "".join(_table(document, ()))


def _table(table: Mapping[str, object], path: tuple[str, ...]) -> list[str]:
    plain = {key: value for key, value in table.items() if not isinstance(value, Mapping)}
    lines = [f"{_key(key)} = {_value(value)}\n" for key, value in plain.items()]
    for key, value in table.items():
        if isinstance(value, Mapping):
            below = (*path, key)
            lines += [f"\n[{'.'.join(map(_key, below))}]\n", *_table(cast("Mapping[str, object]", value), below)]
    return lines


def _key(key: str) -> str:
    return (
        key if key and all(letter.isascii() and (letter.isalnum() or letter in "-_") for letter in key) else _text(key)
    )


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        table = cast("Mapping[str, object]", value)
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in table.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item) for item in cast("Sequence[object]", value)) + "]"
    if isinstance(value, int | float):
        return repr(value)
    msg = f"a {type(value).__name__} has no TOML form here"
    raise TypeError(msg)
