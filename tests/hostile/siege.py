"""A siege of one running server: attacks one after the other, good clients all the while, and the eye on what it does to the server.

In the room: what must hold after each attack and at the end. Not in the room: the attacks (`attacks`).
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from hypothesis import HealthCheck, Phase, given, seed, settings

from kipuka.testing.client import basic, bearer
from kipuka.testing.measure import connections, descriptors, family, resident_octets
from kipuka.testing.pki import Credential, make_csr
from kipuka.testing.server import RunningServer, wait_until

from .attacks import (
    PATIENCE,
    Attack,
    Attacker,
    Greeting,
    Handshake,
    Speech,
    attacks,
    attacks_in_http2,
    odd_certificates,
)
from .http2 import CIVIL, INTERNAL_ERROR, read_reply

DEADLINES = {"handshake_timeout": 2, "header_timeout": 2, "body_timeout": 2, "idle_timeout": 2, "write_timeout": 2}
WORKERS = 2
CONFIGURATION = {
    "server": {"workers": WORKERS, **DEADLINES},
    # attackers fail more often than any limit allows; what they would hear then is no news
    "otp": {"max_failures": 10000, "failure_window": 1, "lockout_duration": 1},
    "est": {"label": [{"name": "factory"}]},
    # the good clients use a few keys again and again
    "profile": [{"name": "default", "unique_keys": False}],
}
CONFIGURATION_WITH_HTTP2 = {**CONFIGURATION, "server": {"workers": WORKERS, "http2": True, **DEADLINES}}
STORE_CONNECTIONS = WORKERS * 5
"""Each worker's store has a writer and up to four readers, which are opened when there is need of them."""
BATCH = 40  # attacks per seed
ALLOWED = {200, 201, 202, 204, 400, 401, 403, 404, 405, 409, 413, 415, 429, 431, 501, 503, 505}
LONGEST_REFUSAL = 600  # octets
CACERTS = b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\n\r\n"


def responses(received: bytes, *, is_head: bool) -> list[tuple[int, dict[str, str], bytes]]:
    """The responses in a stream. Raises AssertionError where it is none, or the last is not whole."""
    found = []
    while received:
        head, mark, received = received.partition(b"\r\n\r\n")
        assert mark, f"half a response: {head[:200]!r}"
        line, *lines = head.decode("ascii").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([1-5]\d\d) ?[\x20-\x7e]*", line)
        assert match, f"no status line: {line!r}"
        status = int(match[1])
        if status == 100:
            continue
        fields = {}
        for text in lines:
            name, colon, value = text.partition(":")
            assert colon
            assert re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name), f"no field: {text!r}"
            fields[name.lower()] = value.strip()
        no_body = status == 204 or (is_head and not found and (not received or received.startswith(b"HTTP/1.1 ")))
        length = 0 if no_body else int(fields["content-length"])
        assert len(received) >= length, f"half a body after {head!r}"
        found.append((status, fields, received[:length]))
        received = received[length:]
    return found


def judge(received: bytes, *, is_head: bool = False) -> list[int]:
    """What must be true of every answer, whatever was asked; gives the statuses."""
    statuses = []
    for status, fields, body in responses(received, is_head=is_head):
        _judge_one(status, fields, body, is_head=is_head)
        statuses.append(status)
    return statuses


def _judge_one(status: int, fields: Mapping[str, str], body: bytes, *, is_head: bool) -> None:
    assert status in ALLOWED, f"status {status}: {body[:300]!r}"
    assert b"Traceback" not in body
    if status >= 400:
        kind = fields["content-type"]
        assert kind in {"text/plain; charset=utf-8", "application/json"}, kind
        assert len(body) <= LONGEST_REFUSAL, body
        assert body.decode("utf-8").count("\n") <= 1, body
        assert body or status == 401 or is_head, f"{status} says nothing"
    if status == 503:
        assert fields.get("retry-after"), fields


def judge_http2(received: bytes) -> list[int]:
    """The same of HTTP/2. An answer may be cut off, by a client that gives it no room or breaks the protocol beside it."""
    reply = read_reply(received)
    assert INTERNAL_ERROR not in reply.farewells, "the connection broke"
    statuses = []
    for stream, answer in reply.answers.items():
        assert answer.reset != INTERNAL_ERROR, f"the answer of stream {stream} broke off"
        if not answer.fields:
            continue
        status = int(answer.fields[":status"])
        if answer.is_whole:
            assert len(answer.body) == int(answer.fields["content-length"] if status != 204 else 0), answer
            _judge_one(status, answer.fields, answer.body, is_head=False)
        assert status in ALLOWED, f"status {status}"
        statuses.append(status)
    return statuses


class Regulars:
    """Good clients that enrol by token, re-enrol by certificate and ask for cacerts, until they are told to stop."""

    def __init__(self, server: RunningServer, count: int = 2, pause: float = 0.05) -> None:
        self._server = server
        self._pause = pause
        self._stop = threading.Event()
        self.enrolled = self.renewed = 0
        self.faults: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(f"regular-{number}",)) for number in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def _run(self, name: str) -> None:
        while not self._stop.wait(self._pause):
            try:
                self._visit(name)
            except Exception as error:  # noqa: BLE001 - whatever it is, it was the server's to prevent
                self.faults.append(f"{name}: {type(error).__name__}: {error}")

    def _visit(self, name: str) -> None:
        held = self._server.enrol(name)
        self.enrolled += 1
        with self._server.client(held).connect() as connection:
            assert connection.request("GET", "/.well-known/est/cacerts").status == 200
            for _ in range(3):
                answer = self._server.client(held).enroll(
                    make_csr(common_name=name, key=held.key), operation="simplereenroll", connection=connection
                )
                assert answer.status == 200, f"{answer.status} {answer.text}"
                self.renewed += 1


