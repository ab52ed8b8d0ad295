"""The whole server over an HSM: enrolment, reload, and a token that goes away under load."""

from __future__ import annotations

import base64
import json
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Self

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kipuka.testing.client import basic, est_path
from kipuka.testing.pki import make_csr
from kipuka.testing.server import Deployment, RunningServer, wait_until

from .softhsm import MODULE, SoftHSM

pytestmark = [pytest.mark.server, pytest.mark.timeout(300)]

SHA256 = hashes.SHA256()
CLIENTS = 8
ENROLMENTS = 1000
UNAVAILABLE = (503, "the certification authority's HSM is not available")


@dataclass(kw_only=True)
class Site:
    """A running server of two workers with two authorities on one token: P-256 at the default label, RSA at `rsa`."""

    hsm: SoftHSM
    server: RunningServer


@pytest.fixture(name="site", scope="module")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    hsm = SoftHSM(directory=tmp_path_factory.mktemp("hsm") / "soft")
    hsm.make_token()
    deployment = Deployment.create(tmp_path_factory.mktemp("server") / "kipuka", environ=hsm.environ)
    pin = deployment.directory / "pin"
    pin.touch(mode=0o600)
    pin.write_text(hsm.pin + "\n", encoding="ascii")
    made = {}
    for name, key_type in (("soft", "p256"), ("heavy", "rsa2048")):
        done = deployment.kipuka(
            *("ca", "create", str(deployment.directory / name), "--id", name, "--backend", "pkcs11"),
            *("--key-type", key_type, "--json"),
            *("--set", f"module={MODULE}", "--set", "token=kipuka", "--set", "pin=file:pin"),
        )
        made[name] = json.loads(done.stdout)["settings"]
    deployment.configure(
        {
            "ca": [made["soft"], made["heavy"]],
            "est": {"default_ca": "soft", "label": [{"name": "rsa", "ca": "heavy"}]},
            "profile": [{"name": "default", "unique_keys": False}],
            "otp": {"hash_algorithm": "sha256-hmac", "max_failures": 10000},
            "server": {
                "workers": 2,
                "max_requests_per_minute_per_address": 1_000_000,
                "max_connections_per_address": 4000,
            },
            "audit": {"flood_threshold": 100_000, "sink": [{"type": "file", "path": "audit.jsonl"}]},
        }
    )
    with deployment.serve() as server:
        server.wait_for_workers(2)
        yield Site(hsm=hsm, server=server)
    assert server.tracebacks() == []


def test_devices_enrol_with_an_authority_of_each_type(site):
    for label, ca, kind in ((None, "soft", ec.EllipticCurvePublicKey), ("rsa", "heavy", rsa.RSAPublicKey)):
        device = site.server.enrol(f"device-{ca}", label=label)
        chain = site.server.client().cacerts(label=label).certificates()
        issuer = next(one for one in chain if one.subject == device.certificate.issuer)
        device.certificate.verify_directly_issued_by(issuer)
        assert isinstance(issuer.public_key(), kind)
        assert site.server.recorded(device.certificate)["ca"] == ca


def test_twenty_enrol_at_once(site):
    tokens = [site.server.make_token(f"device-{number}") for number in range(20)]
    start = threading.Barrier(20)

    def enrol(token):
        csr = make_csr(common_name=token.client_id)
        start.wait(30)
        return site.server.client().enroll(csr, token=token.value).certificate

    with ThreadPoolExecutor(20) as pool:
        certificates = list(pool.map(enrol, tokens))
    assert len({one.serial_number for one in certificates}) == 20
    assert all(site.server.recorded(one) for one in certificates)


