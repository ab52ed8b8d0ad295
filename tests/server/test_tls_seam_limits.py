"""RULES H1: how many connections there may be, over true sockets from several addresses of the loopback network."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from kipuka.testing.peer import Peer, client_context

from .tls_seam_peers import running


async def octets_until_the_end(peer: Peer) -> bytes:
    """What comes on the TCP connection before it is closed or reset."""
    came = b""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            while more := await peer.raw_reader.read(65536):
                came += more
    return came


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def test_an_address_over_its_limit_is_closed_before_any_tls() -> None:
    async with running(max_connections_per_address=2) as server:
        first, second = await Peer.ready(server.port), await Peer.ready(server.port)
        refused = await Peer.connect(server.port)
        with contextlib.suppress(ConnectionError, ConnectionAbortedError):
            await refused.handshake()
        assert await octets_until_the_end(refused) == b""
        other = await Peer.ready(server.port, source="127.0.0.2")
        for peer in (first, second, other):
            assert (await peer.get())[0] == 200
        assert server.limits == [("max_connections_per_address", "127.0.0.1")]
        assert server.failures == []  # it is no handshake that failed
        before = len(asyncio.all_tasks())
        await first.close()
        await until(lambda: len(asyncio.all_tasks()) < before)
        assert (await (await Peer.ready(server.port)).get())[0] == 200


@pytest.mark.parametrize("http2", [False, True], ids=["HTTP/1.1", "HTTP/2"])
async def test_when_the_server_is_full_an_idle_connection_of_the_largest_address_makes_room(http2: bool) -> None:
    context = client_context(alpn=[b"h2"]) if http2 else client_context()
    async with running(max_connections=3, http2=http2) as server:
        idle = [await Peer.ready(server.port, context, source="127.0.0.2") for _ in range(2)]
        busy = await Peer.ready(server.port, source="127.0.0.3")
        await busy.request("/wait", "POST", b"x")
        await server.app.entered.wait()
        good = await Peer.ready(server.port)
        assert (await good.get())[0] == 200
        async with asyncio.timeout(10):
            await idle[0].rest()
        assert idle[0].closed_cleanly
        server.app.release.set()
        assert (await busy.response())[2] == b"at last"
        assert server.limits == [("displaced", "127.0.0.2")]


async def test_a_handshake_that_does_not_go_on_makes_room() -> None:
    async with running(max_connections=2) as server:
        waiting = [await Peer.connect(server.port, source="127.0.0.2") for _ in range(2)]
        assert (await (await Peer.ready(server.port)).get())[0] == 200
        assert await octets_until_the_end(waiting[0]) == b""
        failure = await server.failure()
        assert (failure.reason, failure.client_address) == ("displaced", "127.0.0.2")


async def test_a_server_full_of_requests_takes_nobody_and_drops_nobody() -> None:
    async with running(max_connections=2) as server:
        busy = [await Peer.ready(server.port, source="127.0.0.2") for _ in range(2)]
        for peer in busy:
            await peer.request("/wait", "POST", b"x")
        await until(lambda: server.app.in_flight == 2)
        refused = await Peer.connect(server.port)
        assert await octets_until_the_end(refused) == b""
        assert server.limits == [("max_connections", "127.0.0.1")]
        server.app.release.set()
        for peer in busy:
            assert (await peer.response())[2] == b"at last"
        assert (await (await Peer.ready(server.port)).get())[0] == 200  # they are idle now


async def test_a_flood_of_connections_leaves_nothing() -> None:
    async with running(max_connections=5, max_connections_per_address=3) as server:
        peers = [await Peer.connect(server.port, source=f"127.0.0.{2 + number % 9}") for number in range(200)]
        for _ in range(20):
            assert (await (await Peer.ready(server.port)).get())[0] == 200
        for peer in peers:
            peer.abort()
        await server.quiet()
