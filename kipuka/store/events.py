"""The audit log's rows: numbered and chained per node, and how far each sink has come.

In the room: the values between the writer and the chain, and functions of a transaction over `audit_events`, `audit_heads`,
`audit_cursors` and `audit_stubs`. Not in the room: hashing (`kipuka.audit.chain`, handed in as `Seal`) and delivery (`kipuka.audit.pipeline`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, bindparam, delete, func, insert, select, update

from kipuka.api.events import AuditEvent, AuditRecord
from kipuka.api.storage import ReadTx, Tx, timestamp
from kipuka.store.context import AuditContext
from kipuka.store.tables import audit_cursors, audit_events, audit_heads, audit_stubs, moment

__all__ = [
    "ChainHead",
    "PendingEvent",
    "Seal",
    "StoredEvent",
    "Stub",
    "advance",
    "after",
    "all_cursors",
    "append",
    "audit_all",
    "count_up_to",
    "cursor",
    "cursors",
    "delete_up_to",
    "failing",
    "heads",
    "last_before",
    "newest",
    "rows_after",
    "set_failing",
    "set_stub",
    "stored",
    "stub",
    "stubs",
    "tail",
]


def audit_all(tx: Tx, *, events: Iterable[AuditEvent]) -> None:
    """Record events, in their order: a unit of work, or a part of one."""
    for event in events:
        tx.audit(event)


@dataclass(frozen=True, kw_only=True, slots=True)
class ChainHead:
    """Where a node's chain ends: the number and the hash of its last event. Sequence 0 is the empty chain."""

    node: str
    sequence: int
    hash: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Stub:
    """What is left of the beginning of a node's chain: the last event that was pruned, and how many were in all.

    Signed by the node's key (`kipuka.audit.heads`), as a row of `audit_stubs` has it.
    """

    node: str
    sequence: int
    hash: str
    count: int
    pruned_at: str
    key: str
    signature: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PendingEvent:
    """An event of a transaction that has no number yet."""

    time: datetime
    event: AuditEvent
    context: AuditContext


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredEvent:
    """A row of `audit_events` exactly as it stands, for whoever doubts it.

    SQLite keeps a value of any type in any column. What is no text stands as the text it is shown as, what is no number as -1,
    which is nobody's.
    """

    node: str
    sequence: int
    time: str
    event: str
    hash: str
    line: str


Seal = Callable[[str, ChainHead | None, Sequence[PendingEvent]], Sequence[AuditRecord]]
"""Numbers, chains and hashes events of a node that follow its head (None: the node has no event yet). Pure."""


def append(connection: Connection, node: str, events: Sequence[PendingEvent], seal: Seal) -> None:
    """Add events to a node's chain; the last thing the writer does in a transaction, so the head is locked for a moment only."""
    row = connection.execute(_LOCKED_HEAD, {"of_node": node}).first()
    head = None if row is None else ChainHead(node=row.node, sequence=row.sequence, hash=row.hash)
    records = seal(node, head, events)
    connection.execute(
        _INSERT,
        [
            {
                "node": record.node,
                "sequence": record.sequence,
                "time": timestamp(record.time),
                "event": record.event,
                "hash": record.hash,
                "line": record.line,
            }
            for record in records
        ],
    )
    last = {"sequence": records[-1].sequence, "hash": records[-1].hash}
    if head is None:
        connection.execute(insert(audit_heads).values(node=node, **last))
    else:
        connection.execute(_MOVE_HEAD, {"of_node": node, **last})


_INSERT = insert(audit_events)
_LOCKED_HEAD = select(audit_heads).where(audit_heads.c.node == bindparam("of_node")).with_for_update()
_MOVE_HEAD = update(audit_heads).where(audit_heads.c.node == bindparam("of_node"))  # sets what it is given besides


def heads(tx: ReadTx) -> tuple[ChainHead, ...]:
    """The head of every node's chain."""
    rows = tx.execute(select(audit_heads).order_by(audit_heads.c.node))
    return tuple(ChainHead(node=_text(row.node), sequence=_number(row.sequence), hash=_text(row.hash)) for row in rows)


