"""Reads a request's whole body before the application sees the request.

In the room: the size limit, the bounded draining of what is over it, and the deadline for a whole body (RULES H1, H2).
Not in the room: what a body means.

Everything is read first because Hypercorn handles an answer that overtakes the body badly: over HTTP/1.1 the unread rest
ends in a traceback, over HTTP/2 the client gets no answer at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

from kipuka.http.applications import ASGIApplication, Message

__all__ = ["DRAIN_LIMIT", "BodyFault", "WholeBody"]

DRAIN_LIMIT = 16 * 1024 * 1024
"""How many octets of an over-long body are read and thrown away before the connection is given up."""


class BodyFault:
    """Values of `scope["state"]["body_fault"]`."""

    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"


class WholeBody:
    """An ASGI application that hands its inner application each HTTP request with the body in one message."""

    def __init__(self, app: ASGIApplication, *, limit: int, deadline: float) -> None:
        self._app = app
        self._limit = limit
        self._deadline = deadline

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve one connection scope; anything but HTTP passes through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = cast("dict[str, Any]", scope["state"])
        try:
            async with asyncio.timeout(self._deadline):
                body, fault = await self._read(receive)
        except TimeoutError:
            body, fault = b"", BodyFault.TOO_SLOW
        if body is None:
            return  # the client went away before it had asked for anything
        state["body_fault"] = fault
        first: Message | None = {"type": "http.request", "body": body, "more_body": False}

        async def replay() -> Message:
            nonlocal first
            if first is not None:
                event, first = first, None
                return event
            return await receive()

        await self._app(scope, replay, send)

    async def _read(self, receive: Callable[[], Awaitable[Message]]) -> tuple[bytes | None, str | None]:
        chunks: list[bytes] = []
        size = 0
        while True:
            event = await receive()
            if event["type"] != "http.request":
                return None, None
            size += len(event["body"])
            if size <= self._limit:
                chunks.append(event["body"])
            else:
                chunks.clear()
            if not event.get("more_body", False) or size > self._limit + DRAIN_LIMIT:
                break
        return (b"", BodyFault.TOO_LARGE) if size > self._limit else (b"".join(chunks), None)
