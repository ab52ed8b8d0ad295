"""Many bad clients at once, and a good one among them (RULES H1): over a real server process, seen from outside.

The small version is part of every run; the full one (`make soak`) has 2,000 idle, 200 slow-reading and 200 slow-writing
connections. Figures are ratios of the server's own memory; nothing is measured in seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time

import pytest
from OpenSSL import SSL

from kipuka.testing.client import basic, encode_body
from kipuka.testing.measure import connections, descriptors, family, resident_octets
from kipuka.testing.peer import Peer, client_context
from kipuka.testing.pki import make_csr
from kipuka.testing.server import wait_until

pytestmark = pytest.mark.server

CACERTS = b"GET /.well-known/est/cacerts HTTP/1.1\r\nhost: localhost\r\n\r\n"
ENROLL = b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/pkcs10\r\n"
UNREAD = 110  # requests that a slow reader sends at once: more answers than the buffers on the way hold
PATIENCE = {"idle_timeout": 600, "header_timeout": 600, "body_timeout": 600, "write_timeout": 600}


def sockets(pid: int) -> int:
    return descriptors(family(pid))["socket"]


class Crowd:
    """Bad clients, each from one of a few addresses of the loopback network."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.peers: list[Peer] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.context = client_context()
        self.refusals: dict[int, int] = {}

    async def connect(self, source: str, *, small: bool = False) -> Peer:
        plain = socket.socket()
        plain.setblocking(False)
        if small:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        plain.bind((source, 0))
        try:
            await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", self.port))
            reader, writer = await asyncio.open_connection(sock=plain, limit=2048)
        except BaseException:  # also when the crowd goes meanwhile
            plain.close()
            raise
        peer = Peer(reader, writer, self.context)
        Peer.opened.remove(peer)
        try:
            await peer.handshake()
        except BaseException:  # also when the crowd goes meanwhile
            peer.abort()
            raise
        return peer

    async def idle(self, number: int) -> None:
        for index in range(number):
            self.peers.append(await self.connect(f"127.0.1.{1 + index % 8}"))

    async def slow_readers(self, number: int) -> None:
        """They ask for much and take an octet now and then."""
        for index in range(number):
            peer = await self.connect(f"127.0.2.{1 + index % 4}", small=True)
            peer.raw_writer.transport.pause_reading()
            peer.tls.sendall(CACERTS * UNREAD)
            peer.raw_writer.write(peer.outgoing())
            self.peers.append(peer)

    async def slow_writers(self, number: int) -> None:
        """They send a body, an octet at a time."""
        for index in range(number):
            peer = await self.connect(f"127.0.3.{1 + index % 4}")
            await peer.send(ENROLL + b"content-length: 60000\r\nauthorization: Basic OmFiYw==\r\n\r\n" + bytes(30000))
            self.peers.append(peer)
            self.tasks.append(asyncio.create_task(self._dribble(peer)))

    async def _dribble(self, peer: Peer) -> None:
        with contextlib.suppress(ConnectionError, SSL.Error):
            while True:
                await peer.send(b"A")
                await asyncio.sleep(1)

    def guess_tokens(self, addresses: int) -> None:
        for number in range(addresses):
            self.tasks.append(asyncio.create_task(self._guess(f"127.0.4.{1 + number}")))

    async def _guess(self, source: str) -> None:
        body = encode_body(make_csr().der, "one-line")
        header = ENROLL + f"content-length: {len(body)}\r\nauthorization: {basic('wrong' * 4)}\r\n\r\n".encode()
        while True:
            peer = await self.connect(source)
            self.peers.append(peer)
            with contextlib.suppress(ConnectionError, SSL.Error):
                for _ in range(10):
                    await peer.send(header + body)
                    status, _fields, _text = await peer.response()
                    self.refusals[status] = self.refusals.get(status, 0) + 1
            self.peers.remove(peer)
            peer.abort()

    async def go(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for peer in self.peers:
            peer.abort()
        await asyncio.sleep(0)


def enrol_twice(server, name: str) -> None:
    """By token, and again by the certificate; a certificate that cannot be had is an exception."""
    device = server.enrol(name)
    renewed = server.client(device).reenroll(make_csr(common_name=name))
    assert renewed.status == 200, renewed.text


@pytest.mark.parametrize(
    ("idle", "slow", "guessers"),
    [
        pytest.param(400, 50, 4, id="small"),
        pytest.param(2000, 200, 8, id="full", marks=[pytest.mark.soak, pytest.mark.timeout(1800)]),
    ],
)
async def test_a_good_client_enrols_among_bad_ones_and_memory_comes_back(kipuka_servers, idle, slow, guessers) -> None:
    # as docs/how-to/production.md has it: Python's own allocator keeps parts of what thousands of connections needed
    environ = {"PYTHONMALLOC": "malloc"}
    server = kipuka_servers({"server": PATIENCE}, as_shipped=True, environ=environ)
    for number in range(30):  # until the server is as large as its work makes it: threads, statements, hashes
        await asyncio.to_thread(enrol_twice, server, f"early-{number}")
    await asyncio.to_thread(wait_until, lambda: not connections(server.port), what="the end of their connections")
    base, before = sockets(server.pid), resident_octets(family(server.pid))
    crowd = Crowd(server.port)
    try:
        crowd.guess_tokens(guessers)
        await asyncio.gather(crowd.idle(idle), crowd.slow_readers(slow), crowd.slow_writers(slow))
        assert sockets(server.pid) >= base + idle + 2 * slow  # all are there, at once
        for number in range(5):
            await asyncio.to_thread(enrol_twice, server, f"good-{number}")
        during = resident_octets(family(server.pid))
        assert sockets(server.pid) >= base + idle + 2 * slow
        await asyncio.to_thread(wait_until, lambda: len(crowd.refusals) == 2, timeout=120, what="locked guessers")
    finally:
        await crowd.go()
    assert set(crowd.refusals) == {401, 429}  # wrong, and then locked out
    end = time.monotonic() + 60
    while sockets(server.pid) > base or resident_octets(family(server.pid)) > 1.2 * before:
        assert time.monotonic() < end, (
            sockets(server.pid),
            base,
            resident_octets(family(server.pid)) / before,
            during / before,
        )
        await asyncio.sleep(0.2)
    print(
        f"memory {before >> 20} MiB, during {during >> 20}, after {resident_octets(family(server.pid)) >> 20}; refusals {crowd.refusals}"
    )
    await asyncio.to_thread(enrol_twice, server, "late")
    assert during < 4 * before
