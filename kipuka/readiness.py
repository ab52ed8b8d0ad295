"""Whether this process can do what it is there for: write, sign, and have it audited (RULES H3).

In the room: one watch over each part, and what the parts say together. Not in the room: HTTP (`kipuka.http.health`), the write
that is tried (`kipuka.store.probe`), and which sinks enrolments wait for (`kipuka.audit.gate`).

Anybody may ask, as often as he likes. So a part is examined at most once at a time and at most once in a while, whoever asks gets
that answer, and nobody waits longer than a bound. A part that is still being examined after the bound has not answered, and is not
asked a second time meanwhile: a store that is stuck would collect what is tried on it. It is examined in no request's context:
what is found out is nobody's alone.

What is public is one word or two for each part. The cause goes to the log, once for each change.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog

from kipuka.api import CABackend, ReportsHealth
from kipuka.audit.gate import AuditGate
from kipuka.border import Watch
from kipuka.store.database import Store
from kipuka.store.probe import prove_writable

__all__ = ["Condition", "Readiness", "ReadinessPace", "open_readiness"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReadinessPace:
    """How often and how long. Tests make it faster; the defaults are the server's."""

    hold: timedelta = timedelta(seconds=2)  # how long an answer is good for
    patience: timedelta = timedelta(seconds=3)  # for a part to answer
    ca_patience: timedelta = timedelta(seconds=2)  # for one CA of several, so that the others are still heard


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """How a part does, in public words. One with a fault that does not hinder leaves the server ready."""

    text: str = "ok"
    hinders: bool = False


_LATE = Condition(text="no answer in time", hinders=True)


class _Fault(Exception):
    """What is wrong with a part: `condition` for everybody, the text for the log."""

    def __init__(self, condition: Condition, cause: str) -> None:
        super().__init__(cause)
        self.condition = condition


class _Watch:
    """One part. `examine` returns when it is well and raises when it is not: `_Fault`, or anything else, which is `failed`."""

    def __init__(
        self, name: str, examine: Callable[[], Awaitable[None]], *, failed: Condition, pace: ReadinessPace
    ) -> None:
        self._name = name
        self._examine = examine
        self._failed = failed
        self._hold = pace.hold.total_seconds()
        self._patience = pace.patience.total_seconds()
        self._task: asyncio.Task[Condition] | None = None
        self._began = 0.0
        self._ended = 0.0
        self._told: Condition = Condition()

    async def condition(self) -> Condition:
        """How the part does, or did a moment ago."""
        loop = asyncio.get_running_loop()
        if self._task is None or (self._task.done() and loop.time() - self._ended >= self._hold):
            self._began = loop.time()
            self._task = loop.create_task(self._run(), name=f"readiness {self._name}", context=Context())
        task = self._task
        if not task.done():
            await asyncio.wait({task}, timeout=max(0.0, self._began + self._patience - loop.time()))
        if not task.done():
            Context().run(self._tell, _LATE, f"no answer within {self._patience:g} seconds")
            return _LATE
        return task.result()

    async def close(self) -> None:
        """Examine no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> Condition:
        try:
            await self._examine()
        except _Fault as fault:
            found, cause = fault.condition, str(fault)
        except Exception as error:  # noqa: BLE001 - whatever it is, the part does not work
            found, cause = self._failed, f"{type(error).__name__}: {error}"
        else:
            found, cause = Condition(), ""
        self._ended = asyncio.get_running_loop().time()
        self._tell(found, cause)
        return found

    def _tell(self, found: Condition, cause: str) -> None:
        if found == self._told:
            return
        self._told = found
        if cause:
            log.warning("part_not_ready", part=self._name, condition=found.text, cause=cause)
        else:
            log.info("part_ready_again", part=self._name)


class Readiness:
    """The parts that a process depends on. Made by `open_readiness`."""

    def __init__(
        self,
        *,
        store: Store,
        backends: Mapping[str, CABackend],
        others: Mapping[str, object],
        watch: Watch,
        audit_gate: AuditGate,
        pace: ReadinessPace,
    ) -> None:
        self._store = store
        self._backends = backends
        self._others = others
        self._calls = watch
        self._ca_patience = pace.ca_patience.total_seconds()
        part = partial(_Watch, pace=pace)
        self._watches = {
            "store": part("store", self._write, failed=Condition(text="not writable", hinders=True)),
            "ca": part("ca", self._ask_authorities, failed=_UNUSABLE),
            "audit": part("audit", audit_gate.require, failed=Condition(text="not available", hinders=True)),
            "plugins": part("plugins", self._ask_plugins, failed=_FAILING),
        }

    async def conditions(self) -> Mapping[str, Condition]:
        """How each part does. Returns within the pace's patience."""
        found = await asyncio.gather(*(watch.condition() for watch in self._watches.values()))
        return dict(zip(self._watches, found, strict=True))

    async def close(self) -> None:
        """Examine nothing any more."""
        await asyncio.gather(*(watch.close() for watch in self._watches.values()))

    async def _write(self) -> None:
        await self._store.write(partial(prove_writable, name=f"probe-{secrets.token_hex(16)}"))

    async def _ask_authorities(self) -> None:
        """One CA that works is enough: with the server away, its labels would be away too."""
        answers = await asyncio.gather(*(self._ask(backend) for backend in self._backends.values()))
        ill = [f"{name}: {answer}" for name, answer in zip(self._backends, answers, strict=True) if answer is not None]
        if ill:
            raise _Fault(_UNUSABLE if len(ill) == len(self._backends) else _PARTLY_USABLE, "; ".join(ill))

    async def _ask_plugins(self) -> None:
        """What the methods and sinks say of themselves, and whether the last call of any plugin failed.

        It hinders nothing: the other methods serve on, and what a sink keeps away is the gate's to say.
        """
        answers = await asyncio.gather(*(self._ask(other) for other in self._others.values()))
        ill = [f"{name}: {answer}" for name, answer in zip(self._others, answers, strict=True) if answer is not None]
        ill += [f"{who}: {what}" for who, what in self._calls.failing.items()]
        if ill:
            raise _Fault(_FAILING, "; ".join(ill))

    async def _ask(self, opened: object) -> str | None:
        if not isinstance(opened, ReportsHealth):
            return None  # it cannot say, and a request will tell
        try:
            async with asyncio.timeout(self._ca_patience):
                return await opened.health()
        except Exception as error:  # noqa: BLE001 - it is a plugin's, and may raise anything
            return f"{type(error).__name__}: {error}"


_UNUSABLE = Condition(text="not usable", hinders=True)
_PARTLY_USABLE = Condition(text="partly usable")
_FAILING = Condition(text="failing")


@asynccontextmanager
async def open_readiness(
    *,
    store: Store,
    backends: Mapping[str, CABackend],
    audit_gate: AuditGate,
    others: Mapping[str, object] | None = None,
    watch: Watch | None = None,
    pace: ReadinessPace | None = None,
) -> AsyncGenerator[Readiness]:
    """Watch over the parts until the end of the block. Nothing is examined before somebody asks.

    `others` are the opened objects that are no CA, by what the log calls them; `watch` has seen the calls of all.
    """
    readiness = Readiness(
        store=store,
        backends=backends,
        others=others or {},
        watch=watch or Watch(),
        audit_gate=audit_gate,
        pace=pace or ReadinessPace(),
    )
    try:
        yield readiness
    finally:
        await readiness.close()
