"""HTTP over the seam: what Hypercorn does well, and what had to be narrowed."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import struct
from pathlib import Path

import pytest
from quart import Quart, request
from structlog.testing import capture_logs

from kipuka.testing.peer import Peer, client_context

from .tls_seam_peers import SERVER_ROOT, running

VERSIONS = ["1.2", "1.3"]


async def test_connections_are_served_at_once() -> None:
    async with running() as server:
        blocked = await Peer.ready(server.port)
        await blocked.request("/wait", "POST")

        async def several(version: str) -> None:
            peer = await Peer.ready(server.port, client_context(version))
            for _ in range(5):
                assert (await peer.get())[0] == 200
            await peer.close()

        await asyncio.gather(*(several(version) for version in VERSIONS * 15))
        server.app.release.set()
        assert (await blocked.response())[2] == b"at last"


async def test_many_requests_go_over_one_connection() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port)
        for size in (0, 1, 100, 70_000, 0):
            await peer.request("/body", "POST", b"b" * size, headers="" if size else "content-length: 0\r\n")
            assert (await peer.response())[2] == str(size).encode()
        assert len({connection.id for connection in server.app.connections}) == 1


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(
            b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabcGET / HTTP/1.1\r\nhost: x\r\n\r\n" * 10
        )
        for _ in range(10):
            assert (await peer.response())[2] == b"3"
            assert (await peer.response())[2].startswith(b"{")


async def test_a_chunked_request_is_read() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        await peer.send(b"3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\n\r\n")
        assert (await peer.response())[2] == b"7"


async def test_a_client_that_waits_for_100_is_told_to_go_on() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nexpect: 100-continue\r\n\r\n")
        assert (await peer.response())[0] == 100
        await peer.send(b"abc")
        assert (await peer.response())[2] == b"3"


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_response_that_says_close_ends_with_close_notify(version: str) -> None:
    """RULES G2: after the use of tls-exporter as a binding the connection is closed."""
    async with running() as server:
        peer = await Peer.ready(server.port, client_context(version))
        _, headers, body = await peer.get("/close")
        assert (headers["connection"], body) == ("close", b"bye")
        assert await peer.rest() == b""
        assert peer.closed_cleanly


async def test_a_half_closed_client_gets_its_answer() -> None:
    """RFC 8446, 6.1: close_notify ends one direction only; the same for TCP."""
    for tls_level in (True, False):
        async with running() as server:
            peer = await Peer.ready(server.port)
            await peer.request("/wait", "POST", b"abc")
            if tls_level:
                await peer.close_notify()
            else:
                peer.raw_writer.write_eof()
            await server.app.entered.wait()
            await asyncio.sleep(0.05)
            server.app.release.set()
            assert (await peer.response())[2] == b"at last"
            assert await peer.rest() == b""
            assert peer.closed_cleanly
            assert "disconnect" not in server.app.events


async def test_a_half_closed_client_with_half_a_body_does_not_hang() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
        await peer.close_notify()
        async with asyncio.timeout(10):
            answer = await peer.rest()
            await server.app.disconnected.wait()
        assert answer.startswith(b"HTTP/1.1 400")
        assert server.app.bodies == []


@pytest.mark.parametrize("when", ["in the body", "while it waits", "in the response"])
async def test_a_client_that_is_gone_leaves_nothing_behind(when: str) -> None:
    """Nobody waits any longer for it to read, to write or to close."""
    async with running(write_timeout=60, idle_timeout=60, body_timeout=60, close_timeout=60) as server:
        peer = await Peer.ready(server.port)
        if when == "in the body":
            await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
        elif when == "while it waits":
            await peer.request("/watch", "POST", b"abc")
        else:
            await peer.request("/big")
        await server.app.entered.wait()
        await asyncio.sleep(0.05)
        raw = peer.raw_writer.transport.get_extra_info("socket")
        raw.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER: a reset
        peer.abort()
        async with asyncio.timeout(10):
            if when != "in the response":
                await server.app.disconnected.wait()
        await server.quiet()


async def test_what_a_client_pipelined_before_it_went_is_not_carried_out() -> None:
    """Hypercorn would go on through all that it holds, for nobody."""
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"POST /wait HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\na")
        await server.app.entered.wait()
        await peer.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 50)
        await asyncio.sleep(0.1)
        peer.raw_writer.transport.get_extra_info("socket").setsockopt(1, 13, struct.pack("ii", 1, 0))
        peer.abort()
        await asyncio.sleep(0.1)
        server.app.release.set()
        await server.quiet()
        assert [event for event in server.app.events if event == "GET /"] == []


async def test_a_closed_connection_leaves_no_task_for_the_idle_time() -> None:
    """Hypercorn's idle task would linger for `idle_timeout`."""
    async with running(idle_timeout=60) as server:
        for _ in range(20):
            peer = await Peer.ready(server.port)
            await peer.get()
            await peer.close()
        async with asyncio.timeout(4):
            await server.quiet()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_pipelined_requests_are_not_buffered() -> None:
    """RULES H1: 150 MiB of requests behind one that is not answered yet stay with the client."""
    async with running(shutdown_timeout=0.2) as server:
        peer = await Peer.ready(server.port)
        await peer.request("/wait", "POST", b"x")
        await server.app.entered.wait()
        line = b"GET /" + b"a" * 1000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
        block = line * 1000
        gc.collect()
        before, sent = _resident(), 0
        try:
            async with asyncio.timeout(2):
                while sent < 150 * 1024 * 1024:
                    await peer.send(block)  # waits for the server to take it
                    sent += len(block)
        except TimeoutError:
            pass
        assert sent < 32 * 1024 * 1024
        assert _resident() - before < 48 * 1024 * 1024
        peer.abort()


