"""Start and stop: nothing is accepted, nothing is lost that had begun, nothing is left."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL

from kipuka.api.errors import StartupError
from kipuka.http.server import Listener, serve
from kipuka.http.tls import TLSMaterial, build_context
from kipuka.testing.peer import Peer

from .tls_seam_peers import QUICK, SERVER, App, running


async def test_stop_closes_idle_connections_promptly() -> None:
    async with running(idle_timeout=60, shutdown_timeout=60, close_timeout=60) as server:
        fresh, used = await Peer.ready(server.port), await Peer.ready(server.port)
        await used.get()
        partial = await Peer.ready(server.port)
        await partial.send(b"GET / HT")
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await server.end()
        assert time.monotonic() - start < 30
        for peer in (fresh, used, partial):
            assert await peer.rest() == b""
            assert peer.closed_cleanly
        assert server.app.events[-1] == "shutdown"


async def test_stop_answers_a_request_that_has_arrived_but_was_not_read() -> None:
    """Its header was complete: the connection only looks idle."""
    async with running(shutdown_timeout=60) as server:
        used, fresh = await Peer.ready(server.port), await Peer.ready(server.port)
        await used.get()
        for peer in (used, fresh):
            peer.tls.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            peer.raw_writer.write(peer.outgoing())
        server.stop.set()  # in the same turn of the loop: the server has read nothing
        for peer in (used, fresh):
            assert (await peer.response())[0] == 200
            assert await peer.rest() == b""
            assert peer.closed_cleanly


async def test_stop_lets_a_request_in_flight_end() -> None:
    async with running(shutdown_timeout=60, close_timeout=60) as server:
        peer = await Peer.ready(server.port)
        await peer.request("/wait", "POST", b"abc")
        await server.app.entered.wait()
        server.stop.set()
        await asyncio.sleep(0.1)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", server.port)
        server.app.release.set()
        start = time.monotonic()
        assert (await peer.response())[2] == b"at last"
        assert await peer.rest() == b""
        assert peer.closed_cleanly
        await server.task
        assert time.monotonic() - start < 30


async def test_stop_lets_a_body_arrive() -> None:
    async with running(shutdown_timeout=60) as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        await server.app.entered.wait()
        server.stop.set()
        await asyncio.sleep(0.1)
        await peer.send(b"def")
        assert (await peer.response())[2] == b"6"
        await peer.close()
        await server.task


async def test_stop_drops_what_does_not_end_in_time() -> None:
    async with running(shutdown_timeout=0.3) as server:
        peers = [await Peer.ready(server.port) for _ in range(3)]
        for peer in peers:
            await peer.request("/wait", "POST", b"abc")
        await server.app.entered.wait()
        await asyncio.sleep(0.05)
        start = time.monotonic()
        await server.end()
        assert time.monotonic() - start > 0.2  # and it comes to its end
        assert server.app.events[-1] == "shutdown"
        assert server.app.in_flight == 0


async def test_stop_is_not_held_up_by_a_pipelining_client() -> None:
    """The second request would wait for ever for a response after which Hypercorn reads no more."""
    async with running(shutdown_timeout=60) as server:
        peer = await Peer.ready(server.port)
        await peer.send(
            b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\naGET / HTTP/1.1\r\nhost: x\r\n\r\n"
        )
        await server.app.entered.wait()
        server.stop.set()
        await asyncio.sleep(0.05)
        server.app.release.set()
        assert (await peer.response())[2] == b"at last"
        await peer.close()
        async with asyncio.timeout(8):
            await server.task


async def test_stop_ends_handshakes_and_reports_them() -> None:
    async with running(shutdown_timeout=60) as server:
        peer = await Peer.connect(server.port)
        with pytest.raises(SSL.WantReadError):
            peer.tls.do_handshake()
        peer.raw_writer.write(peer.outgoing())
        await peer.incoming()
        async with asyncio.timeout(8):
            await server.end()
        assert (await server.failure()).reason == "server_stopping"


async def test_a_cancelled_server_leaves_nothing() -> None:
    async with running(shutdown_timeout=0.2) as server:
        peer = await Peer.ready(server.port)
        await peer.request("/wait", "POST", b"abc")
        await server.app.entered.wait()
        server.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await server.task
        assert server.app.events[-1] == "shutdown"
        server.task = asyncio.create_task(asyncio.sleep(0))


@pytest.fixture
def context(tmp_path: Path) -> SSL.Context:
    certificate, key = SERVER.write(tmp_path, "server")
    return build_context(TLSMaterial(certificate=certificate, key=key))


async def start(app: Any, listeners: list[Listener]) -> list[tuple[str, int]]:
    """Start and stop at once; where it has listened."""
    stop, found = asyncio.Event(), []

    async def started(addresses: Any) -> None:
        found.extend(addresses)
        stop.set()

    await serve(
        app,
        listeners,
        QUICK,
        on_handshake_failure=lambda _: None,
        on_limit=lambda _limit, _address: None,
        started=started,
        stop=stop,
    )
    return found


async def test_each_listener_has_its_own_name_and_port(context: SSL.Context) -> None:
    app, stop, failures = App(), asyncio.Event(), []
    ready: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def started(addresses: Any) -> None:
        ready.set_result(addresses)

    listeners = [Listener(name=name, host="localhost", port=0, context=context) for name in ("est", "admin")]
    task = asyncio.create_task(
        serve(
            app,
            listeners,
            QUICK,
            on_handshake_failure=failures.append,
            on_limit=lambda _limit, _address: None,
            started=started,
            stop=stop,
        )
    )
    for (host, port), name in zip(await ready, ("est", "admin"), strict=True):
        peer = await Peer.connect(port, host=host)
        await peer.handshake()
        await peer.get()
        assert app.connections[-1].listener == name
        await peer.close()
    stop.set()
    await task
    assert failures == []


async def test_an_address_in_use_is_said_and_the_application_not_started(context: SSL.Context) -> None:
    app = App()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupError, match=rf"cannot listen on 127\.0\.0\.1 port {port} for est: .*in use"):
            await start(app, [Listener(name="est", host="127.0.0.1", port=port, context=context)])
    assert app.events == []


async def test_an_application_that_does_not_start_is_a_startup_error(context: SSL.Context) -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "the store is away"})

    async def ends(scope: Any, receive: Any, send: Any) -> None:
        await receive()

    async def raises(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("no such thing")

    listener = Listener(name="est", host="127.0.0.1", port=0, context=context)
    with pytest.raises(StartupError, match="the store is away"):
        await start(fails, [listener])
    with pytest.raises(StartupError, match="ended during its startup"):
        await start(ends, [listener])
    with pytest.raises(ValueError, match="no such thing"):
        await start(raises, [listener])


async def test_no_task_is_left_by_a_start_that_fails(context: SSL.Context) -> None:
    before = asyncio.all_tasks()
    with pytest.raises(StartupError):
        await start(App(), [Listener(name="est", host="256.256.256.256", port=0, context=context)])

    async def started(_addresses: Any) -> None:
        raise RuntimeError("the readiness file cannot be written")

    app = App()
    with pytest.raises(RuntimeError):
        await serve(
            app,
            [Listener(name="est", host="127.0.0.1", port=0, context=context)],
            QUICK,
            on_handshake_failure=lambda _: None,
            on_limit=lambda _limit, _address: None,
            started=started,
            stop=asyncio.Event(),
        )
    assert app.events == ["startup", "shutdown"]
    assert asyncio.all_tasks() == before
