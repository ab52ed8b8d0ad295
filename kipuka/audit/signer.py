"""Signing how far the node's chain goes, from time to time (guarantee 7, RULES I1).

In the room: looking at what was added since the last signed head, and signing the new one. Not in the room: what a signature is over
(`kipuka.audit.heads`), and the verification of a whole log (`kipuka.audit.verify`).

The signer does not sign what it has not looked at: the events since the last signed head must follow from it, hash by hash. Else
whoever changes the database would only have to wait for the server to sign the change. When they do not follow, that is an event
of its own, and no more heads are signed, so that a verification shows since when.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from kipuka.api.errors import BackendError
from kipuka.api.events import AuditChainBroken, AuditHeadSigned
from kipuka.api.storage import ReadTx, timestamp
from kipuka.audit.chain import GENESIS, line_hash
from kipuka.audit.heads import NodeKey, SignedHead, TrustedKeys, check_head, check_stub, read_head, sign_head
from kipuka.store import events
from kipuka.store.database import Store
from kipuka.store.events import ChainHead

__all__ = ["HeadSigner", "open_signer"]

log = structlog.get_logger(__name__)

PART = 2000
"""How many events are looked at in one reading."""
_FIRST = timedelta(seconds=0.2)
"""How often it is tried until the first time that there is a chain, and a store that takes a signature: the first events of a node do not
wait for a whole interval."""


@dataclass(frozen=True, slots=True)
class _Broken:
    """The chain does not follow from what was signed."""

    sequence: int
    detail: str


class HeadSigner:
    """Signs the head of this node's chain. `trusted` are this node's keys: the present one, and earlier ones.

    One per node is at work at a time; a second would do no harm but sign twice.
    """

    def __init__(
        self, store: Store, key: NodeKey, *, trusted: TrustedKeys, interval: timedelta = timedelta(seconds=60)
    ) -> None:
        self._store = store
        self._key = key
        self._trusted = trusted
        self._interval = interval.total_seconds()
        self._has_chain = self._begun = False
        self._last: SignedHead | None = None  # the last one this process knows of
        self._told: _Broken | None = None
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Sign now, or as soon as there is something, and whenever the interval has passed and there are new events."""
        self._stopped.clear()
        self._task = asyncio.create_task(self._repeat(), name="kipuka-audit-heads")

    async def end(self) -> None:
        """Sign what is there, and no more. Where nothing was begun, nothing is done."""
        task, self._task = self._task, None
        if task is None:
            return
        self._stopped.set()
        await task
        await self._try()

    async def sign(self) -> SignedHead | None:
        """Sign the chain's head and record it; None when there is nothing new, or the chain is broken.

        Raises `BackendError`.
        """
        found = await self._look()
        if isinstance(found, _Broken):
            if found != self._told:
                log.error("audit_chain_broken", sequence=found.sequence, detail=found.detail)
                self._told = found
                await self._tell(AuditChainBroken(sequence=found.sequence, detail=found.detail))
            return None
        if found is None:
            return None
        signed = sign_head(self._key, found, time=timestamp(self._store.clock()))
        await self._store.audit(signed.event())
        self._last = signed
        return signed

    async def _tell(self, event: AuditChainBroken) -> None:
        try:
            await self._store.audit(event)
        except BackendError as error:  # a head that was moved back lets no event be added
            log.error("event_not_recorded", event_name=event.name, reason=error.reason)

    async def _repeat(self) -> None:
        while not self._stopped.is_set():
            await self._try()
            pause = self._interval if self._begun else min(self._interval, _FIRST.total_seconds())
            try:
                async with asyncio.timeout(pause):
                    await self._stopped.wait()
            except TimeoutError:
                continue

    async def _try(self) -> None:
        try:
            await self.sign()
            self._begun = self._has_chain
        except BackendError as error:
            log.warning("audit_head_not_signed", reason=error.reason)
        except Exception:
            log.exception("audit_head_not_signed")
            self._begun = True

    async def _look(self) -> ChainHead | _Broken | None:
        """The head to sign: every event up to it has been held against the one before it, from the last signed head on."""
        start = await self._store.read(self._begin_of_look)
        if start is None or isinstance(start, _Broken):
            return start
        place, head = start
        while place.sequence < head.sequence:
            rows = await self._store.read(
                partial(events.rows_after, node=head.node, sequence=place.sequence, limit=PART)
            )
            for row in rows:
                if row.sequence > head.sequence:
                    break
                problem = _problem_of(row, place)
                if problem is not None:
                    return _Broken(row.sequence, problem)
                place = ChainHead(node=row.node, sequence=row.sequence, hash=row.hash)
            if not rows:
                return _Broken(place.sequence + 1, "the end of the chain was removed")
        return head if place == head else _Broken(head.sequence, "the head of the chain is not its last event")

    def _begin_of_look(self, tx: ReadTx) -> tuple[ChainHead, ChainHead] | _Broken | None:
        """From where to look, and the head as the store has it; None when everything is signed."""
        node = self._store.node
        head = next((one for one in events.heads(tx) if one.node == node), None)
        if head is None:
            return None if self._last is None else _Broken(self._last.sequence, "the chain was removed")
        self._has_chain = True
        start = self._last_signed(tx)
        if isinstance(start, _Broken):
            return start
        if start.sequence > head.sequence:
            return _Broken(start.sequence, "the event that was signed last is not there")
        return None if self._is_signed(tx, head) else (start, head)

    def _is_signed(self, tx: ReadTx, head: ChainHead) -> bool:
        """Whether the last event is a signature over all that was before."""
        rows = events.rows_after(tx, head.node, head.sequence - 1, limit=1)
        signed = _read_signed(rows[0].line) if rows and rows[0].event == AuditHeadSigned.name else None
        return signed is not None and signed.sequence == head.sequence - 1 and check_head(signed, self._trusted) is None

    def _last_signed(self, tx: ReadTx) -> ChainHead | _Broken:
        """What was signed last, if it is still what was signed; where nothing ever was, the beginning of the chain."""
        node = self._store.node
        stub = events.stub(tx, node)
        if stub is not None and (problem := check_stub(stub, self._trusted)) is not None:
            return _Broken(stub.sequence, f"the record of what was pruned is not good: {problem}")
        signed = self._last
        if signed is None or (stub is not None and stub.sequence >= signed.sequence):
            row = events.newest(tx, node, event=AuditHeadSigned.name)
            if row is None:
                begin = GENESIS if stub is None else stub.hash
                return ChainHead(node=node, sequence=0 if stub is None else stub.sequence, hash=begin)
            found = _read_signed(row.line)
            if found is None:
                return _Broken(row.sequence, "the last signed head cannot be read")
            if (problem := check_head(found, self._trusted)) is not None:
                return _Broken(row.sequence, f"the last signed head is not good: {problem}")
            signed = found
        [*there] = events.rows_after(tx, node, signed.sequence - 1, limit=1)
        if signed.node != node or not there or (there[0].sequence, there[0].hash) != (signed.sequence, signed.hash):
            return _Broken(signed.sequence, "the event is not the one that was signed")
        return signed.head


