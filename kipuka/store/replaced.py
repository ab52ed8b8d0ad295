"""Certificates that a renewal has replaced, and that are to be revoked some time after it (the profile's `revoke_replaced_after`).

In the room: pure functions of a transaction over the columns `replaces` and `revoke_at` of the table `certificates`. Not in the room: who
runs them when, and telling the CA (`kipuka.revocation`).

The link goes from the new certificate to the old one; when the old one is due stands with it, so that the job finds it by an index that
has nothing but what is still to be done.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal

from sqlalchemy import select, update

from kipuka.api.storage import ReadTx, Tx, timestamp
from kipuka.store.certificates import RecordedCertificate, read
from kipuka.store.tables import certificates

__all__ = ["HOLD_PAUSE", "Fate", "due", "fate", "let_go", "schedule", "successors"]

HOLD_PAUSE = timedelta(hours=1)
"""How long a replaced certificate is left alone while the one that replaced it is on hold."""

Fate = Literal["revoke", "wait", "keep"]


def schedule(tx: Tx, fingerprint: str, when: datetime) -> None:
    """Have a certificate revoked then. A later renewal of the same one begins the time anew: its device still uses it."""
    _set(tx, fingerprint, timestamp(when))


def let_go(tx: Tx, fingerprint: str) -> None:
    """Nothing is to be done with it any more."""
    _set(tx, fingerprint, None)


def _set(tx: Tx, fingerprint: str, when: str | None) -> None:
    tx.execute(update(certificates).where(certificates.c.fingerprint == fingerprint).values(revoke_at=when))


def due(tx: ReadTx, *, limit: int) -> tuple[str, ...]:
    """The fingerprints of those whose time has come, the longest due first."""
    c = certificates.c
    statement = select(c.fingerprint).where(c.revoke_at <= timestamp(tx.now)).order_by(c.revoke_at).limit(limit)
    return tuple(tx.execute(statement).scalars())


def successors(tx: ReadTx, fingerprint: str) -> tuple[RecordedCertificate, ...]:
    """The certificates that have replaced that one."""
    statement = select(certificates).where(certificates.c.replaces == fingerprint)
    return tuple(read(row) for row in tx.execute(statement).mappings())


def fate(
    replaced: RecordedCertificate,
    by: tuple[RecordedCertificate, ...],
    *,
    late: Mapping[str, timedelta],
    now: datetime,
) -> Fate:
    """What is to become of a replaced certificate that is due.

    `late` has the profiles that still want replaced certificates revoked, each with how long it lets an expired one renew: after that
    there is nothing to revoke. A successor counts while it is valid, and when it was itself replaced. One that was revoked for anything
    else does not: the old certificate may be all that the device has, and an administrator who means both revokes both.
    """
    counting = [one for one in by if one.profile in late]
    if replaced.state != "valid" or not counting:
        return "keep"
    if now > replaced.not_after + max(late[one.profile] for one in counting):
        return "keep"
    if any(one.state == "valid" or one.revocation_reason == "superseded" for one in counting):
        return "revoke"
    return "wait" if any(one.revocation_reason == "certificateHold" for one in counting) else "keep"
