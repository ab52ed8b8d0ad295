"""A reader of syslog messages, written from the ABNF of RFC 5424, section 6, and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

NILVALUE = b"-"
PRINTUSASCII = frozenset(range(33, 127))
DIGIT = frozenset(b"0123456789")


class NotSyslog(ValueError):
    """The octets are no SYSLOG-MSG."""


@dataclass
class Message:
    facility: int
    severity: int
    timestamp: datetime | None
    hostname: str | None
    app_name: str | None
    procid: str | None
    msgid: str | None
    data: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    msg: bytes | None = None

    def params(self, sd_id):
        return dict(self.data[sd_id])


class _Reader:
    def __init__(self, octets):
        self.octets, self.place = octets, 0

    def peek(self):
        return self.octets[self.place] if self.place < len(self.octets) else None

    def take(self, literal):
        if self.octets[self.place : self.place + len(literal)] != literal:
            raise NotSyslog(f"{literal!r} is missing at octet {self.place}")
        self.place += len(literal)

    def run(self, allowed, least, most):
        start = self.place
        while self.place < len(self.octets) and self.octets[self.place] in allowed:
            self.place += 1
        if not least <= self.place - start <= most:
            raise NotSyslog(f"{self.place - start} octets at {start}, {least} to {most} are allowed")
        return self.octets[start : self.place]

    def nil_or(self, most):
        text = self.run(PRINTUSASCII, 1, most)
        return None if text == NILVALUE else text.decode("ascii")


def parse(octets: bytes) -> Message:
    """SYSLOG-MSG = HEADER SP STRUCTURED-DATA [SP MSG]"""
    reader = _Reader(octets)
    reader.take(b"<")
    priority = reader.run(DIGIT, 1, 3)
    if int(priority) > 191 or (len(priority) > 1 and priority.startswith(b"0")):
        raise NotSyslog("PRIVAL")
    reader.take(b">1 ")
    timestamp = _timestamp(reader.nil_or(32))
    reader.take(b" ")
    header = []
    for most in (255, 48, 128, 32):
        header.append(reader.nil_or(most))
        reader.take(b" ")
    message = Message(int(priority) // 8, int(priority) % 8, timestamp, *header)
    if reader.peek() == ord("-"):
        reader.take(b"-")
    else:
        while reader.peek() == ord("["):
            _element(reader, message)
        if not message.data:
            raise NotSyslog("STRUCTURED-DATA")
    if reader.peek() is not None:
        reader.take(b" ")
        message.msg = octets[reader.place :]
        if message.msg.startswith(b"\xef\xbb\xbf"):
            message.msg.decode("utf-8")
    return message


def _timestamp(text):
    if text is None:
        return None
    date, t, rest = text[:10], text[10:11], text[11:]
    if t != "T" or not rest.endswith("Z"):
        raise NotSyslog("TIMESTAMP")
    seconds, _, fraction = rest[:-1].partition(".")
    if len(seconds) != 8 or len(fraction) > 6 or (fraction and not fraction.isdigit()):
        raise NotSyslog("TIMESTAMP")
    return datetime.fromisoformat(f"{date}T{seconds}.{fraction:0<6}+00:00")


def _element(reader, message):
    """SD-ELEMENT = "[" SD-ID *(SP SD-PARAM) "]" """
    reader.take(b"[")
    name = PRINTUSASCII - frozenset(b'= ]"')
    sd_id = reader.run(name, 1, 32).decode("ascii")
    if sd_id in message.data:
        raise NotSyslog(f"{sd_id} is there twice")
    params = message.data[sd_id] = []
    while reader.peek() == ord(" "):
        reader.take(b" ")
        param = reader.run(name, 1, 32).decode("ascii")
        reader.take(b'="')
        params.append((param, _value(reader)))
    reader.take(b"]")


def _value(reader):
    """PARAM-VALUE: UTF-8 in which a quotation mark, a backslash and a closing bracket are escaped."""
    value = bytearray()
    while True:
        octet = reader.peek()
        if octet is None:
            raise NotSyslog("PARAM-VALUE has no end")
        reader.place += 1
        if octet == ord('"'):
            return value.decode("utf-8")
        if octet == ord("]"):
            raise NotSyslog("a closing bracket is not escaped")
        if octet == ord("\\") and reader.peek() in b'"\\]':
            octet = reader.peek()
            reader.place += 1
        value.append(octet)
