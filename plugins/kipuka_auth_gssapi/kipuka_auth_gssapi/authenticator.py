"""The authenticator: judges what a request presents in HTTP Negotiate (RFC 4559).

In the room: the header, the exchange with its connection, and the answers. Not in the room: the library
(`kipuka_auth_gssapi.acceptor`), and who has which name (`kipuka_auth_gssapi.mapping`).

A success authenticates the request that brought the last token and nothing else: nothing of it is kept for the connection
(RULES C1).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from kipuka.api import (
    Authenticated,
    AuthOutcome,
    BackendUnavailable,
    Connection,
    Continue,
    Credentials,
    DenialKind,
    Denied,
    Identity,
    NotPresented,
    Services,
)
from kipuka_auth_gssapi.acceptor import Accepted, Acceptor, Context, Failure, Unfinished
from kipuka_auth_gssapi.config import GSSAPISettings
from kipuka_auth_gssapi.exchanges import Exchanges
from kipuka_auth_gssapi.mapping import PrincipalMapping, Unmapped
from kipuka_auth_gssapi.principals import Principal
from kipuka_auth_gssapi.statuses import OUR_FAULT

__all__ = ["FAILED", "METHOD", "NOT_MAPPED", "GSSAPIAuthenticator", "binding_data", "open_gssapi", "read_token"]

METHOD = "gssapi"

FAILED = "GSSAPI authentication failed"
NOT_MAPPED = "principal not mapped"

_INITIAL_TOKEN = b"\x60"  # RFC 2743, 3.1: what every exchange begins with
_NEXT_TOKEN = b"\xa1"  # RFC 4178, 4.2.2: NegTokenResp, which only goes on with what was begun
_NTLM = b"NTLMSSP\0"


class GSSAPIAuthenticator:
    """Kerberos tickets in HTTP Negotiate."""

    def __init__(self, acceptor: Acceptor, mapping: PrincipalMapping, services: Services, *, must_bind: bool) -> None:
        self._acceptor = acceptor
        self._services = services
        self._must_bind = must_bind
        self.mapping = mapping
        """Who gets which names."""
        self.exchanges: Exchanges[Context] = Exchanges(clock=services.clock)
        """Those that wait for their next token."""

    @property
    def challenge(self) -> str:
        """RFC 4559, 4.1: without data at first."""
        return "Negotiate"

    async def authenticate(self, credentials: Credentials, /) -> AuthOutcome:
        """Judge the token in the Authorization field."""
        authorization = credentials.authorization
        if authorization is None or authorization.scheme != "negotiate":
            return NotPresented()
        connection = credentials.connection
        step = await self._step(read_token(authorization.parameters), connection)
        match step:
            case Failure() if step.reason in OUR_FAULT:
                self._services.log.error("kerberos_unusable", reason=step.reason, explanation=step.explanation)
                msg = "authentication is not available at the moment"
                raise BackendUnavailable(msg, retry_after=timedelta(seconds=30), reason=step.reason)
            case Failure():
                return _failed(step)
            case Unfinished():
                self.exchanges.keep(connection.id, step.context)
                return Continue(challenge=_challenge(step.token))
            case Accepted():
                return self._recognise(step)

    async def _step(self, token: bytes | None, connection: Connection) -> Accepted | Unfinished | Failure:
        """Hand the token to the library, where that can lead to anything.

        Only a token that goes on with an exchange takes the one that waits on the connection: over HTTP/2 it may be another
        stream's, which whoever brings a ticket of his own neither needs nor ends.
        """
        if token is None:
            return Failure(reason="malformed_token", explanation="the token is not base64")
        context = None
        if token.startswith(_NEXT_TOKEN):
            context = self.exchanges.take(connection.id)
            if context is None:
                explanation = "the token goes on with an exchange that this connection has not, or has no longer"
                return Failure(reason="no_such_exchange", explanation=explanation)
        elif not token.startswith(_INITIAL_TOKEN):
            return _foreign(token)
        binding = binding_data(connection.tls_server_end_point)
        if self._must_bind and binding is None:
            explanation = "the server's certificate has no tls-server-end-point binding"
            return Failure(reason="channel_binding_undefined", explanation=explanation)
        return await self._services.run_blocking(self._acceptor.step, token, context=context, binding=binding)

    def _recognise(self, accepted: Accepted) -> Authenticated | Denied:
        if self._must_bind and not accepted.bound:
            explanation = "the client sent no channel binding, and one is required"
            return _failed(Failure(reason="channel_binding_missing", explanation=explanation), accepted.principal)
        mapped = self.mapping.find(accepted.principal)
        if isinstance(mapped, Unmapped):
            return Denied(
                detail=NOT_MAPPED,
                reason=mapped.reason,
                kind=DenialKind.NOT_PERMITTED,
                name=str(accepted.principal),
                explanation=mapped.explanation,
            )
        return Authenticated(
            identity=Identity(
                method=METHOD,
                name=str(accepted.principal),
                subject=mapped.subject,
                permitted_names=mapped.names,
                host_name=mapped.host_name,
            ),
            response_challenge=None if accepted.token is None else _challenge(accepted.token),
        )


@asynccontextmanager
async def open_gssapi(settings: GSSAPISettings, services: Services) -> AsyncGenerator[GSSAPIAuthenticator, None]:
    """The authenticator over the keytab of the settings, which is opened when the first token comes."""
    acceptor = Acceptor(keytab=settings.keytab, services=settings.services, replay_cache=settings.replay_cache)
    yield GSSAPIAuthenticator(
        acceptor, PrincipalMapping.of(settings), services, must_bind=settings.channel_binding == "required"
    )


def read_token(parameters: str) -> bytes | None:
    """The token in `Negotiate <base64>` (RFC 4559, 4.2), or None where there is none."""
    try:
        return base64.b64decode(parameters, validate=True) or None
    except (binascii.Error, ValueError):
        return None


def binding_data(tls_server_end_point: bytes | None) -> bytes | None:
    """The channel binding's application data: its type and its value (RFC 5056, 2.1; RFC 5929, 4)."""
    return None if tls_server_end_point is None else b"tls-server-end-point:" + tls_server_end_point


def _foreign(token: bytes) -> Failure:
    """What is said of a token that neither begins an exchange nor goes on with one."""
    if token.startswith(_NTLM):
        return Failure(reason="ntlm_token", explanation="the client offers NTLM, so it has found no ticket")
    return Failure(reason="malformed_token", explanation="the token is not one of GSSAPI")


def _failed(failure: Failure, principal: Principal | None = None) -> Denied:
    name = None if principal is None else str(principal)
    return Denied(detail=FAILED, reason=failure.reason, name=name, explanation=failure.explanation)


def _challenge(token: bytes) -> str:
    return f"Negotiate {base64.b64encode(token).decode('ascii')}" if token else "Negotiate"