class Crowd:
    """Clients that use up a token each, over kept-alive connections, and ask again for what they did not get."""

    def __init__(self, server: RunningServer, name: str, *, clients: int, each: int) -> None:
        self.server = server
        self.tokens = [server.make_token(f"{name}-{number}", max_uses=each) for number in range(clients)]
        self.csrs = [make_csr(common_name=token.client_id) for token in self.tokens]
        self.certificates: list[Any] = []
        self.heard: Counter[tuple[int, str]] = Counter()
        self.retry_after: set[str | None] = set()
        self.interrupted: set[int] = set()  # clients that have heard a 503
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(clients)
        self._work = [self._pool.submit(self._use_up, number) for number in range(clients)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def wait(self) -> None:
        for work in self._work:
            work.result(timeout=120)

    def _use_up(self, number: int) -> None:
        headers = {"Authorization": basic(self.tokens[number].value), "Content-Type": "application/pkcs10"}
        body = base64.b64encode(self.csrs[number].der)
        connection = self.server.client().connect()
        try:
            while True:
                answer = connection.request("POST", est_path("simpleenroll"), headers=headers, body=body)
                if answer.status == 200:
                    with self._lock:
                        self.certificates.append(answer.certificate)
                else:
                    with self._lock:
                        self.heard[answer.status, answer.text] += 1
                    if answer.status == 401:
                        return  # the token is used up
                    self.retry_after.add(answer.header("Retry-After"))
                    self.interrupted.add(number)
                    time.sleep(0.05)
                if (answer.header("Connection") or "").lower() == "close":
                    connection.close()
                    connection = self.server.client().connect()
        finally:
            connection.close()


def rows(server: RunningServer, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{server.deployment.database}?mode=ro", uri=True, timeout=30)) as database:
        return database.execute(statement).fetchall()


def check_books(server: RunningServer, crowd: Crowd, total: int) -> None:
    """Every certificate that a client holds is recorded, none was issued that nobody holds, and each use gave one."""
    held = Counter(one.fingerprint(SHA256).hex() for one in crowd.certificates)
    assert len(held) == sum(held.values()) == total
    names = ", ".join(f"'{token.client_id}'" for token in crowd.tokens)
    recorded = Counter(
        fingerprint
        for (fingerprint,) in rows(server, f"SELECT fingerprint FROM certificates WHERE identity_name IN ({names})")
    )
    assert recorded == held
    for token in crowd.tokens:
        ((used, held_uses, uses),) = rows(
            server, f"SELECT used, held, max_uses FROM otp_tokens WHERE id = '{token.id}'"
        )
        assert (used, held_uses) == (uses, 0)


def test_a_thousand_enrol_while_the_token_is_taken_away_and_brought_back(site):
    workers = site.server.workers()
    with Crowd(site.server, "crowd", clients=CLIENTS, each=ENROLMENTS // CLIENTS) as crowd:
        wait_until(lambda: len(crowd.certificates) >= ENROLMENTS // 4, timeout=60, what="a quarter")
        site.hsm.take_away()
        try:
            wait_until(lambda: len(crowd.interrupted) == CLIENTS, timeout=60, what="a 503 for every client")
            before = len(crowd.certificates)
        finally:
            site.hsm.bring_back()
        crowd.wait()
    assert before < ENROLMENTS, "the token was away when all was done"
    assert set(crowd.heard) == {UNAVAILABLE, (401, "invalid OTP token")}
    assert crowd.retry_after == {"5"}
    check_books(site.server, crowd, ENROLMENTS)
    assert site.server.workers() == workers, "nobody was started again"
    site.server.deployment.kipuka("audit", "verify")
    assert site.hsm.pin not in site.server.stderr + site.server.stdout


def test_a_reload_while_devices_enrol_loses_nothing(site):
    with Crowd(site.server, "reload", clients=4, each=60) as crowd:
        for round_ in range(3):
            wait_until(lambda count=round_: len(crowd.certificates) >= 20 + 50 * count, timeout=60, what="some")
            after = site.server.last_sequence
            site.server.deployment.configure({"est": {"ca_timeout": 20 + round_}})
            site.server.reload()
            site.server.wait_for_audit("configuration_loaded", after=after, timeout=60)
        crowd.wait()
    assert set(crowd.heard) == {(401, "invalid OTP token")}, "an enrolment was refused over a reload"
    check_books(site.server, crowd, 240)


def test_a_wrong_pin_stops_the_start_after_one_try_and_is_shown_nowhere(site):
    deployment = site.server.deployment
    pin = deployment.directory / "pin"
    good = pin.read_text(encoding="ascii")
    pin.write_text("wrong-one-8421", encoding="ascii")
    try:
        after = site.server.last_sequence
        site.server.reload()
        refused = site.server.wait_for_audit("configuration_refused", after=after, timeout=60)
        told = json.dumps(refused)
        assert "pin" in told
        assert "PinIncorrect" in told
        assert "wrong-one-8421" not in told + site.server.stderr
        # The server goes on as it was.
        site.server.enrol("device-after-refusal")
        done = deployment.kipuka("check", "--json", expect=None)
        assert done.returncode != 0
        findings = json.loads(done.stdout)["findings"]
        errors = {one["key"]: one["problem"] for one in findings if one["severity"] == "error"}
        assert set(errors) == {"ca[soft].pin", "ca[heavy].pin"}
        assert sum("does not take the PIN" in problem for problem in errors.values()) == 1, "it was tried twice"
        assert "wrong-one-8421" not in done.stdout + done.stderr
    finally:
        pin.write_text(good, encoding="ascii")
    deployment.kipuka("check", expect=None)  # a good login, after which the token has forgotten the wrong ones
    assert not site.hsm.wrong_tries()
