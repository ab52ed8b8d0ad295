"""Audit records as a sink is given them: numbered, chained and hashed as the host's own are (RULES I1).

In the room: `make_records`, and `HOSTILE`, the texts that tear a line apart where a sink is careless. Not in the room: the host's events
(`kipuka.api.events`), and where records come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from kipuka.api import SCHEMA_VERSION, AuditRecord, timestamp
from kipuka.audit.chain import GENESIS, canonical, line_hash

__all__ = ["HOSTILE", "make_records"]

HOSTILE: tuple[str, ...] = (
    "one line\nand another",
    "carriage\rreturn",
    "both\r\n\r\nof them",
    "line\u2028separator",
    "paragraph\u2029separator",
    "next\u0085line",
    "vertical\x0btab and form\x0cfeed",
    "right to left \u202egnp.exe\u202c",
    "isolated \u2066text\u2069",
    "zero\u200bwidth\ufeff",
    "nul\x00 and escape \x1b[2J",
    "delete\x7f",
    '"}\n{"event":"server_stopped","sequence":1}',
    'quote " backslash \\ bracket ] brace } percent %s %n {0} ${jndi:x}',
    "<script>alert(1)</script> & ' --",
    "=cmd|' /C calc'!A0",
    "ünïcödé \U0001f510 漢字",
    "",
    " leading and trailing ",
)
"""Texts that may stand in any member of an event: what clients send, and what names can have."""


def make_records(
    count: int,
    *,
    first: int = 1,
    node: str = "est-1",
    texts: Sequence[str] = ("otp:device-1",),
    clock: Callable[[], datetime] | None = None,
    **data: Any,
) -> list[AuditRecord]:
    """`count` records of one node, numbered from `first`, each chained to the one before.

    `texts` go round as the identity and as a member of the data, as they stand (the host itself writes control characters as visible
    escapes; a sink does not rely on that). `data` are further members of the data.
    """
    now = (clock or _now)()
    previous = GENESIS if first == 1 else f"{first - 1:064x}"
    records: list[AuditRecord] = []
    for sequence in range(first, first + count):
        text = texts[(sequence - first) % len(texts)]
        content: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "node": node,
            "sequence": sequence,
            "time": timestamp(now),
            "event": "authentication_failed",
            "outcome": "failure",
            "request_id": f"{sequence:016x}",
            "client_address": "192.0.2.1",
            "identity": text,
            "data": {"method": "otp", "reason": text, **data},
            "previous_hash": previous,
        }
        line = canonical(content)
        record = AuditRecord(
            node=node,
            sequence=sequence,
            time=now,
            event=content["event"],
            outcome=content["outcome"],
            request_id=content["request_id"],
            client_address=content["client_address"],
            identity=text,
            data=content["data"],
            previous_hash=previous,
            hash=line_hash(line),
            line=line,
        )
        records.append(record)
        previous = record.hash
    return records


def _now() -> datetime:
    return datetime.now(UTC)
