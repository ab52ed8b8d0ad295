"""The server: listens, hands each TLS connection to Hypercorn, keeps its deadlines, and stops without leaving anything.

In the room: sockets, the ASGI lifespan, the part of Hypercorn that is not public (`TCPServer`), and the deadlines it has
not. Not in the room: TLS (`kipuka.http.tls`), what is said on a connection (`kipuka.http.http1`, `kipuka.http.http2`), routes and
answers.

Deadlines (RULES H1). What counts is the time we wait for the client, never the time the application takes:

- handshake: `handshake_timeout`, then the connection is dropped;
- idle: `idle_timeout` without a request, before the first one and between two;
- header: `header_timeout` from its first octet to its last;
- body: `body_timeout` from the header's end to the body's;
- write progress: each 16 KiB within `write_timeout`.

How many connections there may be, and who has to go when there are too many: `kipuka.http.connections`.

A client that misses one of the middle three has its connection closed (close_notify, no response: it is sending, not
reading); the application, where it has the request already, is told `http.disconnect`. An application with a shorter
deadline for the body may answer 408 itself.

A client that has ended its own side after a whole request still gets the answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import structlog
from cryptography import x509
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.asyncio.tcp_server import MAX_RECV, TCPServer
from hypercorn.asyncio.worker_context import WorkerContext
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from OpenSSL import SSL

from kipuka.api.errors import StartupError
from kipuka.api.values import Connection
from kipuka.http.applications import Applications, ASGIApplication, Message, Refused
from kipuka.http.connections import ConnectionLimit, Connections
from kipuka.http.http1 import HTTP1, Patience
from kipuka.http.http2 import HTTP2
from kipuka.http.limits import BACKLOG
from kipuka.http.memory import tidy_after_crowds
from kipuka.http.proxy_protocol import Proxies
from kipuka.http.tls import HandshakeFailure, TLSProtocol, TLSTimeouts, TLSWriter

__all__ = ["ASGIApplication", "Listener", "ServerLimits", "bind", "serve"]

_LAST_LOOK = 0.1
"""Seconds between the end of accepting and the closing of idle connections: a request that has arrived already, but that we
have not read, is answered like any other.
"""
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
    """Deadlines in seconds (see the module's docstring), sizes in octets, numbers of connections.

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
    max_connections: int = 4096
    max_connections_per_address: int = 4096


async def serve(
    app: ASGIApplication,
    listeners: Sequence[Listener],
    limits: ServerLimits,
    *,
    on_handshake_failure: Callable[[HandshakeFailure], None],
    on_limit: Callable[[ConnectionLimit, str], None],
    started: Callable[[Sequence[tuple[str, int]]], Awaitable[None]],
    stop: asyncio.Event,
    hasten: asyncio.Event | None = None,
    proxies: Proxies | None = None,
) -> None:
    """Serve `app` until `stop` is set; when it returns, no connection and no task is left.

    `on_limit` hears of each connection that is refused, or closed to make room for another, with its address.
    `started` hears address and port of each listener, in their order, when connections are accepted. Each request's
    `scope["state"]` has the lifespan's state, `connection` (`kipuka.api.values.Connection`), `generation` (that of the
    listener when it was accepted) and `path_cache`, a dictionary that is new with each connection. Stopping: nothing is
    accepted any more, idle connections are closed, requests whose header has arrived have `shutdown_timeout` to end, or until
    `hasten` is set, then the rest is dropped. `proxies` are load balancers that say whose connections they forward. Raises `StartupError` when an address
    cannot be had or the application's start fails.
    """
    async with contextlib.AsyncExitStack() as stack:
        sockets = [
            stack.enter_context(listener.bound or bind(name=listener.name, host=listener.host, port=listener.port))
            for listener in listeners
        ]
        state = await stack.enter_async_context(_lifespan(app))
        connections: Connections[TLSProtocol] = Connections(
            most=limits.max_connections, most_per_address=limits.max_connections_per_address, on_limit=on_limit
        )
        server = _Server(app, limits, state, connections, on_handshake_failure, proxies=proxies or Proxies())
        tidying = asyncio.create_task(tidy_after_crowds(connections.__len__, connections.take_peak), name="tidying")
        try:
            for listener, listening in zip(listeners, sockets, strict=True):
                await server.listen(listener, listening)
            await started([cast("tuple[str, int]", listening.getsockname()[:2]) for listening in sockets])
            await stop.wait()
        finally:
            tidying.cancel()
            await asyncio.gather(tidying, return_exceptions=True)
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
        connections: Connections[TLSProtocol],
        on_handshake_failure: Callable[[HandshakeFailure], None],
        *,
        proxies: Proxies,
    ) -> None:
        self._app = app
        self._limits = limits
        self._state = state
        self._connections = connections
        self._on_handshake_failure = on_handshake_failure
        self._proxies = proxies
        self._loop = asyncio.get_running_loop()
        self._config = _hypercorn_config(limits)
        self._context = WorkerContext(None)
        self._timeouts = TLSTimeouts(
            handshake=limits.handshake_timeout, write=limits.write_timeout, close=limits.close_timeout
        )
        self._servers: list[asyncio.Server] = []
        self._served: dict[asyncio.Task[None], _HTTPConnection] = {}

    async def listen(self, listener: Listener, listening: socket.socket) -> None:
        def protocol() -> TLSProtocol:
            return TLSProtocol(
                listener.context,
                listener=listener.name,
                timeouts=self._timeouts,
                on_connected=partial(self._connected, generation=listener.generation),
                on_failure=self._on_handshake_failure,
                connections=self._connections,
                proxies=self._proxies,
            )

        self._servers.append(await self._loop.create_server(protocol, sock=listening, backlog=BACKLOG))

    def _connected(
        self, reader: asyncio.StreamReader, writer: TLSWriter, connection: Connection, *, generation: int
    ) -> None:
        state: dict[str, Any] = {
            **self._state,
            "connection": connection,
            "generation": generation,
            "path_cache": {},
        }
        guest = writer.protocol

        def on_busy(busy: bool) -> None:  # noqa: FBT001 - the one thing it says
            if busy:
                self._connections.begin_request(guest)
            else:
                self._connections.end_request(guest)

        http = _HTTPConnection(
            self._app,
            self._config,
            self._context,
            reader,
            writer,
            state=state,
            limits=self._limits,
            on_busy=on_busy,
        )
        task = self._loop.create_task(_converse(http, writer, connection), name=f"connection {connection.id}")
        self._served[task] = http
        task.add_done_callback(self._served.pop)

    async def close(self, hasten: asyncio.Event) -> None:
        for server in self._servers:
            server.close()
        await self._context.terminated.set()  # from now on Hypercorn closes a connection after its response
        await asyncio.sleep(_LAST_LOOK)
        for protocol in tuple(self._connections):
            protocol.stop()
        for http in tuple(self._served.values()):
            http.stop()
        await self._served_or(hasten)
        if self._served:
            _log.warning("connections_dropped", count=len(self._served))
        remaining = tuple(self._connections)
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


