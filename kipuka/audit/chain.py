"""How audit events are numbered, chained and hashed (RULES I1). Pure.

In the room: the envelope, its canonical JSON, the hash. Not in the room: where records are kept (`kipuka.store.events`) and how a
chain is checked (`kipuka.audit.verify`).

Each record is canonical JSON (RFC 8785) that contains the hash of the record before it; its own hash is SHA-256 over that text. The
first record of a node follows the hash of 64 zeros.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import rfc8785

from kipuka.api.events import SCHEMA_VERSION, AuditEvent, AuditRecord
from kipuka.api.storage import timestamp
from kipuka.distinguished_names import visible
from kipuka.store.events import ChainHead, PendingEvent

__all__ = ["GENESIS", "canonical", "line_hash", "seal"]

GENESIS = "0" * 64
_LARGEST = 2**53 - 1  # the largest integer that every JSON reader reads exactly (RFC 8785, 3.2.2.3)


def seal(node: str, head: ChainHead | None, events: Sequence[PendingEvent]) -> list[AuditRecord]:
    """The records of events that follow the head of that node's chain."""
    sequence, previous = (0, GENESIS) if head is None else (head.sequence, head.hash)
    records: list[AuditRecord] = []
    for pending in events:
        sequence += 1
        record = _record(node, sequence, previous, pending)
        records.append(record)
        previous = record.hash
    return records


def canonical(content: Mapping[str, Any]) -> str:
    """Canonical JSON (RFC 8785)."""
    return rfc8785.dumps(dict(content)).decode("utf-8")


def line_hash(line: str) -> str:
    """The hash of a record: SHA-256 over its canonical JSON, in hexadecimal."""
    return hashlib.sha256(line.encode("utf-8", "surrogatepass")).hexdigest()


def _record(node: str, sequence: int, previous: str, pending: PendingEvent) -> AuditRecord:
    event, context = pending.event, pending.context
    content: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "node": node,
        "sequence": sequence,
        "time": timestamp(pending.time),
        "event": event.name,
        "outcome": event.outcome,
        "request_id": context.request_id,
        "client_address": context.client_address,
        "identity": context.identity,
        "data": _data(event),
        "previous_hash": previous,
    }
    content["identity"] = _representable(content["identity"])
    line = canonical(content)
    return AuditRecord(
        node=node,
        sequence=sequence,
        time=pending.time,
        event=event.name,
        outcome=event.outcome,
        request_id=context.request_id,
        client_address=context.client_address,
        identity=content["identity"],
        data=content["data"],
        previous_hash=previous,
        hash=line_hash(line),
        line=line,
    )


def _data(event: AuditEvent) -> Any:
    try:
        return _representable(event.model_dump(mode="json"))
    except ValueError:  # text that UTF-8 cannot say, as a member's name
        return _representable(event.model_dump(mode="python"))


def _representable(value: Any) -> Any:
    """The value as RFC 8785 can say it: an event must be recorded whatever bytes a client put into a path or a name."""
    if isinstance(value, str):
        if value.isascii() and value.isprintable():
            return value
        # "replace" writes a question mark for half of a surrogate pair, which UTF-8 cannot say. JSON would leave a line
        # separator or a bidirectional control as it is, and one event could be read as two, or as another.
        return visible(value.encode("utf-8", "replace").decode("utf-8"))
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {_representable(name): _representable(member) for name, member in members.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_representable(member) for member in cast("Iterable[Any]", value)]
    exact = isinstance(value, int) and abs(value) <= _LARGEST
    finite = isinstance(value, float) and math.isfinite(value)
    return value if value is None or exact or finite else str(value)
