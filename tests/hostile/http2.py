"""HTTP/2 as nobody should speak it: whole conversations of a client as octets, and the reading of what a server says (RULES H1).

In the room: the strategy of conversations, which begin with a good preface more often than not, and the server's frames as
answers. Not in the room: connections (`attacks`), and whether the answers are good ones (`siege`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from hypothesis import strategies as st

from kipuka.testing.hostile.damage import beginning, damaged, edits
from kipuka.testing.hostile.http import HTTPRequest, requests

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED, PRIORITIZED = 0x1, 0x1, 0x4, 0x8, 0x20
LONGEST = 16_384  # octets of a frame's payload
MAGIC = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
INTERNAL_ERROR = 2
CACERTS = ((b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"localhost"), (b":path", b"/.well-known/est/cacerts"))  # fmt: skip

Fields = tuple[tuple[bytes, bytes], ...]


def frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: int = 0, length: int | None = None) -> bytes:
    """One frame; with `length`, one that says it is longer or shorter than it is."""
    said = len(payload) if length is None else length
    return said.to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


def block(fields: Fields) -> bytes:
    """A header block that needs no table."""
    return Encoder().encode([(name, value, True) for name, value in fields], huffman=False)


GREETING = MAGIC + frame(SETTINGS)
CIVIL = GREETING + frame(HEADERS, block(CACERTS), flags=END_HEADERS | END_STREAM, stream=1)
"""Cacerts as a good client asks for it."""

_number = st.one_of(st.sampled_from((0, 1, 2, 100, 16_383, 16_384, 65_535, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1)), st.integers(0, 2**32 - 1))  # fmt: skip
_stream = st.one_of(st.sampled_from((0, 1, 1, 1, 2, 3, 5, 2**31 - 1, 2**31 + 1)), st.integers(0, 2**32 - 1))
_rarely = st.sampled_from((False,) * 11 + (True,))
_times = st.sampled_from((1, 2, 10, 50, 101, 450, 2_000))


# --- requests


def _fields_of(request: HTTPRequest, *, as_it_is: bool) -> Fields:
    """As HTTP/2 has them; `as_it_is` leaves what no field may have there: connection's fields, white space around values."""
    fields = [(b":method", request.method.replace(b"HEAD", b"GET")), (b":scheme", b"https"), (b":path", request.target)]
    fields += [(b":authority", value) for name, value in request.fields if name == b"Host"]
    for name, value in request.fields:
        if as_it_is:
            fields.append((name, value))
        elif name not in {b"Host", b"Connection", b"Transfer-Encoding", b"Upgrade"}:
            fields.append((name.lower(), value.strip()))
    return tuple(fields)


def _cut(content: bytes, size: int) -> list[bytes]:
    return [content[at : at + size] for at in range(0, len(content), size)] or [b""]


@st.composite
def _headers(draw: st.DrawFn, fields: Fields, *, stream: int, flags: int) -> list[bytes]:
    """The frames of one header: mostly one and whole; otherwise in pieces, with a frame between them, or without its end."""
    size = draw(st.sampled_from((LONGEST,) * 12 + (1, 7, 40, 1_000)))
    head, *rest = _cut(block(fields), size)
    frames = [frame(HEADERS, head, flags=flags, stream=stream)]
    frames += [frame(CONTINUATION, piece, stream=stream) for piece in rest[:600]]
    match draw(st.sampled_from(("whole",) * 17 + ("endless", "interrupted", "elsewhere"))):
        case "endless":
            return frames
        case "interrupted":  # by something that may not be there (RFC 9113, 6.10)
            frames.insert(1, draw(st.one_of(_odd_frames(), st.just(frame(PING, bytes(8))))))
        case "elsewhere":  # continued on another stream
            return [*frames, frame(CONTINUATION, b"", flags=END_HEADERS, stream=stream + 2)]
        case _:
            pass
    last = frames.pop()
    return [*frames, last[:4] + bytes([last[4] | END_HEADERS]) + last[5:]]


@st.composite
def _requests(draw: st.DrawFn, known: tuple[str, ...], stream: int) -> list[bytes]:
    """A request, good or not, with its body in DATA frames of some size, perhaps without their end."""
    request: HTTPRequest = draw(
        requests(known=known, labels=("factory",), admin=("/admin/otp", "/admin/certificates", "/admin/lockouts"))
    )
    fields = _fields_of(request, as_it_is=draw(_rarely))
    if not request.body:
        return draw(_headers(fields, stream=stream, flags=END_STREAM))
    frames = draw(_headers(fields, stream=stream, flags=0))
    size = draw(st.sampled_from((LONGEST, LONGEST, LONGEST, 1_000, 10)))
    pieces = [frame(DATA, piece, stream=stream) for piece in _cut(request.body, size)[:500]]
    if not draw(_rarely):
        pieces.append(frame(DATA, b"", flags=END_STREAM, stream=stream))
    return frames + pieces