def after(tx: ReadTx, node: str, sequence: int, *, limit: int) -> tuple[AuditRecord, ...]:
    """The events of a node that follow `sequence`, in order, at most `limit`.

    Left out is one that somebody moved: its text says another number than its row, and whoever goes on from it would go in circles.
    """
    statement = (
        select(audit_events)
        .where(audit_events.c.node == node, audit_events.c.sequence > sequence)
        .order_by(audit_events.c.sequence)
        .limit(limit)
    )
    read = ((row.sequence, _read(row)) for row in tx.execute(statement))
    return tuple(record for number, record in read if record.sequence == number)


def tail(tx: ReadTx, *, limit: int, node: str | None = None, event: str | None = None) -> tuple[AuditRecord, ...]:
    """The last events, oldest first; of one node or of all, of one kind or of all."""
    c = audit_events.c
    statement = select(audit_events).order_by(c.time.desc(), c.node.desc(), c.sequence.desc()).limit(limit)
    if node is not None:
        statement = statement.where(c.node == node)
    if event is not None:
        statement = statement.where(c.event == event)
    return tuple(_read(row) for row in reversed(tx.execute(statement).all()))


def rows_after(tx: ReadTx, node: str, sequence: int, *, limit: int) -> tuple[StoredEvent, ...]:
    """As `after`, but the rows as they stand, for whoever doubts them."""
    c = audit_events.c
    statement = select(audit_events).where(c.node == node, c.sequence > sequence).order_by(c.sequence).limit(limit)
    return tuple(_as_it_stands(row) for row in tx.execute(statement).mappings())


def newest(tx: ReadTx, node: str, *, event: str) -> StoredEvent | None:
    """The last row of that name in the node's chain, as it stands."""
    c = audit_events.c
    statement = select(audit_events).where(c.node == node, c.event == event).order_by(c.sequence.desc()).limit(1)
    row = tx.execute(statement).mappings().first()
    return None if row is None else _as_it_stands(row)


def stubs(tx: ReadTx) -> tuple[Stub, ...]:
    """What pruning has left of every node's beginning."""
    rows = tx.execute(select(audit_stubs).order_by(audit_stubs.c.node)).mappings()
    return tuple(_stub(row) for row in rows)


def stub(tx: ReadTx, node: str) -> Stub | None:
    """What pruning has left of that node's beginning; None when nothing was pruned."""
    return next((one for one in stubs(tx) if one.node == node), None)


def set_stub(tx: Tx, new: Stub) -> None:
    """Put the stub in the place of the one before."""
    row = {column.name: getattr(new, column.name) for column in audit_stubs.columns}
    if tx.execute(update(audit_stubs).where(audit_stubs.c.node == new.node).values(**row)).rowcount == 0:
        tx.add(audit_stubs, row)


def last_before(tx: ReadTx, node: str, before: datetime) -> int:
    """The number up to which all the node's events are of before that time; 0 where the first is not."""
    c = audit_events.c
    later = tx.execute(select(func.min(c.sequence)).where(c.node == node, c.time >= timestamp(before))).scalar_one()
    if later is not None:
        return int(later) - 1
    return int(tx.execute(select(func.max(c.sequence)).where(c.node == node)).scalar_one() or 0)


def count_up_to(tx: ReadTx, node: str, sequence: int) -> int:
    """How many events of the node there are up to that number."""
    c = audit_events.c
    counted = tx.execute(select(func.count()).where(c.node == node, c.sequence <= sequence)).scalar_one()
    return int(counted)


def delete_up_to(tx: Tx, node: str, sequence: int) -> None:
    """Remove the node's events up to that number."""
    c = audit_events.c
    tx.execute(delete(audit_events).where(c.node == node, c.sequence <= sequence))


def stored(tx: ReadTx, *, chunk: int = 1000) -> Iterator[StoredEvent]:
    """Every row by node and number, read in parts, so that a long log fits in memory."""
    c = audit_events.c
    for node in tx.execute(select(c.node).distinct().order_by(c.node)).scalars().all():
        # Numbers below one are nobody's, but whoever edits the table may write them.
        place: int | None = None
        while True:
            statement = select(audit_events).where(c.node == node).order_by(c.sequence).limit(chunk)
            if place is not None:
                statement = statement.where(c.sequence > place)
            rows = tx.execute(statement).mappings().all()
            for row in rows:
                yield _as_it_stands(row)
            if len(rows) < chunk:
                break
            place = rows[-1]["sequence"]


