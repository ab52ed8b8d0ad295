"""The admin route that revokes a certificate.

In the room: its body and its answer. Not in the room: authentication and HTTP (`kipuka.http.admin`), and what revoking means
(`kipuka.revocation`).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from kipuka.api import AdminReply, AdminRequest, AdminRoute
from kipuka.http.admin_routes import CertificateDetail, detail_of
from kipuka.revocation import MAX_COMMENT, RevocationOrder, Revocations
from kipuka.x509.revocation import Reason

__all__ = ["revocation_routes"]


class RevocationBody(BaseModel):
    """Why the certificate is revoked."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason = Reason.UNSPECIFIED
    """As RFC 5280, 5.3.1 spells it; `removeFromCRL` lifts a hold."""
    invalidity_date: AwareDatetime | None = None
    """Since when the key is thought to be compromised, or the certificate otherwise not good (RFC 5280, 5.3.2)."""
    comment: Annotated[str, Field(max_length=MAX_COMMENT)] | None = None
    """For the audit log: one line."""


async def revoke_certificate(revocations: Revocations, request: AdminRequest) -> AdminReply:
    """POST /admin/certificates/{id}/revoke; the id is as for GET (RULES E4)."""
    body: RevocationBody = request.body
    revoked = await revocations.revoke(
        RevocationOrder(
            id=request.path["id"],
            reason=body.reason,
            invalidity_date=body.invalidity_date,
            comment=body.comment,
        )
    )
    return AdminReply(body=detail_of(revoked.certificate, request.services.clock()))


def revocation_routes() -> list[AdminRoute]:
    """The route; its handler is given the runtime's `Revocations`."""
    return [
        AdminRoute(
            method="POST",
            path="/admin/certificates/{id}/revoke",
            summary="Revoke a certificate, or lift its hold",
            handler=revoke_certificate,
            body=RevocationBody,
            response=CertificateDetail,
        )
    ]
