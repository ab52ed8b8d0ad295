"""HTTP/2 on one connection (RFC 9113): the h2 library's frames and states, and Hypercorn's streams for the application.

In the room: what is taken from a client and what is not, flow control, how long we wait for what, and how a connection ends. Not
in the room: the connection (`kipuka.http.server`), what frames cost (`kipuka.http.frames`), HTTP/1.1 (`kipuka.http.http1`).

Hypercorn's own HTTP/2 is not used: there an answer that overtakes the body ends the connection, a thousand requests that are reset
end in an exception, and floods are answered as long as they last. Here a client that breaks the protocol, or asks for work
and brings nothing, has its connection closed with GOAWAY, as HTTP/1.1 would be closed; there is no server push, no
CONNECT, no priority, and no way to HTTP/2 but ALPN. What may happen at once on a connection is bounded by `MOST_STREAMS`.

All streams of a connection have its client certificate; an Authorization field is that of its own stream only (RULES C1).
A response with `Connection: close` (RFC 9266, 4.1) makes it the last: the field itself is not sent, streams that are open
already are answered, new ones are refused, and then comes GOAWAY.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import structlog
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Body, EndBody, Request, Response, StreamClosed
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.typing import ConnectionState, WorkerContext

from kipuka.http.applications import Applications, Refused
from kipuka.http.frames import FrameMeter, TooMuch
from kipuka.http.http1 import Patience
from kipuka.http.targets import is_host

__all__ = ["HTTP2", "MOST_STREAMS"]

MOST_STREAMS = 32
"""How many requests of one connection may be under way."""
_MOST_REQUESTS = 1000
"""How many requests a connection may have in all, as with HTTP/1.1; then it is closed."""
_LEAST_PROGRESS = 16 * 1024  # octets of a response that a client must take in each write time-out

Headers = Sequence[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PATH = re.compile(rb"\*|/[\x21-\x7e]*")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_NUMBER = re.compile(rb"[0-9]{1,18}")

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(eq=False, kw_only=True, slots=True)
class _Exchange:
    """A request and its response."""

    stream: HTTPStream
    body_since: float | None  # while the end of the request's body is not there
    may_send: asyncio.Event = field(default_factory=asyncio.Event)  # the client has given us room, or there is no use
    is_answered: bool = False


class HTTP2:
    """One connection. Raises `Refused` out of `handle` when no more is to be read; what had to be said has been."""

    def __init__(
        self,
        *,
        config: Config,
        context: WorkerContext,
        applications: Applications,
        state: ConnectionState,
        client: tuple[str, int] | None,
        server: tuple[str, int] | None,
        send: Callable[[Event], Awaitable[None]],
        patience: Patience,
        write_timeout: float,
        max_header_size: int,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._context = context
        self._applications = applications
        self._state = state
        self._client = client
        self._server = server
        self._send = send
        self._patience = patience
        self._write_timeout = write_timeout
        self._clock = clock
        self._meter = FrameMeter(max_header_size=max_header_size)
        self._exchanges: dict[int, _Exchange] = {}
        self._running = 0  # applications, those of streams that the client has reset among them
        self._requests = 0
        self._idle_since = clock()
        self._finishing = False
        self._closed = False
        self._h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        self._h2.local_settings = Settings(
            client=False,
            initial_values={
                SettingCodes.MAX_CONCURRENT_STREAMS: MOST_STREAMS,
                SettingCodes.MAX_HEADER_LIST_SIZE: max_header_size,
            },
        )
        self._h2.decoder.max_header_list_size = max_header_size  # what the settings say is only asked of the client

    # what the connection asks

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return not self._exchanges

    @property
    def is_receiving(self) -> bool:
        """Whether the rest of a body is still to come."""
        return any(exchange.body_since is not None for exchange in self._exchanges.values())

    @property
    def phase(self) -> Literal["idle", "header", "body", "answering"]:
        """What we wait for."""
        if self._meter.header_since is not None:
            return "header"
        if self.is_receiving:
            return "body"
        return "answering" if self._exchanges else "idle"

    def deadline(self, _now: float) -> float | None:
        """Until when we wait, if we wait; None for ever."""
        patience, header_since = self._patience, self._meter.header_since
        bodies = (exchange.body_since for exchange in self._exchanges.values())
        limits = [since + patience.body for since in bodies if since is not None]
        if header_since is not None:
            limits.append(header_since + patience.header)
        elif not self._exchanges:
            limits.append(self._idle_since + patience.idle)
        return min(limits, default=None)

    def waited(self, now: float) -> None:
        """We have waited. Several things at once may be waited for here, so each has its own beginning, and no sum."""

    def farewell(self) -> bytes:
        """GOAWAY."""
        self._say_goodbye(ErrorCodes.NO_ERROR)
        return self._h2.data_to_send()

    def finish(self) -> None:
        """Take no further request, and close when those under way are answered."""
        self._finishing = True

    async def initiate(self) -> None:
        """Say what we take (SETTINGS)."""
        self._h2.initiate_connection()
        await self._flush()

    # what comes

    async def handle(self, event: Event) -> None:
        """Octets, or that the connection is gone."""
        if isinstance(event, RawData):
            if event.data:
                await self._receive(event.data)
            else:
                await self._no_more()
        elif isinstance(event, Closed):
            self._closed = True
            for number in tuple(self._exchanges):
                await self._drop(number)

    async def _receive(self, data: bytes) -> None:
        try:
            self._meter.feed(data, self._clock())
        except TooMuch as flood:
            await self._refuse(ErrorCodes.ENHANCE_YOUR_CALM, str(flood))
        try:
            received = self._h2.receive_data(data)
        except H2Error as error:
            # The library has prepared GOAWAY, where it can still say anything.
            await self._refuse(None, f"{type(error).__name__}: {error}")
        else:
            for event in received:
                await self._handle(event)
            await self._flush()

    async def _handle(self, event: events.Event) -> None:
        match event:
            case events.RequestReceived():
                await self._begin(event)
            case events.DataReceived():
                await self._take(event)
            case events.StreamEnded():
                exchange = self._exchanges.get(event.stream_id)
                if exchange is not None:
                    exchange.body_since = None
                    await exchange.stream.handle(EndBody(stream_id=event.stream_id))
            case events.StreamReset():
                await self._drop(event.stream_id)
            case events.WindowUpdated() | events.RemoteSettingsChanged():
                for exchange in self._exchanges.values():
                    exchange.may_send.set()
            case events.ConnectionTerminated():
                raise Refused  # the library can send nothing after that
            case _:
                pass

    async def _take(self, event: events.DataReceived) -> None:
        exchange = self._exchanges.get(event.stream_id)
        if exchange is not None:  # `kipuka.http.body` reads at once, so that no stream holds up the others
            await exchange.stream.handle(Body(stream_id=event.stream_id, data=event.data))
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    async def _begin(self, event: events.RequestReceived) -> None:
        number = event.stream_id
        headers = cast("Headers", event.headers)
        if self._finishing or self._running >= MOST_STREAMS:
            self._reset(number, ErrorCodes.REFUSED_STREAM)
            return
        if not _is_good(headers, has_body=event.stream_ended is None):
            self._reset(number, ErrorCodes.PROTOCOL_ERROR)
            return
        has_body = event.stream_ended is None
        exchange = _Exchange(stream=self._stream(number), body_since=self._clock() if has_body else None)
        self._exchanges[number] = exchange
        self._requests += 1
        if self._requests >= _MOST_REQUESTS:
            self.finish()
        await self._send(Updated(idle=False))
        if has_body and (b"expect", b"100-continue") in {(name, value.lower()) for name, value in headers}:
            self._h2.send_headers(number, [(b":status", b"100")])
        pseudo = dict(headers)
        await exchange.stream.handle(
            Request(
                stream_id=number,
                headers=_for_the_application(headers),
                http_version="2",
                method=pseudo[b":method"].decode("ascii").upper(),
                raw_path=pseudo[b":path"],
                state=self._state,
            )
        )

    def _stream(self, number: int) -> HTTPStream:
        return HTTPStream(
            cast("Any", None),  # the application is started by `spawn_app`, which knows it
            self._config,
            self._context,
            cast("Any", self),
            True,  # noqa: FBT003 - Hypercorn's order: whether there is TLS
            self._client,
            self._server,
            cast("Any", self._stream_send),
            number,
        )

    async def spawn_app(
        self, app: Any, config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """What a stream of Hypercorn uses of its TaskGroup: start the application for one request."""
        self._running += 1

        async def counted(message: Any) -> None:
            if message is None:  # it has ended
                self._running -= 1
            await send(message)

        return await self._applications.spawn_app(app, config, scope, counted)

    async def _no_more(self) -> None:
        """The client has ended its side: what is complete is answered."""
        self.finish()
        for number, exchange in tuple(self._exchanges.items()):
            if exchange.body_since is not None:
                await self._drop(number)

    async def _drop(self, number: int) -> None:
        """Nobody waits for this answer any more: tell the application."""
        exchange = self._exchanges.pop(number, None)
        if exchange is None:
            return
        exchange.may_send.set()
        await exchange.stream.handle(StreamClosed(stream_id=number))
        await self._after_exchange()

    # what goes

    async def _stream_send(self, event: StreamEvent) -> None:
        """What a stream has to say. What comes too late, the stream or connection being closed, is dropped."""
        exchange = self._exchanges.get(event.stream_id)
        if exchange is None or self._closed:
            return
        try:
            match event:
                case Response():
                    await self._respond(event)
                case Body():
                    await self._send_body(exchange, event.stream_id, event.data)
                case EndBody():
                    self._h2.end_stream(event.stream_id)
                    exchange.is_answered = True
                    await self._flush()
                case StreamClosed():
                    await self._end(exchange, event.stream_id)
                case _:
                    pass
        except H2Error:
            return

    async def _respond(self, event: Response) -> None:
        if any(name.lower() == b"connection" and value.lower() == b"close" for name, value in event.headers):
            self.finish()
        status = (b":status", b"%d" % event.status_code)
        # The library leaves out the fields of a connection, which HTTP/2 does not have (RFC 9113, 8.2.2).
        self._h2.send_headers(event.stream_id, [status, *event.headers, *self._config.response_headers("h2")])
        await self._flush()

    async def _send_body(self, exchange: _Exchange, number: int, data: bytes) -> None:
        """As fast as the client gives us room; it has `write_timeout` for each 16 KiB."""
        sent, deadline = 0, self._clock() + self._write_timeout
        while data and self._exchanges.get(number) is exchange:
            room = min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size)
            if room <= 0:
                exchange.may_send.clear()
                try:
                    async with asyncio.timeout_at(deadline):
                        await exchange.may_send.wait()
                except TimeoutError:
                    _log.info("client_reads_too_slowly", client_address=self._client and self._client[0])
                    await self._leave(ErrorCodes.CANCEL)
                    return
                continue
            piece, data = data[:room], data[room:]
            self._h2.send_data(number, piece)
            await self._flush()
            sent += len(piece)
            if sent >= _LEAST_PROGRESS:
                sent, deadline = 0, self._clock() + self._write_timeout

    async def _end(self, exchange: _Exchange, number: int) -> None:
        """The application has said all."""
        if not exchange.is_answered:
            self._reset(number, ErrorCodes.INTERNAL_ERROR)  # it broke off
        elif exchange.body_since is not None:
            self._reset(number, ErrorCodes.NO_ERROR)  # answered without the rest of the body (RFC 9113, 8.1)
        self._meter.answered()
        await self._flush()
        await self._drop(number)

    async def _after_exchange(self) -> None:
        if self._exchanges or self._closed:
            return
        self._idle_since = self._clock()
        if self._finishing:
            await self._leave(ErrorCodes.NO_ERROR)
        else:
            await self._send(Updated(idle=True))

    def _reset(self, number: int, code: ErrorCodes) -> None:
        try:
            self._h2.reset_stream(number, code)
        except H2Error:
            return  # the client has ended it already

    # the end

    async def _refuse(self, code: ErrorCodes | None, why: str) -> None:
        _log.info("http2_refused", reason=why, client_address=self._client and self._client[0])
        if code is not None:
            self._say_goodbye(code)
        await self._flush()
        raise Refused

    async def _leave(self, code: ErrorCodes) -> None:
        self._say_goodbye(code)
        await self._flush()
        await self._send(Closed())

    def _say_goodbye(self, code: ErrorCodes) -> None:
        try:
            self._h2.close_connection(code)
        except H2Error:
            return  # it is said already

    async def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data:
            await self._send(RawData(data))


def _is_good(headers: Headers, *, has_body: bool) -> bool:
    """Whether a request's header can be given to the application. The library has looked at the rest."""
    pseudo = {name: value for name, value in headers if name.startswith(b":")}
    lengths = {value for name, value in headers if name == b"content-length"}
    return (
        _TOKEN.fullmatch(pseudo.get(b":method", b"")) is not None
        and pseudo[b":method"].upper() != b"CONNECT"
        and _PATH.fullmatch(pseudo.get(b":path", b"")) is not None
        and all(is_host(value) for name, value in headers if name in {b":authority", b"host"})
        and all(name.startswith(b":") or _TOKEN.fullmatch(name) for name, _value in headers)
        and all(_VALUE.fullmatch(value) for _name, value in headers)
        and all(_NUMBER.fullmatch(value) for value in lengths)
        and (has_body or all(int(value) == 0 for value in lengths))
    )


def _for_the_application(headers: Headers) -> list[tuple[bytes, bytes]]:
    """The fields as ASGI has them: `host` is the :authority, which the library has compared with any Host field."""
    pseudo = {name: value for name, value in headers if name.startswith(b":")}
    host = pseudo.get(b":authority")
    fields = [(name, value) for name, value in headers if not name.startswith(b":")]
    if host is None:
        return fields
    return [(b"host", host), *((name, value) for name, value in fields if name != b"host")]
