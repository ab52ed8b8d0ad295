"""Names that an administrator lets a certificate change to at its next renewal (RULES F3).

In the room: pure functions of a transaction over the table `name_changes`. Not in the room: who may approve
(`kipuka.name_changes`), and the renewal itself (`kipuka.enrolment`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, exists, select, update

from kipuka.api.storage import ReadTx, Tx, timestamp
from kipuka.store.tables import moment, name_changes

__all__ = ["NameChangeApproval", "any_ended", "approve", "find", "forget_ended", "use", "withdraw"]


@dataclass(frozen=True, kw_only=True, slots=True)
class NameChangeApproval:
    """All the names that the successor of a certificate may have, once and until then.

    `certificate` is a fingerprint, `subject` RFC 4514, `names` are formatted alternative names ("DNS:a.example").
    """

    certificate: str
    subject: str
    names: tuple[str, ...]
    until: datetime


def approve(tx: Tx, approval: NameChangeApproval) -> None:
    """Write the approval down, in place of an earlier one for the same certificate."""
    row = {
        "certificate": approval.certificate,
        "subject": approval.subject,
        "names": json.dumps(approval.names),
        "until": timestamp(approval.until),
    }
    changed = tx.execute(
        update(name_changes).where(name_changes.c.certificate == approval.certificate).values(**row)
    ).rowcount
    if not changed:
        tx.add(name_changes, row)


def find(tx: ReadTx, certificate: str) -> NameChangeApproval | None:
    """The approval for that certificate, while it holds."""
    statement = select(name_changes).where(
        name_changes.c.certificate == certificate, name_changes.c.until >= timestamp(tx.now)
    )
    row = tx.execute(statement).mappings().first()
    if row is None:
        return None
    return NameChangeApproval(
        certificate=row["certificate"],
        subject=row["subject"],
        names=tuple(json.loads(row["names"])),
        until=moment(row["until"]),
    )


def use(tx: Tx, approval: NameChangeApproval) -> bool:
    """Take the approval away, for it is good once; False where it is not there any more, or another one is."""
    c = name_changes.c
    statement = delete(name_changes).where(
        c.certificate == approval.certificate,
        c.subject == approval.subject,
        c.names == json.dumps(approval.names),
        c.until == timestamp(approval.until),
        c.until >= timestamp(tx.now),
    )
    return tx.execute(statement).rowcount == 1


def withdraw(tx: Tx, certificate: str) -> NameChangeApproval | None:
    """Take back the approval for that certificate; None where none holds, also where a renewal has used it in this moment."""
    found = find(tx, certificate)
    return found if found is not None and use(tx, found) else None


def any_ended(tx: ReadTx) -> bool:
    """Whether there are approvals whose time is over."""
    return bool(tx.execute(select(exists().where(name_changes.c.until < timestamp(tx.now)))).scalar_one())


def forget_ended(tx: Tx) -> int:
    """Delete the approvals whose time is over; how many there were."""
    return tx.execute(delete(name_changes).where(name_changes.c.until < timestamp(tx.now))).rowcount
