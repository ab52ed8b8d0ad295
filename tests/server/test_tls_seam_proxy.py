"""PROXY headers before TLS, over true sockets: from listed peers they are believed, and nothing else comes through (RULES C4)."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from OpenSSL import SSL

from kipuka.http.connections import _MOST_BEYOND
from kipuka.testing.peer import Peer, client_context
from kipuka.testing.proxy_protocol import LOCAL, proxy_header

from .tls_seam_peers import running

CLIENT = ("192.0.2.7", 40123)
BALANCER = "127.0.0.2"
BEHIND = {"proxies": [f"{BALANCER}/32"]}


async def octets_until_the_end(peer: Peer) -> bytes:
    came = b""
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionResetError):
            while more := await peer.raw_reader.read(65536):
                came += more
    return came


async def forwarded(server, client=CLIENT, **options) -> Peer:
    """A connection through the balancer, ready to be used."""
    header = proxy_header(client, **options)
    return await Peer.ready(server.port, source=BALANCER, preamble=header)


async def raw(server, source=BALANCER):
    """A connection of the balancer's, on which nothing has been said."""
    return await Peer.connect(server.port, source=source)


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


# --- a header that is good ---


@pytest.mark.parametrize(
    ("client", "address"),
    [
        (CLIENT, "192.0.2.7"),
        (("2001:db8::7", 40123), "2001:db8::7"),
        (("::ffff:192.0.2.7", 40123), "192.0.2.7"),
    ],
)
@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("version", ["1.2", "1.3"])
async def test_the_connection_is_that_of_the_client_it_names(client, address, checksum, version) -> None:
    async with running(**BEHIND) as server:
        header = proxy_header(client, values=[(0x02, b"localhost")], checksum=checksum)
        peer = await Peer.ready(server.port, client_context(version), source=BALANCER, preamble=header)
        assert (await peer.get())[0] == 200
        (connection,) = server.app.connections
        assert (connection.client_address, connection.client_port) == (address, 40123)


async def test_http2_goes_through_too() -> None:
    async with running(http2=True, **BEHIND) as server:
        context = client_context(alpn=[b"h2"])
        peer = await Peer.ready(server.port, context, source=BALANCER, preamble=proxy_header(CLIENT))
        assert peer.tls.get_alpn_proto_negotiated() == b"h2"


async def test_a_balancers_own_connection_keeps_its_address() -> None:
    async with running(**BEHIND) as server:
        assert (await (await forwarded(server, LOCAL)).get())[0] == 200
        assert server.app.connections[0].client_address == BALANCER


async def test_peers_that_are_not_listed_need_none() -> None:
    async with running(**BEHIND) as server:
        assert (await (await Peer.ready(server.port, source="127.0.0.3")).get())[0] == 200
        assert server.app.connections[0].client_address == "127.0.0.3"


async def test_header_and_hello_may_come_in_one_segment() -> None:
    async with running(**BEHIND) as server:
        peer = await raw(server)
        with contextlib.suppress(SSL.WantReadError):
            peer.tls.do_handshake()
        peer.raw_writer.write(proxy_header(CLIENT) + peer.outgoing())
        await peer.handshake()
        assert (await peer.get())[0] == 200
        assert server.app.connections[0].client_address == CLIENT[0]


async def test_header_and_hello_may_come_octet_by_octet() -> None:
    async with running(**BEHIND) as server:
        peer = await raw(server)
        peer.raw_writer.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(SSL.WantReadError):
            peer.tls.do_handshake()
        for octet in proxy_header(CLIENT, values=[(0x04, b"x" * 20)], checksum=True) + peer.outgoing():
            peer.raw_writer.write(bytes([octet]))
            await asyncio.sleep(0)
        await peer.handshake()
        assert (await peer.get())[0] == 200
        assert server.app.connections[0].client_address == CLIENT[0]


# --- what is none ---


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        pytest.param(b"PROXY TCP4 192.0.2.7 192.0.2.8 40123 8443\r\n", "proxy_header_version", id="version 1"),
        pytest.param(b"\x16\x03\x01\x00\x10", "proxy_header_missing", id="TLS at once"),
        pytest.param(proxy_header(CLIENT, values=[(0x04, bytes(5000))]), "proxy_header_too_large", id="too large"),
        pytest.param(proxy_header(CLIENT, family=0), "proxy_header_family", id="unknown family"),
        pytest.param(proxy_header(CLIENT, family=0x31), "proxy_header_family", id="Unix socket"),
        pytest.param(proxy_header(CLIENT, family=0x12), "proxy_header_family", id="UDP"),
        pytest.param(proxy_header(CLIENT, command=0x2F), "proxy_header_malformed", id="unknown command"),
        pytest.param(proxy_header(CLIENT, values=[(3, b"\0\0\0\0")]), "proxy_header_checksum", id="wrong checksum"),
    ],
)
async def test_a_listed_peer_without_a_good_header_is_closed_without_a_word(octets, reason) -> None:
    async with running(**BEHIND) as server:
        peer = await raw(server)
        peer.raw_writer.write(octets)
        assert await octets_until_the_end(peer) == b""
        failure = await server.failure()
        assert (failure.reason, failure.client_address) == (reason, BALANCER)
        assert server.app.connections == []
        assert (await (await forwarded(server)).get())[0] == 200


async def test_a_second_header_is_no_tls() -> None:
    """A client cannot add to what the balancer says."""
    async with running(**BEHIND) as server:
        peer = await raw(server)
        peer.raw_writer.write(proxy_header(CLIENT) + proxy_header(("198.51.100.1", 1)))
        await octets_until_the_end(peer)
        failure = await server.failure()
        assert (failure.reason, failure.client_address) == ("not_tls", CLIENT[0])


