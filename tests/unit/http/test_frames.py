"""RULES H1: what the frames of an HTTP/2 client may cost."""

from __future__ import annotations

import pytest

from kipuka.http.frames import FrameMeter, TooMuch

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, length: int = 0, flags: int = 0) -> bytes:
    return length.to_bytes(3) + bytes([kind, flags]) + bytes(4) + bytes(length)


def meter() -> FrameMeter:
    begun = FrameMeter(max_header_size=16384)
    begun.feed(PREFACE, 0.0)
    return begun


@pytest.mark.parametrize(
    "flood",
    [
        pytest.param(frame(PING, 8), id="PING"),
        pytest.param(frame(SETTINGS), id="SETTINGS"),
        pytest.param(frame(RST_STREAM, 4), id="RST_STREAM"),
        pytest.param(frame(HEADERS, 20, END_HEADERS) + frame(RST_STREAM, 4), id="rapid reset"),
        pytest.param(frame(PRIORITY, 5), id="PRIORITY"),
        pytest.param(frame(WINDOW_UPDATE, 4), id="WINDOW_UPDATE"),
        pytest.param(frame(DATA), id="empty DATA"),
        pytest.param(frame(DATA, 256), id="DATA that may be padding"),
        pytest.param(frame(0xBE, 3), id="unknown"),
        pytest.param(frame(CONTINUATION), id="empty CONTINUATION"),
    ],
)
def test_frames_that_bring_nothing_are_not_taken_for_ever(flood: bytes) -> None:
    with pytest.raises(TooMuch, match="bring nothing"):
        meter().feed(flood * 1000, 0.0)


@pytest.mark.parametrize("piece", [1, 7, 10_000])
def test_frames_are_seen_in_whatever_pieces_they_come(piece: int) -> None:
    octets = frame(HEADERS, 30, END_HEADERS) + frame(PING, 8) * 300
    metered = meter()
    with pytest.raises(TooMuch):
        for start in range(0, len(octets), piece):
            metered.feed(octets[start : start + piece], 0.0)


def test_a_client_that_asks_and_is_answered_may_go_on() -> None:
    metered = meter()
    for _ in range(10_000):
        metered.feed(frame(HEADERS, 100, END_HEADERS) + frame(DATA, 900, END_STREAM) + frame(WINDOW_UPDATE, 4) * 2, 0.0)
        metered.answered()


def test_a_client_that_is_slow_about_it_may_go_on() -> None:
    metered = meter()
    for second in range(1000):
        metered.feed(frame(PING, 8), float(second))


def test_a_body_in_frames_of_some_size_costs_nothing() -> None:
    metered = meter()
    for _ in range(2000):
        metered.feed(frame(DATA, 1000), 0.0)


def test_a_frame_is_too_long_before_it_is_there() -> None:
    """The h2 library would collect 16 MiB first."""
    metered = meter()
    metered.feed(frame(DATA, 16384), 0.0)
    with pytest.raises(TooMuch, match="too long"):
        metered.feed((16385).to_bytes(3) + bytes([DATA, 0]) + bytes(4), 0.0)


def test_all_frames_of_a_header_together_are_bounded() -> None:
    metered = meter()
    metered.feed(frame(HEADERS, 9000), 0.0)
    with pytest.raises(TooMuch, match="header"):
        metered.feed(frame(CONTINUATION, 9000), 0.0)


def test_it_is_known_since_when_a_header_is_coming() -> None:
    metered = meter()
    assert metered.header_since is None
    metered.feed(frame(HEADERS, 10)[:12], 5.0)
    assert metered.header_since == 5.0
    metered.feed(frame(HEADERS, 10)[12:], 6.0)
    assert metered.header_since == 5.0
    metered.feed(frame(CONTINUATION, 10, END_HEADERS), 7.0)
    assert metered.header_since is None
