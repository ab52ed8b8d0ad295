"""The published JSON schema of the audit log, made from the events' classes.

In the room: one schema for a line as a sink writes it. Not in the room: the classes (`kipuka.api.events`).

`python -m kipuka.audit.schema` prints it; `docs/reference/audit-events.schema.json` is its output, held by a test.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any, cast

from kipuka.api.events import HOST_EVENTS, SCHEMA_VERSION, AuditEvent

__all__ = ["json_schema"]

_HASH = {"type": "string", "pattern": "^[0-9a-f]{64}$"}


def json_schema(events: Iterable[type[AuditEvent]] = HOST_EVENTS) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of one line of the audit log: the envelope, and the data of each event by name.

    Plugins add events of their own: those not in the catalogue pass with any data.
    """
    catalogue = sorted(events, key=lambda event: event.name)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kipuka audit event",
        "description": (
            "One line of the audit log. It is canonical JSON (RFC 8785), to which the member `hash` is added at the end: "
            "the SHA-256 over the line without it."
        ),
        "type": "object",
        "additionalProperties": False,
        "required": [
            "client_address",
            "data",
            "event",
            "hash",
            "identity",
            "node",
            "outcome",
            "previous_hash",
            "request_id",
            "schema",
            "sequence",
            "time",
        ],
        "properties": {
            "schema": {"const": SCHEMA_VERSION, "description": "The version of this schema."},
            "node": {"type": "string", "description": "The server among those that share the database."},
            "sequence": {
                "type": "integer",
                "minimum": 1,
                "description": "The number in the node's chain, without gaps.",
            },
            "time": {
                "type": "string",
                "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$",
                "description": "When it happened: UTC, microseconds.",
            },
            "event": {"type": "string", "pattern": "^[a-z][a-z0-9_]*$", "description": "What happened."},
            "outcome": {"enum": ["success", "failure", "unknown"]},
            "request_id": {"type": ["string", "null"], "description": "Joins the events and log lines of one request."},
            "client_address": {"type": ["string", "null"]},
            "identity": {"type": ["string", "null"], "description": "Who asked: the method, a colon, the name."},
            "data": {"type": "object", "description": "What belongs to this event alone."},
            "previous_hash": {**_HASH, "description": "The hash of the node's event before; zeros for the first."},
            "hash": {**_HASH, "description": "SHA-256 over this line without this member (RFC 8785)."},
        },
        "allOf": [
            {
                "if": {"properties": {"event": {"const": event.name}}},
                "then": {
                    "properties": {"outcome": {"const": event.outcome}, "data": {"$ref": f"#/$defs/{event.name}"}}
                },
            }
            for event in catalogue
        ],
        "$defs": {event.name: _data(event) for event in catalogue},
    }


def _data(event: type[AuditEvent]) -> dict[str, Any]:
    """The schema of an event's data, without the titles that only repeat the names."""
    schema = _untitled(event.model_json_schema(mode="serialization"))
    return {**schema, "title": event.name, "description": _said(event)}


def _said(event: type[AuditEvent]) -> str:
    """What the event's docstring says of it, without the version of the API that brought it."""
    return " ".join(_SINCE.sub("", event.__doc__ or "").split())


_SINCE = re.compile(r"\s*^\s*Since API \S+\.$", re.MULTILINE)


def _untitled(schema: Any) -> Any:
    if isinstance(schema, dict):
        members = cast("dict[str, Any]", schema)
        return {
            name: {field: _untitled(one) for field, one in value.items()} if name == "properties" else _untitled(value)
            for name, value in members.items()
            if name != "title"
        }
    if isinstance(schema, list):
        return [_untitled(item) for item in cast("list[Any]", schema)]
    return schema


if __name__ == "__main__":
    json.dump(json_schema(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
