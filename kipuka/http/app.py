"""The Quart application: routes, the errors' way out, and the server around it.

In the room: which path leads where on which listener, and how a request that failed is logged, audited and answered. Not in
the room: what the resources do (`kipuka.http.est`, `kipuka.http.admin`), sockets (`kipuka.http.server`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import cast

import structlog
from quart import Quart, Response, g, request
from quart.routing import QuartRule
from werkzeug.exceptions import HTTPException
from werkzeug.exceptions import MethodNotAllowed as WerkzeugMethodNotAllowed

import kipuka
from kipuka.administrators import Administrators
from kipuka.api import (
    AdminDenied,
    ConfigurationLoaded,
    MethodNotAllowed,
    RequestRejected,
    ServerStarted,
    ServerStopped,
    UnknownResource,
)
from kipuka.api.errors import BackendError, KipukaError, RequestError
from kipuka.api.events import AuditEvent
from kipuka.config import Address, Settings
from kipuka.est.wire import Base64Lines
from kipuka.http.admin import AdminResources, MountedRoute
from kipuka.http.admin_routes import host_routes
from kipuka.http.body import DRAIN_LIMIT, WholeBody
from kipuka.http.door import (
    Visit,
    enter,
    keep_pace,
    path_of,
    require_demanded_certificate,
    require_plain_path,
)
from kipuka.http.est import EstResources
from kipuka.http.generations import Generation, Generations
from kipuka.http.health import HEALTH_PATHS, alive, is_probe, ready
from kipuka.http.limits import files_needed, limits_of_worker, most_open_files, raise_open_files
from kipuka.http.listeners import CertificateRequest, Purpose, certificate_request
from kipuka.http.name_change_routes import name_change_routes
from kipuka.http.proxy_protocol import Proxies
from kipuka.http.rates import Pace, RequestRate
from kipuka.http.reports import open_reports
from kipuka.http.responses import Answer, answer_error, to_json, to_text
from kipuka.http.revocation_routes import revocation_routes
from kipuka.http.server import ASGIApplication, Listener, ServerLimits, serve
from kipuka.http.tls import TLSMaterial, build_context
from kipuka.runtime import Runtime
from kipuka.store.context import audit_context
from kipuka.store.database import Store, is_of_store

__all__ = ["create_app", "generation_over", "names_of", "opening_events", "run", "serve_generations"]

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
    _mount_health(app, runtime)
    _mount_est(app, runtime)
    if runtime.administrators is not None:
        _mount_admin(app, runtime, runtime.administrators)
    return app


def _mount_health(app: Quart, runtime: Runtime) -> None:
    async def healthz() -> Response:
        _require_probe()
        return alive()

    async def readyz() -> Response:
        _require_probe()
        return await ready(request, runtime.readiness)

    for path, handle in zip(HEALTH_PATHS, (healthz, readyz), strict=True):
        app.add_url_rule(path, path, handle, methods=["GET"], provide_automatic_options=False)


def _require_probe() -> None:
    if not is_probe(request):  # written with percent signs
        raise UnknownResource("there is no such resource")


def _mount_est(app: Quart, runtime: Runtime) -> None:
    resources = EstResources(
        labels=runtime.labels,
        enrolment=runtime.enrolment,
        base64_lines=Base64Lines(runtime.settings.est.base64_lines),
        checkpoint=runtime.checkpoint,
    )

    async def est(**segments: str) -> Response:
        _only_on("est", runtime)
        require_plain_path(request, base, segments=len(segments))
        visit: Visit = g.visit
        return await resources.serve(request, visit, tuple(segments.values()))

    base = runtime.settings.est.base_path
    app.view_functions["est"] = est
    for rule in (f"{base}/<operation>", f"{base}/<label>/<operation>"):
        # methods=None: every method arrives, so that the answer to a wrong one can name those of that operation
        app.url_map.add(QuartRule(rule, endpoint="est", methods=None, provide_automatic_options=False))


def _mount_admin(app: Quart, runtime: Runtime, administrators: Administrators) -> None:
    resources = AdminResources(
        administrators=administrators,
        store=runtime.store,
        failures=runtime.failures,
        audit_gate=runtime.audit_gate,
    )
    host = [MountedRoute(route=route, opened=runtime.store, services=runtime.host_services) for route in host_routes()]
    host += [
        MountedRoute(route=route, opened=runtime.revocations, services=runtime.host_services)
        for route in revocation_routes()
    ]
    host += [
        MountedRoute(route=route, opened=runtime.store, services=runtime.host_services)
        for route in name_change_routes()
    ]
    plugins = [
        MountedRoute(route=item.route, opened=item.opened, services=item.services, plugin=item.plugin)
        for item in runtime.routes
    ]
    for mounted in (*host, *plugins):
        _mount_route(app, runtime, resources, mounted)


def _mount_route(app: Quart, runtime: Runtime, resources: AdminResources, mounted: MountedRoute) -> None:
    async def handle(**path: str) -> Response:
        _only_on("admin", runtime)
        require_plain_path(request, ADMIN_PREFIX)
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
    visit = g.visit = enter(request)
    if not is_probe(request):  # behind a balancer that hides its clients, their requests are counted as its own
        keep_pace(request, visit)
    require_demanded_certificate(request, visit)


async def _leave(response: Response) -> Response:
    visit: Visit | None = g.get("visit")
    if visit is not None:
        response.headers["X-Request-Id"] = visit.request_id
        if is_probe(request):
            return response  # several a second, for ever; the readiness logs what changes
        log.info("request", method=request.method, path=path_of(request), status=response.status_code)
    return response


class _Failures:
    """How errors leave: logged, audited, and answered by the one table."""

    def __init__(self, runtime: Runtime) -> None:
        self._store = runtime.store
        self._failures = runtime.failures

    async def kipuka_error(self, error: KipukaError) -> Response:
        if not isinstance(error, RequestError | BackendError):
            return await self.unexpected(error)
        answer = answer_error(error)
        if isinstance(error, BackendError):
            log.warning("request_failed", reason=error.reason, plugin=error.plugin, cause=repr(error.__cause__))
        # A client that first asks what it may present has failed at nothing (BouncyCastle and libest always do).
        asks = answer.reason == "no_credential" and not _is_admin(request.path)
        if not error.audited and not asks and not is_of_store(error):  # else it would wait for what was away
            await self._audit(answer, plugin=error.plugin if isinstance(error, BackendError) else None)
        response = self._render(answer)
        if error.closes_connection:
            response.headers["Connection"] = "close"
        return response

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

    async def _audit(self, answer: Answer, *, plugin: str | None = None) -> None:
        path = path_of(request)
        event = (
            AdminDenied(method=request.method, path=path, status=answer.status, reason=answer.reason, refused=())
            if _is_admin(request.path)
            else RequestRejected(
                method=request.method, path=path, status=answer.status, reason=answer.reason, plugin=plugin
            )
        )
        try:
            if audit_context.get().identity is None:
                await self._failures.tell([event])
            else:  # an administrator, who floods nothing
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


def generation_over(runtime: Runtime) -> Generation:
    """The application and the listeners' TLS over an open runtime. Raises `StartupError`."""
    return Generation(runtime=runtime, app=cast("ASGIApplication", create_app(runtime)), listeners=_listeners(runtime))


