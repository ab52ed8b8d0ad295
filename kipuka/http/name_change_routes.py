"""The admin routes that let a certificate change its names, and take that back.

In the room: their body and answer. Not in the room: authentication and HTTP (`kipuka.http.admin`), and what an approval is
(`kipuka.name_changes`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from kipuka.api import AdminReply, AdminRequest, AdminRoute, timestamp
from kipuka.name_changes import MOST_NAMES, NameChangeOrder, approve_name_change, withdraw_name_change
from kipuka.store.database import Store

__all__ = ["name_change_routes"]


class NameChangeBody(BaseModel):
    """All the names that the certificate's successor may have."""

    model_config = ConfigDict(extra="forbid")

    subject: Annotated[str, Field(max_length=1024)] = ""
    """As RFC 4514 writes it; empty for none."""
    names: Annotated[tuple[Annotated[str, Field(max_length=512)], ...], Field(max_length=MOST_NAMES)] = ()
    """Alternative names: `DNS:a.example`, `IP:192.0.2.1`, `email:a@example.com`, `URI:urn:device:1`."""
    until: AwareDatetime
    """When the approval ends, at most a year ahead."""


class NameChangeAnswer(BaseModel):
    """The approval as it is recorded."""

    id: str
    """SHA-256 fingerprint of the certificate that may be renewed so, once."""
    subject: str
    names: tuple[str, ...]
    until: str


async def approve(store: Store, request: AdminRequest) -> AdminReply:
    """POST /admin/certificates/{id}/name-change; the id is as for GET (RULES E4)."""
    body: NameChangeBody = request.body
    order = NameChangeOrder(id=request.path["id"], subject=body.subject, names=body.names, until=body.until)
    approval = await approve_name_change(store, order)
    answer = NameChangeAnswer(
        id=approval.certificate, subject=approval.subject, names=approval.names, until=timestamp(approval.until)
    )
    return AdminReply(body=answer)


async def withdraw(store: Store, request: AdminRequest) -> AdminReply:
    """DELETE /admin/certificates/{id}/name-change; the id is as for GET (RULES E4)."""
    await withdraw_name_change(store, request.path["id"])
    return AdminReply()


def name_change_routes() -> list[AdminRoute]:
    """The routes; their handlers are given the store."""
    return [
        AdminRoute(
            method="POST",
            path="/admin/certificates/{id}/name-change",
            summary="Let a certificate change its names at the next renewal",
            handler=approve,
            body=NameChangeBody,
            response=NameChangeAnswer,
        ),
        AdminRoute(
            method="DELETE",
            path="/admin/certificates/{id}/name-change",
            summary="Take an approved change of names back",
            handler=withdraw,
            status=204,
        ),
    ]
