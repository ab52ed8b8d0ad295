"""One plugin's object, opened over a real store, without a server around it.

In the room: `open_authenticator`, `open_ca_backend` and `open_audit_sink`, and what each gives: the object, its services, transactions,
what was audited and logged. Not in the room: HTTP, TLS and the other plugins.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from kipuka.api import (
    AuditRecord,
    AuditSink,
    AuditSinkKind,
    Authenticator,
    AuthenticatorKind,
    CABackend,
    CABackendKind,
    Connection,
    Credentials,
    Denied,
    Operation,
    Services,
    SpendsOnIssue,
    Storage,
    Threads,
    Tx,
)
from kipuka.api.kinds import AnyKind
from kipuka.audit.chain import seal
from kipuka.runtime import HostServices, open_pool
from kipuka.store import events
from kipuka.store.database import Store, open_store
from kipuka.store.schema import upgrade
from kipuka.threads import open_threads

__all__ = [
    "OpenedAuditSink",
    "OpenedAuthenticator",
    "OpenedCABackend",
    "OpenedKind",
    "credentials",
    "lent_threads",
    "open_audit_sink",
    "open_authenticator",
    "open_ca_backend",
]

T = TypeVar("T")


def lent_threads(count: int, *, waiting: int, farewell: timedelta) -> AbstractAsyncContextManager[Threads]:
    """What `Services.open_threads` lends, for services of a test's own."""
    return open_threads(count, waiting=waiting, name="kipuka-test", farewell=farewell)


def credentials(**changes: Any) -> Credentials:
    """Credentials of a simpleenroll over TLS 1.3 from 192.0.2.1 that present nothing, with the changes made."""
    connection = Connection(
        id="test",
        listener="est",
        client_address=str(changes.pop("client_address", "192.0.2.1")),
        client_port=40000,
        tls_version="TLSv1.3",
        cipher="TLS_AES_256_GCM_SHA384",
    )
    whole: dict[str, Any] = {
        "connection": connection,
        "operation": Operation.SIMPLEENROLL,
        "label": None,
        **changes,
    }
    return Credentials(**whole)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedKind:
    """What is around any object that is open, and a test may look at."""

    services: Services
    store: Store
    database: Path
    log: list[str] = field(default_factory=list[str])  # every log entry of the plugin, as JSON

    async def audited(self) -> Sequence[AuditRecord]:
        """Every event that was recorded, in order; what was recorded in a transaction is there when it is durable."""
        return await self.store.read(partial(events.after, node="test", sequence=0, limit=1_000_000))

    def traces(self) -> str:
        """All that the plugin has left behind: log, database (audit rows among it), in one text to search."""
        files = [path for path in self.database.parent.glob(f"{self.database.name}*") if path.is_file()]
        return "\n".join([*self.log, *(path.read_bytes().decode("latin-1") for path in files)])


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedCABackend(OpenedKind):
    """A CA backend that is open."""

    backend: CABackend


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedAuditSink(OpenedKind):
    """An audit sink that is open."""

    sink: AuditSink


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenedAuthenticator(OpenedKind):
    """An authenticator that is open, with the transactions that the host would make."""

    authenticator: Authenticator

    @property
    def spender(self) -> SpendsOnIssue:
        """The same object, as one whose credentials are used up. Raises TypeError where it is none."""
        if not isinstance(self.authenticator, SpendsOnIssue):
            msg = f"{type(self.authenticator).__name__} spends nothing"
            raise TypeError(msg)
        return self.authenticator

    async def reserve(self, ref: str) -> Denied | None:
        """Hold one use, in a transaction of its own, as the host does."""
        return await self.store.write(_call(self.spender.reserve, ref))

    async def redeem(self, ref: str) -> None:
        """Turn the held use into a spent one."""
        await self.store.write(_call(self.spender.redeem, ref))

    async def release(self, ref: str) -> None:
        """Give the held use back."""
        await self.store.write(_call(self.spender.release, ref))


def _call(act: Callable[[Tx, str], T], ref: str) -> Callable[[Tx], T]:
    def unit(tx: Tx) -> T:
        return act(tx, ref)

    return unit


