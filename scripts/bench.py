"""What an enrolment costs the server, as multiples of its bare cryptography: what `make bench` does.

In the room: the primitive, the cases, the measuring and the table. Not in the room: a verdict. A machine's milliseconds are its
own; ratios of one run can be compared with those of another, and docs/explanation/performance.md tells how to read them.

The server's CPU time comes from /proc, over all its processes; what the clients cost is not in it.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from kipuka.est.cms import certs_only
from kipuka.testing.client import ESTClient, ESTConnection, Response, est_path
from kipuka.testing.measure import cpu_seconds, family
from kipuka.testing.pki import Request, common_name, make_csr, make_key
from kipuka.testing.server import Deployment, RunningServer

CLIENTS = 4  # at a time: enough for the store to put several certificates into one transaction
REFERENCE = "certificate, kept connection"
CONFIGURATION = {"profile": [{"name": "default", "unique_keys": False}]}


Ask = Callable[[], Response]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One way to ask: `opened` opens one client's part (perhaps a connection) and gives what is done again and again."""

    name: str
    server: RunningServer
    opened: Callable[[ExitStack], Ask]
    requests: int


def primitive(request: Request, turns: int) -> float:
    """CPU seconds of one certificate without a server: read and verify the CSR, sign with P-256, wrap, encode."""
    key, name, now = ec.generate_private_key(ec.SECP256R1()), common_name("CA"), datetime.now(UTC)
    begin = time.process_time()
    for _ in range(turns):
        csr = x509.load_der_x509_csr(request.der)
        if not csr.is_signature_valid:
            raise AssertionError
        certificate = (
            x509.CertificateBuilder(name, csr.subject, csr.public_key(), x509.random_serial_number())
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=90))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        base64.b64encode(certs_only([certificate]))
    return (time.process_time() - begin) / turns


def measure(case: Case) -> float:
    """CPU seconds of the server per request of this case."""
    processes = family(case.server.pid)
    with ExitStack() as stack, ThreadPoolExecutor(CLIENTS) as pool:
        clients = [case.opened(stack) for _ in range(CLIENTS)]

        def run(ask: Ask, count: int) -> None:
            for _ in range(count):
                answer = ask()
                if answer.status != 200:
                    raise AssertionError(f"{case.name}: {answer.status} {answer.text}")

        def all_run(count: int) -> None:
            for done in [pool.submit(run, ask, count) for ask in clients]:
                done.result()

        all_run(3)  # what is made at first use is made
        each = case.requests // CLIENTS
        before = cpu_seconds(processes)
        all_run(each)
        return (cpu_seconds(processes) - before) / (each * CLIENTS)


def by_token(server: RunningServer, request: Request) -> Callable[[ExitStack], Ask]:
    """simpleenroll, each on a connection of its own."""
    token = server.make_token("device-1", max_uses=100_000).value
    return lambda _stack: partial(server.client().enroll, request, token=token)


def kept(client: ESTClient, ask: Callable[[ESTConnection], Response]) -> Callable[[ExitStack], Ask]:
    """All on one connection."""
    return lambda stack: partial(ask, stack.enter_context(client.connect()))


def new(ask: Ask) -> Callable[[ExitStack], Ask]:
    """Each on a connection of its own."""
    return lambda _stack: ask


def cases(directory: Path) -> Iterator[Case]:
    """All of them; each server runs as long as its cases are measured."""
    template = Deployment.create(directory / "template")
    request = make_csr(common_name="device-1", key=make_key("p256"))
    for algorithm, count in (("argon2id", 24), ("bcrypt", 24), ("sha256-hmac", 240)):
        deployment = template.copy(directory / algorithm)
        deployment.configure({**CONFIGURATION, "otp": {"hash_algorithm": algorithm}})
        with deployment.serve() as server:
            name = f"token ({algorithm}), new connection"
            yield Case(name=name, server=server, opened=by_token(server, request), requests=count)
    with template.serve() as server:
        client = server.client(server.enrol("device-1"))
        stranger = server.client()

        def renew(connection: ESTConnection) -> Response:
            return client.enroll(request, operation="simplereenroll", connection=connection)

        def ask_for_cacerts(connection: ESTConnection) -> Response:
            return connection.request("GET", est_path("cacerts"))

        for name, opened, count in (
            ("certificate, new connection", new(partial(client.reenroll, request)), 240),
            (REFERENCE, kept(client, renew), 600),
            ("cacerts, new connection", new(stranger.cacerts), 240),
            ("cacerts, kept connection", kept(stranger, ask_for_cacerts), 600),
        ):
            yield Case(name=name, server=server, opened=opened, requests=count)


def main() -> None:
    parser = argparse.ArgumentParser(description="What an enrolment costs, as multiples of its bare cryptography.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is measured; the median counts")
    rounds = parser.parse_args().rounds
    request = make_csr(common_name="device-1")
    primitive(request, 50)
    rows: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="kipuka-bench-") as directory:
        for case in cases(Path(directory)):
            # each measurement stands beside one of the primitive: a machine that grows slower does so for both
            pairs = [(measure(case), primitive(request, 400)) for _ in range(rounds)]
            floor = statistics.median(bare for _, bare in pairs)
            rows.append((case.name, statistics.median(cost for cost, _ in pairs), floor))
            print(".", end="", flush=True)
    reference = next(cost for name, cost, _ in rows if name == REFERENCE)
    print(f"\n{'':36} {'ms of CPU':>10} {'x primitive':>12} {'x kept certificate':>19}")
    for name, cost, floor in rows:
        print(f"{name:36} {cost * 1000:10.2f} {cost / floor:12.1f} {cost / reference:19.2f}")
    print(f"{'primitive: CSR, sign, CMS, base64':36} {statistics.median(f for *_, f in rows) * 1000:10.2f} {1:12.1f}")


if __name__ == "__main__":
    main()
