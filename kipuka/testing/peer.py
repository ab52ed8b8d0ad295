"""A TLS client that can do what no library lets one do: an asyncio socket under pyOpenSSL, one step at a time.

In the room: `Peer` (handshake, octets and HTTP/1.1 by hand, half-closed, aborted) and `client_context`. Not in the room: HTTP/2
(`kipuka.testing.http2`), and a client that is only a client (`kipuka.testing.client`).
"""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from collections.abc import Mapping, Sequence
from typing import ClassVar

from OpenSSL import SSL, crypto

from kipuka.testing.pki import Credential

__all__ = ["Peer", "client_context"]

_VERSIONS: Mapping[str, int] = {
    "1.0": SSL.TLS1_VERSION,
    "1.1": SSL.TLS1_1_VERSION,
    "1.2": SSL.TLS1_2_VERSION,
    "1.3": SSL.TLS1_3_VERSION,
}


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
        context.set_min_proto_version(_VERSIONS[version])
        context.set_max_proto_version(_VERSIONS[version])
    if options:
        context.set_options(options)
    if alpn:
        context.set_alpn_protos(list(alpn))
    if credential is not None:
        leaf = crypto.load_certificate(crypto.FILETYPE_ASN1, credential.der)
        with warnings.catch_warnings():
            # what cryptography cannot parse can be given to pyOpenSSL only in its own, deprecated, form; so can a key of ML-DSA
            warnings.simplefilter("ignore", DeprecationWarning)
            context.use_certificate(leaf)
            context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, credential.key_pem()))
        for above in credential.chain:
            context.add_extra_chain_cert(above.certificate)
    return context


class Peer:
    """A TLS client over a TCP connection; everything it does is asked for."""

    opened: ClassVar[list[Peer]] = []
    """Those that nobody has closed yet, so that a fixture can."""

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
        """A TCP connection on which `preamble` is sent; TLS has not begun."""
        local = None if source is None else (source, 0)
        reader, writer = await asyncio.open_connection(host, port, local_addr=local)
        writer.write(preamble)
        return cls(reader, writer, context or client_context())

    @classmethod
    async def ready(
        cls, port: int, context: SSL.Context | None = None, source: str | None = None, preamble: bytes = b""
    ) -> Peer:
        """A connection whose handshake is done."""
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
        """Octets of the test's own, inside TLS."""
        self.tls.sendall(data)
        self.raw_writer.write(self.outgoing())
        await self.raw_writer.drain()

    async def request(self, path: str = "/", method: str = "GET", body: bytes = b"", headers: str = "") -> None:
        """An HTTP/1.1 request, whose answer is not waited for; `headers` is lines that end in CRLF."""
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
        """Ask, and take the answer."""
        await self.request(path)
        return await self.response()

    async def rest(self) -> bytes:
        """Everything up to the end."""
        while more := await self.receive():
            self.buffer += more
        return self.buffer

    async def close_notify(self) -> None:
        """End our side of TLS, and leave TCP open."""
        self.tls.shutdown()
        self.raw_writer.write(self.outgoing())
        await self.raw_writer.drain()

    async def close(self) -> None:
        """End TCP. TLS is not told."""
        if self in self.opened:
            self.opened.remove(self)
        self.raw_writer.close()
        with contextlib.suppress(ConnectionError):
            await self.raw_writer.wait_closed()

    def abort(self) -> None:
        """End TCP with a reset."""
        self.raw_writer.transport.abort()
