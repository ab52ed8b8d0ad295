"""Reservations and what became of them (guarantees 1 and 2).

In the room: pure functions of a transaction over the table `enrolments`; each keeps the row, the claim and the certificate in step.
Not in the room: the order of the enrolment's steps and its events (`kipuka.enrolment`).

An enrolment's row goes reserved -> signing -> issued, or ends as refused, failed or replayed; pending stands between signing and the end
and has no lease. A row is open until it has ended; only an open row can be settled, so that a claim is redeemed or given back once,
whoever comes first: the request, or the recovery after its lease has run out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeVar

import structlog
from sqlalchemy import RowMapping, and_, false, or_, select, update
from sqlalchemy.exc import DBAPIError

from kipuka.api.errors import BackendFault, BackendUnavailable, KipukaError
from kipuka.api.protocols import SpendsOnIssue
from kipuka.api.storage import ReadTx, Tx, timestamp
from kipuka.api.values import Claim, Denied
from kipuka.store import certificates, replay
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.tables import enrolments, moment

__all__ = [
    "SPENDER_FAILED",
    "EnrolmentRow",
    "EnrolmentState",
    "Incarnation",
    "NewEnrolment",
    "abandoned",
    "begin_signing",
    "find",
    "find_pending",
    "record",
    "set_pending",
    "settle",
    "start",
]


T = TypeVar("T")

log = structlog.get_logger(__name__)

SPENDER_FAILED = "plugin_failed"
"""The reason of the fault that a plugin's `reserve`, `redeem` or `release` becomes when it raises."""


class EnrolmentState(StrEnum):
    """How far an enrolment has come."""

    RESERVED = "reserved"  # the use is held, the CA was not asked
    SIGNING = "signing"  # the CA may have the order
    PENDING = "pending"  # the CA has promised to decide
    ISSUED = "issued"
    REFUSED = "refused"  # the client's fault; the use was given back
    FAILED = "failed"  # the server's or the CA's fault; the use was given back
    REPLAYED = "replayed"  # the same request was answered meanwhile, and so got that answer; the use was given back


