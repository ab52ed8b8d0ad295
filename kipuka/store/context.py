"""Whose request an audit event belongs to.

In the room: the context variable that the HTTP layer sets once per request and that `Store.write` stamps on every event of a
unit. Not in the room: the events.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

__all__ = ["AuditContext", "audit_context"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditContext:
    """What every audit event of a request has in common; all None for what no request caused."""

    request_id: str | None = None
    client_address: str | None = None
    identity: str | None = None


audit_context: ContextVar[AuditContext] = ContextVar("audit_context", default=AuditContext())  # noqa: B039 - it is frozen
"""The context of the request at work; captured when a unit is handed to the writer."""
