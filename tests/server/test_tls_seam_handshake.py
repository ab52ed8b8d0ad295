"""Handshakes: what is negotiated, what is known afterwards, and every way in which one may fail."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import itertools
import socket
import ssl
import struct
from collections.abc import Iterable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from OpenSSL import SSL, crypto

from kipuka.http.tls import tls_server_end_point
from kipuka.testing.peer import Peer, client_context
from kipuka.testing.pki import KeyKind, make_root

from .tls_seam_peers import NO_EXTENDED_MASTER_SECRET, SERVER, App, running

VERSIONS = ["1.2", "1.3"]


def alert(error: SSL.Error) -> str:
    return " ".join(str(entry[-1]) for entry in error.args[0])


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_request_is_answered_and_knows_its_connection(version: str) -> None:
    async with running() as server:
        context = client_context(version, alpn=[b"http/1.1"])
        peer = await Peer.connect(server.port, context)
        peer.tls.set_tlsext_host_name(b"est.example")
        await peer.handshake()
        status, headers, body = await peer.get()
        assert (status, body) == (200, b'{"runtime": "opened"}')
        assert "server" not in headers
        assert peer.tls.get_alpn_proto_negotiated() == b"http/1.1"
        [connection] = server.app.connections
        assert connection.tls_version == f"TLSv{version}"
        assert connection.client_address == "127.0.0.1"
        assert connection.client_port == peer.raw_writer.get_extra_info("sockname")[1]
        assert connection.listener == "est"
        assert connection.server_name == "est.example"
        assert connection.cipher == peer.tls.get_cipher_name()
        assert connection.group == peer.tls.get_group_name()
        assert connection.presented is None
        await peer.close()


async def test_each_connection_has_its_own_id_and_cache_and_keeps_them() -> None:
    async with running() as server:
        first, second = await Peer.ready(server.port), await Peer.ready(server.port)
        for peer in (first, first, second):
            await peer.get()
        one, again, other = server.app.connections
        assert one is again
        assert one.id != other.id
        cache, same, another = server.app.caches
        assert cache == {}
        assert cache is same
        assert cache is not another
        await first.close()
        await second.close()


async def test_tls_exporter_is_equal_on_both_ends() -> None:
    """RULES G1: tls-exporter on TLS 1.3 (RFC 9266), and no tls-unique there."""
    async with running() as server:
        peer = await Peer.ready(server.port, client_context("1.3"))
        await peer.get()
        [connection] = server.app.connections
        assert connection.tls_exporter == peer.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32)
        assert len(connection.tls_exporter) == 32
        assert connection.tls_unique is None
        await peer.close()


async def test_tls_unique_is_equal_on_both_ends() -> None:
    """RULES G1: tls-unique on TLS 1.2 (RFC 5929, the client's Finished), and no tls-exporter there."""
    async with running() as server:
        peer = await Peer.ready(server.port, client_context("1.2"))
        await peer.get()
        [connection] = server.app.connections
        assert connection.tls_unique == peer.tls.get_finished()
        assert connection.tls_exporter is None
        await peer.close()


async def test_python_ssl_computes_the_same_tls_unique() -> None:
    """RULES G1: the binding as a TLS library computes it that we did not write."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        writer.write(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200")
        binding = writer.get_extra_info("ssl_object").get_channel_binding("tls-unique")
        assert server.app.connections[0].tls_unique == binding
        writer.close()


async def test_without_extended_master_secret_there_is_no_tls_unique() -> None:
    """RULES A6: such a TLS 1.2 connection works, but never links."""
    async with running() as server:
        peer = await Peer.ready(server.port, client_context("1.2", options=NO_EXTENDED_MASTER_SECRET))
        assert (await peer.get())[0] == 200
        assert server.app.connections[0].tls_unique is None
        await peer.close()


async def test_tls_server_end_point_is_that_of_the_certificate_the_client_sees() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port)
        await peer.get()
        seen = peer.tls.get_peer_certificate(as_cryptography=True)
        assert seen is not None
        assert server.app.connections[0].tls_server_end_point == tls_server_end_point(seen)
        await peer.close()


@pytest.mark.parametrize("kind", ["ed25519", "mldsa44", "mldsa65", "mldsa87"])
async def test_a_certificate_whose_signature_has_no_hash_is_served_and_has_no_end_point(kind: KeyKind) -> None:
    """RFC 5929, 4.1; post-quantum signatures (RFC 9881) are for TLS 1.3 only."""
    async with running(server=make_root(key=kind).issue_server(key=kind)) as server:
        peer = await Peer.ready(server.port)
        assert (await peer.get())[0] == 200
        seen = peer.tls.get_peer_certificate(as_cryptography=True)
        assert seen is not None
        assert type(seen.public_key()).__name__.lower().startswith(kind)
        assert server.app.connections[0].tls_server_end_point is None
        await peer.close()


async def test_only_the_configured_chain_is_sent() -> None:
    """Client anchors are no part of our own chain, even where they signed it."""
    issuer = SERVER.issuer
    assert issuer is not None
    async with running(mode="require", anchors=[issuer]) as server:
        peer = await Peer.connect(server.port, client_context("1.2", credential=issuer.issue_client()))
        await peer.handshake()
        assert len(peer.tls.get_peer_cert_chain() or ()) == 1
        await peer.close()


async def test_a_client_without_alpn_speaks_http_1() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port, client_context())
        assert (await peer.get())[0] == 200
        assert peer.tls.get_alpn_proto_negotiated() == b""
        await peer.close()


async def test_a_client_that_offers_more_gets_http_1() -> None:
    async with running() as server:
        peer = await Peer.ready(server.port, client_context(alpn=[b"h2", b"http/1.1"]))
        assert peer.tls.get_alpn_proto_negotiated() == b"http/1.1"
        await peer.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_no_session_is_resumed(version: str) -> None:
    """RULES A6: a resumed session would skip the checks of the client certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_3 if version == "1.3" else ssl.TLSVersion.TLSv1_2

    def ask(port: int, session: ssl.SSLSession | None) -> tuple[ssl.SSLSession | None, bool | None]:
        with (
            socket.create_connection(("127.0.0.1", port)) as raw,
            context.wrap_socket(raw, session=session) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert tls.recv(65536).startswith(b"HTTP/1.1 200")
            return tls.session, tls.session_reused

    async with running() as server:
        session, reused = await asyncio.to_thread(ask, server.port, None)
        assert not reused
        if session is not None:  # in TLS 1.3 OpenSSL sends tickets, to sessions that nobody remembers
            assert not (await asyncio.to_thread(ask, server.port, session))[1]


REFUSED = [
    pytest.param(client_context("1.1"), "no_shared_protocol_version", "protocol version", id="TLS 1.1"),
    pytest.param(client_context("1.2", ciphers=b"AES256-SHA:@SECLEVEL=0"), "no_shared_cipher", "handshake failure", id="static RSA"),
    pytest.param(client_context("1.2", ciphers=b"ECDHE-ECDSA-AES128-SHA256:@SECLEVEL=0"), "no_shared_cipher", "handshake failure", id="CBC"),
    pytest.param(client_context("1.2", ciphers=b"eNULL:@SECLEVEL=0"), "no_shared_cipher", "handshake failure", id="NULL"),
    pytest.param(client_context("1.2", ciphers=b"aNULL:@SECLEVEL=0"), "no_shared_cipher", "handshake failure", id="anonymous"),
    pytest.param(client_context(alpn=[b"h2"]), "no_shared_application_protocol", "no application protocol", id="HTTP/2 only"),
]  # fmt: skip


@pytest.mark.parametrize(("context", "reason", "told"), REFUSED)
async def test_a_handshake_is_refused_with_an_alert(context: SSL.Context, reason: str, told: str) -> None:
    """RULES A6."""
    async with running() as server:
        peer = await Peer.connect(server.port, context)
        with pytest.raises(SSL.Error) as caught:
            await peer.handshake()
        assert told in alert(caught.value)
        failure = await server.failure()
        assert failure.reason == reason
        assert failure.detail
        assert (failure.listener, failure.client_address) == ("est", "127.0.0.1")
        assert failure.client_port == peer.raw_writer.get_extra_info("sockname")[1]
        await peer.close()


async def test_the_minimum_version_holds() -> None:
    async with running(min_version="1.3") as server:
        peer = await Peer.connect(server.port, client_context("1.2"))
        with pytest.raises(SSL.Error, match="protocol version"):
            await peer.handshake()
        assert (await server.failure()).reason == "no_shared_protocol_version"
        await peer.close()


async def test_a_client_that_distrusts_the_server_is_reported_as_such() -> None:
    context = client_context("1.3")
    context.set_verify(SSL.VERIFY_PEER)
    async with running() as server:
        peer = await Peer.connect(server.port, context)
        with pytest.raises(SSL.Error):
            await peer.handshake()
        assert (await server.failure()).reason == "refused_by_client"
        await peer.close()


RUBBISH = [
    pytest.param(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", "plain_http_request", id="plain HTTP"),
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls", id="ssh"),
    pytest.param(b"\x16\x03\x01\x00\x05hello", None, id="a record that is no handshake"),
    pytest.param(b"\x16\x03\x01\xff\xff" + bytes(100), None, id="a record too long"),
    pytest.param(bytes(4096), None, id="zeros"),
    pytest.param(bytes(range(256)) * 256, None, id="64 KiB of anything"),
    pytest.param(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + b"\x03\x03" + bytes(16378), None, id="a ClientHello of zeros"),
    pytest.param(b"\x15\x03\x03\x00\x02\x02\x28", None, id="an alert"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), RUBBISH)
async def test_what_is_not_tls_ends_the_connection_with_a_reason(data: bytes, reason: str | None) -> None:
    async with running() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(data)
        async with asyncio.timeout(8):
            answer = await reader.read()
        assert b"HTTP" not in answer
        failure = await server.failure()
        assert failure.detail
        if reason is not None:
            assert failure.reason == reason
        writer.close()
        peer = await Peer.ready(server.port)  # nobody else has noticed
        assert (await peer.get())[0] == 200
        await peer.close()


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_handshake_one_octet_at_a_time_succeeds(version: str) -> None:
    async with running() as server:
        peer = await Peer.connect(server.port, client_context(version))
        done = False
        while not done:
            try:
                peer.tls.do_handshake()
                done = True
            except SSL.WantReadError:
                pass
            for octet in peer.outgoing():
                peer.raw_writer.write(bytes([octet]))
                await asyncio.sleep(0)
            if not done:
                await peer.incoming()
        for octet in b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n":
            await peer.send(bytes([octet]))
        assert (await peer.response())[0] == 200
        await peer.close()


async def _client_flights(port: int, version: str) -> list[bytes]:
    """What a client sends up to the end of its handshake, one item for each turn."""
    peer = await Peer.connect(port, client_context(version))
    flights: list[bytes] = []
    while True:
        try:
            peer.tls.do_handshake()
        except SSL.WantReadError:
            flights.append(peer.outgoing())
            peer.raw_writer.write(flights[-1])
            await peer.incoming()
        else:
            flights.append(peer.outgoing())
            await peer.close()
            return flights


@pytest.mark.parametrize("abort", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_client_may_leave_at_every_step_of_the_handshake(version: str, abort: bool) -> None:
    async with running() as server:  # its own: what it says of the client that goes at the end is not asked here
        total = len([flight for flight in await _client_flights(server.port, version) if flight])
    async with running() as server:
        for steps in range(total):
            peer = await Peer.connect(server.port, client_context(version))
            for _ in range(steps):
                with pytest.raises(SSL.WantReadError):
                    peer.tls.do_handshake()
                sent = peer.outgoing()
                peer.raw_writer.write(sent)
                await peer.raw_writer.drain()
                await peer.incoming()
            if abort:
                peer.raw_writer.transport.get_extra_info("socket").setsockopt(
                    1, 13, struct.pack("ii", 1, 0)
                )  # SO_LINGER
                peer.abort()
            else:
                await peer.close()
            failure = await server.failure()
            assert failure.reason == ("closed_by_client" if steps else "closed_without_data"), (steps, failure)
            server.failures.clear()


async def test_half_a_client_hello_and_a_fin_is_a_failed_handshake() -> None:
    async with running() as server:
        peer = await Peer.connect(server.port)
        with pytest.raises(SSL.WantReadError):
            peer.tls.do_handshake()
        peer.raw_writer.write(peer.outgoing()[:100])
        peer.raw_writer.write_eof()
        assert await peer.raw_reader.read() == b""
        assert (await server.failure()).reason == "closed_by_client"
        await peer.close()


async def test_a_slow_handshake_is_ended() -> None:
    """RULES H1: a deadline for the handshake, however many octets come."""
    async with running(handshake_timeout=0.3) as server:
        peer = await Peer.connect(server.port)
        with pytest.raises(SSL.WantReadError):
            peer.tls.do_handshake()
        hello = peer.outgoing()

        async def dribble() -> None:
            for octet in hello:
                peer.raw_writer.write(bytes([octet]))
                await asyncio.sleep(0.02)

        task = asyncio.create_task(dribble())
        async with asyncio.timeout(8):
            assert not await peer.incoming()
        task.cancel()
        assert (await server.failure()).reason == "timeout"
        await peer.close()


async def test_a_silent_client_is_ended() -> None:
    """RULES H1."""
    async with running(handshake_timeout=0.2) as server:
        peer = await Peer.connect(server.port)
        async with asyncio.timeout(8):
            assert not await peer.incoming()
        assert (await server.failure()).reason == "timeout"
        await peer.close()


async def test_renegotiation_is_refused() -> None:
    """RULES A6."""
    async with running() as server:
        peer = await Peer.ready(server.port, client_context("1.2"))
        await peer.get()
        peer.tls.renegotiate()
        with pytest.raises(SSL.Error, match="no renegotiation"):
            await peer.handshake()
        assert len(server.app.connections) == 1
        await peer.close()


def _records(tls: SSL.Connection, messages: Iterable[bytes], *, sequence: int) -> Iterable[bytes]:
    """TLS 1.2 handshake records of a client that has ECDHE-ECDSA-AES128-GCM-SHA256: what no library would send."""
    master, client, server = tls.master_key(), tls.client_random(), tls.server_random()
    assert master
    assert client
    assert server
    seed = b"key expansion" + server + client
    block, a = b"", seed
    while len(block) < 40:  # RFC 5246, 5 and 6.3: two keys of 16 octets, two salts of 4
        a = hmac.digest(master, a, "sha256")
        block += hmac.digest(master, a + seed, "sha256")
    cipher, salt = AESGCM(block[:16]), block[32:36]
    for number, message in enumerate(messages, sequence):
        nonce = number.to_bytes(8, "big")
        content = cipher.encrypt(salt + nonce, message, nonce + b"\x16\x03\x03" + len(message).to_bytes(2, "big"))
        yield b"\x16\x03\x03" + (8 + len(content)).to_bytes(2, "big") + nonce + content


async def test_a_flood_of_renegotiations_is_ended() -> None:
    """RULES A6, H1: each refusal is small, and yet a client that never reads them must not fill our memory."""
    hello = b"\x01\x00\x00\x00"
    async with running() as server:
        peer = await Peer.ready(server.port, client_context("1.2", ciphers=b"ECDHE-ECDSA-AES128-GCM-SHA256"))
        [one] = _records(peer.tls, [hello], sequence=1)
        peer.raw_writer.write(one)
        assert await peer.raw_reader.read(100)  # the refusal: these records are what they should be
        flood = b"".join(_records(peer.tls, itertools.repeat(hello, 40_000), sequence=2))
        received = 0
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(flood), 1024):
                peer.raw_writer.write(flood[start : start + 1024])
                await peer.raw_writer.drain()
            async with asyncio.timeout(30):
                while data := await peer.raw_reader.read(65536):
                    received += len(data)
        # All of them would be answered with 1.2 MB. The server looks after each piece it reads, of at most 256 KiB.
        assert received < 512 * 1024
        assert server.app.connections == []


class Sender13:
    """TLS 1.3 records of a client that has TLS_AES_128_GCM_SHA256 and these traffic secrets: what no library would send."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self.secret, self.sequence = secret, 0
        self.cipher, self.iv = AESGCM(self._expand(b"key", 16)), self._expand(b"iv", 12)

    def _expand(self, label: bytes, length: int) -> bytes:  # RFC 8446, 7.1
        info = length.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0\1"
        return hmac.digest(self.secret, info, "sha256")[:length]

    def record(self, kind: int, content: bytes) -> bytes:
        nonce = (int.from_bytes(self.iv, "big") ^ self.sequence).to_bytes(12, "big")
        self.sequence += 1
        header = b"\x17\x03\x03" + (len(content) + 17).to_bytes(2, "big")
        return header + self.cipher.encrypt(nonce, content + bytes([kind]), header)

    def key_update(self) -> bytes:
        """One that asks for ours in return."""
        sent = self.record(22, b"\x18\x00\x00\x01\x01")
        self._use(self._expand(b"traffic upd", 32))
        return sent


async def ready_with_secret(port: int) -> tuple[Peer, Sender13]:
    lines: list[bytes] = []
    context = client_context("1.3")
    context.set_tls13_ciphersuites(b"TLS_AES_128_GCM_SHA256")
    context.set_keylog_callback(lambda _connection, line: lines.append(line))
    peer = await Peer.ready(port, context)
    [line] = [line for line in lines if line.startswith(b"CLIENT_TRAFFIC_SECRET_0")]
    return peer, Sender13(bytes.fromhex(line.split()[-1].decode()))


async def test_key_updates_are_taken_and_answered() -> None:
    """RFC 8446, 4.6.3."""
    async with running() as server:
        peer, sender = await ready_with_secret(server.port)
        for _ in range(3):
            peer.raw_writer.write(sender.key_update() + sender.record(23, b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"))
            assert (await peer.response())[0] == 200


async def test_a_flood_of_key_updates_is_ended() -> None:
    """RULES H1: they are no data, so nothing would pause the client; what they make us send must not pile up."""
    async with running(idle_timeout=3) as server:
        peer, sender = await ready_with_secret(server.port)
        received = 0
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                peer.raw_writer.write(b"".join(sender.key_update() for _ in range(20)))
                await peer.raw_writer.drain()
            async with asyncio.timeout(8):
                while data := await peer.raw_reader.read(65536):
                    received += len(data)
        assert received < 512 * 1024  # what one read of the socket brings, and no more
        assert server.app.connections == []


async def test_a_broken_record_ends_the_connection_and_no_other() -> None:
    async with running() as server:
        peer, other = await Peer.ready(server.port), await Peer.ready(server.port)
        await peer.get()
        peer.tls.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        record = bytearray(peer.outgoing())
        record[-1] ^= 1
        peer.raw_writer.write(bytes(record))
        with pytest.raises(SSL.Error, match="bad record mac"):
            await peer.rest()
        assert server.failures == []  # it is not a failed handshake
        assert (await other.get())[0] == 200
        await peer.close()
        await other.close()


async def test_a_failed_path_check_elsewhere_is_not_taken_for_a_broken_connection() -> None:
    """OpenSSL's error queue belongs to the thread: what another use of it leaves there is not this connection's fault."""

    class ChecksPaths(App):
        async def show(self, scope: object, receive: object, send: object) -> None:
            for _ in range(3):
                context = crypto.X509StoreContext(crypto.X509Store(), crypto.X509.from_cryptography(SERVER.certificate))
                with pytest.raises(crypto.X509StoreContextError):
                    context.verify_certificate()
            leave_an_error()
            await super().show(scope, receive, send)

    async with running(ChecksPaths()) as server:
        peer = await Peer.ready(server.port)
        for _ in range(3):
            assert (await peer.get())[0] == 200
        await peer.close()


def leave_an_error() -> None:
    """As a library does that reports a failure and does not look at OpenSSL's queue."""
    from cryptography.hazmat.bindings.openssl.binding import Binding

    binding = Binding()
    garbage = base64.b64encode(b"garbage")
    bio = binding.lib.BIO_new_mem_buf(garbage, len(garbage))
    assert binding.lib.PEM_read_bio_X509(bio, binding.ffi.NULL, binding.ffi.NULL, binding.ffi.NULL) == binding.ffi.NULL
    assert binding.lib.ERR_peek_error() != 0
    binding.lib.BIO_free(bio)
