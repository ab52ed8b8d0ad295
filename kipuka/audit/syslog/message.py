"""One audit event as one syslog message (RFC 5424, 6). Pure.

In the room: header, structured data, escaping, and what is cut where a message may not be longer. Not in the room: framing and
sockets (`kipuka.audit.syslog.transport`).

    <85>1 2030-06-24T10:15:00.123456Z est-1 kipuka 4711 certificate_issued [kipuka@32473 node="est-1" sequence="17" ...] {...}

MSG is the event's whole JSON in printable ASCII (`AuditRecord.to_ascii_json`), so it is the same octets in every encoding: no byte
order mark is due (6.4 asks for one with UTF-8, and most JSON readers stumble over it), and nothing in it can end a line or a frame.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from kipuka.api import AuditRecord, timestamp

__all__ = ["FACILITIES", "MIN_SIZE", "SEVERITIES", "Originator", "format_message"]

FACILITIES: Mapping[str, int] = MappingProxyType(
    {
        name: number
        for number, name in enumerate(
            (
                *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
                *("ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5"),
                *("local6", "local7"),
            )
        )
    }
)
"""The facilities by the names that syslog daemons use (6.2.1, table 1)."""

SEVERITIES: Mapping[str, int] = MappingProxyType(
    {"emerg": 0, "alert": 1, "crit": 2, "err": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
)
"""The severities (6.2.1, table 2)."""

MIN_SIZE = 1400
"""The least limit of a message that leaves room for header and structured data, in octets."""

_LONGEST_VALUE = 160  # octets of one escaped value in the structured data; the event's JSON has all of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Originator:
    """What is the same in every message of a sink. Texts are printable ASCII without spaces; severities go by outcome."""

    facility: int
    severities: Mapping[str, int]
    hostname: str
    app_name: str
    process: str
    enterprise: int


def format_message(record: AuditRecord, originator: Originator, *, max_size: int) -> bytes:
    """The message, of at most `max_size` octets, which is at least `MIN_SIZE`.

    Where the event's JSON does not fit it is cut at its end, as a collector would (6.1), and the structured data says `truncated`.
    """
    whole = _message(record, originator, truncated=False)
    return whole if len(whole) <= max_size else _message(record, originator, truncated=True)[:max_size]


def _message(record: AuditRecord, originator: Originator, *, truncated: bool) -> bytes:
    priority = originator.facility * 8 + originator.severities.get(record.outcome, SEVERITIES["notice"])
    header = " ".join(
        (
            f"<{priority}>1",
            timestamp(record.time),
            originator.hostname[:255],
            originator.app_name[:48],
            originator.process[:128],
            "".join(char if "!" <= char <= "~" else "?" for char in record.event[:32]) or "-",
        )
    )
    values = {
        "node": record.node,
        "sequence": str(record.sequence),
        "event": record.event,
        "outcome": record.outcome,
        "request_id": record.request_id,
        "client_address": record.client_address,
        "identity": record.identity,
        "hash": record.hash,
        "truncated": "true" if truncated else None,
    }
    data = "".join(f' {name}="{_escaped(value)}"' for name, value in values.items() if value is not None)
    return f"{header} [kipuka@{originator.enterprise}{data}] {record.to_ascii_json()}".encode()


def _escaped(value: str) -> str:
    """A PARAM-VALUE (6.3.3), cut to its longest between two characters.

    A control character, or another that does not show, becomes `#` and its octal number, as the RFC has it: a name comes from a
    client, and a line break in it must not begin a line of its own in anybody's log.
    """
    room, parts = _LONGEST_VALUE, list[str]()
    for char in value:
        if char in '"\\]':
            part = f"\\{char}"
        elif not char.isprintable():
            part = f"#{ord(char):03o}"
        else:
            part = char
        room -= len(part.encode())
        if room < 0:
            break
        parts.append(part)
    return "".join(parts)
