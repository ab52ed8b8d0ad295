"""The admin interface: how a route's record becomes HTTP.

In the room: validation of query and body by the route's models, JSON answers, the audit event of each access and of each
refusal. Not in the room: who may administer (`kipuka.administrators`), and what the routes do (`kipuka.http.admin_routes`
for the host's own, plugins for theirs).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import structlog
from pydantic import BaseModel, ValidationError
from quart import Request, Response

from kipuka.administrators import Administrator, Administrators, TurnedAway
from kipuka.api import (
    AdminAccess,
    AdminDenied,
    AdminReply,
    AdminRequest,
    AdminRoute,
    BackendFault,
    BackendUnavailable,
    MalformedRequest,
    Services,
)
from kipuka.api.errors import BackendError, KipukaError, RequestError
from kipuka.audit.failures import Failures
from kipuka.audit.gate import AuditGate
from kipuka.http.door import Visit, authorization_of, check_body, path_of, refuse_cross_site, require_media_type
from kipuka.http.responses import STATUS, no_content
from kipuka.store.context import audit_context
from kipuka.store.database import Store

__all__ = ["AdminResources", "MountedRoute"]

log = structlog.get_logger(__name__)

PLUGIN_TIMEOUT = 60.0
"""Seconds that the handler of a plugin's route may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MountedRoute:
    """A route, with the object and the services its handler is given; `plugin` None: it is the host's own."""

    route: AdminRoute
    opened: object
    services: Services
    plugin: str | None = None


class AdminResources:
    """Serves the mounted routes to authenticated administrators."""

    def __init__(
        self, *, administrators: Administrators, store: Store, failures: Failures, audit_gate: AuditGate
    ) -> None:
        self._administrators = administrators
        self._store = store
        self._failures = failures
        self._audit_gate = audit_gate

    async def serve(self, request: Request, visit: Visit, mounted: MountedRoute, path: Mapping[str, str]) -> Response:
        """Authenticate, validate, call the handler, render; each access is audited before it is answered."""
        refuse_cross_site(request)
        administrator = await self._administrator(request, visit)
        audit_context.set(replace(audit_context.get(), identity=f"admin:{administrator.name}"))
        _refuse_nul([*path.values(), *request.args.keys(), *request.args.values()])
        route = mounted.route
        if route.method != "GET":
            await self._audit_gate.require()
        asked = AdminRequest(
            administrator=administrator.name,
            services=mounted.services,
            path=path,
            query=_query(request, route.query),
            body=await _body(request, route.body),
        )
        if mounted.plugin is None:
            response = _rendered(await route.handler(mounted.opened, asked), route)
        else:
            response = await _answer_of_plugin(mounted, asked, mounted.plugin)
        event = AdminAccess(
            method=route.method,
            path=route.path,
            status=response.status_code,
            proofs=administrator.proofs,
            refused=administrator.refused,
        )
        await self._store.audit(event)
        return response

    async def _administrator(self, request: Request, visit: Visit) -> Administrator:
        outcome = await self._administrators.recognise(
            visit.connection, authorization_of(request), cache=visit.path_cache
        )
        match outcome:
            case Administrator():
                return outcome
            case TurnedAway(error=error, refused=refused):
                event = AdminDenied(
                    method=request.method,
                    path=path_of(request),
                    status=STATUS[type(error)],
                    reason=error.reason,
                    refused=refused,
                )
                await self._failures.tell([event])
                error.audited = True
                raise error


def _rendered(reply: AdminReply, route: AdminRoute) -> Response:
    response = _json(reply.body, route.status)
    response.headers.update(dict(reply.headers))
    return response


async def _answer_of_plugin(mounted: MountedRoute, asked: AdminRequest, plugin: str) -> Response:
    """A plugin's handler under a time limit. What it raises beyond its contract, or answers, is its own trouble: a 503."""
    route = mounted.route
    try:
        async with asyncio.timeout(PLUGIN_TIMEOUT):
            return _rendered(await route.handler(mounted.opened, asked), route)
    except BackendError as error:
        error.plugin = error.plugin or plugin
        raise
    except KipukaError:
        raise
    except TimeoutError as error:
        log.error("admin_route_timed_out", plugin=plugin, method=route.method, path=route.path)
        fault: BackendError = BackendUnavailable("the plugin did not answer in time", reason="plugin_timed_out")
        cause: Exception = error
    except Exception as error:
        log.error("admin_route_failed", plugin=plugin, method=route.method, path=route.path, exc_info=error)
        fault = BackendFault("the plugin failed", reason="plugin_failed")
        cause = error
    fault.plugin = plugin
    raise fault from cause


def _refuse_nul(texts: Iterable[str]) -> None:
    """No name that is looked up has a NUL, and not every database can even be asked for one."""
    if any("\0" in text for text in texts):
        raise MalformedRequest("the path or the query has a NUL character")


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
