"""What the frames of an HTTP/2 client cost us, looked at before anything is spent on them.

In the room: the outer form of frames (RFC 9113, 4.1), and when there are too many that ask for work and bring nothing. Not in
the room: what they mean (the h2 library), the connection (`kipuka.http.http2`).

The library takes any number of frames that are correct, and keeps a frame that is too long until it is complete. So this comes
before it: a client that sends PING, SETTINGS, RST_STREAM, PRIORITY, empty DATA or CONTINUATION frames by the thousand, or opens
streams and resets them ("rapid reset"), has used up what is granted to it before the first of them is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["FrameMeter", "TooMuch"]

PREFACE: Final = 24  # octets that come before the first frame (RFC 9113, 3.4)
LONGEST: Final = 16 * 1024  # octets of a frame's payload: the least that SETTINGS_MAX_FRAME_SIZE may be
_HEAD = 9

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _WINDOW_UPDATE, _CONTINUATION = 0x0, 0x1, 0x3, 0x4, 0x6, 0x8, 0x9
_END_STREAM, _END_HEADERS = 0x1, 0x4

_COST: Mapping[int, int] = {_HEADERS: 1, _RST_STREAM: 4, _SETTINGS: 4, _PING: 2, _WINDOW_UPDATE: 1}
_COST_OF_OTHERS = 2  # PRIORITY, CONTINUATION, GOAWAY, and what is not known
_SHORT = 256  # octets of a DATA frame that may be nothing but padding
_GRANTED = 400
_PER_SECOND = 10
_PER_ANSWER = 8
_PADDING = 1024  # octets by which a header's frames may be longer than the header


class TooMuch(Exception):
    """The client asks for more than is granted to it; the text says of what."""


class FrameMeter:
    """Follows one connection's frames. `max_header_size` bounds all frames of a header together, in octets."""

    def __init__(self, *, max_header_size: int) -> None:
        self._longest_header = max_header_size + _PADDING
        self._left = float(_GRANTED)
        self._refilled: float | None = None
        self._skip = PREFACE  # octets until the next frame begins
        self._head = bytearray()
        self._header = 0  # octets of the present header's frames
        self._open = False  # a header has begun whose last frame has not
        self.header_since: float | None = None
        """Since when a header is coming that is not complete."""

    def feed(self, data: bytes, now: float) -> None:
        """Look at octets in the order they come. Raises `TooMuch`."""
        self._refill(now)
        position = 0
        while position < len(data):
            if self._skip:
                step = min(self._skip, len(data) - position)
                self._skip -= step
                position += step
            else:
                step = min(_HEAD - len(self._head), len(data) - position)
                self._head += data[position : position + step]
                position += step
                if len(self._head) == _HEAD:
                    self._begin(now)
            if not self._skip and not self._head and not self._open:
                self.header_since = None

    def answered(self) -> None:
        """A request was answered in full: what it took was spent well."""
        self._left = min(_GRANTED, self._left + _PER_ANSWER)

    def _refill(self, now: float) -> None:
        if self._refilled is not None:
            self._left = min(_GRANTED, self._left + (now - self._refilled) * _PER_SECOND)
        self._refilled = now

    def _begin(self, now: float) -> None:
        length = int.from_bytes(self._head[:3])
        kind, flags = self._head[3], self._head[4]
        self._head.clear()
        self._skip = length
        if length > LONGEST:
            raise TooMuch("a frame is too long")
        self._left -= self._cost(kind, flags, length)
        if self._left < 0:
            raise TooMuch("there are too many frames that bring nothing")
        if kind in {_HEADERS, _CONTINUATION}:
            if kind == _HEADERS:
                self._header = 0
                self.header_since = now
            self._header += length
            self._open = not flags & _END_HEADERS
            if self._header > self._longest_header:
                raise TooMuch("a header is too long")

    def _cost(self, kind: int, flags: int, length: int) -> int:
        if kind == _DATA:
            return int(length <= _SHORT and not flags & _END_STREAM)
        return _COST.get(kind, _COST_OF_OTHERS)
