"""What commands print: tables for people, JSON for scripts.

In the room: layout. Not in the room: what is printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click

__all__ = ["printable", "write_json", "write_pairs", "write_table"]


def printable(text: str) -> str:
    """The text with whatever could steer a terminal shown as an escape: names come from clients."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def write_json(value: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def write_table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns under headings; nothing but the headings where there are none."""
    cells = [list(headings), *([printable("-" if cell is None else str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def write_pairs(pairs: Mapping[str, object]) -> None:
    """Print names and values, one pair a line."""
    width = max((len(name) for name in pairs), default=0)
    for name, value in pairs.items():
        click.echo(f"{name.ljust(width)}  {printable('-' if value is None else str(value))}")
