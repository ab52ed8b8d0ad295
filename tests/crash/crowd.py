"""Clients that enrol and renew without end, and write down what they do before and after.

In the room: `Crowd`, its clients and their journals, in the form that `verdict` reads; and what a client may hear that is not a
certificate. Not in the room: the servers (`sites`), and any judgement of what came of the run.

A client asks for a thing until it knows what became of it: after a connection that broke, and after a 503, it sends the same octets again.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import re
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.client import basic, est_path
from kipuka.testing.pki import Credential, make_csr
from kipuka.testing.server import CommandFailed

from .verdict import read_database

PATIENCE = 90
"""Seconds after which a client that has no answer yet is a failure of the test."""

PAUSE = 0.05

INVALID = (401, "invalid OTP token", None)
BUSY = {
    (503, "the OTP token is in use by another request", "1"),
    (503, "the server's store is not available", "5"),
    (503, "the server's store is too slow", "5"),
    (503, "the server is too busy", "5"),
    (503, "the server is stopping", "5"),
    (503, "the server is stopping", "30"),
    (503, "the enrolment was given up meanwhile, try again", "30"),
}
"""What may be heard under way besides a certificate: status, text, and Retry-After."""

_WITHIN_AN_ANSWER = re.compile(r"after [1-9]\d* octets of a response|after \d+ of \d+ octets")


class Journal:
    """A file of JSON lines, of which each is on disk before `write` returns."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def write(self, record: str, **members: object) -> None:
        line = json.dumps({"record": record, "at": time.monotonic_ns(), **members})
        with self._lock:
            self._file.write(line + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class Crowd:
    """Clients of a site: `otp` by one-time password, `mtls` by certificate. Runs in rounds: `begin`, then `end`."""

    def __init__(self, site, directory: Path, *, otp: int = 4, mtls: int = 2):
        self.site = site
        self.directory = directory
        directory.mkdir()
        self.log = Journal(directory / "run.jsonl")
        self.log.write("before", enrolments=[row["id"] for row in read_database(site.database_url)["enrolments"]])
        self.tokens: queue.SimpleQueue = queue.SimpleQueue()
        self.received = 0
        self.heard: Counter = Counter()  # what was heard besides certificates, and how often
        self.not_retriable: list[str] = []  # connections that broke within an answer
        self._count = threading.Lock()
        self._over = threading.Event()
        self._failures: list[str] = []
        self._threads: list[threading.Thread] = []
        self._clients = [Client(self, f"otp-{number}", keeps=number % 2 == 1) for number in range(otp)]
        self._others: list[Client] = []
        self._renewers = [Client(self, f"mtls-{number}", keeps=False) for number in range(mtls)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE + 30)
        for journal in (self.log, *(client.journal for client in (*self._clients, *self._renewers, *self._others))):
            journal.close()

    @property
    def journals(self) -> list[Path]:
        return sorted(self.directory.glob("*.jsonl"))

    def make_tokens(self, rng, count: int) -> None:
        """Tokens of one, three and ten uses, made before the round."""
        for number in range(count):
            max_uses = rng.choice((1, 1, 3, 10))
            self.tokens.put((self.make_token(f"device-{number}", max_uses), max_uses))

    def make_token(self, client_id: str, max_uses: int = 1):
        token = self.site.make_token(client_id, max_uses=max_uses)
        self.log.write("token", id=token.id, max_uses=max_uses)
        return token

    def enrol_one(self, name: str) -> Credential:
        """The certificate of one further client."""
        client = Client(self, name, keeps=False)
        self._others.append(client)
        device = client.enrol(self.make_token(name))
        assert device is not None
        return device

    def enrol_once(self, token, start: threading.Barrier) -> None:
        """One attempt of a further client, in the thread of the caller: connect, meet the others twice, ask."""
        with self._count:
            client = Client(self, f"once-{len(self._others)}", keeps=False)
            self._others.append(client)
        client.connect()
        start.wait(PATIENCE)
        start.wait(PATIENCE)
        client.enrol_once(token)

    def begin(self) -> None:
        """Every client begins; those that renew enrol first where they have no certificate yet."""
        self._over.clear()
        jobs = [(client, client.enrol_without_end) for client in self._clients]
        jobs += [(client, client.renew_without_end) for client in self._renewers]
        self._threads = [threading.Thread(target=self._run, args=job, name=job[0].name) for job in jobs]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """Each client comes to the end of what it is asking for. Raises where one could not."""
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE + 30)
            assert not thread.is_alive(), thread.name
        self._require_no_failure()

    def kill(self, what: str, act, *, of_database: bool = False) -> None:
        """Have something killed, write down when, and have it started again where it does not do so itself."""
        began = time.monotonic_ns()
        start = act()
        self.log.write("kill", what=what, began=began, ended=time.monotonic_ns(), of_database=of_database)
        if start is not None:
            start()

    @property
    def is_over(self) -> bool:
        return self._over.is_set()

    def has_received(self, count: int) -> bool:
        self._require_no_failure()
        return self.received >= count

    def has_heard(self, count: int, what: object = None) -> bool:
        """That of everything (or that one thing) so often something else than a certificate was heard."""
        self._require_no_failure()
        return (self.heard.total() if what is None else self.heard[what]) >= count

    def _require_no_failure(self) -> None:
        if self._failures:
            raise AssertionError("; ".join(self._failures))

    def count(self) -> None:
        with self._count:
            self.received += 1

    def hear(self, what) -> None:
        with self._count:
            self.heard[what] += 1

    def _run(self, client, job) -> None:
        try:
            job()
        except Exception as error:  # noqa: BLE001 - told in the test's own thread
            self._failures.append(f"{client.name}: {error!r}")
        finally:
            client.hang_up()


