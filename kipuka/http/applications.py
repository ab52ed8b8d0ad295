"""The application behind a connection, run once for each request.

In the room: the task of a request and the messages on their way to it. Not in the room: where the messages come from
(`kipuka.http.http1`, `kipuka.http.http2`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import structlog
from hypercorn.asyncio.task_group import TaskGroup
from hypercorn.config import Config

__all__ = ["ASGIApplication", "Applications", "Inbox", "Message", "Refused"]

Message = MutableMapping[str, Any]
ASGIApplication = Callable[
    [MutableMapping[str, Any], Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

_HELD = 64 * 1024  # octets of a body that wait for the application before we stop reading
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Refused(Exception):
    """No more can be read on this connection."""


class Applications:
    """Runs the application once for each request: what a stream of Hypercorn uses of its TaskGroup.

    Hypercorn's own queue has ten places and waits for room even to say that the client is gone: an application that
    answers without reading a body of eleven pieces would never end, nor would its connection.
    """

    def __init__(self, app: ASGIApplication, group: TaskGroup, *, most: int) -> None:
        self._app = app
        self._group = group
        self._most = most

    async def spawn_app(
        self, _app: Any, _config: Config, scope: Any, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Any], Awaitable[None]]:
        """Start the application for one request; gives where the request's messages go."""
        inbox = Inbox(self._most)
        self._group.spawn(self._run, scope, inbox, send)  # pyright: ignore[reportUnknownMemberType]
        return inbox.put

    async def _run(self, scope: Any, inbox: Inbox, send: Callable[[Any], Awaitable[None]]) -> None:
        try:
            await self._app(scope, inbox.get, send)
        except Exception:  # noqa: BLE001 - a fault of one request, also as an ExceptionGroup; it is answered 500
            _log.exception("application_failed", path=scope.get("path"))
        finally:
            inbox.close()
            await send(None)


class Inbox:
    """The messages of one request for the application; bounded in octets, and never in the way of a disconnect."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._received = 0  # octets of the body so far
        self._held = 0  # octets that the application has not fetched
        self._messages: deque[Message] = deque()
        self._closed = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def put(self, message: Message) -> None:
        """Give the application a message, when it has fetched enough of those before. What it will not read is dropped."""
        if message["type"] == "http.disconnect":
            self.close()
            return
        size = len(message["body"])
        self._received += size
        if self._received > self._most:
            self.close()
            raise Refused
        while self._held and self._held + size > _HELD and not self._closed:
            self._room.clear()
            await self._room.wait()
        if not self._closed:
            self._held += size
            self._messages.append(message)
            self._news.set()

    async def get(self) -> Message:
        """The ASGI receive: the next message, and `http.disconnect` for ever once there is no other."""
        while not self._messages and not self._closed:
            self._news.clear()
            await self._news.wait()
        if not self._messages:
            return {"type": "http.disconnect"}
        message = self._messages.popleft()
        self._held -= len(message["body"])
        self._room.set()
        return message

    def close(self) -> None:
        """The client is gone, or the application has ended: nobody may wait here any longer."""
        self._closed = True
        self._news.set()
        self._room.set()
