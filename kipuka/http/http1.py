"""HTTP/1.1 on one connection: Hypercorn's, without its ways out of HTTP/1.1, and stricter about what a header may be.

In the room: what is refused before the application sees it, and how long we wait for which part of a request. Not in the
room: the connection (`kipuka.http.server`), HTTP/2 (`kipuka.http.http2`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import h11
from hypercorn.asyncio.worker_context import EventWrapper
from hypercorn.events import Closed
from hypercorn.protocol.events import Request
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import HTTPStream

from kipuka.http.applications import Refused
from kipuka.http.targets import is_host, origin_form

__all__ = ["HTTP1", "Patience"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """How long we wait for a client, in seconds: for a request to begin, for its whole header, for its whole body."""

    idle: float
    header: float
    body: float


_SPELLED = {b"www-authenticate": b"WWW-Authenticate"}  # names of fields whose words do not simply begin with capitals

_Phase = Literal["idle", "header", "body", "answering"]


class HTTP1(H11Protocol):
    """One connection. Raises `Refused` out of `handle` when no more is to be read; what had to be answered has been."""

    def __init__(self, *arguments: Any, patience: Patience, closing: Callable[[], bool]) -> None:
        super().__init__(*arguments)
        self.connection = _Parser(h11.SERVER, max_incomplete_event_size=self.config.h11_max_incomplete_size)
        self.can_read = _Pause(self)
        self._closing = closing
        self._bodiless = False  # HEAD: an answer has no body (RFC 9110, 9.3.2)
        self._budgets: Mapping[_Phase, float | None] = {
            "idle": patience.idle,
            "header": patience.header,
            "body": patience.body,
            "answering": None,
        }
        self._counted: tuple[_Phase, int] | None = None  # the phase that the budget is for, and the request's number
        self._budget: float | None = None  # what is left of this phase
        self._since = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self.stream is None

    @property
    def is_receiving(self) -> bool:
        """Whether the rest of a body is still to come."""
        return self.phase == "body"

    @property
    def phase(self) -> _Phase:
        """What we wait for."""
        if self.connection.their_state is h11.IDLE:
            return "header" if self.connection.trailing_data[0] else "idle"
        return "body" if self.connection.their_state is h11.SEND_BODY else "answering"

    def deadline(self, now: float) -> float | None:
        """Until when we wait from `now` on, if we wait; None for ever."""
        counted = (self.phase, cast("int", self.keep_alive_requests))  # pyright: ignore[reportUnknownMemberType]
        if counted != self._counted:
            self._counted = counted
            self._budget = self._budgets[counted[0]]
        self._since = now
        return None if self._budget is None else now + self._budget

    def waited(self, now: float) -> None:
        """We have waited since `deadline` was asked last; only that counts."""
        if self._budget is not None:
            self._budget -= now - self._since

    def farewell(self) -> bytes:
        """What is said before an idle connection is closed."""
        return b""

    def finish(self) -> None:
        """Take no further request. Hypercorn knows it already from its context, and closes after the response."""

    async def _send_h11_event(self, event: Any) -> None:
        if isinstance(event, h11.Response):
            # The case of names says nothing (RFC 9110, 5.1), and ASGI has them in small letters; but libest looks for
            # `WWW-Authenticate`, `Content-Type` and `Content-Length` letter by letter.
            fields = [(_SPELLED.get(name) or name.title(), value) for name, value in event.headers]
            event = h11.Response(status_code=event.status_code, headers=fields, reason=event.reason)
        await super()._send_h11_event(event)

    async def _check_protocol(self, event: h11.Request) -> None:
        self._bodiless = event.method == b"HEAD"
        if self._closing():
            raise Refused  # pipelined by a client that is gone: nobody would hear the answer
        status = _refusal(event, self.config.h11_max_incomplete_size)
        if status is not None:
            await self._send_error_response(status)
            await self.send(Closed())
            raise Refused

    async def _send_error_response(self, status_code: int) -> None:
        """What h11 or `_refusal` refuses: one sentence, as every refusal, and the end of the connection."""
        body = _SENTENCES.get(status_code, _SENTENCES[400])
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        await self._send_h11_event(h11.Response(status_code=status_code, headers=headers))
        if not self._bodiless:
            await self._send_h11_event(h11.Data(data=body))
        await self._send_h11_event(h11.EndOfMessage())

    async def _maybe_recycle(self) -> None:
        self._bodiless = False  # the next request may be one whose method cannot be read
        await super()._maybe_recycle()

    async def _create_stream(self, request: h11.Request) -> None:
        # No WebSocket and no h2c: a server may ignore Upgrade (RFC 9110, 7.8).
        self.stream = HTTPStream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            cast("Any", self.stream_send),
            STREAM_ID,
        )
        await self.stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=list(request.headers),
                http_version=request.http_version.decode("ascii"),
                method=request.method.decode("ascii").upper(),
                raw_path=origin_form(request.target) or b"/",  # None was refused
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1
        await self.context.mark_request()


class _Parser(h11.Connection):
    """h11's parser, forgiving where RFC 9112 says that a server should be: libest ends each request with a line end too many."""

    def next_event(self) -> type[h11.NEED_DATA | h11.PAUSED] | h11.Event:
        buffer = self._receive_buffer
        if self.their_state is h11.MUST_CLOSE:  # it said `Connection: close`: what follows is no request (9.6)
            buffer.maybe_extract_at_most(len(buffer))
        while self.their_state is h11.IDLE and bytes(buffer).startswith(b"\r\n"):  # before a request line (2.2)
            buffer.maybe_extract_at_most(2)
        return super().next_event()


class _Pause(EventWrapper):
    """What a pipelined request waits for. It would wait for ever once there will be no next request."""

    def __init__(self, http: HTTP1) -> None:
        super().__init__()
        self._http = http

    async def wait(self) -> None:
        if self._http.stream is None:  # the response is complete, and the connection was not made ready for another
            raise Refused
        await super().wait()


_SENTENCES = {
    400: b"the request cannot be read\n",
    431: b"the request header is too large\n",
    501: b"the only transfer coding taken is chunked\n",
    505: b"only HTTP/1.1 and HTTP/1.0 are spoken here\n",
}


def _refusal(request: h11.Request, most: int) -> int | None:
    """The status for a request whose header is no good, or None."""
    if request.http_version not in {b"1.0", b"1.1"}:
        return 505  # also the preface of HTTP/2, which looks like a request of version 2.0
    # h11 knows only headers that are incomplete; one that comes in one piece may be larger.
    size = len(request.method) + len(request.target) + 12  # two spaces, HTTP/1.1, CRLF
    size += sum(len(name) + len(value) + 4 for name, value in request.headers)  # colon, space, CRLF
    if size > most:
        return 431
    return 400 if _is_misleading(request) else None


def _is_misleading(request: h11.Request) -> bool:
    """Whether two servers in a row could read it differently, or Quart takes it for a fault of its own."""
    names = {name for name, _value in request.headers}
    if b"transfer-encoding" in names and (b"content-length" in names or request.http_version == b"1.0"):
        return True  # request smuggling, faulty framing (RFC 9112, 6.1; RULES H1)
    if not all(is_host(value) for name, value in request.headers if name == b"host"):
        return True  # RFC 9112, 3.2
    return origin_form(request.target) is None