def cursor(tx: ReadTx, node: str, sink: str) -> int:
    """The number of the last event of that node that the sink has safely; 0 for a new sink."""
    c = audit_cursors.c
    statement = select(c.sequence).where(c.node == node, c.sink == sink)
    return tx.execute(statement).scalar_one_or_none() or 0


def cursors(tx: ReadTx, node: str) -> dict[str, int]:
    """The cursor of every sink that was ever fed by that node."""
    rows = tx.execute(select(audit_cursors).where(audit_cursors.c.node == node))
    return {row.sink: row.sequence for row in rows}


def all_cursors(tx: ReadTx) -> tuple[tuple[str, str, int], ...]:
    """Node, sink and number of every cursor."""
    c = audit_cursors.c
    rows = tx.execute(select(c.node, c.sink, c.sequence).order_by(c.node, c.sink))
    return tuple((_text(row.node), _text(row.sink), _number(row.sequence)) for row in rows)


def advance(tx: Tx, node: str, sink: str, sequence: int) -> None:
    """The sink has every event of the node up to that number. A cursor never goes back."""
    c = audit_cursors.c
    found = tx.execute(select(c.sequence).where(c.node == node, c.sink == sink)).scalar_one_or_none()
    if found is None:
        tx.add(audit_cursors, {"node": node, "sink": sink, "sequence": sequence})
    elif found < sequence:
        further = update(audit_cursors).where(c.node == node, c.sink == sink, c.sequence < sequence)
        tx.execute(further.values(sequence=sequence))


def failing(tx: ReadTx, node: str, sinks: Collection[str]) -> dict[str, datetime]:
    """Those of the node's sinks that do not take their events at the moment, and since when."""
    c = audit_cursors.c
    statement = select(c.sink, c.failing_since).where(c.node == node, c.sink.in_(sinks), c.failing_since.is_not(None))
    return {row.sink: moment(row.failing_since) for row in tx.execute(statement)}


def set_failing(tx: Tx, node: str, sink: str, since: datetime | None) -> None:
    """Note that a sink takes nothing since then, or (None) that it does again. The first time of an outage stays."""
    c = audit_cursors.c
    found = tx.execute(select(c.failing_since).where(c.node == node, c.sink == sink)).first()
    if found is None:
        failing_since = None if since is None else timestamp(since)
        tx.add(audit_cursors, {"node": node, "sink": sink, "sequence": 0, "failing_since": failing_since})
    elif since is None:
        tx.execute(update(audit_cursors).where(c.node == node, c.sink == sink).values(failing_since=None))
    elif found.failing_since is None:
        values = {"failing_since": timestamp(since)}
        tx.execute(update(audit_cursors).where(c.node == node, c.sink == sink).values(**values))


def _as_it_stands(row: RowMapping) -> StoredEvent:
    texts = {name: _text(row[name]) for name in ("node", "time", "event", "hash", "line")}
    return StoredEvent(sequence=_number(row["sequence"]), **texts)


def _stub(row: RowMapping) -> Stub:
    texts = {name: _text(row[name]) for name in ("node", "hash", "pruned_at", "key", "signature")}
    return Stub(sequence=_number(row["sequence"]), count=_number(row["count"]), **texts)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    return str(value)


def _number(value: object) -> int:
    return value if isinstance(value, int) else -1


def _read(row: Row[Any]) -> AuditRecord:
    content: dict[str, Any] = json.loads(row.line)
    return AuditRecord(
        node=content["node"],
        sequence=content["sequence"],
        time=moment(content["time"]),
        event=content["event"],
        outcome=content["outcome"],
        request_id=content["request_id"],
        client_address=content["client_address"],
        identity=content["identity"],
        data=content["data"],
        previous_hash=content["previous_hash"],
        hash=row.hash,
        line=row.line,
    )
