"""What somebody can do who writes the database and the files of a log, but has not the node's key.

In the room: changes of an SQLite database and of lines. Not in the room: what is found (`test_tampering`).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kipuka.audit.chain import canonical, line_hash

HEAD_FITS = (
    "UPDATE audit_heads SET sequence = (SELECT max(sequence) FROM audit_events),"
    " hash = (SELECT hash FROM audit_events ORDER BY sequence DESC LIMIT 1)"
)


def edit(*statements: str) -> Callable[[Path], None]:
    """Statements of SQL."""

    def tamper(database: Path) -> None:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    return tamper


def anew(change: Callable[[dict[int, dict[str, Any]]], None]) -> Callable[[Path], None]:
    """Change events, and compute numbers, hashes and head of the whole chain anew, as kipuka itself would."""

    def tamper(database: Path) -> None:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("SELECT sequence, line FROM audit_events ORDER BY sequence").fetchall()
            contents = {sequence: json.loads(line) for sequence, line in rows}
            first = rows[0][0]
            previous = contents[first]["previous_hash"]
            change(contents)
            connection.execute("DELETE FROM audit_events")
            for sequence, (_, content) in enumerate(sorted(contents.items()), start=first):
                content |= {"sequence": sequence, "previous_hash": previous}
                line = canonical(content)
                previous = line_hash(line)
                row = (content["node"], sequence, content["time"], content["event"], previous, line)
                connection.execute(
                    "INSERT INTO audit_events (node, sequence, time, event, hash, line) VALUES (?, ?, ?, ?, ?, ?)", row
                )
            connection.execute(HEAD_FITS)
            connection.commit()

    return tamper


def field_of(sequence: int, **data: Any) -> Callable[[dict[int, dict[str, Any]]], None]:
    """Change an event's data."""

    def change(contents: dict[int, dict[str, Any]]) -> None:
        contents[sequence]["data"] |= data

    return change


def without(*sequences: int) -> Callable[[dict[int, dict[str, Any]]], None]:
    """Take events out."""

    def change(contents: dict[int, dict[str, Any]]) -> None:
        for sequence in sequences:
            del contents[sequence]

    return change


def exchanged(one: int, other: int) -> Callable[[dict[int, dict[str, Any]]], None]:
    """Let two events change places."""

    def change(contents: dict[int, dict[str, Any]]) -> None:
        contents[one], contents[other] = contents[other], contents[one]

    return change


def of_node(node: str) -> Callable[[dict[int, dict[str, Any]]], None]:
    """Say that the chain is another node's."""

    def change(contents: dict[int, dict[str, Any]]) -> None:
        for content in contents.values():
            content["node"] = node

    return change