async def run(runtime: Runtime, *, stop: asyncio.Event, started: Callable[[Sequence[tuple[str, int]]], None]) -> None:
    """Serve in this process alone until `stop` is set; returns when the last request has been answered.

    `started` gets the addresses that are listened on.
    """

    async def listening(addresses: Sequence[tuple[str, int]]) -> None:
        for event in opening_events(runtime.settings, addresses, plugins=runtime.plugin_names, permissive=()):
            await runtime.store.audit(event)
        log.info("listening", addresses=names_of(addresses))
        started(addresses)

    await serve_generations(Generations(generation_over(runtime)), stop=stop, started=listening)
    await runtime.store.audit(ServerStopped(pid=os.getpid()))
    log.info("server_stopped")


async def serve_generations(
    generations: Generations,
    *,
    stop: asyncio.Event,
    started: Callable[[Sequence[tuple[str, int]]], Awaitable[None]],
    hasten: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set; returns when every request was answered and every enrolment has come to its end.

    [server] is that of the first generation. `started` and `hasten` are as for `kipuka.http.server.serve`. For `drain_delay` after
    `stop` everything is served as before, but not ready (RULES H3).
    """
    runtime = generations.current.runtime
    server, store = runtime.settings.server, runtime.store
    traffic = limits_of_worker(server, workers=server.workers)
    if not raise_open_files(files_needed(traffic)):
        log.warning("open_files_do_not_suffice", needed=files_needed(traffic), limit=most_open_files())
    limits = ServerLimits(
        handshake_timeout=server.handshake_timeout.total_seconds(),
        header_timeout=server.header_timeout.total_seconds(),
        body_timeout=server.body_timeout.total_seconds(),
        idle_timeout=server.idle_timeout.total_seconds(),
        write_timeout=server.write_timeout.total_seconds(),
        shutdown_timeout=server.shutdown_timeout.total_seconds(),
        max_body_size=server.max_body_size + DRAIN_LIMIT,  # WholeBody drains what is over the limit
        max_header_size=runtime.max_header_size,
        max_connections=traffic.connections,
        max_connections_per_address=traffic.connections_per_address,
    )
    a_minute = traffic.requests_per_minute_per_address
    wrapped = WholeBody(generations, limit=server.max_body_size, deadline=server.body_timeout.total_seconds())
    async with open_reports(partial(_record, store), clock=store.clock) as reports:
        if a_minute:
            rate = RequestRate(per_minute=a_minute, clock=asyncio.get_running_loop().time)
            generations.pace = Pace(rate, exceeded=reports.limit_reached)
        ceasing = asyncio.Event()
        draining = asyncio.create_task(
            _drain(
                generations,
                stop=stop,
                hasten=hasten or asyncio.Event(),
                delay=server.drain_delay.total_seconds(),
                ceasing=ceasing,
            ),
            name="draining",
        )
        try:
            await serve(
                wrapped,
                generations.listeners,
                limits,
                on_handshake_failure=reports.handshake_failed,
                on_limit=reports.limit_reached,
                started=started,
                stop=ceasing,
                hasten=hasten,
                proxies=Proxies(server.proxy_protocol_from),
            )
        finally:
            draining.cancel()
            await asyncio.gather(draining, return_exceptions=True)
        await generations.current.runtime.enrolment.drain()
        await generations.current.runtime.failures.sum_up()  # before the server says that it has stopped


async def _drain(
    generations: Generations, *, stop: asyncio.Event, hasten: asyncio.Event, delay: float, ceasing: asyncio.Event
) -> None:
    """Between `stop` and the end of service: long enough for whoever spreads the connections to hear that we are not ready."""
    await stop.wait()
    generations.draining = True
    if delay:
        log.info("draining", seconds=delay)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await hasten.wait()
    ceasing.set()


def _listeners(runtime: Runtime) -> list[Listener]:
    settings = runtime.settings
    password = settings.tls.key_password
    material = TLSMaterial(
        certificate=settings.tls.cert,
        key=settings.tls.key,
        password=None if password is None else password.get_secret_value().encode(),
    )
    client_auth, administrators = runtime.client_auth, runtime.administrators
    est = Purpose(required=client_auth is not None and client_auth.mode == "required", anchors=runtime.anchors)
    admin = None
    if administrators is not None:
        anchors = () if administrators.anchors is None else administrators.anchors.certificates
        admin = Purpose(required=administrators.mode == "required", anchors=anchors)

    def listener(name: str, address: Address, asks: CertificateRequest) -> Listener:
        context = build_context(
            material,
            min_version=settings.tls.min_version,
            client_certificates=asks.wanted,
            anchors=asks.anchors,
            http2=settings.server.http2,
        )
        demands = asks.anchors if asks.wanted == "require" else None
        return Listener(name=name, host=address.host, port=address.port, context=context, demands=demands)

    own = settings.server.admin_listen
    if own is None or admin is None:
        return [listener("est", settings.server.listen, certificate_request(est=est, admin=admin))]
    return [
        listener("est", settings.server.listen, certificate_request(est=est, admin=None)),
        listener("admin", own, certificate_request(est=None, admin=admin)),
    ]


def opening_events(
    settings: Settings,
    addresses: Sequence[tuple[str, int]],
    *,
    plugins: Sequence[str],
    permissive: Sequence[str],
) -> tuple[AuditEvent, AuditEvent]:
    """The first events of a run: which configuration took effect, and that the server takes connections."""
    names = names_of(addresses)
    return (
        ConfigurationLoaded(
            file=str(settings.file),
            sha256=settings.sha256,
            plugins=tuple(plugins),
            permissive=tuple(permissive),
            restart_needed=(),
        ),
        ServerStarted(
            version=kipuka.__version__,
            listen=names[0],
            admin_listen=names[1] if len(names) > 1 else None,
            pid=os.getpid(),
        ),
    )


def names_of(addresses: Sequence[tuple[str, int]]) -> list[str]:
    """Addresses as they are written, IPv6 in brackets."""
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in addresses]


async def _record(store: Store, event: AuditEvent) -> None:
    try:
        await store.audit(event)
    except BackendError as error:
        log.error("event_not_recorded", event_name=event.name, reason=error.reason)
