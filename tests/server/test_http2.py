"""HTTP/2 over the TLS seam (`[server] http2`): requests, how connections end, and what is refused (RULES H1)."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from kipuka.http.http2 import MOST_STREAMS
from kipuka.testing.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PRIORITY,
    REQUEST,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    HTTP2Peer,
    frame,
    headers,
)
from kipuka.testing.peer import Peer, client_context

from .tls_seam_peers import CLIENT_CA, running


async def good_client_is_served(port: int) -> None:
    peer = await HTTP2Peer.ready(port)
    assert (await peer.get()).status == 200


# --- requests


@pytest.mark.parametrize("alpn", [(), (b"http/1.1",)], ids=["no ALPN", "http/1.1"])
async def test_whoever_does_not_offer_it_gets_http_1_1(alpn: tuple[bytes, ...]) -> None:
    async with running(http2=True) as server:
        peer = await Peer.ready(server.port, client_context(alpn=alpn))
        assert (await peer.get())[0] == 200
        await peer.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert (await peer.response())[0] == 505  # no prior knowledge


async def test_requests_of_one_connection_are_answered_as_they_are_ready() -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        slow = await peer.request("/wait", "POST", b"abc")
        others = [await peer.request("/body", "POST", bytes(number * 1000)) for number in range(1, 11)]
        for number, stream in enumerate(others, start=1):
            assert (await peer.response(stream)).body == str(number * 1000).encode()
        assert not peer.answers[slow].ended
        server.app.release.set()
        assert (await peer.response(slow)).body == b"at last"
        assert len({id(connection) for connection in server.app.connections}) == 1
        assert len({id(cache) for cache in server.app.caches}) == 1


async def test_every_stream_has_the_connections_client_certificate() -> None:
    device = CLIENT_CA.issue_client("device-1")
    async with running(http2=True, mode="ask") as server:
        peer = await HTTP2Peer.ready(server.port, credential=device)
        for stream in [await peer.request() for _ in range(3)]:
            await peer.response(stream)
        assert [connection.presented.leaf for connection in server.app.connections] == [device.certificate] * 3


async def test_large_bodies_pass_in_both_directions_at_once() -> None:
    async with running(http2=True, max_body_size=4_000_000) as server:
        peer = await HTTP2Peer.ready(server.port)
        down = await peer.request("/big?3000000")
        up = await peer.request("/body", "POST", bytes(3_000_000))
        assert (await peer.response(up)).body == b"3000000"
        assert len((await peer.response(down)).body) == 3_000_000


async def test_an_answer_that_does_not_wait_for_the_body_ends_its_own_stream_only() -> None:
    """In Hypercorn it ends the connection."""
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        slow = await peer.request("/wait", "POST", b"x")
        early = await peer.request("/early", "POST", bytes(1000), end=False)
        answer = await peer.response(early)
        assert (answer.status, answer.body) == (403, b"no, thank you")
        while answer.reset is None:
            assert await peer.pump()
        assert answer.reset == ErrorCodes.NO_ERROR
        await peer.send(frame(DATA, bytes(1000), stream=early))  # sent before the reset was seen
        server.app.release.set()
        assert (await peer.response(slow)).body == b"at last"


async def test_a_body_far_over_the_limit_ends_the_connection() -> None:
    async with running(http2=True, max_body_size=100_000) as server:
        peer = await HTTP2Peer.ready(server.port)
        with pytest.raises(ConnectionError):
            await peer.response(await peer.request("/body", "POST", bytes(1_000_000)))
        assert server.app.bodies == []


async def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        stream = await peer.request("/body", "POST", more=[("expect", "100-continue")], end=False)
        async with asyncio.timeout(10):
            while stream not in peer.informational:
                await peer.pump()
        await peer.upload(stream, b"abc")
        assert (await peer.response(stream)).body == b"3"


async def test_a_client_that_resets_its_request_is_gone_for_the_application() -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        stream = await peer.request("/watch", "POST", b"x")
        await server.app.entered.wait()
        peer.h2.reset_stream(stream, ErrorCodes.CANCEL)
        await peer.flush()
        async with asyncio.timeout(10):
            await server.app.disconnected.wait()
        assert (await peer.get()).status == 200


@pytest.mark.parametrize("path", ["/boom", "/silent"])
async def test_a_fault_of_the_application_is_a_500(path: str) -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        slow = await peer.request("/wait", "POST", b"x")
        answer = await peer.get(path)
        assert answer.status == 500
        assert "connection" not in answer.headers
        server.app.release.set()
        assert (await peer.response(slow)).body == b"at last"


async def test_an_answer_that_breaks_off_is_reset() -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        assert (await peer.get("/halfway")).reset == ErrorCodes.INTERNAL_ERROR
        assert (await peer.get()).status == 200


# --- the end


async def test_after_a_response_with_connection_close_comes_goaway() -> None:
    """RFC 9266, 4.1; the field itself is no field of HTTP/2 (RFC 9113, 8.2.2)."""
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        slow = await peer.request("/wait", "POST", b"x")
        answer = await peer.get("/close")
        assert (answer.status, answer.body) == (200, b"bye")
        assert "connection" not in answer.headers
        late = await peer.get()
        assert late.reset == ErrorCodes.REFUSED_STREAM
        server.app.release.set()
        assert (await peer.response(slow)).body == b"at last"
        await peer.rest()
        assert peer.goaway == ErrorCodes.NO_ERROR
        assert peer.peer.closed_cleanly
        await server.quiet()


async def test_a_connection_has_a_thousand_requests() -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        for _ in range(1000):
            assert (await peer.get()).status == 200
        await peer.rest()
        assert peer.goaway == ErrorCodes.NO_ERROR


async def test_a_server_that_stops_answers_what_is_under_way_and_says_goodbye() -> None:
    async with running(http2=True) as server:
        busy, idle = await HTTP2Peer.ready(server.port), await HTTP2Peer.ready(server.port)
        assert (await idle.get()).status == 200
        stream = await busy.request("/wait", "POST", b"x")
        await server.app.entered.wait()
        while "POST /wait" not in server.app.events:
            await asyncio.sleep(0.005)
        stopping = asyncio.create_task(server.end())
        await idle.rest()
        assert idle.goaway == ErrorCodes.NO_ERROR
        server.app.release.set()
        assert (await busy.response(stream)).body == b"at last"
        await busy.rest()
        assert busy.goaway == ErrorCodes.NO_ERROR
        await stopping


async def test_a_client_that_ends_its_side_after_a_request_gets_the_answer() -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        stream = await peer.request("/wait", "POST", b"x")
        half = await peer.request("/body", "POST", b"x", end=False)
        await server.app.entered.wait()
        await peer.peer.close_notify()
        server.app.release.set()
        assert (await peer.response(stream)).body == b"at last"
        assert not peer.answers[half].ended
        await server.quiet()


# --- deadlines


@pytest.mark.parametrize(
    ("limits", "begin"),
    [
        pytest.param({"idle_timeout": 0.3}, b"", id="idle"),
        pytest.param(
            {"header_timeout": 0.3}, frame(HEADERS, headers(), flags=END_STREAM, stream=1), id="header without its end"
        ),
        pytest.param({"header_timeout": 0.3}, frame(HEADERS, headers(), stream=1)[:20], id="half a frame"),
        pytest.param(
            {"body_timeout": 0.3},
            frame(HEADERS, headers((*REQUEST[:3], (":path", "/body"))), flags=END_HEADERS, stream=1)
            + frame(DATA, b"x", stream=1),
            id="body",
        ),
    ],
)
async def test_a_client_that_does_not_go_on_is_closed(limits: dict[str, float], begin: bytes) -> None:
    async with running(http2=True, **limits) as server:
        peer = await HTTP2Peer.ready(server.port)
        await peer.send(begin)
        await peer.rest()
        assert peer.peer.closed_cleanly
        await server.quiet()


async def test_pings_do_not_keep_an_idle_connection_open() -> None:
    async with running(http2=True, idle_timeout=0.5) as server:
        peer = await HTTP2Peer.ready(server.port)

        async def ping() -> None:
            while True:
                await peer.send(frame(PING, bytes(8)))
                await asyncio.sleep(0.05)

        pinging = asyncio.create_task(ping())
        await peer.rest()
        pinging.cancel()


async def test_other_requests_do_not_lengthen_the_time_for_a_body() -> None:
    async with running(http2=True, body_timeout=0.6) as server:
        peer = await HTTP2Peer.ready(server.port)
        await peer.request("/body", "POST", b"x", end=False)
        with pytest.raises(ConnectionError):
            for _ in range(100):
                await peer.get()
                await asyncio.sleep(0.05)


async def test_the_application_may_take_its_time() -> None:
    async with running(http2=True, header_timeout=1, body_timeout=1, idle_timeout=1) as server:
        peer = await HTTP2Peer.ready(server.port)
        stream = await peer.request("/wait", "POST", b"x")
        await asyncio.sleep(1.5)
        server.app.release.set()
        assert (await peer.response(stream)).body == b"at last"
        await peer.rest()


@pytest.mark.parametrize("window", [0, 1, 65535])
async def test_a_client_that_gives_no_room_for_the_answer_is_closed(window: int) -> None:
    async with running(http2=True, write_timeout=0.4) as server:
        peer = await HTTP2Peer.ready(server.port, settings=False)
        peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
        peer.takes = False
        await peer.request("/big?200000")
        await peer.rest()
        assert peer.goaway == ErrorCodes.CANCEL
        await server.quiet()


# --- floods: each ends its connection, with bounded work, and nobody else notices


def rapid_reset(stream: int) -> bytes:
    begin = frame(HEADERS, headers(), flags=END_HEADERS | END_STREAM, stream=stream)
    return begin + frame(RST_STREAM, bytes(4), stream=stream)


FLOODS = [
    pytest.param(lambda _: frame(PING, bytes(8)), id="PING"),
    pytest.param(lambda _: frame(SETTINGS, (4).to_bytes(2) + (1000).to_bytes(4)), id="SETTINGS"),
    pytest.param(lambda number: rapid_reset(2 * number + 1), id="rapid reset"),
    pytest.param(lambda number: frame(PRIORITY, bytes(4) + b"\x10", stream=2 * number + 1), id="PRIORITY"),
    pytest.param(lambda _: frame(WINDOW_UPDATE, (1).to_bytes(4)), id="WINDOW_UPDATE"),
    pytest.param(lambda _: frame(0xEE, b"abc"), id="unknown frames"),
    pytest.param(
        lambda number: (
            frame(CONTINUATION, b"", stream=1) if number else frame(HEADERS, headers(), flags=END_STREAM, stream=1)
        ),
        id="empty CONTINUATION",
    ),
    pytest.param(
        lambda number: frame(CONTINUATION, bytes(16384), stream=1) if number else frame(HEADERS, headers(), stream=1),
        id="long CONTINUATION",
    ),
    pytest.param(
        lambda number: frame(DATA, b"", stream=1) if number else frame(HEADERS, headers(), flags=END_HEADERS, stream=1),
        id="empty DATA",
    ),
    pytest.param(
        lambda number: (
            frame(DATA, b"\xff" + bytes(255), flags=PADDED, stream=1)
            if number
            else frame(HEADERS, headers(), flags=END_HEADERS, stream=1)
        ),
        id="DATA of padding",
    ),
    pytest.param(
        lambda number: frame(HEADERS, headers(), flags=END_HEADERS, stream=2 * number + 1), id="unfinished requests"
    ),
]


@pytest.mark.parametrize("piece", FLOODS)
@pytest.mark.parametrize("paced", [False, True], ids=["at once", "paced"])
async def test_a_flood_ends_the_connection(piece, paced: bool) -> None:
    async with running(http2=True, header_timeout=30, body_timeout=30) as server:
        peer = await HTTP2Peer.ready(server.port)
        sent = 0
        reading = asyncio.create_task(peer.rest())
        if paced:
            while not reading.done() and sent < 3000:
                await peer.send(b"".join(piece(number) for number in range(sent, sent + 20)))
                sent += 20
                await asyncio.sleep(0)
        else:
            octets = b"".join(piece(number) for number in range(3000))
            await peer.send(octets[:1_000_000])
        await reading
        assert peer.goaway in {ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.PROTOCOL_ERROR}, peer.goaway
        assert len(server.app.events) < 150
        await server.quiet()
        await good_client_is_served(server.port)


async def test_answers_to_pings_that_are_not_read_do_not_pile_up() -> None:
    async with running(http2=True, write_timeout=0.5) as server:
        peer = await HTTP2Peer.ready(server.port)
        peer.peer.raw_writer.transport.pause_reading()
        for _ in range(300):
            await peer.send(frame(PING, bytes(8)))
            await asyncio.sleep(0)
        peer.peer.raw_writer.transport.resume_reading()
        await peer.rest()


async def test_resets_do_not_start_more_than_may_run() -> None:
    """A stream that was reset counts no more for the protocol, but its application may still be at work."""
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        for number in range(60):
            begin = headers((*REQUEST[:3], (":path", "/hold")))
            await peer.send(
                frame(HEADERS, begin, flags=END_HEADERS | END_STREAM, stream=2 * number + 1)
                + frame(RST_STREAM, bytes(4), stream=2 * number + 1)
            )
        await peer.send(frame(PING, bytes(8)))
        await peer.pump()
        async with asyncio.timeout(10):
            while server.app.in_flight < MOST_STREAMS:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        assert server.app.in_flight == MOST_STREAMS
        server.app.release.set()


def hpack_bomb() -> bytes:
    """A field of 4,000 octets goes into the table, and is then named 10,000 times in one octet each."""
    name, value = b"x" * 10, b"a" * 4000
    entry = (
        b"\x40" + bytes([len(name)]) + name + b"\x7f" + bytes([(4000 - 127) % 128 | 0x80, (4000 - 127) // 128]) + value
    )
    return headers() + entry + b"\xbe" * 10_000


@pytest.mark.parametrize(
    ("octets", "code"),
    [
        pytest.param(
            frame(HEADERS, hpack_bomb(), flags=END_HEADERS | END_STREAM, stream=1),
            {ErrorCodes.ENHANCE_YOUR_CALM, ErrorCodes.COMPRESSION_ERROR},
            id="HPACK bomb",
        ),
        pytest.param(
            frame(HEADERS, headers((*REQUEST, ("x", "a" * 16300))), flags=END_HEADERS | END_STREAM, stream=1),
            {ErrorCodes.ENHANCE_YOUR_CALM},
            id="header over the limit",
        ),
        pytest.param(frame(DATA, bytes(16385), stream=1), {ErrorCodes.ENHANCE_YOUR_CALM}, id="frame over the limit"),
        pytest.param(
            frame(HEADERS, b"\xff\xff\xff\xff\xff", flags=END_HEADERS, stream=1),
            {ErrorCodes.COMPRESSION_ERROR, ErrorCodes.PROTOCOL_ERROR},
            id="broken HPACK",
        ),
        pytest.param(frame(DATA, b"x", stream=1), {ErrorCodes.PROTOCOL_ERROR}, id="DATA without a request"),
        pytest.param(frame(WINDOW_UPDATE, bytes(4)), {ErrorCodes.PROTOCOL_ERROR}, id="WINDOW_UPDATE of nothing"),
        pytest.param(
            frame(WINDOW_UPDATE, (2**31 - 1).to_bytes(4)), {ErrorCodes.FLOW_CONTROL_ERROR}, id="window over the limit"
        ),
        pytest.param(
            frame(SETTINGS, b"abc"), {ErrorCodes.FRAME_SIZE_ERROR, ErrorCodes.PROTOCOL_ERROR}, id="odd SETTINGS"
        ),
        pytest.param(frame(PING, b"abc"), {ErrorCodes.FRAME_SIZE_ERROR, ErrorCodes.PROTOCOL_ERROR}, id="short PING"),
        pytest.param(
            frame(5, bytes(4) + headers(), flags=END_HEADERS, stream=1), {ErrorCodes.PROTOCOL_ERROR}, id="push"
        ),
        pytest.param(
            frame(HEADERS, headers(), flags=END_HEADERS | END_STREAM, stream=2),
            {ErrorCodes.PROTOCOL_ERROR},
            id="even stream",
        ),
        pytest.param(
            frame(CONTINUATION, headers(), flags=END_HEADERS, stream=1),
            {ErrorCodes.PROTOCOL_ERROR},
            id="CONTINUATION alone",
        ),
    ],
)
async def test_what_breaks_the_protocol_ends_the_connection(octets: bytes, code: set[ErrorCodes]) -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        await peer.send(octets)
        await peer.rest()
        assert peer.goaway in code
        assert server.app.events == ["startup"]
        await server.quiet()
        await good_client_is_served(server.port)


async def test_something_else_than_the_preface_ends_the_connection() -> None:
    async with running(http2=True) as server:
        peer = await Peer.ready(server.port, client_context(alpn=[b"h2"]))
        await peer.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await peer.rest()
        assert b"HTTP/1.1" not in peer.buffer
        assert server.app.events == ["startup"]


GET, SCHEME, AUTHORITY, PATH = REQUEST


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((GET, SCHEME, AUTHORITY), id="no path"),
        pytest.param((GET, AUTHORITY, PATH), id="no scheme"),
        pytest.param((SCHEME, AUTHORITY, PATH), id="no method"),
        pytest.param((GET, SCHEME, PATH), id="no authority"),
        pytest.param((*REQUEST, ("host", "elsewhere")), id="host is not the authority"),
        pytest.param((*REQUEST, ("host", "localhost"), ("host", "elsewhere")), id="two hosts"),
        pytest.param((*REQUEST, (":path", "/other")), id="two paths"),
        pytest.param((*REQUEST, (":status", "200")), id="a response's pseudo field"),
        pytest.param((("x", "y"), *REQUEST), id="a field before the pseudo fields"),
        pytest.param((*REQUEST, ("connection", "close")), id="connection"),
        pytest.param((*REQUEST, ("transfer-encoding", "chunked")), id="transfer-encoding"),
        pytest.param((*REQUEST, ("upgrade", "websocket")), id="upgrade"),
        pytest.param((*REQUEST, ("te", "gzip")), id="te"),
        pytest.param((*REQUEST, ("X-Upper", "y")), id="upper case"),
        pytest.param((*REQUEST, ("x", "a\r\nb: c")), id="line break"),
        pytest.param((*REQUEST, ("x", "a\x00")), id="NUL"),
        pytest.param((*REQUEST, ("x", "a\x7f")), id="DEL"),
        pytest.param((*REQUEST, ("x y", "a")), id="space in a name"),
        pytest.param((*REQUEST, ("x(", "a")), id="no token"),
        pytest.param((GET, SCHEME, AUTHORITY, (":path", "/\u00e9")), id="path beyond ASCII"),
        pytest.param((GET, SCHEME, AUTHORITY, (":path", "/a b")), id="space in the path"),
        pytest.param((GET, SCHEME, AUTHORITY, (":path", "https://localhost/")), id="absolute path"),
        pytest.param((GET, SCHEME, AUTHORITY, (":path", "")), id="empty path"),
        pytest.param(((":method", "GE T"), SCHEME, AUTHORITY, PATH), id="space in the method"),
        pytest.param(((":method", "G\u00e9T"), SCHEME, AUTHORITY, PATH), id="method beyond ASCII"),
        pytest.param(((":method", ""), SCHEME, AUTHORITY, PATH), id="empty method"),
        pytest.param(((":method", "CONNECT"), AUTHORITY), id="CONNECT"),
        pytest.param(
            ((":method", "CONNECT"), SCHEME, AUTHORITY, PATH, (":protocol", "websocket")), id="extended CONNECT"
        ),
        pytest.param((*REQUEST, ("content-length", "5")), id="length without a body"),
        pytest.param((*REQUEST, ("content-length", "+0")), id="signed length"),
        pytest.param((*REQUEST, ("content-length", "0_0")), id="underscore in the length"),
        pytest.param((*REQUEST, ("content-length", "0"), ("content-length", "1")), id="two lengths"),
        pytest.param((*REQUEST, ("content-length", "-1")), id="negative length"),
    ],
)
async def test_a_request_that_is_malformed_reaches_no_application(fields) -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        await peer.send(frame(HEADERS, headers(fields), flags=END_HEADERS | END_STREAM, stream=1))
        async with asyncio.timeout(10):
            while peer.goaway is None and 1 not in peer.answers:
                assert await peer.pump()
        assert peer.goaway == ErrorCodes.PROTOCOL_ERROR or peer.answers[1].reset == ErrorCodes.PROTOCOL_ERROR
        assert server.app.events == ["startup"]


@pytest.mark.parametrize("sent", [b"abc", b"abcdef"], ids=["less", "more"])
async def test_a_body_of_another_length_than_declared_is_not_answered(sent: bytes) -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        fields = ((":method", "POST"), *REQUEST[1:3], (":path", "/body"), ("content-length", "5"))
        await peer.send(
            frame(HEADERS, headers(fields), flags=END_HEADERS, stream=1) + frame(DATA, sent, flags=END_STREAM, stream=1)
        )
        await peer.rest()
        assert peer.goaway == ErrorCodes.PROTOCOL_ERROR
        assert server.app.bodies == []


async def test_goaway_of_the_client_ends_the_connection() -> None:
    async with running(http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        stream = await peer.request("/watch", "POST", b"x")
        await server.app.entered.wait()
        await peer.send(frame(GOAWAY, bytes(8)))
        async with asyncio.timeout(10):
            await server.app.disconnected.wait()
        assert not peer.answers[stream].ended
        await server.quiet()


async def test_host_is_the_authority() -> None:
    seen = []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        seen.append([(name, value) for name, value in scope["headers"] if name == b"host"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async with running(app, http2=True) as server:
        peer = await HTTP2Peer.ready(server.port)
        assert (await peer.get(more=[("host", "localhost")])).status == 204
        await peer.send(b"")
        assert seen == [[(b"host", b"localhost")]]
