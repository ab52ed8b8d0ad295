"""One event as one syslog message, read back by the grammar of RFC 5424."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kipuka.api import AuditRecord
from kipuka.audit.chain import canonical, line_hash
from kipuka.audit.syslog.message import FACILITIES, MIN_SIZE, SEVERITIES, Originator, format_message
from kipuka.audit.verify import verify_lines

from .rfc5424_abnf import parse

SD_ID = "kipuka@32473"
BIG = 65507
ORIGINATOR = Originator(
    facility=FACILITIES["authpriv"],
    severities={"success": 6, "failure": 4, "unknown": 5},
    hostname="est-1.example.com",
    app_name="kipuka",
    process="4711",
    enterprise=32473,
)


def a_record(*, identity="otp:device-1", data=None, event="certificate_issued", outcome="success", node="est-1"):
    content = {
        "schema": 1,
        "node": node,
        "sequence": 1,
        "time": "2030-06-24T10:15:00.123456Z",
        "event": event,
        "outcome": outcome,
        "request_id": "0f3c9a5b7d2e4168",
        "client_address": None,
        "identity": identity,
        "data": {} if data is None else data,
        "previous_hash": "0" * 64,
    }
    line = canonical(content)
    return AuditRecord(
        node=node,
        sequence=1,
        time=datetime(2030, 6, 24, 10, 15, 0, 123456, tzinfo=UTC),
        event=event,
        outcome=outcome,
        request_id=content["request_id"],
        client_address=None,
        identity=identity,
        data=content["data"],
        previous_hash=content["previous_hash"],
        hash=line_hash(line),
        line=line,
    )


def message(record=None, *, max_size=BIG, **changes):
    return format_message(record or a_record(), replace(ORIGINATOR, **changes), max_size=max_size)


def test_a_message_says_who_what_and_when():
    """RFC 5424, 6.2 and 6.3."""
    record = a_record()
    read = parse(message(record))
    assert (read.facility, read.severity, read.timestamp) == (10, 6, record.time)
    assert (read.hostname, read.app_name, read.procid, read.msgid) == (
        "est-1.example.com",
        "kipuka",
        "4711",
        "certificate_issued",
    )
    assert read.params(SD_ID) == {
        "node": "est-1",
        "sequence": "1",
        "event": "certificate_issued",
        "outcome": "success",
        "request_id": "0f3c9a5b7d2e4168",
        "identity": "otp:device-1",
        "hash": record.hash,
    }


@pytest.mark.parametrize(
    ("outcome", "severity"), [("success", 6), ("failure", 4), ("unknown", 5), ("something new", SEVERITIES["notice"])]
)
def test_the_severity_goes_by_the_outcome(outcome, severity):
    assert parse(message(a_record(outcome=outcome))).severity == severity


@pytest.mark.parametrize(
    ("name", "number"), [("kern", 0), ("authpriv", 10), ("audit", 13), ("local0", 16), ("local7", 23)]
)
def test_facilities_have_the_numbers_of_the_rfc(name, number):
    """RFC 5424, 6.2.1, table 1."""
    assert FACILITIES[name] == number


@given(text=st.text(max_size=300), event=st.text(min_size=1, max_size=80))
def test_whatever_a_client_is_called_the_message_is_one_and_whole(text, event):
    """RFC 5424, 6.3.3: nothing in a name ends a value, an element, a line or a frame; MSG is the event, in printable ASCII."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    event = event.encode("utf-8", "replace").decode("utf-8")
    record = a_record(identity=text, event=event, data={"subject": text, text: [text]})
    octets = message(record)
    read = parse(octets)
    assert list(read.data) == [SD_ID]
    shown = read.params(SD_ID)["identity"]
    assert octets.decode("utf-8").isprintable()
    assert all(32 <= octet < 127 for octet in read.msg)
    assert json.loads(read.msg) == json.loads(record.to_json())
    if len(text) < 40 and text.isascii() and text.isprintable():
        assert shown == text


def test_a_line_break_in_a_name_is_shown_and_does_not_break_the_line():
    shown = parse(message(a_record(identity='mtls:CN=a\nb\x00\x85]"\\'))).params(SD_ID)["identity"]
    assert shown == 'mtls:CN=a#012b#000#205]"\\'


def test_the_copy_at_the_collector_verifies():
    """RULES I1: MSG is the event with its hash; that it is written in ASCII changes nothing."""
    record = a_record(identity="mtls:CN=Zoë \U0001f511")
    text = parse(message(record)).msg.decode("ascii")
    assert verify_lines([text]).intact
    assert not verify_lines([text.replace("Zo", "Zu")]).intact
    assert not verify_lines([text.replace("\\u00eb", "\\u00EB")]).intact


@pytest.mark.parametrize("size", [MIN_SIZE, 2048])
def test_what_does_not_fit_is_cut_at_the_end_and_says_so(size):
    """RFC 5424, 6.1; header and structured data stay whole, and name the event that the database has whole."""
    record = a_record(identity="é]" * 5000, node="n" * 200, event="e" * 64, data={"names": ["DNS:a.example"] * 200})
    octets = message(
        record, max_size=size, hostname="h" * 255, app_name="a" * 48, process="9" * 128, enterprise=2**32 - 1
    )
    assert len(octets) == size
    read = parse(octets)
    params = read.params(f"kipuka@{2**32 - 1}")
    assert (params["truncated"], params["hash"], params["sequence"]) == ("true", record.hash, "1")
    assert record.to_ascii_json().encode().startswith(read.msg)
    assert "truncated" not in parse(message(record)).params(SD_ID)