class Client:
    """One device: asks, writes down, asks again."""

    def __init__(self, crowd: Crowd, name: str, *, keeps: bool) -> None:
        self.name = name
        self.device: Credential | None = None
        self._crowd = crowd
        self.journal = Journal(crowd.directory / f"{name}.jsonl")
        self._keeps = keeps
        self._connection = None
        self._attempts = 0

    def enrol_without_end(self) -> None:
        crowd = self._crowd
        while not crowd.is_over:
            try:
                token, uses = crowd.tokens.get_nowait()
            except queue.Empty:
                token, uses = self._new_token(max_uses=10), 10
            while uses and not crowd.is_over:
                uses -= 1
                if self.enrol(token) is None:
                    uses = 0  # its last use went into an answer that was lost
            if uses:
                crowd.tokens.put((token, uses))

    def renew_without_end(self) -> None:
        crowd = self._crowd
        while self.device is None and not crowd.is_over:
            self.device = self.enrol(self._new_token())
        while not crowd.is_over:
            self.device = self.renew(self.device) or self.device

    def _new_token(self, max_uses: int = 1):
        """A token whose making was answered. One whose making was not is nobody's, and is never used."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._crowd.make_token(self.name, max_uses)
            except (ConnectionError, CommandFailed):
                if time.monotonic() > end:
                    raise
            time.sleep(PAUSE)

    def enrol(self, token) -> Credential | None:
        """A certificate for a new key, or None: the token has no use left."""
        csr = make_csr(common_name=token.client_id)
        headers = {"Content-Type": "application/pkcs10", "Authorization": basic(token.value)}
        certificate = self._insist("simpleenroll", headers, csr.der, token=token.id)
        return None if certificate is None else Credential(key=csr.key, der=certificate)

    def enrol_once(self, token) -> None:
        """One attempt, whatever comes of it."""
        headers = {"Content-Type": "application/pkcs10", "Authorization": basic(token.value)}
        self.ask("simpleenroll", headers, make_csr(common_name=token.client_id).der, token=token.id)

    def renew(self, device: Credential) -> Credential | None:
        csr = make_csr(device.subject, key=device.key)
        headers = {"Content-Type": "application/pkcs10"}
        certificate = self._insist("simplereenroll", headers, csr.der, device=device)
        return None if certificate is None else Credential(key=csr.key, der=certificate)

    def _insist(self, operation, headers, csr, *, token=None, device=None):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            answer = self.ask(operation, headers, csr, token=token, device=device)
            if answer is not None and answer.status == 200:
                return answer.certificate.public_bytes(Encoding.DER)
            if answer is not None:
                heard = (answer.status, answer.text, answer.header("Retry-After"))
                if heard == INVALID and token is not None:
                    return None
                if heard not in BUSY:
                    raise AssertionError(heard)
            time.sleep(PAUSE)
        raise TimeoutError(f"no answer within {PATIENCE} s")

    def ask(self, operation, headers, csr, *, token=None, device=None):
        """One attempt, written down on both sides. None where the connection broke."""
        self._attempts += 1
        attempt = f"{self.name}/{self._attempts}"
        self.journal.write("intent", attempt=attempt, csr=base64.b64encode(csr).decode(), token=token)
        answer, fault, certificate = None, None, None
        try:
            answer = self._request(operation, headers, base64.b64encode(csr), device)
            if answer.status == 200:
                der = answer.certificate.public_bytes(Encoding.DER)
                certificate = base64.b64encode(der).decode()
        except ConnectionError as error:
            fault = error
            if is_broken_within_an_answer(error):
                self._crowd.not_retriable.append(f"{attempt}: {error!r}")
        status = None if answer is None else answer.status
        self.journal.write(
            "result",
            attempt=attempt,
            status=status,
            certificate=certificate,
            heard=repr(fault) if answer is None else answer.text if status != 200 else None,
        )
        if status == 200:
            self._crowd.count()
        else:
            self._crowd.hear(type(fault).__name__ if answer is None else (status, answer.text))
        return answer

    def _request(self, operation, headers, body, device):
        try:
            if self._connection is None:
                self.connect(device)
            answer = self._connection.request("POST", est_path(operation), headers=headers, body=body)
        except BaseException:
            self.hang_up()
            raise
        if not self._keeps or answer.header("Connection") == "close":
            self.hang_up()
        return answer

    def connect(self, device: Credential | None = None) -> None:
        self._connection = replace(self._crowd.site.client(device), timeout=PATIENCE).connect()

    def hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()


def is_broken_within_an_answer(error: ConnectionError) -> bool:
    """Whether some octets of an answer had come before. A request that was refused, or reset before any, is sent again."""
    return _WITHIN_AN_ANSWER.search(str(error)) is not None
