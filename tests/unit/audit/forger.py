"""What somebody can do who writes the database and the files of a log, but has not the node's key.

In the room: changes of a database, and of the events in it. Not in the room: what is found (`test_tampering`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from kipuka.audit.chain import canonical, line_hash

HEAD_FITS = (
    "UPDATE audit_heads SET sequence = (SELECT max(sequence) FROM audit_events),"
    " hash = (SELECT hash FROM audit_events ORDER BY sequence DESC LIMIT 1)"
)


Sql = Callable[..., list[tuple]]
"""The fixture `sql`: statements on the test's database, whichever it is."""


def edit(*statements: str) -> Callable[[Sql], None]:
    """Statements of SQL."""

    def tamper(sql: Sql) -> None:
        sql(*statements)

    return tamper


def anew(change: Callable[[dict[int, dict[str, Any]]], None]) -> Callable[[Sql], None]:
    """Change events, and compute numbers, hashes and head of the whole chain anew, as kipuka itself would."""

    def tamper(sql: Sql) -> None:
        rows = sql("SELECT sequence, line FROM audit_events ORDER BY sequence")
        contents = {sequence: json.loads(line) for sequence, line in rows}
        first = rows[0][0]
        previous = contents[first]["previous_hash"]
        change(contents)
        forged = []
        for sequence, (_, content) in enumerate(sorted(contents.items()), start=first):
            content |= {"sequence": sequence, "previous_hash": previous}
            line = canonical(content)
            previous = line_hash(line)
            columns = {name: content[name] for name in ("node", "sequence", "time", "event")}
            forged.append(columns | {"hash": previous, "line": line})
        sql("DELETE FROM audit_events", (_INSERT, forged), HEAD_FITS)

    return tamper


_INSERT = (
    "INSERT INTO audit_events (node, sequence, time, event, hash, line)"
    " VALUES (:node, :sequence, :time, :event, :hash, :line)"
)


def rewrite(sequence: int, *, rehash: bool, following: bool = False) -> Callable[[Sql], None]:
    """Change an event's text, and mend its hash, and that of all that follow, as far as the forger goes."""

    def tamper(sql: Sql) -> None:
        previous = None
        updates: list[tuple[str, dict[str, Any]]] = []
        for number, line in sql("SELECT sequence, line FROM audit_events ORDER BY sequence"):
            if number < sequence or (number > sequence and not following):
                continue
            content = json.loads(line)
            if number == sequence:
                content["data"]["path"] = "/forged"
            elif previous is not None:
                content["previous_hash"] = previous
            forged = canonical(content)
            previous = line_hash(forged)
            values = {"number": number, "line": forged, "hash": previous}
            updates.append(("UPDATE audit_events SET line = :line WHERE sequence = :number", values))
            if rehash:
                updates.append(("UPDATE audit_events SET hash = :hash WHERE sequence = :number", values))
        sql(*updates)

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
