"""The server: listens, hands each TLS connection to Hypercorn, keeps its deadlines, and stops without leaving anything.

In the room: sockets, the ASGI lifespan, the part of Hypercorn that is not public (`TCPServer`, `H11Protocol`), what of
it must be narrowed, and the deadlines it has not. Not in the room: TLS (`kipuka.http.tls`), routes and answers.

Deadlines (RULES H1). What counts is the time we wait for the client, never the time the application takes:

- handshake: `handshake_timeout`, then the connection is dropped;
- idle: `idle_timeout` without a request, before the first one and between two;
- header: `header_timeout` from its first octet to its last;
- body: `body_timeout` from the header's end to the body's;
- write progress: each 16 KiB within `write_timeout`.

A client that misses one of the middle three has its connection closed (close_notify, no response: it is sending, not
reading); the application, where it has the request already, is told `http.disconnect`. An application with a shorter
deadline for the body may answer 408 itself.

A client that has ended its own side after a whole request still gets the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

import h11
import structlog
from cryptography import x509
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import EventWrapper, WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from OpenSSL import SSL

from kipuka.api.errors import StartupError
from kipuka.api.values import Connection
from kipuka.http.tls import HandshakeFailure, TLSProtocol, TLSTimeouts, TLSWriter

__all__ = ["ASGIApplication", "Listener", "ServerLimits", "bind", "serve"]

Message = MutableMapping[str, Any]
ASGIApplication = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

_BACKLOG = 1024
_LAST_LOOK = 0.1
"""Seconds between the end of accepting and the closing of idle connections: a request that has arrived already, but that we
have not read, is answered like any other.
"""
_INBOX = 64 * 1024  # octets of a body that wait for the application before we stop reading
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(kw_only=True, slots=True)
class Listener:
    """Where to listen, and with which TLS.

    `host` is an address or a name; `::` takes IPv4 too. Port 0 is any free one: `serve` reports which. A socket in `bound` that
    another process has bound (`bind`) is used as it is. `demands` are the anchors of which one must have signed a client's
    certificate for the handshake to succeed, None where none is demanded: what `context` was built with.

    It is not frozen, because a reload gives it another context while it listens (`renew`).
    """

    name: str  # "est" or "admin"
    host: str
    port: int
    context: SSL.Context
    demands: Sequence[x509.Certificate] | None = None
    bound: socket.socket | None = None
    generation: int = 0  # how often the context was replaced; each request's scope["state"] has that of its connection

    def renew(self, newer: Listener) -> None:
        """Give connections that are accepted from now on the TLS of another listener; the others keep theirs."""
        self.context, self.demands = newer.context, newer.demands
        self.generation += 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerLimits:
    """Deadlines in seconds (see the module's docstring), sizes in octets.

    `max_header_size` is the request line and all fields. `max_body_size` is the application's limit, which answers 413
    and may drain up to as much again first (RULES H2); here a body of more than twice that ends the connection.
    """

    handshake_timeout: float = 10.0
    header_timeout: float = 10.0
    body_timeout: float = 30.0
    idle_timeout: float = 60.0
    write_timeout: float = 30.0
    shutdown_timeout: float = 30.0
    close_timeout: float = 3.0  # for a client to end its side after we have ended ours
    max_body_size: int = 1024 * 1024
    max_header_size: int = 16 * 1024


async def serve(
    app: ASGIApplication,
    listeners: Sequence[Listener],
    limits: ServerLimits,
    *,
    on_handshake_failure: Callable[[HandshakeFailure], None],
    started: Callable[[Sequence[tuple[str, int]]], Awaitable[None]],
    stop: asyncio.Event,
    hasten: asyncio.Event | None = None,
) -> None:
    """Serve `app` until `stop` is set; when it returns, no connection and no task is left.

    `started` hears address and port of each listener, in their order, when connections are accepted. Each request's
    `scope["state"]` has the lifespan's state, `connection` (`kipuka.api.values.Connection`), `generation` (that of the
    listener when it was accepted) and `path_cache`, a dictionary that is new with each connection. Stopping: nothing is
    accepted any more, idle connections are closed, requests whose header has arrived have `shutdown_timeout` to end, or until
    `hasten` is set, then the rest is dropped. Raises `StartupError` when an address
    cannot be had or the application's start fails.
    """
    async with contextlib.AsyncExitStack() as stack:
        sockets = [
            stack.enter_context(listener.bound or bind(name=listener.name, host=listener.host, port=listener.port))
            for listener in listeners
        ]
        state = await stack.enter_async_context(_lifespan(app))
        server = _Server(app, limits, state, on_handshake_failure)
        try:
            for listener, listening in zip(listeners, sockets, strict=True):
                await server.listen(listener, listening)
            await started([cast("tuple[str, int]", listening.getsockname()[:2]) for listening in sockets])
            await stop.wait()
        finally:
            await server.close(hasten or asyncio.Event())


def bind(*, name: str, host: str, port: int) -> socket.socket:
    """A socket bound to the listener's address, on which nobody listens yet. Raises `StartupError`."""
    listening: socket.socket | None = None
    try:
        family, kind, protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        listening.bind(address)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise StartupError(f"cannot listen on {host} port {port} for {name}: {error.strerror or error}") from error
    return listening


