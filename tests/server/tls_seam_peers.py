"""The other end of the TLS seam: a server over `kipuka.http.server`, and clients that can do what no library lets one do.

In the room: `running`, `Peer` (pyOpenSSL over an asyncio socket, one step at a time) and the ASGI application under
test. Not in the room: any assertion about the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import json
import tempfile
import warnings
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from OpenSSL import SSL, crypto

from kipuka.http.proxy_protocol import Proxies
from kipuka.http.server import Listener, ServerLimits, serve
from kipuka.http.tls import HandshakeFailure, TLSMaterial, build_context
from kipuka.testing.pki import Credential, make_root

NO_EXTENDED_MASTER_SECRET = 1  # SSL_OP_NO_EXTENDED_MASTER_SECRET
VERSIONS = {"1.0": SSL.TLS1_VERSION, "1.1": SSL.TLS1_1_VERSION, "1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}

SERVER_ROOT = make_root("Server Root")
SERVER = SERVER_ROOT.issue_server("localhost", "127.0.0.1")
CLIENT_ROOT = make_root("Client Root")
CLIENT_CA = CLIENT_ROOT.issue_ca("Client Issuing CA")
STRANGER_ROOT = make_root("Stranger Root")

QUICK = ServerLimits(
    handshake_timeout=5,
    header_timeout=5,
    body_timeout=5,
    idle_timeout=5,
    write_timeout=5,
    shutdown_timeout=5,
    close_timeout=0.5,
    max_body_size=1024 * 1024,
)


@dataclass
class App:
    """An ASGI application with one path for each way to behave; it writes down what happened to it."""

    connections: list[Any] = field(default_factory=list)
    caches: list[Any] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    bodies: list[int] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    disconnected: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
            return
        assert scope["type"] == "http", scope["type"]
        self.connections.append(scope["state"]["connection"])
        self.caches.append(scope["state"]["path_cache"])
        self.events.append(f"{scope['method']} {scope['path']}")
        self.in_flight += 1
        self.entered.set()
        try:
            await getattr(self, scope["path"].strip("/") or "show")(scope, receive, send)
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise
        finally:
            self.in_flight -= 1

    async def _lifespan(self, scope: Any, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "lifespan.startup"
        scope["state"]["runtime"] = "opened"
        self.events.append("startup")
        await send({"type": "lifespan.startup.complete"})
        assert (await receive())["type"] == "lifespan.shutdown"
        self.events.append("shutdown")
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, send: Any, body: bytes, *headers: tuple[bytes, bytes], status: int = 200) -> None:
        fields = [(b"content-length", str(len(body)).encode()), *headers]
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    async def _read(self, receive: Any) -> int:
        total = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.events.append("disconnect")
                self.disconnected.set()
                raise ConnectionError
            total += len(message["body"])
            if not message["more_body"]:
                return total

    async def show(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(send, json.dumps({"runtime": scope["state"]["runtime"]}).encode())

    async def body(self, scope: Any, receive: Any, send: Any) -> None:
        self.bodies.append(await self._read(receive))
        await self._answer(send, str(self.bodies[-1]).encode())

    async def early(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(send, b"no, thank you", status=403)

    async def silent(self, scope: Any, receive: Any, send: Any) -> None:
        """Ends without an answer, and without reading."""

    async def wait(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers when it is released; gives up when the client goes away, as Quart does."""
        await self._read(receive)
        waiting = [asyncio.create_task(self.release.wait()), asyncio.create_task(receive())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        if not self.release.is_set():
            self.events.append("disconnect")
            return
        await self._answer(send, b"at last")

    async def hold(self, scope: Any, receive: Any, send: Any) -> None:
        """Has the request, and reads nothing of it."""
        await self.release.wait()

    async def late(self, scope: Any, receive: Any, send: Any) -> None:
        """Reads, but later."""
        await self.release.wait()
        await self.body(scope, receive, send)

    async def page(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(send, b"x" * 4000)

    async def watch(self, scope: Any, receive: Any, send: Any) -> None:
        """Waits for the client to go away."""
        await self._read(receive)
        await self._read(receive)

    async def close(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(send, b"bye", (b"connection", b"close"))

    async def big(self, scope: Any, receive: Any, send: Any) -> None:
        size = int(scope["query_string"] or 8 * 1024 * 1024)
        piece = b"x" * 65536
        fields = [(b"content-length", str(size).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        left = size
        while left:
            part = piece[:left]
            left -= len(part)
            await send({"type": "http.response.body", "body": part, "more_body": bool(left)})
        self.events.append("all sent")

    async def bulk(self, scope: Any, receive: Any, send: Any) -> None:
        await self._answer(send, bytes(int(scope["query_string"])))

    async def boom(self, scope: Any, receive: Any, send: Any) -> None:
        raise ExceptionGroup("two at once", [ValueError("one"), RuntimeError("two")])

    async def halfway(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"100")]})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ValueError("halfway")


@dataclass
class Running:
    app: Any
    port: int
    failures: list[HandshakeFailure]
    limits: list[tuple[str, str]]  # which limit was met, and by which address
    stop: asyncio.Event
    task: asyncio.Task[None]
    addresses: list[tuple[str, int]]
    tasks: int  # of the loop, without a connection

    async def failure(self) -> HandshakeFailure:
        """The one failure reported so far, or soon."""
        async with asyncio.timeout(10):
            while not self.failures:
                await asyncio.sleep(0.005)
        assert len(self.failures) == 1, self.failures
        return self.failures[0]

    async def quiet(self) -> None:
        """Return when no connection has a task any more."""
        async with asyncio.timeout(10):
            while self.app.in_flight or len(asyncio.all_tasks()) > self.tasks:
                await asyncio.sleep(0.005)

    async def end(self) -> None:
        self.stop.set()
        await self.task


@contextlib.asynccontextmanager
async def running(
    app: Any = None,
    *,
    mode: Any = "none",
    anchors: Sequence[Credential] = (CLIENT_ROOT,),
    server: Credential = SERVER,
    min_version: Any = "1.2",
    http2: bool = False,
    host: str = "127.0.0.1",
    proxies: Sequence[str] = (),
    **limits: float,
) -> AsyncGenerator[Running, None]:
    """A server in this event loop. Afterwards the loop has the tasks it had before, and no other."""
    before = asyncio.all_tasks()
    loop = asyncio.get_running_loop()
    troubles: list[Any] = []  # what nobody caught: in a callback, or in a task that nobody asked
    loop.set_exception_handler(lambda _loop, context: troubles.append(context))
    app = App() if app is None else app
    with tempfile.TemporaryDirectory() as directory:
        certificate, key = server.write(Path(directory), "server")
        context = build_context(
            TLSMaterial(certificate=certificate, key=key),
            min_version=min_version,
            client_certificates=mode,
            anchors=[anchor.certificate for anchor in anchors],
            http2=http2,
        )
    failures: list[HandshakeFailure] = []
    met: list[tuple[str, str]] = []
    stop, ready = asyncio.Event(), asyncio.Event()
    addresses: list[tuple[str, int]] = []

    async def started(found: Sequence[tuple[str, int]]) -> None:
        addresses.extend(found)
        ready.set()

    task = asyncio.create_task(
        serve(
            app,
            [Listener(name="est", host=host, port=0, context=context)],
            replace(QUICK, **limits),
            on_handshake_failure=failures.append,
            on_limit=lambda limit, address: met.append((limit, address)),
            started=started,
            stop=stop,
            proxies=Proxies(tuple(map(ipaddress.ip_network, proxies))),
        )
    )
    waiting = asyncio.create_task(ready.wait())
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        await task
    server_now = Running(app, addresses[0][1], failures, met, stop, task, addresses, len(asyncio.all_tasks()))
    try:
        yield server_now
    finally:
        async with asyncio.timeout(30):
            await server_now.end()
        while Peer.opened:
            await Peer.opened.pop().close()
    assert asyncio.all_tasks() == before, asyncio.all_tasks() - before
    gc.collect()
    loop.set_exception_handler(None)
    assert troubles == []


def client_context(
    version: str | None = None,
    *,
    credential: Credential | None = None,
    alpn: Sequence[bytes] = (),
    options: int = 0,
    ciphers: bytes = b"DEFAULT:@SECLEVEL=0",
) -> SSL.Context:
    """A client that refuses nothing: what it may send is for the server to judge."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(ciphers)
    if version is not None:
        context.set_min_proto_version(VERSIONS[version])
        context.set_max_proto_version(VERSIONS[version])
    if options:
        context.set_options(options)
    if alpn:
        context.set_alpn_protos(list(alpn))
    if credential is not None:
        leaf = crypto.load_certificate(crypto.FILETYPE_ASN1, credential.der)
        with warnings.catch_warnings():
            # what cryptography cannot parse can be given to pyOpenSSL only in its own, deprecated, form
            warnings.simplefilter("ignore", DeprecationWarning)
            context.use_certificate(leaf)
        for above in credential.chain:
            context.add_extra_chain_cert(above.certificate)
        context.use_privatekey(credential.key)
    return context


class Peer:
    """A TLS client over a TCP connection; everything it does is asked for."""

    opened: ClassVar[list[Peer]] = []  # `running` closes what a test leaves open

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: SSL.Context) -> None:
        self.opened.append(self)
        self.raw_reader, self.raw_writer = reader, writer
        self.tls = SSL.Connection(context, None)
        self.tls.set_connect_state()
        self.buffer = b""
        self.closed_cleanly = False
        self.reset = False

    @classmethod
    async def connect(
        cls,
        port: int,
        context: SSL.Context | None = None,
        host: str = "127.0.0.1",
        source: str | None = None,
        preamble: bytes = b"",
    ) -> Peer:
        local = None if source is None else (source, 0)
        reader, writer = await asyncio.open_connection(host, port, local_addr=local)
        writer.write(preamble)
        return cls(reader, writer, context or client_context())

    @classmethod
    async def ready(
        cls, port: int, context: SSL.Context | None = None, source: str | None = None, preamble: bytes = b""
    ) -> Peer:
        peer = await cls.connect(port, context, source=source, preamble=preamble)
        await peer.handshake()
        return peer

    def outgoing(self) -> bytes:
        """What TLS wants to send."""
        sent = b""
        with contextlib.suppress(SSL.WantReadError):
            while True:
                sent += self.tls.bio_read(65536)
        return sent

    async def incoming(self) -> bool:
        """Give TLS what came; False at the end of the TCP connection."""
        try:
            data = await self.raw_reader.read(65536)
        except ConnectionResetError:
            self.reset = True
            return False
        if data:
            self.tls.bio_write(data)
        return bool(data)

    async def handshake(self) -> None:
        """Raises SSL.Error with the server's alert, or ConnectionError."""
        while True:
            try:
                self.tls.do_handshake()
            except SSL.WantReadError:
                self.raw_writer.write(self.outgoing())
                if not await self.incoming():
                    raise ConnectionAbortedError("no more octets") from None
            except SSL.Error:
                self.raw_writer.write(self.outgoing())
                raise
            else:
                self.raw_writer.write(self.outgoing())
                return

    async def send(self, data: bytes) -> None:
        self.tls.sendall(data)
        self.raw_writer.write(self.outgoing())
        await self.raw_writer.drain()

    async def request(self, path: str = "/", method: str = "GET", body: bytes = b"", headers: str = "") -> None:
        length = f"content-length: {len(body)}\r\n" if body else ""
        await self.send(f"{method} {path} HTTP/1.1\r\nhost: localhost\r\n{length}{headers}\r\n".encode() + body)

    async def receive(self) -> bytes:
        """Some octets; empty after close_notify or the end. Raises SSL.Error for an alert."""
        while True:
            try:
                return self.tls.recv(65536)
            except SSL.ZeroReturnError:
                self.closed_cleanly = True
                return b""
            except SSL.WantReadError:
                if waiting := self.outgoing():
                    self.raw_writer.write(waiting)
                if not await self.incoming():
                    return b""

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """One response with Content-Length (or without a body)."""
        while b"\r\n\r\n" not in self.buffer:
            if not (more := await self.receive()):
                raise ConnectionAbortedError(f"no complete header: {self.buffer[:200]!r}")
            self.buffer += more
        header, _, rest = self.buffer.partition(b"\r\n\r\n")
        first, *lines = header.decode().split("\r\n")
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(fields.get("content-length", 0))
        while len(rest) < length:
            if not (more := await self.receive()):
                raise ConnectionAbortedError("no complete body")
            rest += more
        self.buffer = rest[length:]
        return int(first.split()[1]), fields, rest[:length]

    async def get(self, path: str = "/") -> tuple[int, dict[str, str], bytes]:
        await self.request(path)
        return await self.response()

    async def rest(self) -> bytes:
        """Everything up to the end."""
        while more := await self.receive():
            self.buffer += more
        return self.buffer

    async def close_notify(self) -> None:
        self.tls.shutdown()
        self.raw_writer.write(self.outgoing())
        await self.raw_writer.drain()

    async def close(self) -> None:
        self.raw_writer.close()
        with contextlib.suppress(ConnectionError):
            await self.raw_writer.wait_closed()

    def abort(self) -> None:
        self.raw_writer.transport.abort()
