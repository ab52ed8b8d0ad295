"""What the tests stand on: the plugin's object over a true database, made by its own migration."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog
from alembic.migration import MigrationContext
from alembic.operations import Operations
from kipuka_auth_otp.authenticator import OTPAuthenticator, open_otp
from kipuka_auth_otp.config import OTPSettings
from kipuka_auth_otp.migrations import otp_0001_tokens
from kipuka_auth_otp.tokens import NewToken
from sqlalchemy import Connection, Engine, StaticPool, create_engine
from sqlalchemy import event as sqlalchemy_event

from kipuka.api import (
    AuditEvent,
    Authorization,
    AuthOutcome,
    Credentials,
    DenialKind,
    Denied,
    LockoutPolicy,
    Operation,
)
from kipuka.api import Connection as TLSConnection
from kipuka.testing.clock import FakeClock
from kipuka.testing.postgresql import PostgreSQLServer, find_programs

T = TypeVar("T")
KEY = bytes(range(7, 39))


class DirectTx:
    """A transaction on a connection, as the host's writer gives it."""

    def __init__(self, connection: Connection, clock: Callable[[], datetime]) -> None:
        self._connection = connection
        self.now = clock()
        self.events: list[AuditEvent] = []

    def execute(self, statement: Any, parameters: Any = None, /) -> Any:
        return self._connection.execute(statement, parameters)

    def add(self, table: Any, row: Any, /) -> None:
        self._connection.execute(table.insert(), row)

    def audit(self, event: AuditEvent, /) -> None:
        self.events.append(event)


class CountingLockouts:
    """Counts as RULES C4 says, in memory."""

    def __init__(self, policy: LockoutPolicy, clock: Callable[[], datetime]) -> None:
        self.policy = policy
        self._clock = clock
        self.failures: dict[str, list[datetime]] = {}
        self._locked: dict[str, datetime] = {}

    async def check(self, address: str, /) -> Denied | None:
        until = self._locked.get(address)
        if until is None or until <= self._clock():
            return None
        return Denied(
            detail="too many failures, locked out",
            reason="locked_out",
            kind=DenialKind.LOCKED,
            retry_after=until - self._clock(),
        )

    async def failure(self, address: str, /) -> Denied | None:
        now = self._clock()
        recent = [at for at in self.failures.get(address, []) if at > now - self.policy.window]
        self.failures[address] = [*recent, now]
        if len(self.failures[address]) > self.policy.max_failures:
            self._locked[address] = now + self.policy.duration
        return await self.check(address)


