"""The Quart application: routes, the errors' way out, and the server around it.

In the room: which path leads where on which listener, and how a request that failed is logged, audited and answered. Not in
the room: what the resources do (`kipuka.http.est`, `kipuka.http.admin`), sockets (`kipuka.http.server`).
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import Any, cast

import structlog
from quart import Quart, Response, g, request
from quart.routing import QuartRule
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed

import kipuka
from kipuka.api import (
    AdminDenied,
    ConfigurationLoaded,
    HandshakeFailed,
    MethodNotAllowed,
    RequestRejected,
    ServerStarted,
    ServerStopped,
    UnknownResource,
)
from kipuka.api.errors import BackendError, KipukaError, RequestError
from kipuka.est.wire import Base64Lines
from kipuka.http.admin import AdminResources, BearerTokens, MountedRoute
from kipuka.http.admin_routes import host_routes
from kipuka.http.body import DRAIN_LIMIT, WholeBody
from kipuka.http.door import Visit, enter, path_of
from kipuka.http.est import EstResources
from kipuka.http.responses import Answer, answer_error, to_json, to_text
from kipuka.http.server import ASGIApplication, Listener, ServerLimits, serve
from kipuka.http.tls import ClientCertificates, HandshakeFailure, TLSMaterial, build_context
from kipuka.runtime import ADMIN_LOCKOUT, Runtime
from kipuka.store.context import AuditContext, audit_context

__all__ = ["create_app", "run"]

log = structlog.get_logger(__name__)

ADMIN_PREFIX = "/admin"


def create_app(runtime: Runtime) -> Quart:
    """The application over an open runtime."""
    app = Quart("kipuka", static_folder=None)
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = True
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.config["MAX_CONTENT_LENGTH"] = None  # kipuka.http.body has bounded it already
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None  # the seam's write-progress deadline is what a slow reader meets
    app.before_request(_enter)
    app.register_error_handler(KipukaError, _Failures(runtime).kipuka_error)
    app.register_error_handler(HTTPException, _Failures(runtime).http_error)
    app.register_error_handler(Exception, _Failures(runtime).unexpected)
    app.after_request(_leave)
    _mount_est(app, runtime)
    if runtime.settings.admin is not None:
        _mount_admin(app, runtime)
    return app


def _mount_est(app: Quart, runtime: Runtime) -> None:
    resources = EstResources(
        labels=runtime.labels,
        enrolment=runtime.enrolment,
        base64_lines=Base64Lines(runtime.settings.est.base64_lines),
        checkpoint=runtime.checkpoint,
    )

    async def est(**segments: str) -> Response:
        _only_on("est", runtime)
        visit: Visit = g.visit
        return await resources.serve(request, visit, tuple(segments.values()))

    base = runtime.settings.est.base_path
    app.view_functions["est"] = est
    for rule in (f"{base}/<operation>", f"{base}/<label>/<operation>"):
        # methods=None: every method arrives, so that the answer to a wrong one can name those of that operation
        app.url_map.add(QuartRule(rule, endpoint="est", methods=None, provide_automatic_options=False))


def _mount_admin(app: Quart, runtime: Runtime) -> None:
    admin = runtime.settings.admin
    bearer = None if admin is None else admin.bearer_token
    items = () if bearer is None else bearer.tokens
    tokens = BearerTokens(
        configured={item.token_hash.removeprefix("sha256:"): item.description for item in items},
        store=runtime.store,
        lockouts=runtime.host_services.lockouts(ADMIN_LOCKOUT),
    )
    resources = AdminResources(tokens=tokens, store=runtime.store)
    host = [MountedRoute(route=route, opened=runtime.store, services=runtime.host_services) for route in host_routes()]
    plugins = [MountedRoute(route=item.route, opened=item.opened, services=item.services) for item in runtime.routes]
    for mounted in (*host, *plugins):
        _mount_route(app, runtime, resources, mounted)


def _mount_route(app: Quart, runtime: Runtime, resources: AdminResources, mounted: MountedRoute) -> None:
    async def handle(**path: str) -> Response:
        _only_on("admin", runtime)
        visit: Visit = g.visit
        return await resources.serve(request, visit, mounted, path)

    route = mounted.route
    # a name may contain slashes: certificates are addressed as ca/serial too (RULES E4)
    rule = route.path.replace("{", "<path:").replace("}", ">")
    app.add_url_rule(
        rule, f"{route.method} {route.path}", handle, methods=[route.method], provide_automatic_options=False
    )


def _only_on(listener: str, runtime: Runtime) -> None:
    """With a listener of its own, the admin interface is nowhere else, and nothing else is there."""
    visit: Visit = g.visit
    if runtime.settings.server.admin_listen is not None and visit.connection.listener != listener:
        raise UnknownResource("there is no such resource")


async def _enter() -> None:
    g.visit = enter(request)


async def _leave(response: Response) -> Response:
    visit: Visit | None = g.get("visit")
    if visit is not None:
        response.headers["X-Request-Id"] = visit.request_id
        log.info("request", method=request.method, path=path_of(request), status=response.status_code)
    return response


class _Failures:
    """How errors leave: logged, audited, and answered by the one table."""

    def __init__(self, runtime: Runtime) -> None:
        self._store = runtime.store

    async def kipuka_error(self, error: KipukaError) -> Response:
        if not isinstance(error, RequestError | BackendError):
            return await self.unexpected(error)
        answer = answer_error(error)
        if isinstance(error, BackendError):
            log.warning("request_failed", reason=error.reason, cause=repr(error.__cause__))
        # A client that first asks what it may present has failed at nothing (BouncyCastle and libest always do).
        asks = answer.reason == "no_credential" and not _is_admin(request.path)
        if not error.audited and not asks:
            await self._audit(answer)
        return self._render(answer)

    async def http_error(self, error: HTTPException) -> Response:
        if isinstance(error, WerkzeugMethodNotAllowed):
            allowed = sorted(error.valid_methods or ())
            return await self.kipuka_error(
                MethodNotAllowed(f"only {', '.join(allowed)} can be used here", allowed=allowed)
            )
        if error.code == 404 or error.code is None or error.code < 400:
            return await self.kipuka_error(UnknownResource("there is no such resource"))
        answer = Answer(status=error.code, detail="the request cannot be read", reason="malformed_request")
        await self._audit(answer)
        return self._render(answer)

    async def unexpected(self, error: Exception) -> Response:
        visit: Visit | None = g.get("visit")
        log.error("internal_error", exc_info=error)
        name = visit.request_id if visit is not None else "unknown"
        return self._render(Answer(status=500, detail=f"internal error, request {name}", reason="internal_error"))

    async def _audit(self, answer: Answer) -> None:
        path = path_of(request)
        event = (
            AdminDenied(method=request.method, path=path, status=answer.status, reason=answer.reason)
            if _is_admin(request.path)
            else RequestRejected(method=request.method, path=path, status=answer.status, reason=answer.reason)
        )
        try:
            await self._store.audit(event)
        except BackendError as error:
            log.error("event_not_recorded", event_name=event.name, reason=error.reason)

    def _render(self, answer: Answer) -> Response:
        if not _is_admin(request.path):
            response = to_text(answer)
        else:
            visit: Visit | None = g.get("visit")
            response = to_json(answer, visit.request_id if visit is not None else "")
        if answer.reason in {"request_too_large", "body_timeout"}:
            response.headers["Connection"] = "close"
        return response


def _is_admin(path: str) -> bool:
    return path == ADMIN_PREFIX or path.startswith(f"{ADMIN_PREFIX}/")


async def run(
    runtime: Runtime, *, stop: asyncio.Event | None = None, started: asyncio.Future[Any] | None = None
) -> None:
    """Serve until SIGTERM or SIGINT (or `stop`); returns when the last request has been answered.

    `started`, where given, gets the addresses that are listened on.
    """
    settings = runtime.settings
    stop = stop or _stop_on_signals()
    app = create_app(runtime)
    limits = ServerLimits(
        handshake_timeout=settings.server.handshake_timeout.total_seconds(),
        header_timeout=settings.server.header_timeout.total_seconds(),
        body_timeout=settings.server.body_timeout.total_seconds(),
        idle_timeout=settings.server.idle_timeout.total_seconds(),
        write_timeout=settings.server.write_timeout.total_seconds(),
        shutdown_timeout=settings.server.shutdown_timeout.total_seconds(),
        max_body_size=settings.server.max_body_size + DRAIN_LIMIT,  # WholeBody drains what is over the limit
        max_header_size=runtime.max_header_size,
    )
    listeners = _listeners(runtime)
    background: set[asyncio.Task[None]] = set()

    def handshake_failed(failure: HandshakeFailure) -> None:
        log.info(
            "handshake_failed",
            listener=failure.listener,
            client=failure.client_address,
            reason=failure.reason,
            detail=failure.detail,
        )
        audit_context.set(AuditContext(client_address=failure.client_address))
        event = HandshakeFailed(listener=failure.listener, reason=failure.reason)
        task = asyncio.get_running_loop().create_task(_record(runtime, event))
        background.add(task)
        task.add_done_callback(background.discard)

    async def listening(addresses: Sequence[tuple[str, int]]) -> None:
        await _announce(runtime, addresses)
        if started is not None:
            started.set_result(list(addresses))

    wrapped = WholeBody(
        cast("ASGIApplication", app),
        limit=settings.server.max_body_size,
        deadline=settings.server.body_timeout.total_seconds(),
    )
    await serve(wrapped, listeners, limits, on_handshake_failure=handshake_failed, started=listening, stop=stop)
    await runtime.enrolment.drain()
    if background:
        await asyncio.wait(background)
    await runtime.store.audit(ServerStopped(pid=os.getpid()))
    log.info("server_stopped")


def _listeners(runtime: Runtime) -> list[Listener]:
    settings = runtime.settings
    password = settings.tls.key_password
    material = TLSMaterial(
        certificate=settings.tls.cert,
        key=settings.tls.key,
        password=None if password is None else password.get_secret_value().encode(),
    )
    mode = runtime.client_auth.mode if runtime.client_auth is not None else "none"
    wanted: ClientCertificates = "require" if mode == "required" else "ask"
    if mode == "none" or not runtime.anchors:
        wanted = "none"
    context = build_context(
        material, min_version=settings.tls.min_version, client_certificates=wanted, anchors=runtime.anchors
    )
    listen = settings.server.listen
    found = [Listener(name="est", host=listen.host, port=listen.port, context=context)]
    admin = settings.server.admin_listen
    if admin is not None and settings.admin is not None:
        plain = build_context(material, min_version=settings.tls.min_version, client_certificates="none", anchors=())
        found.append(Listener(name="admin", host=admin.host, port=admin.port, context=plain))
    return found


async def _announce(runtime: Runtime, addresses: Sequence[tuple[str, int]]) -> None:
    """The first events of a run: which configuration took effect, and that the server takes connections."""
    settings = runtime.settings
    names = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]
    await runtime.store.audit(
        ConfigurationLoaded(
            file=str(settings.file),
            sha256=settings.sha256,
            plugins=runtime.plugin_names,
            permissive=runtime.permissive,
        )
    )
    await runtime.store.audit(
        ServerStarted(
            version=kipuka.__version__,
            listen=names[0],
            admin_listen=names[1] if len(names) > 1 else None,
            pid=os.getpid(),
        )
    )
    log.info("listening", addresses=names)


async def _record(runtime: Runtime, event: HandshakeFailed) -> None:
    try:
        await runtime.store.audit(event)
    except BackendError as error:
        log.error("event_not_recorded", event_name=event.name, reason=error.reason)


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
