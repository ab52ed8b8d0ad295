"""A real kipuka server in a process of its own.

In the room: `Deployment` (a directory made by `kipuka init`, its configuration, its commands) and `RunningServer` (a
`kipuka serve` over it: wait, stop, kill, restart, read its log and audit log, ask for tokens). Not in the room: the
requests (`kipuka.testing.client`), and stopping at a step (`kipuka.testing.inprocess`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, LiteralString, Self, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from kipuka.testing.client import ESTClient, Response, TLSVersion, bearer
from kipuka.testing.measure import holds_socket, listeners
from kipuka.testing.pki import Credential, KeyKind, PrivateKey, make_csr
from kipuka.testing.ports import free_port
from kipuka.testing.sink_file import read_records
from kipuka.testing.toml import dumps, merged

__all__ = ["CommandFailed", "Deployment", "RunningServer", "ServerDied", "Token", "free_port", "lives", "wait_until"]

T = TypeVar("T")

START_TIMEOUT = 60.0
STOP_TIMEOUT = 30.0


class CommandFailed(AssertionError):
    """A `kipuka` command ended with another exit code than the test expects; the text has all that it said."""


class ServerDied(AssertionError):
    """The server ended although it should run; the text has what it wrote."""


def wait_until(condition: Callable[[], T], *, timeout: float = 30, what: str = "the condition") -> T:
    """Ask again and again until the answer is true, and give it back. Raises TimeoutError."""
    end = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            msg = f"{what} did not come true within {timeout:g} s"
            raise TimeoutError(msg)
        time.sleep(0.02)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A one-time token, as the admin API made it."""

    value: str
    id: str
    client_id: str