async def test_a_body_nobody_reads_is_not_buffered() -> None:
    """RULES H1."""
    async with running(max_body_size=1024 * 1024 * 1024, shutdown_timeout=0.2) as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"POST /hold HTTP/1.1\r\nhost: x\r\ncontent-length: 200000000\r\n\r\n")
        gc.collect()
        before, sent = _resident(), 0
        try:
            async with asyncio.timeout(2):
                while sent < 150 * 1024 * 1024:
                    await peer.send(bytes(1024 * 1024))
                    sent += 1024 * 1024
        except TimeoutError:
            pass
        assert sent < 32 * 1024 * 1024
        assert _resident() - before < 48 * 1024 * 1024
        peer.abort()


@pytest.mark.parametrize("path", ["/early", "/silent", "/boom", "/hold"])
async def test_an_application_may_end_without_reading_the_body(path: str) -> None:
    """Hypercorn's queue of ten messages would be full, and its connection never end."""
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n".encode())

        async def send_body() -> None:
            for _ in range(30):
                await peer.send(bytes(30_000))
                await asyncio.sleep(0)

        sending = asyncio.create_task(send_body())
        await asyncio.sleep(0.2)  # by now we wait for the application to read
        server.app.release.set()
        status, _, _ = await peer.response()
        await sending
        assert status == (403 if path == "/early" else 500)
        async with asyncio.timeout(10):
            assert await peer.rest() == b""
        assert not peer.reset
        assert peer.closed_cleanly
        await server.quiet()


async def test_a_client_in_the_middle_of_a_body_hears_the_early_answer() -> None:
    """Were the socket closed at once, a reset would destroy the answer on its way."""
    async with running() as server:
        for _ in range(5):
            peer = await Peer.ready(server.port)
            await peer.send(b"POST /early HTTP/1.1\r\nhost: x\r\ncontent-length: 900000\r\n\r\n")
            await asyncio.sleep(0.05)
            for _ in range(10):
                await peer.send(bytes(30_000))
                await asyncio.sleep(0.002)
            assert (await peer.response())[0] == 403
            assert not peer.reset


