"""Removing the oldest events of a node's chain so that what is left can still be verified (RULES I1).

In the room: how far may be pruned, and doing it. Not in the room: the command (`kipuka.cli.audit_prune`), statements
(`kipuka.audit.heads`), and the records of certificates, which are never touched.

What is left of the beginning is a stub that the node's key signed: the last event that was removed, its hash, and how many there were.
The chain goes on from it. An event is removed only when it is older than asked, every sink has had it, a signed head covers it, and the
chain is intact. It is done in parts, each with its stub and its event in one transaction, so that a server goes on beside it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from kipuka.api.storage import ReadTx, Tx, timestamp
from kipuka.audit.heads import NodeKey, TrustedKeys, event_of_stub, sign_stub
from kipuka.audit.verify import verify_store
from kipuka.store import events
from kipuka.store.database import Store
from kipuka.store.events import ChainHead, Stub

__all__ = ["NotPruned", "Pruned", "prune"]

PART = 2000
"""How many events are removed in one transaction: others wait for it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """How many events were removed now, and the stub that is left; None where nothing ever was removed."""

    events: int
    stub: Stub | None
    held_by: str | None  # what kept older events than asked from being removed


@dataclass(frozen=True, kw_only=True, slots=True)
class NotPruned:
    """Nothing was removed, since the chain is not intact."""

    findings: tuple[str, ...]


async def prune(
    store: Store, key: NodeKey, *, trusted: TrustedKeys, before: datetime, sinks: Collection[str]
) -> Pruned | NotPruned:
    """Remove this node's events of before that time which all `sinks`, by their ids, have had.

    `trusted` has this node's keys. Raises `BackendError`.
    """
    node = store.node
    report = await verify_store(store, trusted=trusted)
    findings = tuple(str(finding) for finding in report.findings if finding.node == node)
    if findings:
        return NotPruned(findings=findings)
    signed = next((chain.signed for chain in report.chains if chain.node == node), None)
    covered = 0 if signed is None else signed.sequence - 1  # what was signed last stays, as the place to go on from
    bounds = await store.read(partial(_bounds, node=node, before=before, sinks=sinks, covered=covered))
    last, held_by = min(bounds, key=lambda bound: bound[0])
    stub = await store.read(partial(events.stub, node=node))
    removed = 0
    while (place := 0 if stub is None else stub.sequence) < last:
        upto = min(place + PART, last)
        rows = await store.read(partial(events.rows_after, node=node, sequence=upto - 1, limit=1))
        if not rows or rows[0].sequence != upto:
            return NotPruned(findings=(f"node {node}, sequence {upto}: the event has gone",))
        head = ChainHead(node=node, sequence=upto, hash=rows[0].hash)
        count = (0 if stub is None else stub.count) + upto - place
        new = sign_stub(key, head, count=count, time=timestamp(store.clock()))
        if not await store.write(partial(_remove, before=stub, new=new)):
            return NotPruned(findings=(f"node {node}, sequence {upto}: somebody else changes the log too",))
        removed += upto - place
        stub = new
    return Pruned(events=removed, stub=stub, held_by=held_by)


def _bounds(
    tx: ReadTx, *, node: str, before: datetime, sinks: Collection[str], covered: int
) -> list[tuple[int, str | None]]:
    """Up to which number each rule lets events be removed, and what it is called; None is what was asked for."""
    had = events.cursors(tx, node)
    taken = [(had.get(sink, 0), f"the sink {sink} has had no more") for sink in sinks]
    asked = events.last_before(tx, node, before)
    return [(asked, None), (covered, "no signed head covers more"), *taken]


def _remove(tx: Tx, *, before: Stub | None, new: Stub) -> bool:
    """Remove the events up to the new stub's, if the beginning still is as it was; a unit of the writer."""
    place = 0 if before is None else before.sequence
    [*last] = events.rows_after(tx, new.node, new.sequence - 1, limit=1)
    if events.stub(tx, new.node) != before or not last or last[0].hash != new.hash:
        return False
    if events.count_up_to(tx, new.node, new.sequence) != new.sequence - place:
        return False
    events.delete_up_to(tx, new.node, new.sequence)
    events.set_stub(tx, new)
    tx.audit(event_of_stub(new))
    return True
