"""Reading the whole body before the application sees the request."""

from __future__ import annotations

import asyncio

import pytest

from kipuka.http import body as body_module
from kipuka.http.body import BodyFault, WholeBody


class Application:
    """Takes the first message and the state it came with."""

    def __init__(self) -> None:
        self.body: bytes | None = None
        self.fault: str | None = None

    async def __call__(self, scope, receive, _send):
        event = await receive()
        self.body, self.fault = event["body"], scope["state"]["body_fault"]
        assert event["more_body"] is False


async def nothing(_event):
    raise AssertionError("nothing is answered here")


def request(*chunks: bytes, ends: bool = True):
    """A receive callable that gives these chunks, and then waits as a client that stays connected does."""
    events = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    if ends and events:
        events[-1]["more_body"] = False

    async def receive():
        if events:
            return events.pop(0)
        return await asyncio.Event().wait()

    return receive, events


async def serve(receive, *, limit=10, deadline=1.0):
    app = Application()
    await WholeBody(app, limit=limit, deadline=deadline)({"type": "http", "state": {}}, receive, nothing)
    return app


async def test_a_body_in_pieces_arrives_whole():
    receive, _ = request(b"abc", b"", b"def")
    app = await serve(receive)
    assert (app.body, app.fault) == (b"abcdef", None)


async def test_a_body_of_exactly_the_limit_is_taken():
    receive, _ = request(b"0123456789")
    assert (await serve(receive)).body == b"0123456789"


async def test_a_body_over_the_limit_is_read_to_its_end_and_thrown_away():
    """RULES H2: drained before the 413."""
    receive, left = request(b"0123456789", b"x", b"y" * 100)
    app = await serve(receive)
    assert (app.body, app.fault, left) == (b"", BodyFault.TOO_LARGE, [])


async def test_draining_has_a_bound(monkeypatch):
    """RULES H2: drained, with a bound."""
    monkeypatch.setattr(body_module, "DRAIN_LIMIT", 50)
    receive, left = request(b"x" * 30, b"y" * 40, b"z")
    app = await serve(receive)
    assert app.fault == BodyFault.TOO_LARGE
    assert len(left) == 1


async def test_a_body_that_does_not_end_in_time_is_given_up():
    """RULES H1: a deadline for the whole body."""
    receive, _ = request(b"abc", ends=False)
    app = await serve(receive, deadline=0.02)
    assert (app.body, app.fault) == (b"", BodyFault.TOO_SLOW)


async def test_a_client_that_leaves_while_sending_reaches_nobody():
    async def receive():
        return {"type": "http.disconnect"}

    assert (await serve(receive)).body is None


@pytest.mark.parametrize("kind", ["lifespan", "websocket"])
async def test_other_scopes_pass_through(kind):
    seen = []

    async def app(scope, _receive, _send):
        seen.append(scope["type"])

    await WholeBody(app, limit=1, deadline=1)({"type": kind}, None, None)
    assert seen == [kind]
