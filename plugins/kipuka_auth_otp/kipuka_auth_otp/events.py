"""The audit events of tokens. `token` is always a token's id, never the token.

In the room: the events' fields. Not in the room: when they are recorded (`kipuka_auth_otp.tokens`, `kipuka_auth_otp.ledger`).
"""

from __future__ import annotations

from typing import ClassVar

from kipuka.api import AuditEvent, Outcome

__all__ = ["EVENTS", "OTPCreated", "OTPListed", "OTPRevoked", "OTPUsed", "OTPViewed"]


class OTPCreated(AuditEvent):
    """A token was made."""

    name: ClassVar[str] = "otp_created"
    outcome: ClassVar[Outcome] = "success"
    token: str
    client_id: str
    label: str | None
    subject: str | None
    names: tuple[str, ...]
    max_uses: int
    expires_at: str


class OTPListed(AuditEvent):
    """An administrator looked at the list of tokens, or a page of it."""

    name: ClassVar[str] = "otp_listed"
    outcome: ClassVar[Outcome] = "success"
    count: int


class OTPViewed(AuditEvent):
    """An administrator looked at one token."""

    name: ClassVar[str] = "otp_viewed"
    outcome: ClassVar[Outcome] = "success"
    token: str
    client_id: str


class OTPUsed(AuditEvent):
    """A certificate was recorded for a token: one use is spent. In the same transaction as `certificate_issued`."""

    name: ClassVar[str] = "otp_used"
    outcome: ClassVar[Outcome] = "success"
    token: str
    client_id: str
    used: int
    max_uses: int


class OTPRevoked(AuditEvent):
    """A token was revoked."""

    name: ClassVar[str] = "otp_revoked"
    outcome: ClassVar[Outcome] = "success"
    token: str
    client_id: str


EVENTS: tuple[type[AuditEvent], ...] = (OTPCreated, OTPListed, OTPViewed, OTPUsed, OTPRevoked)