class _HTTPConnection(TCPServer):
    """Hypercorn's TCPServer with deadlines for what a client sends, on HTTP/1.1 or HTTP/2 as the handshake settled it."""

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
        on_busy: Callable[[bool], None],
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
        self._on_busy = on_busy
        self._http: HTTP1 | HTTP2 | None = None
        self._waiting: asyncio.Timeout | None = None  # while we wait for the client

    async def _read_data(self) -> None:
        # Hypercorn's own protocol is put aside: it would let a client change to HTTP/2 without ALPN.
        http = self._http = self._http2() if self._tls.is_http2 else self._http1(self.protocol)
        self.protocol = cast("Any", http)
        ended = False
        try:
            await http.initiate()
            while not ended and not self.reader.at_eof():
                data = await self._receive(http)
                ended = not data
                await http.handle(RawData(data))
            if not ended:
                await http.handle(RawData(b""))  # a body that is incomplete stays so
            if not http.is_idle and not self._tls.is_closing():
                await self._tls.wait_closed()  # the client has ended its side only, and waits for the answer
        except TimeoutError:
            _log.info("client_too_slow", phase=http.phase, connection=self._connection_id())
            self._tls.close()
        except (Refused, OSError):  # after TimeoutError, which is an OSError
            self._tls.close()  # whatever had to be answered has been
        await http.handle(Closed())

    def _http1(self, outer: ProtocolWrapper) -> HTTP1:
        return HTTP1(
            outer.app,
            outer.config,
            outer.context,
            cast("Any", self._applications()),
            outer.state,
            outer.ssl,
            outer.client,
            outer.server,
            outer.send,
            patience=self._patience(),
            closing=self._tls.is_closing,
        )

    def _http2(self) -> HTTP2:
        outer = self.protocol
        return HTTP2(
            config=outer.config,
            context=outer.context,
            applications=self._applications(),
            state=outer.state,
            client=outer.client,
            server=outer.server,
            send=outer.send,
            patience=self._patience(),
            write_timeout=self._limits.write_timeout,
            max_header_size=self._limits.max_header_size,
            clock=self.loop.time,
        )

    def _applications(self) -> Applications:
        return Applications(self._application, self._task_group, most=2 * self._limits.max_body_size)

    def _patience(self) -> Patience:
        limits = self._limits
        return Patience(idle=limits.idle_timeout, header=limits.header_timeout, body=limits.body_timeout)

    async def _receive(self, http: HTTP1 | HTTP2) -> bytes:
        """Read with the deadline of what we wait for. Raises TimeoutError when it has passed."""
        try:
            async with asyncio.timeout(None) as self._waiting:
                self._set_deadline()
                return await self.reader.read(MAX_RECV)
        finally:
            self._waiting = None
            http.waited(self.loop.time())

    def _set_deadline(self) -> None:
        if self._http is not None and self._waiting is not None:
            self._waiting.reschedule(self._http.deadline(self.loop.time()))

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated):
            self._on_busy(not event.idle)
            self._set_deadline()  # a response is complete: from now on the connection may be idle
        else:
            await super().protocol_send(event)

    async def _close(self) -> None:
        if self.context.terminated.is_set() and (self._http is None or not self._http.is_receiving):
            self._tls.close(linger=False)  # the client has sent all it had to; the server's stop need not wait for it
        await super()._close()

    async def _idle_timeout(self) -> None:
        """Idle connections have their deadline in `_receive`, and `stop`."""

    def stop(self) -> None:
        """The server stops: close now if there is no request, otherwise after the response."""
        http = self._http
        if http is not None and not http.is_idle:
            http.finish()
            return
        if http is not None and not self._tls.is_closing():
            with contextlib.suppress(ConnectionError):  # it is gone already
                self._tls.write(http.farewell())
        self._tls.close(linger=False)

    def _connection_id(self) -> str:
        return self.state["connection"].id
