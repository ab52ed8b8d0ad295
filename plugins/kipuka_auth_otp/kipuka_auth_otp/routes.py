"""The admin routes: POST and GET /admin/otp, GET and DELETE /admin/otp/{id}.

In the room: the routes' records and their thin handlers. Not in the room: authentication of administrators, which is the host's,
and the work (`kipuka_auth_otp.tokens`).
"""

from __future__ import annotations

from kipuka.api import AdminReply, AdminRequest, AdminRoute
from kipuka_auth_otp.authenticator import OTPAuthenticator
from kipuka_auth_otp.tokens import CreatedToken, NewToken, TokenPage, TokenQuery, TokenView

__all__ = ["ROUTES"]


async def _create(otp: OTPAuthenticator, request: AdminRequest) -> AdminReply:
    wanted: NewToken = request.body
    made = await otp.tokens.create(wanted)
    # The answer holds a secret: no cache may keep it (RFC 9111, 5.2.2.5).
    return AdminReply(body=made.created, headers={"Location": f"/admin/otp/{made.id}", "Cache-Control": "no-store"})


async def _list(otp: OTPAuthenticator, request: AdminRequest) -> AdminReply:
    query: TokenQuery = request.query or TokenQuery()
    return AdminReply(body=await otp.tokens.listing(query))


async def _view(otp: OTPAuthenticator, request: AdminRequest) -> AdminReply:
    return AdminReply(body=await otp.tokens.view(request.path["id"]))


async def _revoke(otp: OTPAuthenticator, request: AdminRequest) -> AdminReply:
    await otp.tokens.revoke(request.path["id"])
    return AdminReply()


ROUTES = (
    AdminRoute(
        method="POST",
        path="/admin/otp",
        summary="Make a one-time password; it is shown in this answer and never again",
        body=NewToken,
        response=CreatedToken,
        status=201,
        handler=_create,
    ),
    AdminRoute(
        method="GET",
        path="/admin/otp",
        summary="List one-time passwords, without the passwords",
        query=TokenQuery,
        response=TokenPage,
        handler=_list,
    ),
    AdminRoute(
        method="GET",
        path="/admin/otp/{id}",
        summary="Show one one-time password, without the password",
        response=TokenView,
        handler=_view,
    ),
    AdminRoute(
        method="DELETE",
        path="/admin/otp/{id}",
        summary="Revoke a one-time password",
        status=204,
        handler=_revoke,
    ),
)