@dataclass(kw_only=True)
class Siege:
    """One server and everything that was done to it."""

    server: RunningServer
    attacker: Attacker
    known: tuple[str, ...]
    certificates: tuple[str, ...]
    http2: bool = False  # whether that is what is attacked
    workers: Sequence[int] = ()
    files: Counter[str] = field(default_factory=Counter)  # that were open before
    done: Counter[str] = field(default_factory=Counter)
    answers: Counter[int] = field(default_factory=Counter)
    _read: int = 0  # octets of the server's log that have been looked at

    @classmethod
    def of(cls, server: RunningServer, directory: Path) -> Siege:
        """Prepare certificates, and credentials that are good for much; see what the server has open in peace."""
        workers = server.wait_for_workers(WORKERS)
        files: dict[str, Path] = {}
        odd = odd_certificates(server.deployment.authority())
        for number, (name, credential) in enumerate(odd.items()):
            files[name] = _write(credential, directory / f"{number}.pem")
        token = server.make_token("device-1", max_uses=1_000_000)
        factory = server.make_token("device-1", max_uses=1_000_000, label="factory")
        known = (basic(token.value), basic(factory.value), bearer(server.deployment.admin_token))
        attacker = Attacker(host=server.host, port=server.port, source="127.0.0.2", certificates=files)
        http2 = server.deployment.settings["server"].get("http2", False)
        siege = cls(
            server=server, attacker=attacker, known=known, certificates=tuple(odd), http2=http2, workers=workers
        )
        wait_until(lambda: not connections(server.port), what="the end of what prepared it")
        siege.files = siege._open_files()
        return siege

    def lay(self, seconds: float, *, number: int, each_minute: list[int] | None = None) -> None:
        """Attack for that long; the seeds are `number` and those after it. `each_minute` collects the memory, in octets."""
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < seconds:
            if each_minute is not None and passed >= 60 * (len(each_minute) + 1):
                each_minute.append(self.resident)
            self._batch(number)
            number += 1
            self.look_at_the_log()

    def _batch(self, number: int) -> None:
        strategy = attacks_in_http2 if self.http2 else attacks

        @seed(number)
        @settings(
            max_examples=BATCH,
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=tuple(HealthCheck),
        )
        @given(strategy(known=self.known, certificates=self.certificates))
        def batch(attack: Attack) -> None:
            self.attack(attack)

        batch()

    def attack(self, attack: Attack) -> None:
        """Carry one attack out; then the same kind of client is served as ever."""
        self.done[type(attack).__name__] += 1
        self.answers.update(self._statuses(attack))
        assert self.server.is_running
        assert self._statuses(_civil(attack)) == [200], "cacerts is not served any more"

    def _statuses(self, attack: Attack) -> list[int]:
        received = self.attacker.carry_out(attack)
        if isinstance(attack, Speech) and attack.protocol == "h2":
            return judge_http2(received)
        return judge(received, is_head=isinstance(attack, Speech) and attack.is_head)

    def look_at_the_log(self) -> None:
        """No traceback and no internal error in what the server wrote since the last time."""
        text = self.server.stderr[self._read :]
        self._read += len(text)
        for mark in (
            "Traceback (most recent call last)",
            "internal_error",
            "status=500",
            "never retrieved",
            "Exception ignored",
        ):
            assert mark not in text, text[max(0, text.index(mark) - 2_000) :][:6_000]

    @property
    def resident(self) -> int:
        """Memory of the server's processes, in octets."""
        return resident_octets(family(self.server.pid))

    def _open_files(self) -> Counter[str]:
        return descriptors(family(self.server.pid))

    def left_open(self) -> Counter[str]:
        """What is open that was not before. The store may have opened as many of its own as it ever will."""
        allowed = Counter(self.files)
        for name in (self.server.deployment.database, f"{self.server.deployment.database}-wal"):
            allowed[str(name)] = STORE_CONNECTIONS
        return self._open_files() - allowed

    def end(self, regulars: Regulars) -> None:
        """What must be true when all is over: nobody good was harmed, nothing is left open, the audit log is whole."""
        assert regulars.faults == []
        assert regulars.renewed > 0
        assert self.server.workers() == self.workers, "a worker died"
        deadline = time.monotonic() + PATIENCE
        while left := (connections(self.server.port) or self.left_open()):
            assert time.monotonic() < deadline, f"still open: {left}"
            time.sleep(0.1)
        self.look_at_the_log()
        self.server.deployment.kipuka("audit", "verify")

    def summary(self, regulars: Regulars) -> str:
        """Counts, in a few lines."""
        kinds = ", ".join(f"{count} {name.lower()}" for name, count in sorted(self.done.items()))
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(self.answers.items()))
        return (
            f"{self.done.total()} attacks ({kinds})\nanswers: {answers}\n"
            f"meanwhile: {regulars.enrolled} enrolments and {regulars.renewed} re-enrolments by good clients"
        )


def _civil(attack: Attack) -> Speech:
    """Cacerts as the same kind of client would ask for it."""
    certificate, version, protocol = None, "1.3", "http/1.1"
    match attack:
        case Speech():
            certificate, version, protocol = attack.certificate, attack.tls_version, attack.protocol
        case Handshake() if attack.versions[0] in {"1.2", "1.3"}:
            version = attack.versions[0]
        case Greeting() | Handshake():
            pass
    return Speech(
        certificate=certificate,
        tls_version=version,
        protocol=protocol,
        octets=CIVIL if protocol == "h2" else CACERTS,
        pieces="whole",
        ending="notify",
    )


def _write(credential: Credential, file: Path) -> Path:
    file.write_bytes(credential.chain_pem + credential.key_pem())
    return file
