"""Numbering, chaining, hashing (RULES I1)."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import ClassVar

import pytest

from kipuka.api import AuditEvent, RequestRejected, ServerStopped
from kipuka.audit.chain import GENESIS, canonical, seal
from kipuka.store.context import AuditContext
from kipuka.store.events import ChainHead, PendingEvent

TIME = datetime(2026, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
CONTEXT = AuditContext(request_id="r1", client_address="192.0.2.1", identity="otp:é")


class Odd(AuditEvent):
    name: ClassVar[str] = "odd"
    outcome: ClassVar[str] = "success"
    value: object


def pending(event=None, context=CONTEXT):
    return PendingEvent(time=TIME, event=event or ServerStopped(pid=1), context=context)


def test_a_record_is_canonical_json_with_the_hash_before_and_its_hash_is_sha256_over_it():
    """RULES I1: RFC 8785; members sorted, no white space."""
    [record] = seal("alpha", None, [pending()])
    assert record.line == (
        '{"client_address":"192.0.2.1","data":{"pid":1},"event":"server_stopped","identity":"otp:é","node":"alpha",'
        f'"outcome":"success","previous_hash":"{GENESIS}","request_id":"r1","schema":1,"sequence":1,'
        '"time":"2026-06-01T12:00:00.123456Z"}'
    )
    assert record.hash == hashlib.sha256(record.line.encode()).hexdigest()
    assert json.loads(record.to_json()) == {**json.loads(record.line), "hash": record.hash}


def test_records_are_numbered_without_gaps_and_each_has_the_hash_before():
    records = seal("alpha", None, [pending() for _ in range(3)])
    assert [record.sequence for record in records] == [1, 2, 3]
    assert [record.previous_hash for record in records] == [GENESIS, records[0].hash, records[1].hash]
    last = records[-1]
    [following] = seal("alpha", ChainHead(node="alpha", sequence=3, hash=last.hash), [pending()])
    assert (following.sequence, following.previous_hash) == (4, last.hash)


def test_sealing_the_same_again_gives_the_same():
    """A batch that was rolled back is sealed anew."""
    assert seal("alpha", None, [pending()]) == seal("alpha", None, [pending()])


def test_what_no_request_caused_has_no_context():
    [record] = seal("alpha", None, [pending(context=AuditContext())])
    content = json.loads(record.line)
    assert [content[name] for name in ("request_id", "client_address", "identity")] == [None, None, None]


@pytest.mark.parametrize(
    ("value", "recorded"),
    [
        pytest.param("a\ud800b", "a?b", id="half of a surrogate pair"),
        pytest.param("a\u2028b", "a\\E2\\80\\A8b", id="line separator"),
        pytest.param("a\u202eb", "a\\E2\\80\\AEb", id="text from right to left"),
        pytest.param("a\r\n\x1b[2J\0", "a\\0D\\0A\\1B[2J\\00", id="line break and terminal's control sequence"),
        pytest.param('"\\', '"\\', id="what only JSON escapes"),
        pytest.param(2**53, "9007199254740992", id="an integer that JSON readers round"),
        pytest.param(-(2**53) + 1, -(2**53) + 1, id="the smallest exact integer"),
        pytest.param(float("inf"), None, id="infinity, which JSON has not"),
        pytest.param([{"\udfff": ["\udc80"]}], [{"?": ["?"]}], id="nested"),
        pytest.param(True, True, id="a boolean"),
        pytest.param(None, None, id="nothing"),
    ],
)
def test_an_event_is_recorded_whatever_a_client_put_into_it(value, recorded):
    """DESIGN guarantee 7: an event that cannot be written would be one that is lost."""
    [record] = seal("alpha", None, [pending(Odd.model_construct(value=value))])
    assert json.loads(record.line)["data"] == {"value": recorded} == record.data


def test_a_path_that_is_no_unicode_is_recorded():
    event = RequestRejected(method="GET", path="/x", status=404, reason="r").model_copy(update={"path": "/\udcff"})
    [record] = seal("alpha", None, [pending(event, AuditContext(identity="mtls:\udcff"))])
    assert record.data["path"] == "/?"
    assert record.identity == "mtls:?"


def test_members_are_sorted_by_utf16_code_units():
    """RFC 8785, 3.2.3."""
    assert canonical({"\ufb33": 1, "\U0001f600": 2, "a": 3}) == '{"a":3,"\U0001f600":2,"\ufb33":1}'
