"""Whether a call holds up the event loop.

In the room: a watch over the thread of the loop, that knows two signs of it and no wall clock. Not in the room: how long a call takes as a
whole; a CA may take its time, as long as others can go on.

The first sign is a function of the operating system that waits, called in the loop's thread: opening and syncing files, `time.sleep`,
sockets that are not set to non-blocking, looking up host names. The second is one step, from one await to the next, that uses more of
the processor than `STEP_LIMIT`: it is the thread's own time that is measured, so that a busy machine makes no difference.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from types import FrameType
from typing import Any, TypeVar

__all__ = ["STEP_LIMIT", "what_blocks"]

T = TypeVar("T")

STEP_LIMIT = 0.1
"""Seconds of the processor that one step may use: a hundred signatures on P-256, or the tenth part of a sluggish password hash."""

_FUNCTIONS = frozenset(
    {
        ("time", "sleep"),
        ("posix", "open"),
        ("posix", "fsync"),
        ("posix", "fdatasync"),
        ("posix", "system"),
        ("_io", "open"),
        ("io", "open"),
        ("_socket", "getaddrinfo"),
        ("_socket", "gethostbyname"),
        ("_socket", "gethostbyname_ex"),
        ("_socket", "gethostbyaddr"),
        ("_sqlite3", "connect"),
        ("select", "select"),
    }
)
_FILE_METHODS = frozenset({"read", "readline", "readlines", "readinto", "write", "writelines", "flush"})
_SOCKET_METHODS = frozenset(
    {"accept", "connect", "recv", "recv_into", "recvfrom", "recvmsg", "send", "sendall", "sendmsg", "sendto"}
)
_FILES = frozenset({"TextIOWrapper", "BufferedWriter", "BufferedReader", "BufferedRandom", "FileIO"})


async def what_blocks(call: Callable[[], Awaitable[T]]) -> tuple[T, list[str]]:
    """Run the call twice, and say what it gave the second time and what held up the loop: nothing, if the list is empty.

    The first time is for what happens once, such as a late import. Only one such watch can be on in a thread; a debugger or profiler that
    was there before is put back afterwards.
    """
    await call()
    signs: list[str] = []
    before = sys.getprofile()
    sys.setprofile(_Watch(signs))
    try:
        await call()
    finally:
        sys.setprofile(before)
    steps = _Steps(call())
    answer = await steps
    if steps.longest > STEP_LIMIT:
        signs.append(f"one step used {steps.longest:.2f} s of the processor")
    return answer, signs


class _Watch:
    """Is told of every function that is called in this thread."""

    def __init__(self, signs: list[str]) -> None:
        self._signs = signs

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "c_call":
            return
        name = str(argument.__name__)
        owner = getattr(argument, "__self__", None)
        if (argument.__module__, name) in _FUNCTIONS:
            self._note(f"{argument.__module__}.{name}", frame)
        elif isinstance(owner, socket.socket):
            if name in _SOCKET_METHODS and owner.gettimeout() != 0:
                self._note(f"socket.{name} on a socket that blocks", frame)
        elif name in _FILE_METHODS and type(owner).__name__ in _FILES and type(owner).__module__ == "_io":
            self._note(f"{type(owner).__name__}.{name}", frame)

    def _note(self, what: str, frame: FrameType) -> None:
        sign = f"{what}, called in {frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
        if sign not in self._signs:
            self._signs.append(sign)


class _Steps:
    """Awaits what it is given, and measures each step."""

    def __init__(self, inner: Awaitable[Any]) -> None:
        self._inner = inner
        self.longest = 0.0

    def __await__(self) -> Generator[Any, Any, Any]:
        generator = self._inner.__await__()
        answer: Any = None
        error: BaseException | None = None
        while True:
            begin = time.thread_time()
            try:
                waits_for = generator.send(answer) if error is None else generator.throw(error)  # type: ignore[union-attr]
            except StopIteration as stop:
                return stop.value
            finally:
                self.longest = max(self.longest, time.thread_time() - begin)
            answer, error = None, None
            try:
                answer = yield waits_for
            except (Exception, asyncio.CancelledError) as thrown:  # noqa: BLE001 - handed on as it came
                error = thrown
