"""The published JSON schema of the audit log."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kipuka.api.events import HOST_EVENTS
from kipuka.audit.chain import seal
from kipuka.audit.schema import json_schema
from kipuka.store.context import AuditContext
from kipuka.store.events import PendingEvent

PUBLISHED = Path(__file__).parents[3] / "docs" / "reference" / "audit-events.schema.json"
SAMPLES = {"string": "x", "integer": 7, "boolean": True, "array": ["x"], "object": {"x": 7}, "null": None}


def test_the_published_schema_is_the_events():
    """Make it anew: python -m kipuka.audit.schema > docs/reference/audit-events.schema.json."""
    assert json.loads(PUBLISHED.read_text(encoding="utf-8")) == json_schema()


@pytest.mark.parametrize("event", HOST_EVENTS, ids=lambda event: event.name)
def test_every_event_of_the_host_is_described_and_its_line_fits(event):
    schema = json_schema()
    described = schema["$defs"][event.name]
    assert described["description"]
    assert set(described["required"]) == set(event.model_fields)
    kinds = {name: one.get("type") or one["anyOf"][0]["type"] for name, one in described["properties"].items()}
    sample = event.model_validate({name: SAMPLES[kind] for name, kind in kinds.items()})
    pending = PendingEvent(time=datetime(2026, 6, 1, tzinfo=UTC), event=sample, context=AuditContext())
    [record] = seal("alpha", None, [pending])
    line = json.loads(record.to_json())
    assert set(line) == set(schema["required"]) == set(schema["properties"])
    assert set(line["data"]) == set(described["properties"])
    for name in ("time", "event", "hash", "previous_hash"):
        assert re.search(schema["properties"][name]["pattern"], line[name])


def test_names_of_events_are_unique():
    assert len({event.name for event in HOST_EVENTS}) == len(HOST_EVENTS)