def _now() -> datetime:
    return datetime.now(UTC)


@asynccontextmanager
async def open_authenticator(
    kind: AuthenticatorKind[Any],
    section: Mapping[str, object],
    *,
    directory: Path,
    storages: Sequence[Storage] = (),
    clock: Callable[[], datetime] = _now,
) -> AsyncGenerator[OpenedAuthenticator, None]:
    """Validate the section, make or reuse the database in `directory`, and open the kind's object over it.

    Opened a second time with the same directory it finds what the first left, as after a restart.
    """
    async with _opened(kind, section, directory, storages, clock) as (around, authenticator):
        yield OpenedAuthenticator(authenticator=authenticator, **_fields(around))


@asynccontextmanager
async def open_ca_backend(
    kind: CABackendKind[Any],
    section: Mapping[str, object],
    *,
    directory: Path,
    storages: Sequence[Storage] = (),
    clock: Callable[[], datetime] = _now,
) -> AsyncGenerator[OpenedCABackend, None]:
    """The same for a CA backend; the section has the keys of its [[ca]] item without `id` and `backend`."""
    async with _opened(kind, section, directory, storages, clock) as (around, backend):
        yield OpenedCABackend(backend=backend, **_fields(around))


@asynccontextmanager
async def open_audit_sink(
    kind: AuditSinkKind[Any],
    section: Mapping[str, object],
    *,
    directory: Path,
    storages: Sequence[Storage] = (),
    clock: Callable[[], datetime] = _now,
) -> AsyncGenerator[OpenedAuditSink, None]:
    """The same for an audit sink; the section has the keys of its [[audit.sink]] item without `type`."""
    async with _opened(kind, section, directory, storages, clock) as (around, sink):
        yield OpenedAuditSink(sink=sink, **_fields(around))


@asynccontextmanager
async def _opened(
    kind: AnyKind,
    section: Mapping[str, object],
    directory: Path,
    storages: Sequence[Storage],
    clock: Callable[[], datetime],
) -> AsyncGenerator[tuple[OpenedKind, Any], None]:
    settings = kind.config.model_validate(dict(section), context={"base": directory})
    async with (
        _surroundings(kind.name, directory, storages, clock) as around,
        kind.open(settings, around.services) as opened,
    ):
        yield around, opened


@asynccontextmanager
async def _surroundings(
    plugin: str, directory: Path, storages: Sequence[Storage], clock: Callable[[], datetime]
) -> AsyncGenerator[OpenedKind, None]:
    database = directory / "kipuka.db"
    url = f"sqlite:///{database}"
    _bring_up(database, storages)
    log: list[str] = []
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(4))
        store = await stack.enter_async_context(open_store(url, node="test", clock=clock, seal=seal, storages=storages))
        services = HostServices(plugin=plugin, store=store, pool=pool, clock=clock, log=_logger(log))
        yield OpenedKind(services=services, store=store, database=database, log=log)


_EMPTY: dict[tuple[Storage, ...], bytes] = {}
"""Databases with nothing in them, by whose tables they have: made once in a process, since a suite opens hundreds."""


def _bring_up(database: Path, storages: Sequence[Storage]) -> None:
    if database.exists():
        upgrade(f"sqlite:///{database}", storages)
        return
    key = tuple(storages)
    if key not in _EMPTY:
        with TemporaryDirectory() as folder:
            empty = Path(folder) / "empty.db"
            upgrade(f"sqlite:///{empty}", storages)
            _EMPTY[key] = empty.read_bytes()
    database.write_bytes(_EMPTY[key])


def _fields(around: OpenedKind) -> dict[str, Any]:
    return {one.name: getattr(around, one.name) for one in fields(OpenedKind)}


def _logger(log: list[str]) -> FilteringBoundLogger:
    def keep(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        log.append(json.dumps({"level": method, **event}, default=repr))
        raise structlog.DropEvent

    wrapped = structlog.wrap_logger(structlog.PrintLogger(), processors=[keep], cache_logger_on_first_use=False)
    return cast("FilteringBoundLogger", wrapped)
