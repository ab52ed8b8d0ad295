"""Whether the store takes a write, found out by one that leaves nothing.

In the room: the unit that is tried. Not in the room: how often, and who wants to know (`kipuka.readiness`).

A transaction that changes nothing would be answered without a word to the disk, and a database that is read-only or full would
go unnoticed. A row that comes and goes within one transaction takes the write lock, a page of the log and the commit's flush, and
nobody ever sees it.
"""

from __future__ import annotations

from sqlalchemy import delete, insert

from kipuka.api.storage import Tx, timestamp
from kipuka.store.tables import jobs

__all__ = ["prove_writable"]


def prove_writable(tx: Tx, *, name: str) -> None:
    """Insert a row and delete it. `name` is nobody else's: two processes may be at it at the same time."""
    now = timestamp(tx.now)
    tx.execute(insert(jobs).values(name=name, holder=tx.node, lease_until=now))
    tx.execute(delete(jobs).where(jobs.c.name == name))
