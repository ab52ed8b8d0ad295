"""Bearer tokens of administrators (RULES E3).

In the room: pure functions of a transaction over the table `admin_tokens`. Not in the room: making the token itself, of which only
the SHA-256 ever comes here, and tokens written in the configuration file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select, update

from kipuka.api.events import AdminTokenCreated, AdminTokenRevoked
from kipuka.api.storage import ReadTx, Tx, timestamp
from kipuka.store.tables import admin_tokens, moment

__all__ = ["AdminToken", "create", "find", "listing", "revoke"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdminToken:
    """One token. `sha256` is the lower-case hexadecimal SHA-256 of its 256 random bits' text."""

    id: str
    sha256: str = field(repr=False)
    description: str
    created_at: datetime
    revoked_at: datetime | None = None


def create(tx: Tx, *, id: str, sha256: str, description: str) -> AdminToken:  # noqa: A002 - the column's name
    """Record a new token, with its audit event."""
    token = AdminToken(id=id, sha256=sha256, description=description, created_at=tx.now)
    tx.add(
        admin_tokens,
        {
            "id": id,
            "sha256": sha256,
            "description": description,
            "created_at": timestamp(token.created_at),
            "revoked_at": None,
        },
    )
    tx.audit(AdminTokenCreated(token=id, description=description))
    return token


def find(tx: ReadTx, sha256: str) -> AdminToken | None:
    """The token with that hash, unless it was revoked."""
    c = admin_tokens.c
    row = tx.execute(select(admin_tokens).where(c.sha256 == sha256, c.revoked_at.is_(None))).first()
    return None if row is None else _read(row)


def listing(tx: ReadTx) -> tuple[AdminToken, ...]:
    """Every token, revoked ones too, oldest first."""
    rows = tx.execute(select(admin_tokens).order_by(admin_tokens.c.created_at, admin_tokens.c.id))
    return tuple(_read(row) for row in rows)


def revoke(tx: Tx, id: str) -> bool:  # noqa: A002 - the column's name
    """Make a token useless, with its audit event. False when there is none of that id, or it was revoked before."""
    statement = (
        update(admin_tokens)
        .where(admin_tokens.c.id == id, admin_tokens.c.revoked_at.is_(None))
        .values(revoked_at=timestamp(tx.now))
    )
    if tx.execute(statement).rowcount != 1:
        return False
    tx.audit(AdminTokenRevoked(token=id))
    return True


def _read(row: Row[Any]) -> AdminToken:
    return AdminToken(
        id=row.id,
        sha256=row.sha256,
        description=row.description,
        created_at=moment(row.created_at),
        revoked_at=None if row.revoked_at is None else moment(row.revoked_at),
    )
