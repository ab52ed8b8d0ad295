"""Which runtime serves a request, when a reload has put another in its place (RULES B2).

In the room: the ASGI application before those of the runtimes, the swap, and what becomes of connections that were made
before it. Not in the room: opening and closing runtimes (`kipuka.http.worker`), requests (`kipuka.http.app`).

A request belongs to the runtime that is in place when its body is complete, on whatever connection it comes: with the new anchors,
tokens and profiles. A connection of before keeps its TLS as it was negotiated, so its next answer closes it, which no client
takes for a failure.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from kipuka.api.values import Connection
from kipuka.http.applications import ASGIApplication, Message
from kipuka.http.rates import Pace
from kipuka.http.server import Listener
from kipuka.runtime import Runtime

__all__ = ["Generation", "Generations"]


class Generation:
    """A runtime with the application over it and the TLS of its listeners, and how many requests are under way in it."""

    def __init__(self, *, runtime: Runtime, app: ASGIApplication, listeners: Sequence[Listener]) -> None:
        self.runtime = runtime
        self.app = app
        self.listeners = tuple(listeners)
        self._visits = 0
        self._left = asyncio.Event()
        self._left.set()

    @contextmanager
    def visit(self) -> Generator[None]:
        """Around each request."""
        self._visits += 1
        self._left.clear()
        try:
            yield
        finally:
            self._visits -= 1
            if not self._visits:
                self._left.set()

    async def left(self) -> None:
        """Return when no request is under way."""
        await self._left.wait()


class Generations:
    """The ASGI application that hands each request to the generation in place.

    `listeners` are those that `kipuka.http.server.serve` listens with: a swap renews their TLS. `pace`, which every request has
    to keep, is the process's: a swap does not begin the count anew. `draining` is what `/readyz` tells.
    """

    def __init__(self, first: Generation) -> None:
        self.current = first
        self.listeners = first.listeners
        self.pace: Pace | None = None  # None: any number of requests
        self.draining = False  # new work should go elsewhere
        self._by_name = {listener.name: listener for listener in first.listeners}

    def replace(self, newer: Generation) -> Generation:
        """From now on `newer` serves; gives the generation that did."""
        older, self.current = self.current, newer
        for listener in newer.listeners:
            self._by_name[listener.name].renew(listener)
        return older

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Serve a request; the lifespan is answered here, since an application's own begins and ends with its runtime."""
        if scope["type"] == "lifespan":
            for stage in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{stage}.complete"})
            return
        state = cast("dict[str, Any]", scope["state"])
        state["pace"] = self.pace
        state["draining"] = self.draining
        connection = cast("Connection", state["connection"])
        listener = self._by_name[connection.listener]
        if state["generation"] != listener.generation:
            state["demands"] = listener.demands  # the door looks at what the handshake could not
            send = _closing(send)  # HTTP/2 says it by GOAWAY (`kipuka.http.http2`)
        generation = self.current
        with generation.visit():
            await generation.app(scope, receive, send)


def _closing(send: Callable[[Message], Awaitable[None]]) -> Callable[[Message], Awaitable[None]]:
    """The same, with an answer that ends its connection."""

    async def closing(message: Message) -> None:
        if message["type"] == "http.response.start":
            fields = [field for field in message.get("headers", ()) if bytes(field[0]).lower() != b"connection"]
            message = {**message, "headers": [*fields, (b"connection", b"close")]}
        await send(message)

    return closing
