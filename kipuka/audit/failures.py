"""Failed requests in the audit log: each by itself, and of a flood the number (RULES H4).

In the room: which failures are summed, under what, and the event that tells a sum. Not in the room: the counting
(`kipuka.audit.sums`), what a failure is, and lock-outs, which count every failure for themselves (`kipuka.store.lockouts`).

A failure of somebody who is not known costs the disk a row and the writer a turn. After `threshold` of an address, event and reason
in an interval further ones cost neither. What somebody does who is known is always told by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from kipuka.api.errors import BackendError
from kipuka.api.events import AdminDenied, AuthenticationFailed, FailuresSummed, RequestRejected
from kipuka.api.storage import timestamp
from kipuka.audit.sums import MOST_SUMS, Sum, Tally
from kipuka.store.context import audit_context
from kipuka.store.database import Store
from kipuka.store.events import audit_all
from kipuka.store.lockouts import normal_address

__all__ = ["Failure", "Failures"]

log = structlog.get_logger(__name__)

Failure = AuthenticationFailed | AdminDenied | RequestRejected
"""What a stranger can cause as often as he likes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Kind:
    """What the failures of one sum have in common, beside their address. All of it are words of ours or of a plugin."""

    failure: str
    reason: str
    method: str | None = None
    kind: str | None = None
    status: int | None = None


class Failures:
    """Records failures in the store. `sum_up` is called in each interval and at the end (`kipuka.audit.sums.summing`)."""

    def __init__(self, store: Store, *, threshold: int) -> None:
        self._store = store
        self._tally: Tally[_Kind] = Tally(one_by_one=threshold, most=MOST_SUMS, clock=store.clock)
        self._threshold = threshold

    async def tell(self, failures: Sequence[Failure]) -> None:
        """Record what a request, whose `audit_context` this is, has failed at, or count it.

        Returns when it is durable or counted. Raises as `Store.write` does, never for what is only counted.
        """
        client = audit_context.get().client_address
        address = normal_address(client) if client else ""
        singly = [one for one in failures if 0 < self._tally.count(_kind_of(one), address) <= self._threshold]
        if singly:
            await self._store.write(partial(audit_all, events=singly))

    async def sum_up(self) -> None:
        """Record what was only counted, and begin anew. While the store is away the sums are kept, and go on."""
        sums = self._tally.take()
        if not sums:
            return
        try:
            await self._store.write(partial(audit_all, events=[_event_of(sum_) for sum_ in sums]))
        except BackendError as error:
            self._tally.give_back(sums)
            log.error("sums_not_recorded", failures=sum(sum_.count for sum_ in sums), reason=error.reason)


def _kind_of(failure: Failure) -> _Kind:
    match failure:
        case AuthenticationFailed():
            return _Kind(failure=failure.name, reason=failure.reason, method=failure.method, kind=failure.kind)
        case AdminDenied() | RequestRejected():
            return _Kind(failure=failure.name, reason=failure.reason, status=failure.status)


def _event_of(sum_: Sum[_Kind]) -> FailuresSummed:
    what = sum_.what
    return FailuresSummed(
        failure=what.failure,
        method=what.method,
        kind=what.kind,
        status=what.status,
        reason=what.reason,
        address=sum_.address,
        count=sum_.count,
        first_at=timestamp(sum_.first),
        last_at=timestamp(sum_.last),
    )