_WORKED_ON = (EnrolmentState.RESERVED.value, EnrolmentState.SIGNING.value)
_OPEN = (*_WORKED_ON, EnrolmentState.PENDING.value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Incarnation:
    """One life of a worker process, by which its reservations are told from those of its living siblings.

    A server has `boot`, new with each start; in it each worker has a `slot`, and who replaces a dead worker takes its slot
    with the next `life`. The first life of slot 0 is alone when it starts: nobody of an earlier boot can be alive then.
    """

    boot: str  # hexadecimal
    slot: int = 0
    life: int = 0

    @property
    def name(self) -> str:
        """What stands in the column `process`."""
        return f"{self.boot}/{self.slot}/{self.life}"


@dataclass(frozen=True, kw_only=True, slots=True)
class NewEnrolment:
    """An enrolment that is about to be written down. `csr` is DER without challenge attributes (RULES G2)."""

    id: str
    operation: str
    label: str | None
    method: str
    identity_name: str
    claim: Claim | None
    ca: str
    profile: str
    request_sha256: str
    csr: bytes = field(repr=False)
    process: str  # the `Incarnation.name` of who works on it; other words for what is no worker
    lease_until: datetime
    created_at: datetime
    replay_sha256: str | None = None  # `kipuka.store.replay`
    replaces: str | None = None  # the fingerprint of the recorded certificate that is renewed


@dataclass(frozen=True, kw_only=True, slots=True)
class EnrolmentRow:
    """An enrolment as it stands in the store."""

    id: str
    state: EnrolmentState
    operation: str
    label: str | None
    method: str
    identity_name: str
    claim: Claim | None
    ca: str
    profile: str
    request_sha256: str
    csr: bytes = field(repr=False)
    node: str
    process: str
    lease_until: datetime | None
    reference: str | None
    reason: str | None
    certificate: str | None  # its fingerprint
    created_at: datetime
    settled_at: datetime | None
    replay_sha256: str | None
    replaces: str | None


def find(tx: ReadTx, id: str) -> EnrolmentRow | None:  # noqa: A002 - the column's name
    """The enrolment of that id."""
    row = tx.execute(select(enrolments).where(enrolments.c.id == id)).mappings().first()
    return None if row is None else _read(row)


def find_pending(tx: ReadTx, row: NewEnrolment) -> EnrolmentRow | None:
    """An earlier attempt at the same request that waits at the CA (RFC 7030, 4.2.3).

    The same are: operation, label, CA, the request without challenge attributes, and the claim; without a claim, who asks.
    """
    c = enrolments.c
    if row.claim is not None:
        who = and_(c.claim_plugin == row.claim.plugin, c.claim_ref == row.claim.ref)
    else:
        who = and_(c.claim_plugin.is_(None), c.method == row.method, c.identity_name == row.identity_name)
    statement = (
        select(enrolments)
        .where(
            c.request_sha256 == row.request_sha256,
            c.state == EnrolmentState.PENDING.value,
            c.operation == row.operation,
            c.label.is_(None) if row.label is None else c.label == row.label,
            c.ca == row.ca,
            who,
        )
        .order_by(c.created_at)
        .limit(1)
    )
    found = tx.execute(statement).mappings().first()
    return None if found is None else _read(found)


def start(tx: Tx, row: NewEnrolment, spender: SpendsOnIssue | None, *, signing: bool = False) -> Denied | None:
    """Hold one use of the claim, where there is one, and write the row down as reserved, or as signing.

    The denial of the spender comes back as it is; nothing was written then.
    """
    if row.claim is not None:
        denied = _spender_of(row.claim, spender).reserve(tx)
        if denied is not None:
            return denied
    state = EnrolmentState.SIGNING if signing else EnrolmentState.RESERVED
    tx.add(enrolments, _new(tx, row, state))
    return None


def begin_signing(tx: Tx, id: str, *, replaces: str | None = None) -> None:  # noqa: A002 - the column's name
    """The CA is asked next: from now on the order may be known there. It is for a certificate that renews `replaces`.

    Raises `BackendUnavailable` when the enrolment was settled meanwhile.
    """
    _move(tx, id, state=EnrolmentState.SIGNING.value, replaces=replaces)


def set_pending(tx: Tx, id: str, reference: str) -> None:  # noqa: A002 - the column's name
    """The CA will decide later and calls the request `reference`. The claim stays held, without a lease.

    Raises `BackendUnavailable` when the enrolment was settled meanwhile.
    """
    _move(tx, id, state=EnrolmentState.PENDING.value, reference=reference, lease_until=None)


def settle(
    tx: Tx,
    id: str,  # noqa: A002 - the column's name
    *,
    state: Literal["refused", "failed", "replayed"],
    reason: str,
    spender: SpendsOnIssue | None,
) -> bool:
    """No certificate will come of it: end the row and give the claim back. False when it was settled before."""
    row = find(tx, id)
    if row is None or row.state not in _OPEN:
        return False
    spender_of_claim = None if row.claim is None else _spender_of(row.claim, spender)
    if not _moved(tx, id, state=state, reason=reason, lease_until=None, settled_at=timestamp(tx.now)):
        return False  # somebody else has come between
    if row.claim is not None and spender_of_claim is not None:
        spender_of_claim.release(tx)
    return True


def record(
    tx: Tx,
    row: NewEnrolment,
    certificate: RecordedCertificate,
    spender: SpendsOnIssue | None,
    *,
    exists: bool,
    answered: str | None = None,
    inherits_use: bool = False,
) -> None:
    """Record the certificate, end the enrolment as issued and redeem its claim, all in this transaction.

    `answered` is who holds the request's digest, as this transaction has seen it (`replay.holder`), and it goes to this certificate. One that was
    recorded since then keeps it: the database refuses this one (`BackendFault`, "store_constraint"), and the record has to be looked at again.
    With `inherits_use` the certificate takes the place of one that a use was spent on, and its own claim is given back.

    `exists` says whether `start` was committed for `row` before; without that the row is written as issued at once, and it
    cannot have a claim, since nothing held it. Raises `BackendFault` for a serial number that the CA has used before (RULES F6), and
    `BackendUnavailable` when the enrolment was settled meanwhile: its use was given back, so the certificate must not go out.
    """
    if certificates.serial_is_used(tx, ca=certificate.ca, serial=certificate.serial):
        detail = "the certification authority returned a serial number that it had used before"
        raise BackendFault(detail, reason="serial_used")
    claim, digest = row.claim, row.replay_sha256
    if exists:
        written = find(tx, row.id)
        if written is None or written.state not in _OPEN:
            raise _settled_meanwhile()
        claim, digest = written.claim, digest or written.replay_sha256
    elif claim is not None:
        msg = "a claim is redeemed only after it was reserved"
        raise ValueError(msg)
    spender_of_claim = None if claim is None else _spender_of(claim, spender)
    if digest is not None and answered is not None:
        replay.let_go(tx, digest, answered)
    certificates.add(tx, certificate)
    ended = {
        "state": EnrolmentState.ISSUED.value,
        "certificate": certificate.fingerprint,
        "lease_until": None,
        "settled_at": timestamp(tx.now),
        "replay_sha256": digest,
    }
    if exists:
        _move(tx, row.id, **ended)
    else:
        tx.add(enrolments, _new(tx, row, EnrolmentState.ISSUED) | ended)
    if claim is not None and spender_of_claim is not None:
        if inherits_use:
            spender_of_claim.release(tx)
        else:
            spender_of_claim.redeem(tx)


def abandoned(tx: ReadTx, *, node: str, heir: Incarnation | None, now: datetime) -> list[EnrolmentRow]:
    """Reservations that nobody works on any more: those whose lease has run out, on any node.

    An `heir` is a worker that starts, and finds beside them what the dead of `node` held: as the first of its boot that of every
    earlier boot, as a replacement that of the earlier lives of its slot. What its siblings hold is never among it.
    """
    c = enrolments.c
    dead = c.lease_until < timestamp(now)
    if heir is not None:
        left_behind = [~c.process.startswith(f"{heir.boot}/")] if (heir.slot, heir.life) == (0, 0) else []
        if heir.life:
            left_behind.append(and_(c.process.startswith(f"{heir.boot}/{heir.slot}/"), c.process != heir.name))
        dead = or_(dead, and_(c.node == node, or_(false(), *left_behind)))
    statement = (
        select(enrolments)
        .where(
            c.settled_at.is_(None),
            c.state.in_(_WORKED_ON),
            dead,
        )
        .order_by(c.created_at, c.id)
    )
    return [_read(row) for row in tx.execute(statement).mappings()]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Spending:
    """A claim with the plugin that can spend it. What the plugin raises becomes a fault with its name."""

    claim: Claim
    spender: SpendsOnIssue

    def reserve(self, tx: Tx) -> Denied | None:
        return self._asked(self.spender.reserve, tx)

    def redeem(self, tx: Tx) -> None:
        self._asked(self.spender.redeem, tx)

    def release(self, tx: Tx) -> None:
        self._asked(self.spender.release, tx)

    def _asked(self, method: Callable[[Tx, str], T], tx: Tx) -> T:
        try:
            return method(tx, self.claim.ref)
        except (KipukaError, DBAPIError):
            raise  # the writer knows what a database's error means: the transaction may have to be run again
        except Exception as error:
            log.exception("spender_failed", plugin=self.claim.plugin)
            fault = BackendFault("authentication is not available at the moment", reason=SPENDER_FAILED)
            fault.plugin = self.claim.plugin
            raise fault from error


def _spender_of(claim: Claim, spender: SpendsOnIssue | None) -> _Spending:
    if spender is None:
        # Going on would strand the held use for good.
        detail = f"the plugin {claim.plugin}, whose credential this enrolment holds, is not in use"
        raise BackendFault(detail, reason="spender_missing")
    return _Spending(claim=claim, spender=spender)


def _settled_meanwhile() -> BackendUnavailable:
    return BackendUnavailable("the enrolment was given up meanwhile, try again", reason="enrolment_settled")


def _move(tx: Tx, id: str, **values: Any) -> None:  # noqa: A002 - the column's name
    if not _moved(tx, id, **values):
        raise _settled_meanwhile()


def _moved(tx: Tx, id: str, **values: Any) -> bool:  # noqa: A002 - the column's name
    """Change an open row. Of several that end a row at once, on any node, one does."""
    statement = update(enrolments).where(enrolments.c.id == id, enrolments.c.state.in_(_OPEN)).values(**values)
    return tx.execute(statement).rowcount == 1


def _new(tx: Tx, row: NewEnrolment, state: EnrolmentState) -> dict[str, Any]:
    return {
        "id": row.id,
        "state": state.value,
        "operation": row.operation,
        "label": row.label,
        "method": row.method,
        "identity_name": row.identity_name,
        "claim_plugin": None if row.claim is None else row.claim.plugin,
        "claim_ref": None if row.claim is None else row.claim.ref,
        "ca": row.ca,
        "profile": row.profile,
        "request_sha256": row.request_sha256,
        "csr": row.csr,
        "node": tx.node,
        "process": row.process,
        "lease_until": timestamp(row.lease_until),
        "reference": None,
        "reason": None,
        "certificate": None,
        "created_at": timestamp(row.created_at),
        "settled_at": None,
        "replay_sha256": row.replay_sha256,
        "replaces": row.replaces,
    }


def _read(row: RowMapping) -> EnrolmentRow:
    values: dict[str, Any] = {str(column): value for column, value in row.items()}
    plugin, ref = values.pop("claim_plugin"), values.pop("claim_ref")
    values["claim"] = None if plugin is None else Claim(plugin=plugin, ref=ref)
    values["state"] = EnrolmentState(values["state"])
    values["created_at"] = moment(values["created_at"])
    for column in ("lease_until", "settled_at"):
        if values[column] is not None:
            values[column] = moment(values[column])
    return EnrolmentRow(**values)