def _problem_of(row: events.StoredEvent, before: ChainHead) -> str | None:
    if row.sequence != before.sequence + 1:
        return f"sequence {before.sequence + 1} is missing"
    if line_hash(row.line) != row.hash:
        return "the event was changed"
    try:
        content = json.loads(row.line)
        follows = (content["node"], content["sequence"], content["previous_hash"]) == (
            row.node,
            row.sequence,
            before.hash,
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return "it is no audit event"
    return None if follows else f"the event does not follow sequence {before.sequence}"


def _read_signed(line: str) -> SignedHead | None:
    try:
        content: object = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return read_head(content) if isinstance(content, dict) else None  # pyright: ignore[reportUnknownArgumentType]


@asynccontextmanager
async def open_signer(
    store: Store, key: NodeKey | None, *, trusted: TrustedKeys, interval: timedelta, begin: bool
) -> AsyncGenerator[HeadSigner | None]:
    """Sign heads until the end of the block, and once more then; without a key nobody does.

    Without `begin` nothing is signed before `HeadSigner.begin` is called: another signer may still be at work.
    """
    if key is None:
        yield None
        return
    signer = HeadSigner(store, key, trusted=trusted, interval=interval)
    if begin:
        signer.begin()
    try:
        yield signer
    finally:
        await signer.end()
