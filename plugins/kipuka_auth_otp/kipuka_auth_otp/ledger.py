"""The table of tokens, and every statement on it: pure functions of a transaction and their arguments.

In the room: rows, states, holding and spending uses. Not in the room: secrets (`kipuka_auth_otp.secrecy`) and who asks.

A use is held while a certificate is being made and spent when one is recorded; `used + held` never exceeds `max_uses`. Each
step is one conditional UPDATE, and the number of rows it changed is the answer: of any number of requests for the last
use, on any number of nodes, one gets it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from kipuka.api import BackendFault, Claim, DenialKind, Denied
from kipuka.api.storage import (
    CheckConstraint,
    Column,
    Index,
    Integer,
    MetaData,
    ReadTx,
    Storage,
    String,
    Table,
    Text,
    Tx,
    select,
    timestamp,
    update,
)
from kipuka_auth_otp.events import OTPCreated, OTPRevoked, OTPUsed

__all__ = [
    "HELD",
    "INVALID",
    "METHOD",
    "OTP_STORAGE",
    "TOKENS",
    "TokenRow",
    "TokenState",
    "add",
    "candidates",
    "ended",
    "find",
    "page",
    "redeem",
    "release",
    "reserve",
    "revoke",
    "state_at",
    "unusable",
]

METHOD = "otp"

INVALID = "invalid OTP token"
"""The one text for every token that is not good, whatever is wrong with it."""

HELD = "the OTP token is in use by another request"

_metadata = MetaData()

TOKENS = Table(
    "otp_tokens",
    _metadata,
    Column("id", String(32), primary_key=True),  # sorts by the time of making
    Column("lookup", String(8), nullable=False),
    Column("hash", String(255), nullable=False),
    Column("client_id", String(255), nullable=False),
    Column("label", String(64)),  # NULL: the default label
    Column("subject", Text),  # RFC 4514; NULL: CN=<client_id>
    Column("san", Text, nullable=False),  # a JSON list of text
    Column("max_uses", Integer, nullable=False),
    Column("used", Integer, nullable=False),
    Column("held", Integer, nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("expires_at", String(27), nullable=False),
    Column("last_used_at", String(27)),
    Column("revoked_at", String(27)),
    CheckConstraint("used >= 0 AND held >= 0 AND used + held <= max_uses", name="otp_tokens_uses"),
    Index("otp_tokens_lookup", "lookup"),
    Index("otp_tokens_client_id", "client_id"),
)

OTP_STORAGE = Storage(prefix="otp", metadata=_metadata, migrations="kipuka_auth_otp.migrations")


class TokenState(StrEnum):
    """What a token is good for; of several, the first that holds."""

    REVOKED = "revoked"
    SPENT = "spent"
    EXPIRED = "expired"
    ACTIVE = "active"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRow:
    """One row of the table. Times are as `kipuka.api.timestamp` writes them."""

    id: str
    lookup: str
    hash: str
    client_id: str
    label: str | None
    subject: str | None
    san: tuple[str, ...]
    max_uses: int
    used: int
    held: int
    created_at: str
    expires_at: str
    last_used_at: str | None
    revoked_at: str | None

    @property
    def is_held(self) -> bool:
        """Whether other requests hold every use that is left."""
        return self.used < self.max_uses <= self.used + self.held


def state_at(row: TokenRow, now: datetime) -> TokenState:
    """The token's state at a moment; at `expires_at` itself it is expired."""
    if row.revoked_at is not None:
        return TokenState.REVOKED
    if row.used >= row.max_uses:
        return TokenState.SPENT
    if row.expires_at <= timestamp(now):
        return TokenState.EXPIRED
    return TokenState.ACTIVE


def ended(row: TokenRow, now: datetime) -> Denied | None:
    """Why no certificate can ever be had for this token any more, or None.

    A spent one still asks for an answer that was lost (RULES D4), up to its `expires_at`, and not once it was revoked.
    """
    state = state_at(row, now)
    if state is TokenState.ACTIVE:
        return None
    asks_again = state is TokenState.SPENT and row.expires_at > timestamp(now)
    spent = Claim(plugin=METHOD, ref=row.id) if asks_again else None
    return Denied(detail=INVALID, reason=f"token_{state}", name=row.client_id, spent=spent)


def unusable(row: TokenRow, now: datetime) -> Denied | None:
    """Why no certificate can be had for this token now, or None."""
    if (denied := ended(row, now)) is not None:
        return denied
    if row.is_held:
        return Denied(
            detail=HELD,
            reason="token_held",
            kind=DenialKind.BUSY,
            retry_after=timedelta(seconds=1),
            name=row.client_id,
        )
    return None


def candidates(tx: ReadTx, lookup: str) -> Sequence[TokenRow]:
    """The tokens with this look-up index: none, one, or by coincidence more."""
    return [_row(found) for found in tx.execute(select(TOKENS).where(TOKENS.c.lookup == lookup)).mappings()]


