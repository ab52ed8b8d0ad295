"""Addresses that failed too often (RULES C4).

In the room: counting failures and locking, for whoever has a count of his own: plugins and the bearer check. Not in the room:
what a failure is.

Counted and locked is an address; of IPv6 its /64 network, since a client has all of it.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy import delete, func, select, update

from kipuka.api.events import LockedOutAddress, LockoutReleased
from kipuka.api.kinds import LockoutPolicy, Lockouts
from kipuka.api.storage import ReadTx, Tx, timestamp
from kipuka.api.values import DenialKind, Denied
from kipuka.store.database import Store
from kipuka.store.tables import lockout_failures, lockouts, moment

__all__ = ["LOCKED_OUT", "Lockout", "StoreLockouts", "check", "count_failure", "listing", "normal_address", "release"]

LOCKED_OUT = "too many failures, locked out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lockout:
    """One locked address, or IPv6 network."""

    counter: str
    address: str
    failures: int
    since: datetime
    until: datetime


class StoreLockouts(Lockouts):
    """One count in the store, shared by all workers and nodes."""

    def __init__(self, store: Store, *, counter: str, policy: LockoutPolicy) -> None:
        self._store = store
        self._counter = counter
        self._policy = policy

    async def check(self, address: str, /) -> Denied | None:
        """A denial while the address is locked."""
        return await self._store.read(partial(check, counter=self._counter, address=address))

    async def failure(self, address: str, /) -> Denied | None:
        """Count one failure; a denial if this one exceeds the policy, or the address is locked already."""
        return await self._store.write(
            partial(count_failure, counter=self._counter, address=address, policy=self._policy)
        )


def normal_address(address: str) -> str:
    """What is counted for a client at `address`: IPv4 as it is, also when written within IPv6; of IPv6 the /64 network."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.IPv6Network((parsed, 64), strict=False))
        parsed = parsed.ipv4_mapped
    return str(parsed)


def check(tx: ReadTx, *, counter: str, address: str) -> Denied | None:
    """A denial while the address is locked in that count."""
    c = lockouts.c
    statement = select(c.until).where(
        c.counter == counter, c.address == normal_address(address), c.until > timestamp(tx.now)
    )
    until = tx.execute(statement).scalar_one_or_none()
    return None if until is None else _denial(moment(until) - tx.now)


def count_failure(tx: Tx, *, counter: str, address: str, policy: LockoutPolicy) -> Denied | None:
    """Count one failure, and lock the address if more than `policy.max_failures` lie within the window now.

    The lock is audited as `locked_out`. While an address is locked nothing is counted.
    """
    counted = normal_address(address)
    # Whoever counts a failure of the same address at this moment does so before or after: each failure has a number.
    tx.lock(f"lockouts/{counter}/{counted}")
    denied = check(tx, counter=counter, address=address)
    if denied is not None:
        return denied
    c = lockout_failures.c
    window_begins = timestamp(tx.now - policy.window)
    tx.execute(delete(lockout_failures).where(c.counter == counter, c.time <= window_begins))
    statement = select(func.count()).where(c.counter == counter, c.address == counted)
    failures: int = tx.execute(statement).scalar_one() + 1
    tx.add(lockout_failures, {"counter": counter, "address": counted, "time": timestamp(tx.now)})
    if failures <= policy.max_failures:
        return None
    until = tx.now + policy.duration
    lock = {"failures": failures, "since": timestamp(tx.now), "until": timestamp(until)}
    same = (lockouts.c.counter == counter, lockouts.c.address == counted)
    if tx.execute(update(lockouts).where(*same).values(**lock)).rowcount == 0:
        tx.add(lockouts, {"counter": counter, "address": counted, **lock})
    tx.audit(
        LockedOutAddress(counter=counter, address=counted, failures=failures, until=timestamp(until)),
    )
    return _denial(policy.duration)


def listing(tx: ReadTx, *, counter: str | None = None) -> tuple[Lockout, ...]:
    """The addresses that are locked now, of one count or of all, the latest first."""
    c = lockouts.c
    statement = select(lockouts).where(c.until > timestamp(tx.now)).order_by(c.since.desc(), c.counter, c.address)
    if counter is not None:
        statement = statement.where(c.counter == counter)
    return tuple(
        Lockout(
            counter=row.counter,
            address=row.address,
            failures=row.failures,
            since=moment(row.since),
            until=moment(row.until),
        )
        for row in tx.execute(statement)
    )


def release(tx: Tx, *, counter: str, address: str) -> bool:
    """Unlock an address, given as a client's or as the listing shows it, and forget its failures. Audited.

    False when it is not locked. Raises ValueError for what is no address.
    """
    counted = normal_address(address.partition("/")[0])
    tx.lock(f"lockouts/{counter}/{counted}")
    if check(tx, counter=counter, address=counted.partition("/")[0]) is None:
        return False
    tx.execute(delete(lockouts).where(lockouts.c.counter == counter, lockouts.c.address == counted))
    failures = lockout_failures
    tx.execute(delete(failures).where(failures.c.counter == counter, failures.c.address == counted))
    tx.audit(LockoutReleased(counter=counter, address=counted))
    return True


def _denial(retry_after: timedelta) -> Denied:
    return Denied(detail=LOCKED_OUT, reason="locked_out", kind=DenialKind.LOCKED, retry_after=retry_after)
