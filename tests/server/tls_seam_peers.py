"""The server's end of the TLS seam: `kipuka.http.server` in this event loop.

In the room: `running`, and the ASGI application under test. Not in the room: the clients (`kipuka.testing.peer`), and any
assertion about the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ipaddress
import json
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kipuka.http.proxy_protocol import Proxies
from kipuka.http.server import Listener, ServerLimits, serve
from kipuka.http.tls import HandshakeFailure, TLSMaterial, build_context
from kipuka.testing.peer import Peer
from kipuka.testing.pki import Credential, make_root

NO_EXTENDED_MASTER_SECRET = 1  # SSL_OP_NO_EXTENDED_MASTER_SECRET

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
        async with asyncio.timeout(30):
            while not self.failures:
                await asyncio.sleep(0.005)
        assert len(self.failures) == 1, self.failures
        return self.failures[0]

    async def quiet(self) -> None:
        """Return when no connection has a task any more."""
        async with asyncio.timeout(30):
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
    others = [*Peer.opened]  # of another loop, which nothing here can close
    try:
        yield server_now
    finally:
        async with asyncio.timeout(30):
            await server_now.end()
        for peer in [peer for peer in Peer.opened if peer not in others]:
            await peer.close()
    assert asyncio.all_tasks() == before, asyncio.all_tasks() - before
    gc.collect()
    loop.set_exception_handler(None)
    assert troubles == []