@pytest.mark.parametrize("client", [CLIENT, LOCAL])
async def test_a_header_from_anybody_else_is_a_failed_handshake(client) -> None:
    async with running(**BEHIND) as server:
        peer = await raw(server, source="127.0.0.3")
        peer.raw_writer.write(proxy_header(client))
        await octets_until_the_end(peer)
        failure = await server.failure()
        assert (failure.reason, failure.client_address) == ("not_tls", "127.0.0.3")


async def test_without_the_setting_nobody_is_believed() -> None:
    async with running() as server:
        peer = await raw(server)
        peer.raw_writer.write(proxy_header(CLIENT))
        await octets_until_the_end(peer)
        assert (await server.failure()).reason == "not_tls"


@pytest.mark.parametrize("size", [0, 1, 12, 16, 27])
async def test_a_peer_that_ends_within_the_header_is_told_as_any_that_does_not_go_on(size) -> None:
    async with running(**BEHIND) as server:
        peer = await raw(server)
        peer.raw_writer.write(proxy_header(CLIENT)[:size])
        peer.raw_writer.write_eof()
        assert await octets_until_the_end(peer) == b""
        failure = await server.failure()
        assert failure.reason == ("closed_by_client" if size else "closed_without_data")


async def test_a_client_that_ends_its_side_after_the_header_is_told_by_its_own_address() -> None:
    async with running(**BEHIND) as server:
        peer = await raw(server)
        peer.raw_writer.write(proxy_header(CLIENT))
        peer.raw_writer.write_eof()
        assert await octets_until_the_end(peer) == b""
        failure = await server.failure()
        assert (failure.reason, failure.client_address) == ("closed_by_client", CLIENT[0])


async def test_the_handshakes_deadline_runs_from_the_beginning() -> None:
    """Whoever dawdles with the header has no second span for TLS: he is dropped before one who came later."""
    async with running(handshake_timeout=2, **BEHIND) as server:
        dawdler = await raw(server)
        header = proxy_header(CLIENT)
        dawdler.raw_writer.write(header[:-1])
        await asyncio.sleep(0.6)
        later = await raw(server)
        later.raw_writer.write(proxy_header(("192.0.2.8", 1)))
        await asyncio.sleep(0.3)
        dawdler.raw_writer.write(header[-1:])
        await until(lambda: len(server.failures) == 2)
        assert [(failure.reason, failure.client_address) for failure in server.failures] == [
            ("timeout", CLIENT[0]),
            ("timeout", "192.0.2.8"),
        ]


async def test_a_header_that_never_ends_meets_the_deadline() -> None:
    async with running(handshake_timeout=0.3, **BEHIND) as server:
        peer = await raw(server)
        peer.raw_writer.write(proxy_header(CLIENT)[:20])
        assert await octets_until_the_end(peer) == b""
        failure = await server.failure()
        assert (failure.reason, failure.client_address) == ("timeout", BALANCER)


async def test_the_stop_ends_connections_that_have_not_said_whose_they_are() -> None:
    async with running(shutdown_timeout=60, handshake_timeout=60, **BEHIND) as server:
        peer = await raw(server)
        peer.raw_writer.write(proxy_header(CLIENT)[:5])
        await asyncio.sleep(0.05)
        await server.end()
        assert await octets_until_the_end(peer) == b""
        assert (await server.failure()).reason == "server_stopping"


# --- limits ---


async def test_limits_per_address_are_the_clients_and_not_the_balancers() -> None:
    async with running(max_connections_per_address=2, **BEHIND) as server:
        crowd = [await forwarded(server, (f"192.0.2.{last}", 1)) for last in (1, 1, 2, 2, 3)]
        refused = await Peer.connect(server.port, source=BALANCER, preamble=proxy_header(("192.0.2.1", 9)))
        assert await octets_until_the_end(refused) == b""
        assert server.limits == [("max_connections_per_address", "192.0.2.1")]
        assert server.failures == []
        for peer in crowd:
            assert (await peer.get())[0] == 200


async def test_a_full_server_makes_room_for_a_forwarded_client_as_for_any() -> None:
    async with running(max_connections=3, **BEHIND) as server:
        greedy = [await forwarded(server, ("192.0.2.1", port)) for port in range(3)]
        newcomer = await forwarded(server, ("192.0.2.2", 1))
        assert (await newcomer.get())[0] == 200
        async with asyncio.timeout(10):
            await greedy[0].rest()
        assert greedy[0].closed_cleanly
        assert server.limits == [("displaced", "192.0.2.1")]


async def test_connections_that_do_not_say_whose_they_are_displace_nobody_and_are_bounded() -> None:
    async with running(max_connections=2, handshake_timeout=60, **BEHIND) as server:
        idle = [await forwarded(server, (f"192.0.2.{last}", 1)) for last in (1, 2)]
        silent = [await raw(server) for _ in range(_MOST_BEYOND)]
        for peer in silent:
            peer.raw_writer.write(proxy_header(CLIENT)[:3])
        over = await raw(server)
        assert await octets_until_the_end(over) == b""
        assert server.limits == [("max_connections", BALANCER)]
        for peer in idle:
            assert (await peer.get())[0] == 200
        silent[0].abort()
        await until(lambda: server.failures)
        assert (await (await forwarded(server, ("192.0.2.1", 5))).get())[0] == 200
