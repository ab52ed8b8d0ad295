"""Who runs a periodic job next.

In the room: pure functions over the table `jobs`: a lease that one living process holds at a time. Not in the room: the jobs
(`kipuka.jobs`).
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import or_, select, update

from kipuka.api.storage import Tx, timestamp
from kipuka.store.tables import jobs

__all__ = ["claim"]


def claim(tx: Tx, *, name: str, holder: str, lease: timedelta) -> bool:
    """Take or renew the lease of the job `name` for `holder`; False while another holder's lease lasts."""
    until = timestamp(tx.now + lease)
    taken = tx.execute(
        update(jobs)
        .where(jobs.c.name == name, or_(jobs.c.holder == holder, jobs.c.lease_until < timestamp(tx.now)))
        .values(holder=holder, lease_until=until)
    )
    if taken.rowcount == 1:
        return True
    if tx.execute(select(jobs.c.name).where(jobs.c.name == name)).first() is not None:
        return False
    tx.add(jobs, {"name": name, "holder": holder, "lease_until": until})
    return True