# --- lifespan ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _lifespan(app: ASGIApplication) -> AsyncGenerator[dict[str, Any], None]:
    """Run the application's lifespan around the block; gives its state. A start that fails is a `StartupError`."""
    state: dict[str, Any] = {}
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    answers: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}

    async def run() -> None:
        await app(scope, inbox.get, answers.put)

    task = asyncio.create_task(run(), name="lifespan")

    async def exchange(stage: str) -> None:
        await inbox.put({"type": f"lifespan.{stage}"})
        answer = asyncio.create_task(answers.get())
        try:
            await asyncio.wait({answer, task}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                message = answer.result()
                if message["type"] == f"lifespan.{stage}.complete":
                    return
                raise StartupError(f"the application's {stage} failed: {message.get('message', '')}")
            await task  # raises what ended it
            raise StartupError(f"the application ended during its {stage}")
        finally:
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)

    try:
        await exchange("startup")
        try:
            yield state
        finally:
            await exchange("shutdown")
    finally:
        if not task.done():
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- connections ------------------------------------------------------------------------------------------------------


class _Server:
    """What is open: listening sockets, transports, and a task for each connection that is served."""

    def __init__(
        self,
        app: ASGIApplication,
        limits: ServerLimits,
        state: dict[str, Any],
        on_handshake_failure: Callable[[HandshakeFailure], None],
    ) -> None:
        self._app = app
        self._limits = limits
        self._state = state
        self._on_handshake_failure = on_handshake_failure
        self._loop = asyncio.get_running_loop()
        self._config = _hypercorn_config(limits)
        self._context = WorkerContext(None)
        self._timeouts = TLSTimeouts(
            handshake=limits.handshake_timeout, write=limits.write_timeout, close=limits.close_timeout
        )
        self._servers: list[asyncio.Server] = []
        self._live: set[TLSProtocol] = set()
        self._served: dict[asyncio.Task[None], _HTTPConnection] = {}

    async def listen(self, listener: Listener, listening: socket.socket) -> None:
        def protocol() -> TLSProtocol:
            return TLSProtocol(
                listener.context,
                listener=listener.name,
                timeouts=self._timeouts,
                on_connected=partial(self._connected, generation=listener.generation),
                on_failure=self._on_handshake_failure,
                live=self._live,
            )

        self._servers.append(await self._loop.create_server(protocol, sock=listening, backlog=_BACKLOG))

    def _connected(
        self, reader: asyncio.StreamReader, writer: TLSWriter, connection: Connection, *, generation: int
    ) -> None:
        state: dict[str, Any] = {
            **self._state,
            "connection": connection,
            "generation": generation,
            "path_cache": {},
        }
        http = _HTTPConnection(self._app, self._config, self._context, reader, writer, state=state, limits=self._limits)
        task = self._loop.create_task(_converse(http, writer, connection), name=f"connection {connection.id}")
        self._served[task] = http
        task.add_done_callback(self._served.pop)

    async def close(self, hasten: asyncio.Event) -> None:
        for server in self._servers:
            server.close()
        await self._context.terminated.set()  # from now on Hypercorn closes a connection after its response
        await asyncio.sleep(_LAST_LOOK)
        for protocol in tuple(self._live):
            protocol.stop()
        for http in tuple(self._served.values()):
            http.stop()
        await self._served_or(hasten)
        if self._served:
            _log.warning("connections_dropped", count=len(self._served))
        remaining = tuple(self._live)
        for protocol in remaining:
            protocol.abort()
        tasks = tuple(self._served)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(protocol.wait_closed() for protocol in remaining))

    async def _served_or(self, hasten: asyncio.Event) -> None:
        """Wait until nothing is served any more, `shutdown_timeout` has passed, or `hasten` is set."""
        hastened = self._loop.create_task(hasten.wait())
        ended = self._loop.create_task(_all_of(tuple(self._served)))
        try:
            await asyncio.wait(
                {hastened, ended}, timeout=self._limits.shutdown_timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            for task in (hastened, ended):
                task.cancel()
            await asyncio.gather(hastened, ended, return_exceptions=True)


async def _all_of(tasks: Sequence[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(tasks)


def _hypercorn_config(limits: ServerLimits) -> Config:
    config = Config()
    config.accesslog = None
    config.errorlog = None  # what can fail is logged here, by structlog
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.max_header_size
    return config


async def _converse(http: _HTTPConnection, writer: TLSWriter, connection: Connection) -> None:
    try:
        await http
    except Exception:  # noqa: BLE001 - one connection's trouble, also as an ExceptionGroup, is nobody else's
        _log.exception("connection_failed", connection=connection.id, client_address=connection.client_address)
    finally:
        writer.close()
        await http.idle_task.stop()


class _Refused(Exception):
    """No more can be read on this connection."""


_Phase = Literal["idle", "header", "body", "answering"]


class _HTTPConnection(TCPServer):
    """Hypercorn's TCPServer with deadlines for what a client sends, on HTTP/1.1 that stays HTTP/1.1."""

    def __init__(
        self,
        app: ASGIApplication,
        config: Config,
        context: WorkerContext,
        reader: asyncio.StreamReader,
        writer: TLSWriter,
        *,
        state: dict[str, Any],
        limits: ServerLimits,
    ) -> None:  # in the order of Hypercorn's TCPServer
        super().__init__(
            ASGIWrapper(cast("Any", app)),
            asyncio.get_running_loop(),
            config,
            context,
            cast("Any", state),
            reader,
            cast("asyncio.StreamWriter", writer),
        )
        self._tls = writer
        self._application = app
        self._limits = limits
        self._budgets: dict[_Phase, float | None] = {
            "idle": limits.idle_timeout,
            "header": limits.header_timeout,
            "body": limits.body_timeout,
            "answering": None,
        }
        self._http: _HTTP1 | None = None
        self._waiting: asyncio.Timeout | None = None  # while we wait for the client
        self._phase: tuple[_Phase, int] | None = None  # with the number of the request
        self._budget: float | None = None  # what is left of this phase
        self._since = 0.0

    async def _read_data(self) -> None:
        outer = self.protocol
        http = self._http = _HTTP1(
            outer.app,
            outer.config,
            outer.context,
            cast("Any", _Applications(self._application, self._task_group, most=2 * self._limits.max_body_size)),
            outer.state,
            outer.ssl,
            outer.client,
            outer.server,
            outer.send,
            closing=self._tls.is_closing,
        )
        outer.protocol = http  # else Hypercorn would let a client change to HTTP/2 without ALPN
        ended = False
        try:
            while not ended and not self.reader.at_eof():
                data = await self._receive()
                ended = not data
                await http.handle(RawData(data))
            if not ended:
                await http.handle(RawData(b""))  # h11 must know that a body that is incomplete stays so
            if http.stream is not None and not self._tls.is_closing():
                await self._tls.wait_closed()  # the client has ended its side only, and waits for the answer
        except TimeoutError:
            phase = self._phase[0] if self._phase is not None else None
            _log.info("client_too_slow", phase=phase, connection=self._connection_id())
            self._tls.close()
        except (_Refused, OSError):  # after TimeoutError, which is an OSError
            self._tls.close()  # whatever had to be answered has been
        await http.handle(Closed())

    async def _receive(self) -> bytes:
        """Read with the deadline of the present phase. Raises TimeoutError when it has passed."""
        try:
            async with asyncio.timeout(None) as self._waiting:
                self._set_deadline()
                return await self.reader.read(MAX_RECV)
        finally:
            self._waiting = None
            if self._budget is not None:
                self._budget -= self.loop.time() - self._since

    def _set_deadline(self) -> None:
        http = self._http
        if http is None or self._waiting is None:
            return
        phase = (_phase_of(http), cast("int", http.keep_alive_requests))  # pyright: ignore[reportUnknownMemberType]
        if phase != self._phase:
            self._phase = phase
            self._budget = self._budgets[phase[0]]
        self._since = self.loop.time()
        self._waiting.reschedule(None if self._budget is None else self._since + self._budget)

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._set_deadline()  # a response is complete: from now on the connection is idle
        else:
            await super().protocol_send(event)

    async def _close(self) -> None:
        if self.context.terminated.is_set() and (self._http is None or _phase_of(self._http) != "body"):
            self._tls.close(linger=False)  # the client has sent all it had to; the server's stop need not wait for it
        await super()._close()

    async def _idle_timeout(self) -> None:
        """Idle connections have their deadline in `_receive`, and `stop`."""

    def stop(self) -> None:
        """The server stops: close now if there is no request, otherwise Hypercorn does so after the response."""
        if self._http is None or self._http.stream is None:
            self._tls.close(linger=False)

    def _connection_id(self) -> str:
        return self.state["connection"].id


def _phase_of(http: _HTTP1) -> _Phase:
    connection = http.connection
    if connection.their_state is h11.IDLE:
        return "header" if connection.trailing_data[0] else "idle"
    return "body" if connection.their_state is h11.SEND_BODY else "answering"


class _HTTP1(H11Protocol):
    """Hypercorn's HTTP/1.1 without its ways out of HTTP/1.1, and stricter about what a header may be."""

    def __init__(self, *arguments: Any, closing: Callable[[], bool]) -> None:
        super().__init__(*arguments)
        self.can_read = _Pause(self)
        self._closing = closing

    async def _check_protocol(self, event: h11.Request) -> None:
        if self._closing():
            raise _Refused  # pipelined by a client that is gone: nobody would hear the answer
        status = _refusal(event, self.config.h11_max_incomplete_size)
        if status is not None:
            await self._send_error_response(status)
            await self.send(Closed())
            raise _Refused

    async def _create_stream(self, request: h11.Request) -> None:
        # No WebSocket and no h2c: a server may ignore Upgrade (RFC 9110, 7.8).
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            cast("Any", self.stream_send),
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=request.target,
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()


class _Pause(EventWrapper):
    """What a pipelined request waits for. It would wait for ever once there will be no next request."""

    def __init__(self, http: _HTTP1) -> None:
        super().__init__()
        self._http = http

    async def wait(self) -> None:
        if self._http.stream is None:  # the response is complete, and the connection was not made ready for another
            raise _Refused
        await super().wait()


def _refusal(request: h11.Request, most: int) -> int | None:
    """The status for a request whose header is no good, or None."""
    if request.http_version not in {b"1.0", b"1.1"}:
        return 505  # also the preface of HTTP/2, which looks like a request of version 2.0
    # h11 knows only headers that are incomplete; one that comes in one piece may be larger.
    size = len(request.method) + len(request.target) + 12  # two spaces, HTTP/1.1, CRLF
    size += sum(len(name) + len(value) + 4 for name, value in request.headers)  # colon, space, CRLF
    if size > most:
        return 431
    names = {name for name, _value in request.headers}
    if b"content-length" in names and b"transfer-encoding" in names:
        return 400  # request smuggling (RFC 9112, 6.1; RULES H1)
    if b"transfer-encoding" in names and request.http_version == b"1.0":
        return 400  # faulty framing (RFC 9112, 6.1)
    return None


# --- the application --------------------------------------------------------------------------------------------------


class _Applications:
    """Runs the application once for each request: what a stream of Hypercorn uses of its TaskGroup.

    Hypercorn's own queue has ten places and waits for room even to say that the client is gone: an application that
    answers without reading a body of eleven pieces would never end, nor would its connection.
    """

    def __init__(self, app: ASGIApplication, group: TaskGroup, *, most: int) -> None:
        self._app = app
        self._group = group
        self._most = most

    async def spawn_app(
        self, _app: Any, _config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        inbox = _Inbox(self._most)
        self._group.spawn(self._run, scope, inbox, send)  # pyright: ignore[reportUnknownMemberType]
        return inbox.put

    async def _run(self, scope: Any, inbox: _Inbox, send: Callable[[Any], Awaitable[None]]) -> None:
        try:
            await self._app(scope, inbox.get, send)
        except Exception:  # noqa: BLE001 - a fault of one request, also as an ExceptionGroup; it is answered 500
            _log.exception("application_failed", path=scope.get("path"))
        finally:
            inbox.close()
            await send(None)


class _Inbox:
    """The messages of one request for the application; bounded in octets, and never in the way of a disconnect."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._received = 0  # octets of the body so far
        self._held = 0  # octets that the application has not fetched
        self._messages: deque[Message] = deque()
        self._closed = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, message: Message) -> None:
        """Give the application a message, when it has fetched enough of those before. What it will not read is dropped."""
        if message["type"] == "http.disconnect":
            self.close()
            return
        size = len(message["body"])
        self._received += size
        if self._received > self._most:
            self.close()
            raise _Refused
        while self._held and self._held + size > _INBOX and not self._closed:
            self._room.clear()
            await self._room.wait()
        if not self._closed:
            self._held += size
            self._messages.append(message)
            self._news.set()

    async def get(self) -> Message:
        """The ASGI receive: the next message, and `http.disconnect` for ever once there is no other."""
        while not self._messages and not self._closed:
            self._news.clear()
            await self._news.wait()
        if not self._messages:
            return {"type": "http.disconnect"}
        message = self._messages.popleft()
        self._held -= len(message["body"])
        self._room.set()
        return message

    def close(self) -> None:
        """The client is gone, or the application has ended: nobody may wait here any longer."""
        self._closed = True
        self._news.set()
        self._room.set()
