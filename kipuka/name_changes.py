"""An administrator lets a certificate change its names at the next renewal (RULES F3).

In the room: the use case, from the order to a durable approval, its withdrawal, and the end of those that nobody has used. Not in the room: HTTP, the command line, and the renewal that uses the
approval (`kipuka.enrolment`), which alone decides whether the profile allows changes at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

from kipuka.api import (
    Conflict,
    Identity,
    MalformedRequest,
    NameChangeApproved,
    NameChangeWithdrawn,
    Tx,
    UnknownResource,
    timestamp,
)
from kipuka.api.errors import RequestError
from kipuka.distinguished_names import format_dn, parse_dn
from kipuka.store import certificates, name_changes
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.database import Store
from kipuka.store.name_changes import NameChangeApproval
from kipuka.x509.names import format_general_name, parse_general_name
from kipuka.x509.registration import Asked, vouched_for

__all__ = ["LONGEST", "MOST_NAMES", "NameChangeOrder", "approve_name_change", "forget_ended", "withdraw_name_change"]

EventT = TypeVar("EventT", NameChangeApproved, NameChangeWithdrawn)

LONGEST = timedelta(days=365)
MOST_NAMES = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class NameChangeOrder:
    """What an administrator approves. `id` is as RULES E4 says; `subject` is RFC 4514, and empty for none; `names` as
    `kipuka.x509.names.parse_general_name` reads them. They are all the names that the next certificate has.
    """

    id: str
    subject: str
    names: Sequence[str]
    until: datetime


async def approve_name_change(store: Store, order: NameChangeOrder) -> NameChangeApproval:
    """Write the approval down, in place of an earlier one.

    When it returns the approval is durable. Raises `UnknownResource`, `Conflict` for a certificate that cannot renew any more or an id that
    is not unique, `MalformedRequest` for names that cannot be issued.
    """
    now = store.clock()
    if not now < order.until <= now + LONGEST:
        raise MalformedRequest(f"until is a time within the next {LONGEST.days} days", reason="invalid_fields")
    asked = _read(order)
    approved = await store.write(partial(_approve, order=order, asked=asked))
    if isinstance(approved, RequestError):
        raise approved
    return approved


async def withdraw_name_change(store: Store, id: str) -> NameChangeApproval:  # noqa: A002 - named as in `NameChangeOrder`
    """Take the approval for the certificate of that id (RULES E4) back; what was withdrawn.

    When it returns nothing is approved any more, durably. Raises `UnknownResource` where there is no such certificate, or nothing is approved for
    it (any more), and `Conflict` for an id that is not unique.
    """
    withdrawn = await store.write(partial(_withdraw, id=id))
    if isinstance(withdrawn, RequestError):
        raise withdrawn
    return withdrawn


async def forget_ended(store: Store) -> None:
    """The job that deletes approvals which have ended unused. The audit log has had their end from the beginning."""
    if await store.read(name_changes.any_ended):
        await store.write(name_changes.forget_ended)


def _read(order: NameChangeOrder) -> Asked:
    if len(order.names) > MOST_NAMES:
        raise MalformedRequest(f"there are more than {MOST_NAMES} names", reason="invalid_fields")
    try:
        subject = parse_dn(order.subject)
        names = [parse_general_name(name) for name in order.names]
        asked = vouched_for(Identity(method="admin", name="an administrator"), subject, names)
    except ValueError as error:
        raise MalformedRequest(f"a name cannot be read: {error}", reason="invalid_fields") from error
    except RequestError as refused:
        raise MalformedRequest(refused.detail, reason="invalid_fields") from refused
    if not asked.subject.rdns and not asked.sans:
        raise MalformedRequest("neither a subject nor a name is given", reason="invalid_fields")
    return asked


def _withdraw(tx: Tx, *, id: str) -> NameChangeApproval | RequestError:  # noqa: A002 - as above
    """What was withdrawn, or the refusal, which has written nothing."""
    try:
        found = certificates.required(tx, id)
    except (Conflict, UnknownResource) as refusal:
        return refusal
    withdrawn = name_changes.withdraw(tx, found.fingerprint)
    if withdrawn is None:
        return UnknownResource("no change of names is approved for this certificate")
    tx.audit(_event(NameChangeWithdrawn, found, withdrawn))
    return withdrawn


def _event(kind: type[EventT], found: RecordedCertificate, approval: NameChangeApproval) -> EventT:
    return kind(
        ca=found.ca,
        serial=found.serial,
        fingerprint=found.fingerprint,
        subject=found.subject,
        new_subject=approval.subject,
        new_names=approval.names,
        until=timestamp(approval.until),
    )


def _approve(tx: Tx, *, order: NameChangeOrder, asked: Asked) -> NameChangeApproval | RequestError:
    """The approval, or the refusal, which has written nothing."""
    try:
        found = certificates.required(tx, order.id)
    except (Conflict, UnknownResource) as refusal:
        return refusal
    if certificates.is_revoked(tx, found.fingerprint):
        return Conflict("the certificate is revoked, and cannot renew", reason="revoked")
    approval = NameChangeApproval(
        certificate=found.fingerprint,
        subject=format_dn(asked.subject),
        names=tuple(format_general_name(name) for name in asked.sans),
        until=order.until,
    )
    name_changes.approve(tx, approval)
    tx.audit(_event(NameChangeApproved, found, approval))
    return approval
