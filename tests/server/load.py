"""A mixed load on a running server, and which worker serves what.

In the room: `Load` (threads that ask without end and write down what came of it), a token's parallel use, and the worker behind a connection. Not in
the room: any assertion about the server.
"""

from __future__ import annotations

import base64
import itertools
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes

from kipuka.testing.client import basic, est_path
from kipuka.testing.pki import make_csr

CACERTS = est_path("cacerts")


@dataclass
class Asked:
    """One request of the load: when its last octet was handed over, and what came of it."""

    kind: str
    sent: float = 0.0
    status: int | None = None
    fault: str | None = None

    @property
    def failed(self) -> bool:
        return self.status != 200


@dataclass
class Load:
    """Clients in threads: fresh and kept-open connections, cacerts, renewals by certificate, enrolments by token.

    `device` is a certificate of this server; `token` one that may be used without end. A kept-open connection is opened
    anew only when the server has said that it will close it.
    """

    server: Any
    device: Any
    token: Any
    asked: list[Asked] = field(default_factory=list)
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self):
        jobs = [self._fresh_cacerts, self._fresh_enrolment, self._kept_cacerts, self._kept_renewal, self._kept_renewal]
        self._threads = [threading.Thread(target=self._run, args=(job,), name=job.__name__) for job in jobs]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        """Ask no more; return when every thread has."""
        self._over.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), thread.name

    def failures(self):
        return [asked for asked in self.asked if asked.failed]

    def _run(self, job):
        with closing(job()) as asking:
            for asked in asking:
                self.asked.append(asked)
                if self._over.is_set():
                    return
                time.sleep(0.01)

    def _ask(self, kind, client, connection, method, target, **more):
        asked = Asked(kind)
        answer = None
        try:
            headers = more.pop("headers", {})
            connection.send(connection.format_request(method, target, headers=headers, **more))
            asked.sent = time.monotonic()
            answer = connection.read_response(method)
            asked.status = answer.status
            if asked.failed:
                asked.fault = answer.text
        except (OSError, ValueError) as error:
            asked.sent = asked.sent or time.monotonic()
            asked.fault = repr(error)
        return asked, answer

    def _fresh_cacerts(self):
        return self._fresh("cacerts", self.server.client(), lambda: ("GET", CACERTS, {}))

    def _fresh_enrolment(self):
        return self._fresh("enrolment", self.server.client(), lambda: enrolment(self.token))

    def _fresh(self, kind, client, request):
        while True:
            method, target, more = request()
            try:
                connection = client.connect()
            except (OSError, ValueError) as error:
                yield Asked(f"fresh {kind}", sent=time.monotonic(), fault=repr(error))
                continue
            with closing(connection):
                yield self._ask(f"fresh {kind}", client, connection, method, target, **more)[0]

    def _kept_cacerts(self):
        return self._kept("cacerts", self.server.client(), lambda: ("GET", CACERTS, {}))

    def _kept_renewal(self):
        return self._kept("renewal", self.server.client(self.device), lambda: renewal(self.device))

    def _kept(self, kind, client, request):
        while True:
            try:
                connection = client.connect()
            except (OSError, ValueError) as error:
                yield Asked(f"kept {kind}", sent=time.monotonic(), fault=repr(error))
                continue
            with closing(connection):
                answer = None
                while answer is None or answer.header("Connection") != "close":
                    method, target, more = request()
                    asked, answer = self._ask(f"kept {kind}", client, connection, method, target, **more)
                    yield asked
                    if answer is None:
                        break


def use_in_parallel(token, clients):
    """The last answer of each client, all of which use the same token, up to 32 at a time, each for a key of its own."""
    requests = [make_csr(common_name=token.client_id) for _ in clients]

    def use(client, csr):
        while True:
            answer = client.enroll(csr, token=token.value)
            if answer.status != 503:  # another request holds the use at this moment
                return answer

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(use, clients, requests))


def renewal(device):
    """A simplereenroll of this certificate, as arguments for a connection's request; its key is kept."""
    csr = make_csr(device.subject, key=device.key)
    return (
        "POST",
        est_path("simplereenroll"),
        {"headers": {"Content-Type": "application/pkcs10"}, "body": base64.b64encode(csr.der)},
    )


def rows(server, statement, *arguments):
    """Read the server's database beside it."""
    with closing(sqlite3.connect(f"file:{server.deployment.database}?mode=ro", uri=True, timeout=20)) as database:
        return database.execute(statement, arguments).fetchall()


def process_of(server, certificate):
    """The name of the worker's life that issued this certificate: boot, slot and life."""
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    ((process,),) = rows(server, "SELECT process FROM enrolments WHERE certificate = ?", fingerprint)
    boot, slot, life = process.split("/")
    return boot, int(slot), int(life)


def enrolment(token):
    """A simpleenroll by this token, with a key of its own, as arguments for a connection's request."""
    body = base64.b64encode(make_csr(common_name=token.client_id).der)
    headers = {"Content-Type": "application/pkcs10", "Authorization": basic(token.value)}
    return "POST", est_path("simpleenroll"), {"headers": headers, "body": body}


def connections_by_worker(server, count=2, *, workers=2):
    """Open connections until each of the workers has `count`: lists by slot. A certificate is enrolled on each to find out."""
    token = server.make_token("finder", max_uses=1000)
    found = {slot: [] for slot in range(workers)}
    for number in itertools.count():
        if all(len(one) == count for one in found.values()):
            break
        assert number < 200, {slot: len(one) for slot, one in found.items()}
        connection = server.client().connect()
        method, target, more = enrolment(token)
        answer = connection.request(method, target, **more)
        slot = process_of(server, answer.certificate)[1]
        if len(found[slot]) < count:
            found[slot].append(connection)
        else:
            connection.close()
    return found


def pid_of(server, slot):
    """The process that has that slot now."""
    started = [record["data"] for record in server.audit("worker_started") if record["data"]["worker"] == slot]
    return started[-1]["pid"]
