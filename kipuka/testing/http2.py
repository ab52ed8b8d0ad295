"""An HTTP/2 client that can also send what no client should.

In the room: `HTTP2Peer` (the h2 library over a `Peer`), and frames by hand. Not in the room: any assertion about the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import H2Error
from hpack import Encoder
from OpenSSL import SSL

from kipuka.testing.peer import Peer, client_context
from kipuka.testing.pki import Credential

__all__ = [
    "ACK",
    "CONTINUATION",
    "DATA",
    "END_HEADERS",
    "END_STREAM",
    "GOAWAY",
    "HEADERS",
    "PADDED",
    "PING",
    "PRIORITY",
    "REQUEST",
    "RST_STREAM",
    "SETTINGS",
    "WINDOW_UPDATE",
    "Answer",
    "HTTP2Peer",
    "frame",
    "headers",
]

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
REQUEST = ((":method", "GET"), (":scheme", "https"), (":authority", "localhost"), (":path", "/"))


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    """One frame as it goes over the wire."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def headers(fields: Sequence[tuple[str, str]] = REQUEST) -> bytes:
    """A header block that needs no table."""
    return Encoder().encode([(name, value, True) for name, value in fields], huffman=False)


@dataclass
class Answer:
    """What came on one stream so far: fields by name, where the last of a name counts, and all of them in `fields`."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    fields: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    body: bytes = b""
    ended: bool = False
    reset: int | None = None


class HTTP2Peer:
    """One connection. `answers` has what came on each stream; `goaway` why the server has ended it."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.answers: dict[int, Answer] = {}
        self.informational: list[int] = []
        self.goaway: int | None = None
        self._came = b""
        self.ended = False
        self.takes = True  # gives the server room for what it took

    @classmethod
    async def ready(
        cls, port: int, *, settings: bool = True, credential: Credential | None = None, source: str | None = None
    ) -> Self:
        """A connection that speaks HTTP/2. Raises AssertionError where the server does not choose it."""
        peer = await Peer.ready(port, client_context(alpn=[b"h2", b"http/1.1"], credential=credential), source=source)
        if peer.tls.get_alpn_proto_negotiated() != b"h2":
            msg = "the server has not chosen HTTP/2"
            raise AssertionError(msg)
        made = cls(peer)
        made.h2.initiate_connection()
        if settings:
            await made.flush()
        return made

    async def flush(self) -> None:
        """Send what the library has to say."""
        if data := self.h2.data_to_send():
            await self.peer.send(data)

    async def send(self, raw: bytes) -> None:
        """Octets of the test's own, past the library. The server may have ended the connection already."""
        await self.flush()
        try:
            await self.peer.send(raw)
        except ConnectionError:
            return

    async def request(
        self,
        path: str = "/",
        method: str = "GET",
        body: bytes | None = None,
        more: Sequence[tuple[str, str]] = (),
        *,
        end: bool = True,
    ) -> int:
        """Begin a request; all of the body is sent that there is room for."""
        stream = self.h2.get_next_available_stream_id()
        fields = [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path), *more]
        self.h2.send_headers(stream, fields, end_stream=end and body is None)
        self.answers[stream] = Answer()
        await self.flush()
        if body is not None:
            await self.upload(stream, body, end=end)
        return stream

    async def upload(self, stream: int, body: bytes, *, end: bool = True) -> None:
        """Send a body as fast as the server gives room."""
        while body and self.answers[stream].reset is None and not self.ended:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room <= 0:
                await self.pump()
                continue
            piece, body = body[:room], body[room:]
            self.h2.send_data(stream, piece, end_stream=end and not body)
            await self.flush()

    async def pump(self) -> bool:
        """Take what comes once; False at the end."""
        data = await self.peer.receive()
        if not data:
            self.ended = True
            return False
        self._look(data)
        try:
            for event in self.h2.receive_data(data):
                self._note(event)
        except H2Error:
            return True  # what was sent past the library is unknown to it
        with contextlib.suppress(ConnectionError, SSL.Error):  # the server, or we ourselves, have ended the connection
            await self.flush()
        return True

    def _look(self, data: bytes) -> None:
        """Find resets and the farewell without the library."""
        self._came += data
        while len(self._came) >= 9 and len(self._came) >= (whole := 9 + int.from_bytes(self._came[:3])):
            kind, stream, payload = self._came[3], int.from_bytes(self._came[5:9]), self._came[9:whole]
            self._came = self._came[whole:]
            if kind == RST_STREAM:
                self.answers.setdefault(stream, Answer()).reset = int.from_bytes(payload)
            elif kind == GOAWAY:
                self.goaway = int.from_bytes(payload[4:8])

    def _note(self, event: events.Event) -> None:
        match event:
            case events.ResponseReceived():
                answer = self.answers[event.stream_id]
                (_, status), *answer.fields = [(str(name), str(value)) for name, value in event.headers or ()]
                answer.status = int(status)
                answer.headers = dict(answer.fields)
            case events.InformationalResponseReceived():
                self.informational.append(event.stream_id)
            case events.DataReceived():
                self.answers[event.stream_id].body += event.data
                if self.takes:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case events.StreamEnded():
                self.answers[event.stream_id].ended = True
            case _:
                pass

    async def response(self, stream: int) -> Answer:
        """The whole answer, or the reset."""
        answer = self.answers[stream]
        async with asyncio.timeout(30):
            while not answer.ended and answer.reset is None:
                if not await self.pump():
                    raise ConnectionAbortedError(f"the end before the answer (GOAWAY {self.goaway})")
        return answer

    async def get(self, path: str = "/", *, more: Sequence[tuple[str, str]] = ()) -> Answer:
        """Ask, and take the answer."""
        return await self.response(await self.request(path, more=more))

    async def rest(self) -> None:
        """Take everything up to the end."""
        async with asyncio.timeout(30):
            while await self.pump():
                pass