async def test_a_body_without_end_ends_the_connection() -> None:
    """RULES H2: the drain has a bound; here it is twice the limit for a body."""
    async with running(max_body_size=100_000, body_timeout=60) as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        piece = b"4000\r\n" + bytes(0x4000) + b"\r\n"
        for _ in range(20):
            await peer.send(piece)
        async with asyncio.timeout(10):
            await peer.rest()
            await server.app.disconnected.wait()
        assert server.app.bodies == []


@pytest.mark.parametrize("path", ["/boom", "/halfway"])
async def test_the_trouble_of_one_request_is_contained(path: str) -> None:
    async with running() as server:
        other = await Peer.ready(server.port)
        await other.get()
        peer = await Peer.ready(server.port)
        with capture_logs() as logs:
            await peer.request(path)
            answer = await peer.rest()
        assert b"Traceback" not in answer
        assert [(entry["event"], entry["path"]) for entry in logs] == [("application_failed", path)]
        assert answer.startswith(b"HTTP/1.1 500" if path == "/boom" else b"HTTP/1.1 200")
        assert (await other.get())[0] == 200
        assert server.failures == []


async def test_an_exception_group_out_of_hypercorn_is_contained(monkeypatch: pytest.MonkeyPatch) -> None:
    from kipuka.http import http1 as module

    async def broken(*_arguments: object) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_raise())

    async def _raise() -> None:
        raise ValueError("a fault in Hypercorn")

    async with running() as server:
        other = await Peer.ready(server.port)
        await other.get()
        with monkeypatch.context() as patch:
            patch.setattr(module.HTTP1, "_create_stream", broken)
            peer = await Peer.ready(server.port)
            await peer.request()
            async with asyncio.timeout(10):
                await peer.rest()
        assert (await other.get())[0] == 200


