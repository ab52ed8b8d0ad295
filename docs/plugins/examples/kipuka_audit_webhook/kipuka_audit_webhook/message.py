"""One batch of events as one request, signed. Pure; the receiver may use it too.

In the room: body, headers, and `verify`, which says whether a request is what a sender with the secret made, and made just now. Not in the
room: sockets (`kipuka_audit_webhook.sink`).

The body is JSON lines: each event as kipuka recorded it, hash and all, so that `kipuka audit verify --file` can check what was kept.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from kipuka.api import AuditRecord

__all__ = ["CONTENT_TYPE", "IDEMPOTENCY_KEY", "SIGNATURE", "TIMESTAMP", "body_of", "headers_of", "verify"]

CONTENT_TYPE = "application/x-ndjson"
TIMESTAMP = "Kipuka-Timestamp"
SIGNATURE = "Kipuka-Signature"
IDEMPOTENCY_KEY = "Idempotency-Key"


def body_of(records: Sequence[AuditRecord]) -> bytes:
    """The events, a line each."""
    return "".join(f"{record.to_json()}\n" for record in records).encode()


def headers_of(records: Sequence[AuditRecord], body: bytes, *, secret: str, now: datetime) -> Mapping[str, str]:
    """What goes with a body. The same records have the same key, whenever they are sent, and no others have it."""
    first, last = records[0], records[-1]
    key = f"{first.node}-{first.sequence}-{last.sequence}-{last.hash}"
    timestamp = str(int(now.timestamp()))
    return {
        "Content-Type": CONTENT_TYPE,
        IDEMPOTENCY_KEY: key,
        TIMESTAMP: timestamp,
        SIGNATURE: f"v1={_mac(secret, timestamp, key, body)}",
    }


def verify(
    headers: Mapping[str, str], body: bytes, *, secret: str, now: datetime, tolerance: timedelta = timedelta(minutes=5)
) -> bool:
    """For the receiver. What was recorded on the way and is played again is too old, and what is new needs the secret."""
    timestamp, key, signature = (headers.get(name) or "" for name in (TIMESTAMP, IDEMPOTENCY_KEY, SIGNATURE))
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now.timestamp() - int(timestamp)) > tolerance.total_seconds():
        return False
    expected = f"v1={_mac(secret, timestamp, key, body)}"
    return hmac.compare_digest(signature.encode("utf-8", "surrogatepass"), expected.encode())


def _mac(secret: str, timestamp: str, key: str, body: bytes) -> str:
    # A length before each part: no two different requests have the same text.
    parts = [timestamp.encode(), key.encode("utf-8", "surrogatepass"), body]
    text = b"".join(b"%d:%s" % (len(part), part) for part in parts)
    return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()