def find(tx: ReadTx, ref: str) -> TokenRow | None:
    """The token with this id."""
    found = tx.execute(select(TOKENS).where(TOKENS.c.id == ref)).mappings().first()
    return None if found is None else _row(found)


def page(
    tx: ReadTx, *, client_id: str | None, state: TokenState | None, after: str | None, limit: int
) -> Sequence[TokenRow]:
    """Tokens, newest first, those older than the one with the id `after`, at most `limit`."""
    query = select(TOKENS).order_by(TOKENS.c.id.desc()).limit(limit)
    if client_id is not None:
        query = query.where(TOKENS.c.client_id == client_id)
    if state is not None:
        query = query.where(*_in_state(state, timestamp(tx.now)))
    if after is not None:
        query = query.where(TOKENS.c.id < after)
    return [_row(found) for found in tx.execute(query).mappings()]


def add(tx: Tx, row: TokenRow) -> None:
    """Insert a new token, with its event."""
    tx.add(
        TOKENS,
        {
            "id": row.id,
            "lookup": row.lookup,
            "hash": row.hash,
            "client_id": row.client_id,
            "label": row.label,
            "subject": row.subject,
            "san": json.dumps(row.san),
            "max_uses": row.max_uses,
            "used": row.used,
            "held": row.held,
            "created_at": row.created_at,
            "expires_at": row.expires_at,
            "last_used_at": row.last_used_at,
            "revoked_at": row.revoked_at,
        },
    )
    tx.audit(
        OTPCreated(
            token=row.id,
            client_id=row.client_id,
            label=row.label,
            subject=row.subject,
            names=row.san,
            max_uses=row.max_uses,
            expires_at=row.expires_at,
        )
    )


def revoke(tx: Tx, ref: str) -> TokenRow | None:
    """Revoke a token, with its event; the row as it then is, or None where there is none. A second time changes nothing.

    A use that is held at this moment still becomes a certificate: its request was admitted before.
    """
    changed = tx.execute(
        update(TOKENS).where(TOKENS.c.id == ref, TOKENS.c.revoked_at.is_(None)).values(revoked_at=timestamp(tx.now))
    ).rowcount
    row = find(tx, ref)
    if changed and row is not None:
        tx.audit(OTPRevoked(token=ref, client_id=row.client_id))
    return row


def reserve(tx: Tx, ref: str) -> Denied | None:
    """Hold one use of a token; a denial, which has written nothing, where none can be had."""
    held = tx.execute(
        update(TOKENS)
        .where(TOKENS.c.id == ref, *_in_state(TokenState.ACTIVE, timestamp(tx.now)))
        .where(TOKENS.c.used + TOKENS.c.held < TOKENS.c.max_uses)
        .values(held=TOKENS.c.held + 1)
    ).rowcount
    if held == 1:
        return None
    row = find(tx, ref)
    denied = None if row is None else unusable(row, tx.now)
    return denied or Denied(detail=INVALID, reason="unknown_token")


def redeem(tx: Tx, ref: str) -> None:
    """Turn a held use into a spent one, with its event. Raises BackendFault where none is held.

    Raising undoes the transaction that records the certificate: better no certificate than one more than the token is good for.
    """
    spent = (
        tx.execute(
            update(TOKENS)
            .where(TOKENS.c.id == ref, TOKENS.c.held > 0)
            .values(held=TOKENS.c.held - 1, used=TOKENS.c.used + 1, last_used_at=timestamp(tx.now))
            .returning(TOKENS.c.client_id, TOKENS.c.used, TOKENS.c.max_uses)
        )
        .mappings()
        .first()
    )
    if spent is None:
        raise BackendFault("the use of an OTP token was not held when it was to be spent", reason="otp_use_not_held")
    tx.audit(OTPUsed(token=ref, client_id=spent["client_id"], used=spent["used"], max_uses=spent["max_uses"]))


def release(tx: Tx, ref: str) -> None:
    """Give a held use back. Where none is held there is nothing to give."""
    tx.execute(update(TOKENS).where(TOKENS.c.id == ref, TOKENS.c.held > 0).values(held=TOKENS.c.held - 1))


def _in_state(state: TokenState, now: str) -> tuple[Any, ...]:
    """The conditions that `state_at` asks, as SQL."""
    columns = TOKENS.c
    not_revoked = columns.revoked_at.is_(None)
    uses_left = columns.used < columns.max_uses
    match state:
        case TokenState.REVOKED:
            return (columns.revoked_at.is_not(None),)
        case TokenState.SPENT:
            return (not_revoked, columns.used >= columns.max_uses)
        case TokenState.EXPIRED:
            return (not_revoked, uses_left, columns.expires_at <= now)
        case TokenState.ACTIVE:
            return (not_revoked, uses_left, columns.expires_at > now)


def _row(found: Mapping[Any, Any]) -> TokenRow:
    values: dict[str, Any] = {str(column): value for column, value in found.items()}
    values["san"] = tuple(json.loads(values["san"]))
    return TokenRow(**values)