class Deployment:
    """A directory as `kipuka init` makes it: configuration, CA, server certificate, database, admin token."""

    def __init__(self, directory: Path, *, environ: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self.environ = dict(environ or {})

    @classmethod
    def create(cls, directory: Path, *, db: str | None = None, environ: Mapping[str, str] | None = None) -> Deployment:
        """Run `kipuka init` for localhost and 127.0.0.1, with SQLite or the database of that URL."""
        made = cls(directory, environ=environ)
        arguments = ["--host", "localhost", "--host", "127.0.0.1", "--listen", f"127.0.0.1:{free_port()}"]
        if db is not None:
            arguments += ["--db", db]
        made.kipuka("init", str(directory), *arguments)
        return made

    def copy(self, directory: Path, *, environ: Mapping[str, str] | None = None) -> Deployment:
        """A second deployment with the same keys and a free port of its own: much faster than `create`."""
        shutil.copytree(self.directory, directory)
        made = Deployment(directory, environ=self.environ if environ is None else environ)
        made.configure({"server": {"listen": f"127.0.0.1:{free_port()}"}})
        return made

    @property
    def config_file(self) -> Path:
        """The configuration file."""
        return self.directory / "kipuka.toml"

    @property
    def settings(self) -> dict[str, Any]:
        """The configuration as it stands in the file."""
        return tomllib.loads(self.config_file.read_text(encoding="utf-8"))

    def configure(self, changes: Mapping[str, object]) -> None:
        """Lay changes over the configuration (None removes a key); comments are lost."""
        self.config_file.write_text(dumps(merged(self.settings, changes)), encoding="utf-8")

    @property
    def trust(self) -> bytes:
        """What a client gives to `--cacert`, as PEM."""
        return (self.directory / "trust.pem").read_bytes()

    @property
    def admin_token(self) -> str:
        """The administrator's bearer token."""
        return (self.directory / "admin.token").read_text(encoding="ascii").strip()

    @property
    def audit_file(self) -> Path:
        """Where the file sink writes. Raises LookupError where none is configured."""
        for sink in self.settings.get("audit", {}).get("sink", []):
            if sink["type"] == "file":
                return self.directory / str(sink["path"])
        msg = "this configuration has no file sink"
        raise LookupError(msg)

    def issued(self) -> Iterator[bytes]:
        """Every certificate in the record, as DER, oldest first, from an SQLite file or from a PostgreSQL that runs.

        Raises LookupError for a database that the configuration does not name itself (`file:`, `env:`), and what `sqlite3` or `psycopg` raises for
        one that cannot be read.
        """
        for (der,) in self._rows("SELECT der FROM certificates ORDER BY issued_at"):
            yield bytes(der)

    def _rows(self, statement: LiteralString) -> list[tuple[Any, ...]]:
        url = str(self.settings["db"]["url"])
        if url.startswith("sqlite:///"):
            with contextlib.closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=30)) as record:
                return record.execute(statement).fetchall()
        if url.startswith(("postgresql://", "postgres://")):
            import psycopg  # not everybody has it

            with psycopg.connect(url, connect_timeout=30) as record:
                return record.execute(statement).fetchall()
        msg = "the configuration does not say in itself which database it is"
        raise LookupError(msg)

    @property
    def port(self) -> int:
        """The port of the EST listener, as configured."""
        return int(str(self.settings["server"]["listen"]).rpartition(":")[2])

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports of all listeners, as configured: the one of EST first."""
        settings = self.settings
        apart = (
            settings["server"].get("admin_listen")
            if settings.get("admin", {"enabled": False}).get("enabled", True)
            else None
        )
        return (self.port,) if apart is None else (self.port, int(str(apart).rpartition(":")[2]))

    @property
    def last_sequence(self) -> int:
        """The highest sequence number that was given to an event of this node (0 before the first), whether a sink has it yet or not."""
        node = self.settings["server"].get("node")
        rows = self._rows("SELECT node, sequence FROM audit_heads")
        return max((int(sequence) for name, sequence in rows if node in {None, name}), default=0)

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.directory / str(self.settings["db"]["url"]).removeprefix("sqlite:///")

    def authority(self, id: str | None = None) -> Credential:  # noqa: A002 - the key is called id in the file
        """A configured CA with its private key (the first one, or the one of that id), to sign what it never would."""
        (item, *_) = [item for item in self.settings["ca"] if id is None or item["id"] == id]
        certificates = x509.load_pem_x509_certificates((self.directory / item["cert"]).read_bytes())
        chain = item.get("chain")
        if chain is not None:
            certificates += x509.load_pem_x509_certificates((self.directory / chain).read_bytes())
        password = item.get("key_password")
        key = serialization.load_pem_private_key(
            (self.directory / item["key"]).read_bytes(), password.encode() if isinstance(password, str) else None
        )
        issuer: Credential | None = None
        for certificate in reversed(certificates):
            der = certificate.public_bytes(serialization.Encoding.DER)
            issuer = Credential(key=cast("PrivateKey", key), der=der, issuer=issuer)
        if issuer is None:
            msg = f"no certificate in {item['cert']}"
            raise LookupError(msg)
        return issuer

    def kipuka(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002 - named as in subprocess.run
        expect: int | None = 0,
        environ: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a `kipuka` command in this directory, against this configuration. `expect=None` takes any exit code."""
        done = subprocess.run(  # noqa: S603 - a test's own arguments
            [*_kipuka(), *arguments],
            cwd=self.directory if self.directory.exists() else None,
            env=self.environment(environ),
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if expect is not None and done.returncode != expect:
            msg = f"kipuka {' '.join(arguments)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
            raise CommandFailed(msg)
        return done

    def serve(self) -> RunningServer:
        """A server over this directory, not yet started."""
        return RunningServer(self)

    def environment(self, more: Mapping[str, str] | None = None) -> dict[str, str]:
        """What a kipuka process of this deployment gets: the test's own without its KIPUKA_ variables, and ours."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KIPUKA_")}
        own = {"KIPUKA_CONFIG": str(self.config_file), "PYTHONUNBUFFERED": "1"}
        return inherited | own | self.environ | dict(more or {})


def _kipuka() -> list[str]:
    """The installed command of this environment."""
    beside = Path(sys.executable).with_name("kipuka")
    found = str(beside) if beside.exists() else shutil.which("kipuka")
    if found is None:
        msg = "the kipuka command is not installed in this environment"
        raise LookupError(msg)
    return [found]


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""


def lives(pid: int) -> bool:
    """Whether the process has not ended; one that has ended may still wait for its parent to notice.

    A process that was killed ends thread by thread, and what it has open is open until the last one has: /proc may call it a zombie while
    its sockets still listen.
    """
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    return any(map(_runs, threads))


def _runs(thread: Path) -> bool:
    try:
        status = (thread / "stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] not in {"Z", "X"}


class RunningServer:
    """A `kipuka serve` process; a context manager that starts and stops it.

    `tracebacks_expected` tells the fixtures that this one was provoked. What the process writes goes to `serve.out` and `serve.err` beside the deployment's directory, over restarts.
    """

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        base = deployment.directory
        self._out = base.with_name(f"{base.name}.serve.out")
        self._err = base.with_name(f"{base.name}.serve.err")
        self._process: subprocess.Popen[bytes] | None = None
        self.tracebacks_expected = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self.is_running:
            self.stop()

    @property
    def host(self) -> str:
        """The address it listens on."""
        return "127.0.0.1"

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.deployment.port

    @property
    def pid(self) -> int:
        """The process."""
        return self._running().pid

    @property
    def is_running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def stdout(self) -> str:
        """All it wrote to standard output, from the first start on."""
        return _text_of(self._out)

    @property
    def stderr(self) -> str:
        """All it wrote to standard error, from the first start on."""
        return _text_of(self._err)

    def start(self) -> Self:
        """Start and wait until this process takes connections, on each of its ports. Raises ServerDied with its words where it does not."""
        with self._out.open("ab") as out, self._err.open("ab") as err:
            self._process = subprocess.Popen(  # noqa: S603 - the command under test
                [*_kipuka(), "serve", "-c", str(self.deployment.config_file)],
                cwd=self.deployment.directory,
                env=self.deployment.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,  # so that `kill` reaches its workers
            )
        end = time.monotonic() + START_TIMEOUT
        ports = self.deployment.ports
        while not all(holds_socket(self._process.pid, listeners(port)) for port in ports):
            if not self.is_running or time.monotonic() > end:
                if self.is_running:
                    self.kill()
                msg = f"the server did not start (exit {self._process.returncode}):\n{self.stdout}\n{self.stderr}"
                raise ServerDied(msg)
            time.sleep(0.02)
        return self

    def stop(self) -> int:
        """SIGTERM; wait for the end; the exit code."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            msg = f"the server did not stop within {STOP_TIMEOUT:g} s:\n{self.stderr}"
            raise ServerDied(msg) from None

    def kill(self) -> None:
        """SIGKILL to the supervisor and every worker, at once and without a farewell."""
        process = self._running()
        workers = self.workers()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(STOP_TIMEOUT)
        wait_until(lambda: not any(map(lives, workers)), what="the workers' end")  # until then they hold the node
        # A process whose first thread is a zombie may have others that still hold the socket: who starts next would be taken for listening.
        wait_until(lambda: not listeners(self.port), what="the end of the listening socket")

    def reload(self) -> None:
        """SIGHUP: have the configuration read again. What comes of it is in log and audit."""
        self._running().send_signal(signal.SIGHUP)

    def workers(self) -> Sequence[int]:
        """The processes that serve now, in the order in which they were started."""
        pid = self.pid
        try:
            return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
        except (FileNotFoundError, ProcessLookupError):  # the server has ended
            return []

    def wait_for_workers(self, count: int, *, without: Sequence[int] = ()) -> Sequence[int]:
        """The processes that serve, once so many do that are not among `without`."""

        def serving() -> Sequence[int]:
            started = {record["data"]["pid"] for record in self.audit("worker_started")}
            found = [pid for pid in self.workers() if pid in started and pid not in without]
            return found if len(found) == count else []

        return wait_until(serving, timeout=START_TIMEOUT, what=f"{count} workers")

    def restart(self) -> Self:
        """Stop where it runs, and start again over the same directory."""
        if self.is_running:
            self.stop()
        return self.start()

    def client(self, certificate: Credential | None = None, *, tls_version: TLSVersion | None = None) -> ESTClient:
        """A client that trusts this server."""
        return ESTClient(
            host=self.host,
            port=self.port,
            trust=self.deployment.trust,
            certificate=certificate,
            tls_version=tls_version,
        )

    def admin(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        port: int | None = None,
        certificate: Credential | None = None,
    ) -> Response:
        """A request of the admin API, with the deployment's bearer token unless another is given."""
        headers = {"Authorization": bearer(self.deployment.admin_token if token is None else token)}
        content = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            content = json.dumps(body).encode()
        client = replace(self.client(certificate), port=self.port if port is None else port)
        return client.request(method, path, headers=headers, body=content)

    def make_token(
        self, client_id: str = "device-1", *, certificate: Credential | None = None, **more: object
    ) -> Token:
        """Have a one-time token made; `more` are further members of the request's JSON, for instance `max_uses=3`.

        `certificate` is for a listener that demands one of every client.
        """
        answer = self.admin("POST", "/admin/otp", {"client_id": client_id, **more}, certificate=certificate)
        if answer.status != 201:
            msg = f"no token: {answer.status} {answer.text}"
            raise CommandFailed(msg)
        location = answer.header("Location") or ""
        return Token(value=json.loads(answer.body)["token"], id=location.rpartition("/")[2], client_id=client_id)

    def view_token(self, token: Token) -> dict[str, Any]:
        """What the admin API knows of a token: its state, how often it was used, how many uses are held."""
        answer = self.admin("GET", f"/admin/otp/{token.id}")
        if answer.status != 200:
            msg = f"no such token: {answer.status} {answer.text}"
            raise CommandFailed(msg)
        return cast("dict[str, Any]", json.loads(answer.body))

    def enrol(self, client_id: str = "device-1", *, label: str | None = None, key: KeyKind = "p256") -> Credential:
        """A certificate by the whole way: a token is made and used, and the answer is what comes back."""
        token = self.make_token(client_id) if label is None else self.make_token(client_id, label=label)
        csr = make_csr(common_name=client_id, key=key)
        answer = self.client().enroll(csr, label=label, token=token.value)
        der = answer.certificate.public_bytes(serialization.Encoding.DER)
        return Credential(key=csr.key, der=der)

    def recorded(self, certificate: x509.Certificate) -> dict[str, Any] | None:
        """What the admin API knows of a certificate, or None where it is not in the record."""
        fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
        answer = self.admin("GET", f"/admin/certificates/{fingerprint}")
        return cast("dict[str, Any]", json.loads(answer.body)) if answer.status == 200 else None

    def audit(self, event: str | None = None) -> list[dict[str, Any]]:
        """The records of the file sink so far, oldest first; those of one event where it is named.

        The sink is fed after the commit: what a request just caused may need `wait_for_audit`.
        """
        records = read_records(self.deployment.audit_file)
        return records if event is None else [record for record in records if record["event"] == event]

    def wait_for_audit(self, event: str, *, after: int = 0, timeout: float = 30, **data: object) -> dict[str, Any]:
        """The first record of that event beyond the sequence number `after` whose data has these members."""

        def find() -> dict[str, Any] | None:
            for record in self.audit(event):
                if record["sequence"] > after and all(record["data"].get(key) == data[key] for key in data):
                    return record
            return None

        return cast("dict[str, Any]", wait_until(find, timeout=timeout, what=f"audit event {event} {data or ''}"))

    @property
    def last_sequence(self) -> int:
        """The highest sequence number in the audit log so far, whether a sink has it yet or not; for `after`."""
        return self.deployment.last_sequence

    def tracebacks(self) -> Sequence[str]:
        """What in the log looks like a fault that nobody expected."""
        marks = ("Traceback (most recent call last)", "Task exception was never retrieved", "Exception ignored in")
        return [line for line in self.stderr.splitlines() if any(mark in line for mark in marks)]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            msg = "the server was not started"
            raise RuntimeError(msg)
        return self._process