def _opened(stream: int, times: int) -> list[bytes]:
    """Requests whose bodies never come."""
    fields = ((b":method", b"POST"), *CACERTS[1:3], (b":path", b"/.well-known/est/simpleenroll"), (b"content-type", b"application/pkcs10"))  # fmt: skip
    return [frame(HEADERS, block(fields), flags=END_HEADERS, stream=stream + 2 * number) for number in range(times)]


def _reset(stream: int, times: int) -> list[bytes]:
    """Requests that are taken back at once."""
    begin = block(CACERTS)
    return [
        frame(HEADERS, begin, flags=END_HEADERS | END_STREAM, stream=stream + 2 * number)
        + frame(RST_STREAM, (8).to_bytes(4), stream=stream + 2 * number)
        for number in range(times)
    ]


def _bomb(stream: int, times: int) -> list[bytes]:
    """A long field put into the table once and called from there again and again (RFC 7541, 6.1, 6.2.1)."""
    table = b"\x40\x01x\x7f" + _integer(3_900 - 127) + b"a" * 3_900
    return [frame(HEADERS, block(CACERTS) + table + b"\xbe" * min(times, 10_000), flags=END_HEADERS | END_STREAM, stream=stream)]  # fmt: skip


def _integer(rest: int) -> bytes:
    """What follows a full prefix (RFC 7541, 5.1)."""
    out = b""
    while rest >= 0x80:
        out += bytes([rest & 0x7F | 0x80])
        rest >>= 7
    return out + bytes([rest])


BROKEN_BLOCKS = (
    b"\x80", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\xff" * 50, b"\xbe", b"\x3f\xe1\xff\xff\xff\x0f", b"\x20" * 200, b"\x20\x3f\xe1\x1f" * 50,
    b"\x40", b"\x40\x7f", b"\x40\x01a\x7f\xff\xff\xff\xff\x0f", b"\x40\x81\xff\x81\xff", b"\x40\x84\xff\xff\xff\xff\x00", b"\x00\x00\x00", b"\x82" * 2_000,
)  # fmt: skip


def _broken_block(stream: int, content: bytes, head: bytes) -> list[bytes]:
    return [frame(HEADERS, head + content, flags=END_HEADERS | END_STREAM, stream=stream)]


# --- frames


@st.composite
def _odd_frames(draw: st.DrawFn) -> bytes:
    """Any kind, flags, stream and payload; some as long as their kind should be, some that say they are longer."""
    kind = draw(st.one_of(st.integers(0, 9), st.integers(0, 255)))
    payload = draw(st.one_of(st.binary(max_size=40), st.sampled_from((b"", bytes(4), bytes(5), bytes(6), bytes(8), b"\xff" * 8))))  # fmt: skip
    length = draw(st.sampled_from((None, None, None, None, 0, len(payload) + 1, LONGEST, LONGEST + 1, 2**24 - 1)))
    flags = draw(st.one_of(st.sampled_from((0, ACK, END_HEADERS, END_HEADERS | END_STREAM, PADDED, PRIORITIZED, 0xFF)), st.integers(0, 255)))  # fmt: skip
    return frame(kind, payload, flags=flags, stream=draw(_stream), length=length)


def _settings() -> st.SearchStrategy[bytes]:
    """Wishes that are allowed, and such as no client has."""
    entry = st.builds(_setting, st.one_of(st.integers(0, 9), st.integers(0, 65_535)), _number)
    return st.builds(_of_settings, st.lists(entry, max_size=8))


def _setting(name: int, value: int) -> bytes:
    return name.to_bytes(2) + value.to_bytes(4)


def _of_settings(entries: list[bytes]) -> bytes:
    return frame(SETTINGS, b"".join(entries))


def _too_long(kind: int, size: int, stream: int) -> bytes:
    return frame(kind, bytes(size), flags=END_HEADERS, stream=stream)


def _window(stream: int, size: int) -> bytes:
    return frame(WINDOW_UPDATE, size.to_bytes(4), stream=stream)


def _farewell(stream: int, code: int) -> bytes:
    return frame(GOAWAY, stream.to_bytes(4) + code.to_bytes(4) + b"bye")


FLOODS = (
    frame(PING, bytes(8)), frame(PING, bytes(8), flags=ACK), frame(SETTINGS), frame(SETTINGS, _setting(4, 1_000)), frame(SETTINGS, flags=ACK),
    frame(SETTINGS, _setting(1, 0) + _setting(1, 4_096)), frame(WINDOW_UPDATE, (1).to_bytes(4)), frame(WINDOW_UPDATE, (1).to_bytes(4), stream=1),
    frame(PRIORITY, bytes(4) + b"\x10", stream=3), frame(RST_STREAM, bytes(4), stream=1), frame(DATA, b"", stream=1),
    frame(DATA, b"\xff" + bytes(255), flags=PADDED, stream=1), frame(CONTINUATION, b"", stream=1), frame(0xEE, b"abc"), frame(GOAWAY, bytes(8)),
)  # fmt: skip


