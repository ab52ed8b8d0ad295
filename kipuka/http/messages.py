"""What a supervisor and its workers say to each other: orders and reports, one line of JSON each over a socket pair.

In the room: the messages and their form on the wire. Not in the room: who sends which when (`kipuka.http.supervisor`,
`kipuka.http.worker`). Audit events travel as their names and data: only a worker has the store open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from kipuka.api.events import HOST_EVENTS, AuditEvent

__all__ = [
    "Abandon",
    "Commit",
    "Committed",
    "Drained",
    "Failed",
    "Finish",
    "Hasten",
    "Message",
    "Opened",
    "Prepare",
    "Prepared",
    "Record",
    "Recorded",
    "Refused",
    "Serve",
    "Serving",
    "Stop",
    "decode",
    "encode",
    "events_of",
    "told",
]

Told = tuple[tuple[str, dict[str, Any]], ...]
"""Audit events on their way to a worker: name and data."""


@dataclass(frozen=True, slots=True)
class Message:
    """The base of all."""


# --- orders to a worker ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Serve(Message):
    """Record these events, then take connections."""

    events: Told


@dataclass(frozen=True, kw_only=True, slots=True)
class Record(Message):
    """Record these events."""

    events: Told


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepare(Message):
    """Open a second runtime from the configuration file, which has this hash, and go on with the first.

    `reload` is its number, so that a late answer to one that was given up is not taken for an answer to the next.
    """

    reload: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit(Message):
    """Serve by the second runtime."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Abandon(Message):
    """Close the second runtime, where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop(Message):
    """Take no connection any more, and answer the requests that are there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hasten(Message):
    """Drop the requests that are still there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finish(Message):
    """Record these events, close everything and end."""

    events: Told = ()


# --- reports of a worker ---


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened(Message):
    """Everything is open, and what the dead had left to this worker is settled."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving(Message):
    """Connections are taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed(Message):
    """The worker could not start, or broke off; it ends. `kind` is a member of `kipuka.http.worker.Fault`."""

    kind: str
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded(Message):
    """The events of a `Record` are recorded, or the log says why not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared(Message):
    """The second runtime is open."""

    reload: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Refused(Message):
    """There will be no second runtime."""

    reload: int
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Committed(Message):
    """The second runtime serves; the first ends with its last request."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drained(Message):
    """Every request was answered, or dropped; the worker waits for `Finish`."""


_MESSAGES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Serve,
        Record,
        Prepare,
        Commit,
        Abandon,
        Stop,
        Hasten,
        Finish,
        Opened,
        Serving,
        Failed,
        Recorded,
        Prepared,
        Refused,
        Committed,
        Drained,
    )
}
_EVENTS = {kind.name: kind for kind in HOST_EVENTS}


def encode(message: Message) -> bytes:
    """The message as a line."""
    fields = asdict(cast("Any", message))
    return json.dumps({"message": type(message).__name__, **fields}).encode("utf-8") + b"\n"


def decode(line: bytes) -> Message:
    """The message of a line that `encode` made."""
    fields = cast("dict[str, Any]", json.loads(line))
    kind = _MESSAGES[fields.pop("message")]
    return kind(**{name: _as_tuple(value) for name, value in fields.items()})


def _as_tuple(value: object) -> object:
    return tuple(cast("list[object]", value)) if isinstance(value, list) else value


def told(events: Sequence[AuditEvent]) -> Told:
    """Events for a message."""
    return tuple((event.name, event.model_dump(mode="json")) for event in events)


def events_of(message: Serve | Record | Finish) -> tuple[AuditEvent, ...]:
    """The events in a message."""
    return tuple(_EVENTS[name].model_validate(data) for name, data in message.events)
