"""The admin interface: who may use it, and how a route's record becomes HTTP.

In the room: bearer tokens (RULES E3), validation of query and body by the route's models, JSON answers, the audit event
of each access. Not in the room: what the routes do (`kipuka.http.admin_routes` for the host's own, plugins for theirs).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from pydantic import BaseModel, ValidationError
from quart import Request, Response

from kipuka.api import (
    AdminAccess,
    AdminRequest,
    AdminRoute,
    Authorization,
    DenialKind,
    LockedOut,
    Lockouts,
    MalformedRequest,
    NotAuthenticated,
    Services,
)
from kipuka.api.errors import RequestError
from kipuka.audit.gate import AuditGate
from kipuka.http.door import Visit, authorization_of, check_body, refuse_cross_site, require_media_type
from kipuka.http.responses import no_content
from kipuka.store import admin_tokens
from kipuka.store.context import audit_context
from kipuka.store.database import Store

__all__ = ["AdminResources", "BearerTokens", "MountedRoute"]

CHALLENGE = 'Bearer realm="kipuka admin"'


@dataclass(frozen=True, kw_only=True, slots=True)
class MountedRoute:
    """A route, with the object and the services its handler is given."""

    route: AdminRoute
    opened: object
    services: Services


class BearerTokens:
    """Decides which administrator a bearer token belongs to: those of the file, and those in the store."""

    def __init__(self, *, configured: Mapping[str, str], store: Store, lockouts: Lockouts) -> None:
        """`configured` maps the SHA-256 of a token, in hexadecimal, to its description."""
        self._configured = {digest.encode("ascii"): description for digest, description in configured.items()}
        self._store = store
        self._lockouts = lockouts

    async def administrator(self, authorization: Authorization | None, address: str) -> str:
        """The administrator's name for the audit log. Raises `NotAuthenticated` or `LockedOut`."""
        if authorization is None:
            raise NotAuthenticated("a bearer token is required", challenges=[CHALLENGE], reason="no_credential")
        if authorization.scheme != "bearer":
            detail = "the admin interface takes bearer tokens only"
            raise NotAuthenticated(detail, challenges=[CHALLENGE], reason="other_scheme")
        locked = await self._lockouts.check(address)
        if locked is None:
            name = await self._find(authorization.parameters)
            if name is not None:
                return name
            locked = await self._lockouts.failure(address)
        if locked is not None and locked.kind is DenialKind.LOCKED and locked.retry_after is not None:
            raise LockedOut(locked.detail, retry_after=locked.retry_after)
        challenge = f'{CHALLENGE}, error="invalid_token"'
        raise NotAuthenticated("invalid bearer token", challenges=[challenge], reason="invalid_bearer_token")

    async def _find(self, token: str) -> str | None:
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        found: str | None = None
        for known, description in self._configured.items():
            if hmac.compare_digest(known, digest.encode("ascii")):
                found = description
        if found is not None:
            return f"bearer:{found}"
        row = await self._store.read(partial(admin_tokens.find, sha256=digest))
        return None if row is None else f"bearer:{row.description}"


class AdminResources:
    """Serves the mounted routes to authenticated administrators."""

    def __init__(self, *, tokens: BearerTokens, store: Store, audit_gate: AuditGate) -> None:
        self._tokens = tokens
        self._store = store
        self._audit_gate = audit_gate

    async def serve(self, request: Request, visit: Visit, mounted: MountedRoute, path: Mapping[str, str]) -> Response:
        """Authenticate, validate, call the handler, render; each access is audited before it is answered."""
        refuse_cross_site(request)
        name = await self._tokens.administrator(authorization_of(request), visit.connection.client_address)
        audit_context.set(replace(audit_context.get(), identity=f"admin:{name}"))
        route = mounted.route
        if route.method != "GET":
            await self._audit_gate.require()
        reply = await mounted.route.handler(
            mounted.opened,
            AdminRequest(
                administrator=name,
                services=mounted.services,
                path=path,
                query=_query(request, route.query),
                body=await _body(request, route.body),
            ),
        )
        response = _json(reply.body, route.status)
        response.headers.update(dict(reply.headers))
        event = AdminAccess(method=route.method, path=route.path, status=response.status_code)
        await self._store.audit(event)
        return response


def _query(request: Request, model: type[BaseModel] | None) -> BaseModel | None:
    given: dict[str, str] = {}
    for key, value in request.args.items(multi=True):
        if key in given:
            raise MalformedRequest(f"the query has {key} more than once")
        given[key] = value
    if model is None:
        if given:
            raise MalformedRequest("this resource takes no query")
        return None
    return _validated(model, given)


async def _body(request: Request, model: type[BaseModel] | None) -> BaseModel | None:
    if model is None:
        check_body(request)
        return None
    require_media_type(request, "application/json")
    check_body(request)
    content = cast("bytes", await request.get_data(as_text=False))
    try:
        value = json.loads(content.decode("utf-8"), object_pairs_hook=_object)
    except RequestError:
        raise
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not JSON") from error
    return _validated(model, value)


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedRequest("the body has a member more than once")
    return result


def _validated(model: type[BaseModel], value: object) -> BaseModel:
    """The value by its model; the sentence for the client names fields and never repeats a value, which may be secret."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        parts: list[str] = []
        for item in error.errors(include_url=False, include_input=False):
            where = ".".join(str(part) for part in item["loc"])
            message = item["msg"].removeprefix("Value error, ")
            parts.append(f"{where}: {message}" if where else message)
        raise MalformedRequest("; ".join(parts), reason="invalid_fields") from error


def _json(body: BaseModel | None, status: int) -> Response:
    if body is None:
        return no_content()
    text = body.model_dump_json() + "\n"
    response = Response(text, status=status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