REFUSED_REQUESTS = [
    pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 17_000 + b"\r\n\r\n", b"431", id="a header too large, in one piece"),
    pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 9_000 + b"\r\n", b"431", id="too many fields"),
    pytest.param(b"GET /" + b"a" * 17_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", b"431", id="a target too long"),
    pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"a" * 90_000, b"431", id="a header without end"),
    pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400", id="length and chunked"),
    pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n", b"400", id="chunked and length"),
    pytest.param(b"POST / HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", b"400", id="chunked in 1.0"),
    pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabcd", b"400", id="two lengths"),
    pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -3\r\n\r\nabcd", b"400", id="a negative length"),
    pytest.param(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: gzip, chunked\r\n\r\n", b"501", id="another coding"),
    pytest.param(b"GET / HTTP/1.1\r\n\r\n", b"400", id="no host"),
    pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", b"400", id="two hosts"),
    *(
        pytest.param(b"GET / HTTP/1.1\r\nhost: %s\r\n\r\n" % host, b"400", id=f"host {host[:20]!r}")
        for host in (b"a..b", b"." * 300, b"a" * 64, b"x/y", b"u@x", b"[::1", b"x:y", b"x:1:2", b"x y", b"\xff", b"x\ty", b"%00", b"x:123456")
    ),
    pytest.param(b"GET / HTTP/1.1\r\nhost : x\r\n\r\n", b"400", id="a space before the colon"),
    pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n", b"400", id="NUL"),
    pytest.param(b"GET  /\r\n\r\n", b"400", id="HTTP/0.9"),
    pytest.param(b"GET / HTTP/3.0\r\nhost: x\r\n\r\n", b"505", id="HTTP/3.0"),
    pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5), b"505", id="the preface of HTTP/2"),
    pytest.param(b"GET ?x HTTP/1.1\r\nhost: x\r\n\r\n", b"400", id="a query without a path"),
    pytest.param(b"GET show HTTP/1.1\r\nhost: x\r\n\r\n", b"400", id="a path without a slash"),
    pytest.param(b"GET https://?x HTTP/1.1\r\nhost: x\r\n\r\n", b"400", id="a URL without a host"),
    pytest.param(b"GET ftp://x/ HTTP/1.1\r\nhost: x\r\n\r\n", b"400", id="another scheme"),
    pytest.param(b"CONNECT x:443 HTTP/1.1\r\nhost: x\r\n\r\n", b"400", id="CONNECT"),
    pytest.param(b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n", b"400", id="the whole server"),
    pytest.param(bytes(range(256)) * 100, b"400", id="anything"),
    pytest.param(b"\x16\x03\x01\x00\x05hello\r\n\r\n", b"400", id="TLS in TLS"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status"), REFUSED_REQUESTS)
async def test_a_bad_request_gets_its_status_and_a_clean_end(data: bytes, status: bytes) -> None:
    """RULES H1: the header's limit, Content-Length with Transfer-Encoding; and no way to HTTP/2 without ALPN."""
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(data)
        answer = await peer.rest()
        head, _, body = answer.partition(b"\r\n\r\n")
        first, *fields = head.lower().split(b"\r\n")
        assert first.startswith(b"http/1.1 " + status), answer[:200]
        assert {b"content-type: text/plain; charset=utf-8", b"connection: close"} <= set(fields)
        assert f"content-length: {len(body)}".encode() in fields
        assert body.endswith(b"\n")
        assert body.count(b"\n") == 1
        assert peer.closed_cleanly
        assert server.app.connections == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            b"HEAD / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", id="by us"
        ),
        pytest.param(b"HEAD / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", id="by h11"),
    ],
)
async def test_a_refused_head_has_no_body(data: bytes) -> None:
    """RFC 9110, 9.3.2: octets after the header would be taken for the next answer."""
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(data)
        answer = await peer.rest()
        assert answer.startswith(b"HTTP/1.1 400")
        assert answer.endswith(b"\r\n\r\n")
        assert peer.closed_cleanly


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nx: " + b"x" * 20_000, b"431", id="too large"),
        pytest.param(b"\x00\r\n\r\n", b"400", id="no request"),
    ],
)
async def test_what_cannot_be_read_after_a_head_is_told_why(data: bytes, status: bytes) -> None:
    """Only the answer to the HEAD itself has no body."""
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"HEAD /show HTTP/1.1\r\nhost: x\r\n\r\n" + data)
        first, second, body = (await peer.rest()).split(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 200")
        assert second.startswith(b"HTTP/1.1 " + status)
        assert f"content-length: {len(body)}".encode() in second.lower()
        assert body.endswith(b"\n")


@pytest.mark.parametrize(
    ("target", "path"),
    [("https://localhost/show", "/show"), ("http://[::1/", "/"), ("HTTPS://x", "/"), ("//show", "//show")],
)
async def test_a_target_may_be_a_whole_url(target: str, path: str) -> None:
    """RFC 9112, 3.2.2; who is meant by its host does not matter, and it need not even be one."""
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.request(target)
        assert (await peer.response())[0] == 200
        assert server.app.events[-1] == f"GET {path}"


@pytest.mark.parametrize(
    "host", ["localhost", "EST.example.com:8443", "est.example.com.", "[::1]:8443", "127.0.0.1", "a_b", ""]
)
async def test_a_host_may_be_any_name_or_address(host: str) -> None:
    """RFC 9112, 3.2: the server has no names of its own to compare it with."""
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(f"GET / HTTP/1.1\r\nhost: {host}\r\n\r\n".encode())
        assert (await peer.response())[0] == 200


async def test_a_header_below_the_limit_is_taken_and_the_limit_can_be_raised() -> None:
    """RULES H1: 16 KiB, and 72 KiB where Kerberos tickets come."""
    for limit, size in ((16 * 1024, 16_000), (72 * 1024, 70_000)):
        async with running(max_header_size=limit) as server:
            peer = await Peer.ready(server.port)
            await peer.request(headers=f"authorization: Negotiate {'a' * size}\r\n")
            assert (await peer.response())[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        "connection: upgrade\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
        "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    ],
    ids=["h2c", "websocket"],
)
async def test_an_upgrade_is_not_made(headers: str) -> None:
    """RULES H1: only ALPN chooses the protocol. RFC 9110, 7.8: Upgrade may be ignored."""
    async with running() as server:
        peer = await Peer.ready(server.port)
        for _ in range(2):
            await peer.request(headers=headers)
            assert (await peer.response())[0] == 200
        assert server.app.events == ["startup", "GET /", "GET /"]


async def test_http_1_0_is_served() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.send(b"GET / HTTP/1.0\r\n\r\n")
        assert (await peer.rest()).startswith(b"HTTP/1.1 200")
        assert peer.closed_cleanly


@pytest.mark.parametrize("path", ["/big", "/bulk"], ids=["in pieces", "in one piece"])
async def test_a_large_response_arrives_whole_at_a_slow_reader(path: str) -> None:
    """Back-pressure: the application waits; and a reader that makes progress is not dropped, however slow."""
    size = 12 * 1024 * 1024
    async with running(write_timeout=2, close_timeout=1) as server:
        peer = await Peer.ready(server.port)
        await peer.request(f"{path}?{size}", headers="connection: close\r\n")
        received = 0
        while more := await peer.receive():
            received += len(more)
            await asyncio.sleep(0.006)  # much longer in all than the time for one write
        assert received > size
        assert peer.closed_cleanly


async def test_quart_sees_the_connection() -> None:
    app = Quart(__name__)

    @app.post("/enrol")
    async def enrol() -> dict[str, object]:
        body = await request.get_data()
        connection = request.scope["state"]["connection"]
        return {"size": len(body), "version": connection.tls_version, "cache": request.scope["state"]["path_cache"]}

    async with running(app) as server:
        peer = await Peer.ready(server.port)
        await peer.request("/enrol", "POST", b"x" * 1000)
        status, _, body = await peer.response()
        assert status == 200
        assert body == b'{"cache":{},"size":1000,"version":"TLSv1.3"}\n'


@pytest.mark.parametrize("version", [("--tlsv1.3",), ("--tls-max", "1.2")])
async def test_curl_enrols_over_a_kept_connection(version: tuple[str, ...], tmp_path: Path) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(SERVER_ROOT.pem)
    body = tmp_path / "body"
    body.write_bytes(os.urandom(200_000))
    async with running() as server:
        url = f"https://localhost:{server.port}/body"
        process = await asyncio.create_subprocess_exec(
            "curl", "-sS", "-v", "--cacert", str(root), *version, "--data-binary", f"@{body}", url,
            "--next", "-sS", "--cacert", str(root), *version, "--data-binary", "abc", "-H", "transfer-encoding: chunked", url,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert out == b"2000003", err
        assert b"Re-using existing connection" in err
        assert len({connection.id for connection in server.app.connections}) == 1


async def test_s_client_gets_its_answer_although_it_ends_its_input(tmp_path: Path) -> None:
    async with running() as server:
        process = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-quiet", "-no_ign_eof",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        out, _ = await process.communicate(b"GET /close HTTP/1.1\nhost: x\n\n")
        assert b"bye" in out or server.app.events  # it may close before it has read: what counts is that nothing hangs


async def test_two_families_are_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """`::` takes IPv4 too, and then the client's address is the IPv4 one: lock-outs count by it."""
    async with running(host="::") as server:
        for host, address in (("127.0.0.1", "127.0.0.1"), ("::1", "::1")):
            peer = await Peer.connect(server.port, host=host)
            await peer.handshake()
            await peer.get()
            assert server.app.connections[-1].client_address == address
