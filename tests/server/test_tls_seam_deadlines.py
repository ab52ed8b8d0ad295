"""RULES H1: a deadline for everything a client may be slow at; never one for the application."""

from __future__ import annotations

import asyncio
import time

import pytest

from kipuka.testing.peer import Peer

from .tls_seam_peers import running

HEADER = b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"


async def dribble(peer: Peer, data: bytes, pause: float) -> None:
    for octet in data:
        await peer.send(bytes([octet]))
        await asyncio.sleep(pause)


async def ended(peer: Peer, *, since: float) -> float:
    """When the server has ended the connection, in seconds from that moment: one before the server could begin to count."""
    async with asyncio.timeout(30):
        await peer.rest()
    return time.monotonic() - since


async def test_a_connection_without_a_request_is_closed() -> None:
    async with running(idle_timeout=0.3) as server:
        start = time.monotonic()
        peer = await Peer.ready(server.port)
        assert await ended(peer, since=start) > 0.2
        assert peer.closed_cleanly
        assert peer.buffer == b""
        await peer.close()
        await server.quiet()


async def test_an_idle_connection_is_closed_after_its_last_response() -> None:
    async with running(idle_timeout=2.5) as server:
        peer = await Peer.ready(server.port)
        for _ in range(3):
            await asyncio.sleep(0.9)  # longer than the idle time in sum: each request starts it anew
            start = time.monotonic()
            assert (await peer.get())[0] == 200
        assert await ended(peer, since=start) > 2
        assert peer.closed_cleanly


async def test_a_slow_header_is_cut_off() -> None:
    """The deadline is for the whole of it: octets that keep coming do not move it."""
    async with running(header_timeout=0.4, idle_timeout=30) as server:
        peer = await Peer.ready(server.port)
        start = time.monotonic()
        sending = asyncio.create_task(dribble(peer, HEADER, 0.05))
        assert await ended(peer, since=start) > 0.3
        sending.cancel()
        assert peer.closed_cleanly
        assert server.app.connections == []
        await peer.close()
        await server.quiet()


async def test_the_header_has_its_own_time_after_idling() -> None:
    async with running(header_timeout=20, idle_timeout=2) as server:
        peer = await Peer.ready(server.port)
        await asyncio.sleep(0.5)
        await peer.send(b"GET / HT")
        await asyncio.sleep(1.7)  # past what is left of idling
        await peer.send(b"TP/1.1\r\nhost: x\r\n\r\n")
        assert (await peer.response())[0] == 200


async def test_the_second_of_two_pipelined_headers_has_its_own_time() -> None:
    async with running(header_timeout=4) as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"GET / HTTP/1.1\r\nho")
        await asyncio.sleep(2.2)
        await peer.send(b"st: x\r\n\r\nGET / HTTP/1.1\r\nho")
        await asyncio.sleep(2.2)
        await peer.send(b"st: x\r\n\r\n")
        assert (await peer.response())[0] == 200
        assert (await peer.response())[0] == 200


@pytest.mark.parametrize("how", ["dribbled", "stalled", "chunked"])
async def test_a_slow_body_is_cut_off_and_the_application_told(how: str) -> None:
    async with running(body_timeout=0.4) as server:
        peer = await Peer.ready(server.port)
        start = time.monotonic()
        if how == "chunked":
            await peer.send(HEADER.replace(b"content-length: 100", b"transfer-encoding: chunked"))
            sending = asyncio.create_task(dribble(peer, b"1\r\na\r\n" * 50, 0.05))
        else:
            await peer.send(HEADER)
            sending = asyncio.create_task(dribble(peer, b"a" * (50 if how == "dribbled" else 1), 0.05))
        assert await ended(peer, since=start) > 0.3
        sending.cancel()
        assert peer.closed_cleanly
        assert peer.buffer == b""
        async with asyncio.timeout(10):
            await server.app.disconnected.wait()
        assert server.app.bodies == []
        await peer.close()
        await server.quiet()


async def test_the_application_may_take_its_time() -> None:
    async with running(header_timeout=1, body_timeout=1, idle_timeout=1) as server:
        peer = await Peer.ready(server.port)
        await peer.request("/wait", "POST", b"abc")
        await asyncio.sleep(1.5)
        start = time.monotonic()
        server.app.release.set()
        assert (await peer.response())[2] == b"at last"
        assert await ended(peer, since=start) > 0.8  # and then it is idle


async def test_the_time_an_application_takes_to_read_is_not_the_clients() -> None:
    """The body is there, in our buffers; the deadline is for a client that has not sent it."""

    async with running(body_timeout=2, max_body_size=10_000_000) as server:
        peer = await Peer.ready(server.port)
        sending = asyncio.create_task(peer.request("/late", "POST", bytes(3_000_000)))
        await server.app.entered.wait()
        await asyncio.sleep(2.5)
        server.app.release.set()
        assert (await peer.response())[2] == b"3000000"
        await sending


async def test_a_client_that_does_not_read_is_dropped() -> None:
    """Hypercorn would wait for ever for a reader that makes no progress."""
    async with running(write_timeout=0.3) as server:
        peer = await Peer.ready(server.port)
        peer.raw_writer.transport.pause_reading()
        await peer.request("/big?100000000")
        await server.app.entered.wait()
        await server.quiet()
        peer.raw_writer.transport.resume_reading()
        await peer.rest()
        assert peer.reset or not peer.closed_cleanly
        assert len(peer.buffer) < 100_000_000


async def test_a_client_that_does_not_read_the_end_is_dropped() -> None:
    """The last octets are in the transport's buffer and nobody drains: closing has its own deadline."""
    async with running(write_timeout=0.3, close_timeout=0.3, idle_timeout=0.3) as server:
        peer = await Peer.ready(server.port)
        peer.raw_writer.transport.pause_reading()
        for _ in range(3000):  # small responses, to fill what the kernel and the transport hold
            peer.tls.sendall(b"GET /page HTTP/1.1\r\nhost: x\r\n\r\n")
        peer.raw_writer.write(peer.outgoing())
        await server.app.entered.wait()
        await server.quiet()


async def test_a_client_that_does_not_end_its_side_is_dropped() -> None:
    """The abort timer: after close_notify and FIN the client has `close_timeout`."""
    async with running(close_timeout=0.3) as server:
        peer = await Peer.ready(server.port)
        start = time.monotonic()
        await peer.get("/close")
        await server.quiet()  # or there would be no end to it
        assert time.monotonic() - start > 0.2
