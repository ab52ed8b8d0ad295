"""No certificate that cannot be told of: what `on_failure = "block"` does.

In the room: the question whether a sink without which nothing may be issued or changed has failed for too long. Not in the room: the
sinks and their failures (`kipuka.audit.pipeline`), and who asks (`kipuka.enrolment`, `kipuka.http.admin`).

The answer comes from the store, where the feeder notes a failure, so that it is the same in every process of a node, whichever of them
feeds the sink. With no such sink nothing is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from datetime import timedelta
from functools import partial

import structlog

from kipuka.api.errors import AuditUnavailable
from kipuka.store import events
from kipuka.store.database import Store

__all__ = ["AuditGate"]

log = structlog.get_logger(__name__)

GRACE = timedelta(seconds=5)
"""How long a sink may fail before anybody is turned away: the restart of a collector."""

RECHECK = timedelta(milliseconds=250)
"""How long an answer holds: reads of the store are not worth more."""

RETRY_AFTER = timedelta(seconds=10)


class AuditGate:
    """Open while every one of the sinks, given by their ids, takes its events."""

    def __init__(
        self, store: Store, sinks: Collection[str], *, grace: timedelta = GRACE, recheck: timedelta = RECHECK
    ) -> None:
        self._store = store
        self._sinks = tuple(sinks)
        self._grace = grace
        self._recheck = recheck.total_seconds()
        self._asked_at: float | None = None
        self._shut_by: tuple[str, ...] = ()

    async def require(self) -> None:
        """Raise `AuditUnavailable` while one of the sinks has failed for longer than the grace."""
        if not self._sinks:
            return
        now = asyncio.get_running_loop().time()
        if self._asked_at is None or now - self._asked_at >= self._recheck:
            await self._ask()
            self._asked_at = now
        if self._shut_by:
            raise AuditUnavailable("the audit log is not available, try again later", retry_after=RETRY_AFTER)

    async def _ask(self) -> None:
        since = await self._store.read(partial(events.failing, node=self._store.node, sinks=self._sinks))
        late = self._store.clock() - self._grace
        shut_by = tuple(sorted(sink for sink, moment in since.items() if moment <= late))
        if shut_by != self._shut_by:
            self._shut_by = shut_by
            if shut_by:
                log.error("enrolments_wait_for_audit_sinks", sinks=shut_by)
            else:
                log.info("enrolments_go_on")
