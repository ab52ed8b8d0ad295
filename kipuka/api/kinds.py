"""The typed, named records that hooks return, and the services an opener is given.

In the room: what a plugin says of itself before anything runs. Not in the room: the roles its objects then play
(`kipuka.api.protocols`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Generic, Literal, ParamSpec, Protocol, TypeVar

from pydantic import BaseModel
from structlog.typing import FilteringBoundLogger

from kipuka.api.events import AuditEvent
from kipuka.api.protocols import AuditSink, Authenticator, CABackend, CreatesCA
from kipuka.api.storage import ReadTx, Tx
from kipuka.api.values import Denied

__all__ = [
    "AuditSinkKind",
    "AuthenticatorKind",
    "CABackendKind",
    "Finding",
    "LockoutPolicy",
    "Lockouts",
    "Needs",
    "Services",
    "Threads",
]

ConfigT = TypeVar("ConfigT", bound=BaseModel)
T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a kind's `check` found: an error stops the start, a warning is printed by `kipuka check` and audited at start.

    Since API 1.0.
    """

    severity: Literal["error", "warning"]
    key: str  # relative to the kind's own section, for instance "token_length"; "" for the section
    problem: str
    remedy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What a method needs of the server around it, under its settings.

    `header_size`: how many bytes a request's header may have, where its proof is a large one (RULES H1). The server takes the
    largest of what its methods need, unless `[server] max_header_size` is written. `server_end_point`: the key of its section that
    asks for `Connection.tls_server_end_point`, which some server certificates do not have: with one of these the start is
    refused.

    Since API 1.0.
    """

    header_size: int = 0
    server_end_point: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LockoutPolicy:
    """When an address is locked (RULES C4): more than `max_failures` within `window` lock it for `duration`.

    Since API 1.0.
    """

    max_failures: int
    window: timedelta
    duration: timedelta


class Lockouts(Protocol):
    """One count of failures per client address (IPv6: per /64), kept in the store and shared by all workers and nodes.

    Since API 1.0.
    """

    async def check(self, address: str, /) -> Denied | None:
        """A ready denial of kind LOCKED while the address is locked."""
        ...

    async def failure(self, address: str, /) -> Denied | None:
        """Count one failure; a denial of kind LOCKED if this one exceeds the policy. Audited by the host."""
        ...


class Threads(Protocol):
    """A bounded pool of a plugin's own threads (`Services.open_threads`).

    Since API 1.0.
    """

    async def run(self, fn: Callable[[], T], /, *, patience: timedelta | None = None) -> T:
        """The result of `fn`, which is run in a thread.

        Raises `BackendUnavailable` when too many calls wait already, or the pool is closed, and `TimeoutError` when there is no result
        within `patience`: tell it from one that `fn` raises by letting `fn` raise errors of its own. Whoever gives up, by `patience` or
        by being cancelled, frees the place of a call that has not begun: it never is. One that has begun goes on for nobody, and keeps
        its thread until it returns; so give what `fn` does a time limit too, where it can have one.
        """
        ...


class Services(Protocol):
    """What the host lends to an opened object.

    Since API 1.0.
    """

    @property
    def clock(self) -> Callable[[], datetime]:
        """The time now, aware, in UTC. Use it for everything that tests must be able to move."""
        ...

    @property
    def log(self) -> FilteringBoundLogger:
        """A structlog logger bound to the plugin's name."""
        ...

    async def read(self, fn: Callable[[ReadTx], T], /) -> T:
        """Run `fn` in a reader thread on a consistent view."""
        ...

    async def write(self, fn: Callable[[Tx], T], /) -> T:
        """Run `fn` in the writer's next transaction; returns after the commit is durable. Raises `BackendUnavailable`
        when the store is away or its queue is full. If the caller is cancelled, the transaction still ends as it would.
        """
        ...

    async def audit(self, event: AuditEvent, /) -> None:
        """Record an event in a transaction of its own; returns when it is durable."""
        ...

    async def run_blocking(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run what would block the event loop in a bounded pool. Raises `BackendUnavailable` when its queue is full."""
        ...

    def open_threads(self, count: int, *, waiting: int, farewell: timedelta) -> AbstractAsyncContextManager[Threads]:
        """A pool of the plugin's own, for calls that may take long or never return: `run_blocking` is for work that is short, since
        all plugins share it. At most `count` threads, and room for `waiting` calls more.

        The end of the block takes no more, drops what has not begun, waits for what has as long as `farewell` says, and leaves the
        rest behind: the threads keep no process from ending.
        """
        ...

    def lockouts(self, policy: LockoutPolicy, /) -> Lockouts:
        """This plugin's own count of failures."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class AuthenticatorKind(Generic[ConfigT]):
    """A method of proving identity. `name` is the entry point's name and the section of the configuration file.

    `scheme` is that of the Authorization field it reads, in lower case; None for a method that reads none. Where two methods of one
    scheme are on at the same path, `kipuka check` warns: each is shown what was meant for the other.

    Since API 1.0.
    """

    name: str
    config: type[ConfigT]
    open: Callable[[ConfigT, Services], AbstractAsyncContextManager[Authenticator]]
    check: Callable[[ConfigT], Iterable[Finding]] | None = None
    events: tuple[type[AuditEvent], ...] = ()
    needs: Callable[[ConfigT], Needs] | None = None
    scheme: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CABackendKind(Generic[ConfigT]):
    """A way to sign. `name` is the entry point's name and the `backend` of a [[ca]] item; `config` validates the item's
    keys other than `id` and `backend`.

    `remote` says that an order may have been taken although no answer came back: the host then makes a reservation
    before it asks, and does not give it back while the outcome is unknown.

    Since API 1.0.
    """

    name: str
    config: type[ConfigT]
    open: Callable[[ConfigT, Services], AbstractAsyncContextManager[CABackend]]
    remote: bool = True
    creator: CreatesCA | None = None
    check: Callable[[ConfigT], Iterable[Finding]] | None = None
    events: tuple[type[AuditEvent], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditSinkKind(Generic[ConfigT]):
    """A place audit records go to. `name` is the entry point's name and the `type` of an [[audit.sink]] item; `config`
    validates the item's keys other than `type`.

    Since API 1.0.
    """

    name: str
    config: type[ConfigT]
    open: Callable[[ConfigT, Services], AbstractAsyncContextManager[AuditSink]]
    check: Callable[[ConfigT], Iterable[Finding]] | None = None


AnyKind = AuthenticatorKind[Any] | CABackendKind[Any] | AuditSinkKind[Any]
Opened = Authenticator | CABackend | AuditSink
Handler = Callable[..., Awaitable[Any]]