def _flood(one: bytes, times: int) -> list[bytes]:
    return [one] * times


def _moves(known: tuple[str, ...], stream: int) -> st.SearchStrategy[list[bytes]]:
    """What a client may do next; requests most often. Only those that need a stream of their own use `stream`."""
    on, broken = st.just(stream), st.one_of(st.sampled_from(BROKEN_BLOCKS), st.binary(max_size=30))
    one_frame = st.one_of(
        _settings(),
        st.builds(_window, _stream, _number),
        st.builds(_farewell, _stream, _number),
        st.builds(_too_long, st.integers(0, 10), st.sampled_from((LONGEST, LONGEST + 1, 100_000)), _stream),
    )
    asked = st.sampled_from((stream,) * 15 + (2,)).flatmap(lambda number: _requests(known, number))
    others = (
        st.builds(_reset, on, _times),
        st.builds(_opened, on, _times),
        st.builds(_flood, st.sampled_from(FLOODS), _times),
        st.builds(_bomb, on, _times),
        st.builds(_broken_block, on, broken, st.sampled_from((b"", block(CACERTS)))),
        st.lists(one_frame, min_size=1, max_size=1),
        st.lists(_odd_frames(), min_size=1, max_size=4),
    )
    return st.one_of(*[asked] * 10, *others)


@st.composite
def conversations(draw: st.DrawFn, *, known: tuple[str, ...]) -> bytes:
    """All that one client says."""
    frames: list[bytes] = []
    stream = 1
    for _ in range(draw(st.sampled_from((1, 1, 2, 3, 6)))):
        frames += draw(_moves(known, stream))
        stream += 2 * len(frames)
    if len(frames) < 50 and draw(_rarely):
        frames = draw(st.permutations(frames))
    octets = b"".join(frames)
    match draw(st.sampled_from(("whole",) * 13 + ("damaged", "cut", "replaced"))):
        case "damaged":
            octets = damaged(octets, draw(edits(most=4)))
        case "cut":
            octets = beginning(octets, draw(st.floats(0, 1, exclude_max=True)))
        case "replaced":
            octets = draw(st.binary(max_size=300))
        case _:
            pass
    return draw(st.sampled_from((GREETING,) * 16 + (MAGIC, frame(SETTINGS), b"", MAGIC[:10]))) + octets


# --- what the server says


@dataclass(slots=True)
class Answer:
    """What came on one stream."""

    fields: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    is_whole: bool = False
    reset: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """All that the server said on a connection; `farewells` are the codes of its GOAWAY frames."""

    answers: Mapping[int, Answer]
    farewells: tuple[int, ...]


def read_reply(octets: bytes) -> Reply:
    """Raises AssertionError where it is not what a server may send (RFC 9113)."""
    decoder, answers, farewells = Decoder(), dict[int, Answer](), list[int]()
    is_first = True
    while octets:
        assert len(octets) >= 9, f"half a frame: {octets!r}"
        length, kind, flags, stream = int.from_bytes(octets[:3]), octets[3], octets[4], int.from_bytes(octets[5:9])
        payload, octets = octets[9 : 9 + length], octets[9 + length :]
        assert len(payload) == length, f"half a frame of kind {kind}"
        assert length <= LONGEST
        assert not is_first or (kind == SETTINGS and not flags), f"no SETTINGS, but {kind}"
        is_first = False
        match kind:
            case _ if kind in {HEADERS, DATA}:
                answer = answers.setdefault(stream, Answer())
                assert stream % 2 == 1, stream
                assert not answer.is_whole, "more after the end"
                if kind == HEADERS:
                    assert flags & END_HEADERS
                    answer.fields = {_text(name): _text(value) for name, value in decoder.decode(payload, raw=True)}
                else:
                    assert answer.fields, "a body without a header"
                    answer.body += payload
                answer.is_whole = bool(flags & END_STREAM)
            case _ if kind == RST_STREAM:
                answers.setdefault(stream, Answer()).reset = int.from_bytes(payload)
            case _ if kind == GOAWAY:
                farewells.append(int.from_bytes(payload[4:8]))
            case _:
                assert kind in {SETTINGS, PING, WINDOW_UPDATE}, kind
    return Reply(answers=answers, farewells=tuple(farewells))


def _text(value: bytes | str) -> str:
    return value.decode("ascii") if isinstance(value, bytes) else value