class DirectServices:
    """The host's services on one database; `blocking` has the names of what ran in the pool."""

    def __init__(self, engine: Engine) -> None:
        self.clock = FakeClock(datetime(2026, 6, 24, 10, 15, 0, 250_000, tzinfo=UTC))
        self.log = structlog.get_logger()
        self.events: list[AuditEvent] = []
        self.blocking: list[str] = []
        self.counters: list[CountingLockouts] = []
        self.engine = engine
        with self.engine.begin() as connection, Operations.context(MigrationContext.configure(connection)):
            otp_0001_tokens.upgrade()

    async def read(self, fn: Callable[[Any], T], /) -> T:
        with self.engine.begin() as connection:
            return fn(DirectTx(connection, self.clock))

    async def write(self, fn: Callable[[Any], T], /) -> T:
        with self.engine.begin() as connection:
            tx = DirectTx(connection, self.clock)
            result = fn(tx)
        self.events += tx.events
        return result

    async def audit(self, event: AuditEvent, /) -> None:
        self.events.append(event)

    async def run_blocking(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        self.blocking.append(getattr(fn, "__name__", "?"))
        return await asyncio.to_thread(fn, *args, **kwargs)

    def lockouts(self, policy: LockoutPolicy, /) -> CountingLockouts:
        self.counters.append(CountingLockouts(policy, self.clock))
        return self.counters[-1]

    def statements(self) -> list[str]:
        """A list that grows by every SQL statement from now on."""
        seen: list[str] = []

        @sqlalchemy_event.listens_for(self.engine, "before_cursor_execute")
        def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
            seen.append(statement)

        return seen


class Bench:
    """The opened plugin with shorthands for what tests do with it."""

    def __init__(self, otp: OTPAuthenticator, services: DirectServices) -> None:
        self.otp = otp
        self.services = services

    async def token(self, client_id: str = "workstation-42", **fields: Any) -> tuple[str, str]:
        """A new token and its id."""
        made = await self.otp.tokens.create(NewToken(client_id=client_id, **fields))
        return made.created.token, made.id

    async def present(self, token: str, **changes: Any) -> AuthOutcome:
        return await self.otp.authenticate(credentials(basic(token), **changes))

    async def count(self, denied: Denied) -> Denied:
        return await self.otp.count_failure(denied, credentials(None))

    async def reserve(self, ref: str) -> Denied | None:
        return await self.services.write(lambda tx: self.otp.reserve(tx, ref))

    async def redeem(self, ref: str) -> None:
        await self.services.write(lambda tx: self.otp.redeem(tx, ref))

    async def release(self, ref: str) -> None:
        await self.services.write(lambda tx: self.otp.release(tx, ref))

    async def spend(self, ref: str) -> None:
        assert await self.reserve(ref) is None
        await self.redeem(ref)

    @property
    def failures(self) -> int:
        return sum(len(times) for times in self.services.counters[0].failures.values())


def basic(token: str, user: str = "") -> Authorization:
    import base64

    return Authorization(scheme="basic", parameters=base64.b64encode(f"{user}:{token}".encode()).decode())


def credentials(
    authorization: Authorization | None, *, address: str = "192.0.2.7", label: str | None = None
) -> Credentials:
    connection = TLSConnection(
        id="c1",
        listener="est",
        client_address=address,
        client_port=40000,
        tls_version="TLSv1.3",
        cipher="TLS_AES_128_GCM_SHA256",
    )
    return Credentials(
        connection=connection, operation=Operation.SIMPLEENROLL, label=label, authorization=authorization
    )


@pytest.fixture(name="key_file")
def _key_file(tmp_path: Path) -> Path:
    path = tmp_path / "otp.key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    if find_programs() is None:
        reason = "PostgreSQL not found; as root run: apt install postgresql"
        if os.environ.get("KIPUKA_TEST_TOOLS") == "all" or os.environ.get("CI"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
    with PostgreSQLServer() as server:
        yield server


@pytest.fixture
def engine() -> Engine:
    """SQLite in memory. A module that is about SQL has another fixture of this name."""
    return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})


@pytest.fixture(name="services")
def _services(engine: Engine) -> Iterator[DirectServices]:
    services = DirectServices(engine)
    yield services
    services.engine.dispose()


@pytest.fixture(name="make_bench")
async def _make_bench(key_file: Path, services: DirectServices) -> AsyncGenerator[Callable[..., Any], None]:
    from contextlib import AsyncExitStack

    async with AsyncExitStack() as stack:

        async def make(**settings: Any) -> Bench:
            # The fast hash unless a test is about another: what is tested elsewhere need not be slow here.
            chosen = {"hash_algorithm": "sha256-hmac", "lookup_key": str(key_file), **settings}
            otp = await stack.enter_async_context(open_otp(OTPSettings.model_validate(chosen), services))
            return Bench(otp, services)

        yield make


@pytest.fixture(name="bench")
async def _bench(make_bench: Callable[..., Any]) -> Bench:
    return await make_bench()


@pytest.fixture(name="present_raw")
def _present_raw(bench: Bench) -> Callable[..., Any]:
    async def present(authorization: Authorization | None, **changes: Any) -> AuthOutcome:
        return await bench.otp.authenticate(credentials(authorization, **changes))

    return present


@pytest.fixture(name="minute")
def _minute() -> timedelta:
    return timedelta(minutes=1)
