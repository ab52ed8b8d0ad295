"""A worker: one process that serves, under the orders of its supervisor.

In the room: opening and closing runtimes, the swap of a reload, and what happens when the supervisor is gone. Not in the room:
forking, signals and who is restarted when (`kipuka.http.supervisor`); requests (`kipuka.http.app`).

A worker heeds no signal but SIGKILL: those of a terminal or a service manager reach every process of a server, and the
supervisor is the one that knows what they mean for all. When the supervisor dies, its workers end too: nobody would
restart them or reload their configuration, and they hold the node, so that no new server could start.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import cast

import structlog

from kipuka.api import AlreadyRunning, BackendError, KipukaError, StartupError
from kipuka.config import Settings
from kipuka.http import messages
from kipuka.http.app import generation_over, serve_generations
from kipuka.http.generations import Generation, Generations
from kipuka.http.memory import settle
from kipuka.runtime import (
    Composition,
    Feeding,
    Foundation,
    Runtime,
    open_foundation,
    open_runtime,
    recompose,
)
from kipuka.store.enrolments import Incarnation

__all__ = ["Assignment", "Fault", "problems_of", "work"]

log = structlog.get_logger(__name__)

ORPHANS_PATIENCE = 5.0
"""Seconds that requests under way have to end when the supervisor has died."""
ORPHANS_LIMIT = 20.0
"""Seconds after which such a worker ends whatever it waits for: it holds the node."""

_LONGEST_LINE = 1024 * 1024  # of an order; a reload's events may name many settings


class Fault(StrEnum):
    """What a worker died of, as far as it decides what the command line says."""

    OCCUPIED = "occupied"
    NOT_READY = "not_ready"
    TRY_AGAIN = "try_again"
    FAILED = "failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """What a worker is born with. `sockets` are bound already; `bell` is an eventfd that all workers of the server share."""

    composition: Composition
    incarnation: Incarnation
    sockets: Mapping[str, socket.socket]  # by the listener's name
    control: socket.socket = field(repr=False)
    bell: int
    environ: Mapping[str, str] = field(repr=False)
    configure_logs: Callable[[Settings], None]

    @property
    def feeds_sinks(self) -> bool:
        """Whether this worker carries the node's audit events to the sinks, which exactly one may do at a time."""
        return self.incarnation.slot == 0


def work(assignment: Assignment) -> int:
    """Serve until told to finish; gives the exit status of the process. Called in a process of its own."""
    try:
        asyncio.run(_work(assignment))
    except Exception as error:  # noqa: BLE001 - the last stop: the process ends after it
        if not isinstance(error, KipukaError | OSError):
            log.error("worker_failed", error=type(error).__name__)
            if os.environ.get("KIPUKA_DEBUG"):
                traceback.print_exception(error)
        return 1
    return 0


async def _work(assignment: Assignment) -> None:
    await _Worker(assignment).run()


class _Worker:
    def __init__(self, assignment: Assignment) -> None:
        loop = asyncio.get_running_loop()
        self._assignment = assignment
        self._composition = assignment.composition
        self._supervisor: asyncio.StreamWriter
        self._foundation: Foundation
        self._generations: Generations
        self._serve: asyncio.Future[messages.Serve] = loop.create_future()
        self._finish: asyncio.Future[messages.Finish] = loop.create_future()
        self._stop = asyncio.Event()
        self._hasten = asyncio.Event()
        self._orders: asyncio.Queue[messages.Message] = asyncio.Queue()  # to be carried out one after the other
        self._preparing: asyncio.Task[None] | None = None
        self._prepared: _Prepared | None = None
        self._held: dict[Generation, _Held] = {}
        self._retiring: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Live until `Finish` is carried out. What breaks the worker is reported, and raised."""
        reader, self._supervisor = await asyncio.open_unix_connection(
            sock=self._assignment.control, limit=_LONGEST_LINE
        )
        heeding = asyncio.create_task(self._heed(reader))
        try:
            await self._live()
        except Exception as error:
            self._report(_failure(error))
            raise
        finally:
            heeding.cancel()
            await asyncio.gather(heeding, return_exceptions=True)
            self._supervisor.close()
            with contextlib.suppress(OSError):  # the supervisor is gone already
                await self._supervisor.wait_closed()

    async def _live(self) -> None:
        assignment = self._assignment
        async with open_foundation(assignment.composition, incarnation=assignment.incarnation) as self._foundation:
            try:
                feeding: Feeding = "now" if assignment.feeds_sinks else "never"
                first = await self._open(assignment.composition, feeding=feeding, inherits=True)
                for listener in first.listeners:
                    listener.bound = assignment.sockets[listener.name]
                self._generations = Generations(first)
                settle()
                with self._bell():
                    self._report(messages.Opened())
                    await self._record_all(await self._serve)
                    carrying = asyncio.create_task(self._carry_out())
                    try:
                        await serve_generations(
                            self._generations, stop=self._stop, hasten=self._hasten, started=self._started
                        )
                        self._report(messages.Drained())
                        finish = await self._finish
                        await self._orders.join()
                    finally:
                        carrying.cancel()
                        await asyncio.gather(carrying, return_exceptions=True)
                    await self._record_all(finish)
            finally:
                await self._close()

    # --- the supervisor ---

    def _report(self, message: messages.Message) -> None:
        self._supervisor.write(messages.encode(message))

    async def _started(self, _addresses: object) -> None:
        self._report(messages.Serving())

    async def _heed(self, reader: asyncio.StreamReader) -> None:
        """Take orders. Those that end something take effect at once, the others one after the other."""
        while line := await reader.readline():
            match messages.decode(line):
                case messages.Serve() as order:
                    self._serve.set_result(order)
                case messages.Stop():
                    self._end_service()
                case messages.Hasten():
                    self._hasten.set()
                case messages.Finish() as order:
                    self._finish.set_result(order)
                case order:
                    self._orders.put_nowait(order)
        self._end_service()
        loop = asyncio.get_running_loop()
        loop.call_later(ORPHANS_PATIENCE, self._hasten.set)
        loop.call_later(ORPHANS_LIMIT, os._exit, 1)
        if not self._finish.done():
            self._finish.set_result(messages.Finish())
        log.warning("supervisor_gone")  # last: who read our log may be gone as well

    def _end_service(self) -> None:
        self._stop.set()
        if self._preparing is not None:
            self._preparing.cancel()
        if not self._serve.done():
            self._serve.set_result(messages.Serve(events=()))  # it begins and ends at once

    async def _carry_out(self) -> None:
        while True:
            order = await self._orders.get()
            task = asyncio.create_task(self._carry_out_one(order))
            self._preparing = task if isinstance(order, messages.Prepare) else None
            try:
                await asyncio.wait({task})
                if not task.cancelled() and (error := task.exception()) is not None:
                    log.error("order_failed", order=type(order).__name__, exc_info=error)
            finally:
                self._preparing = None
                task.cancel()
                self._orders.task_done()

    async def _carry_out_one(self, order: messages.Message) -> None:
        match order:
            case messages.Record():
                try:
                    await self._record_all(order)
                except BackendError as error:
                    log.error("events_not_recorded", reason=error.reason)
                self._report(messages.Recorded())
            case messages.Prepare():
                await self._prepare(order)
            case messages.Commit():
                await self._commit()
            case messages.Abandon():
                await self._abandon()
            case _:
                msg = f"a worker has no such order: {order}"
                raise TypeError(msg)

    async def _record_all(self, message: messages.Serve | messages.Record | messages.Finish) -> None:
        for event in messages.events_of(message):
            await self._foundation.store.audit(event)

    # --- runtimes ---

    async def _open(self, composition: Composition, *, feeding: Feeding, inherits: bool) -> Generation:
        """A generation whose runtime is open. Raises what the opening raises."""
        held = _Held(open_runtime(composition, self._foundation, feeding=feeding, inherits=inherits))
        runtime = await held.open()
        try:
            generation = generation_over(runtime)
        except BaseException:
            await held.close()
            raise
        self._held[generation] = held
        return generation

    async def _prepare(self, order: messages.Prepare) -> None:
        file = self._composition.settings.file
        try:
            again = await asyncio.to_thread(recompose, self._composition, file, self._assignment.environ)
            _require_same(again.composition.settings, order)
            feeding: Feeding = "later" if self._assignment.feeds_sinks else "never"
            generation = await self._open(again.composition, feeding=feeding, inherits=False)
        except Exception as error:  # noqa: BLE001 - whatever it is, there is no second runtime, and the first goes on
            self._report(messages.Refused(reload=order.reload, problems=problems_of(error)))
        else:
            self._prepared = _Prepared(composition=again.composition, generation=generation)
            self._report(messages.Prepared(reload=order.reload))

    async def _commit(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is None:
            msg = "there is no second runtime to serve by"
            raise RuntimeError(msg)
        self._composition = prepared.composition
        older = self._generations.replace(prepared.generation)
        self._assignment.configure_logs(prepared.composition.settings)
        # One after the other: a sink is given the events once, in order, and a file is opened anew (RULES I1). The older runtime is
        # closed after that, since closing it ends them too.
        try:
            if older.runtime.head_signer is not None:
                await older.runtime.head_signer.end()
            await older.runtime.outbox.end()
        finally:
            retiring = asyncio.create_task(self._retire(older))
            self._retiring.add(retiring)
            retiring.add_done_callback(self._retiring.discard)
        if self._assignment.feeds_sinks:
            prepared.generation.runtime.outbox.begin()
            if prepared.generation.runtime.head_signer is not None:
                prepared.generation.runtime.head_signer.begin()
        self._report(messages.Committed())

    async def _abandon(self) -> None:
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            await self._held.pop(prepared.generation).close()

    async def _retire(self, generation: Generation) -> None:
        """Close a runtime after its last request."""
        await generation.left()
        try:
            await self._held.pop(generation).close()
        except Exception:
            log.exception("runtime_not_closed")
        settle()

    async def _close(self) -> None:
        await asyncio.gather(*self._retiring, return_exceptions=True)
        while self._held:
            _generation, held = self._held.popitem()
            await held.close()

    # --- siblings ---

    @contextlib.contextmanager
    def _bell(self) -> Generator[None]:
        """Whoever adds events rings; who feeds the sinks looks. Otherwise it would notice only when it looks by itself."""
        bell = self._assignment.bell
        if not self._assignment.feeds_sinks:
            stop = self._foundation.store.on_events(partial(os.eventfd_write, bell, 1))
            try:
                yield
            finally:
                stop()
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(bell, self._rung)
        try:
            yield
        finally:
            loop.remove_reader(bell)

    def _rung(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._assignment.bell)
        self._generations.current.runtime.outbox.wake()


def _require_same(settings: Settings, order: messages.Prepare) -> None:
    if settings.sha256 != order.sha256:
        raise StartupError(f"{settings.file}: it was changed while it was read; reload it again")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Prepared:
    """What a reload has opened, and what it was opened from."""

    composition: Composition
    generation: Generation


class _Held:
    """A runtime that is held open by a task of its own: what a plugin has entered is left in the same task."""

    def __init__(self, opening: AbstractAsyncContextManager[Runtime]) -> None:
        self._opened: asyncio.Future[Runtime] = asyncio.get_running_loop().create_future()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._hold(opening), name="kipuka-runtime")

    async def _hold(self, opening: AbstractAsyncContextManager[Runtime]) -> None:
        async with opening as runtime:
            self._opened.set_result(runtime)
            await self._leave.wait()

    async def open(self) -> Runtime:
        """The runtime. Raises what the opening raises; when the caller is cancelled, nothing stays open."""
        try:
            await asyncio.wait({self._task, self._opened}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            raise
        if not self._opened.done():
            await self._task
        return self._opened.result()

    async def close(self) -> None:
        """Close it. Raises what the closing raises."""
        self._leave.set()
        await self._task


def _only(error: Exception) -> Exception:
    """The one error in a group of one: asynchronous clean-up wraps what a task raised."""
    if not isinstance(error, ExceptionGroup):
        return error
    group = cast("ExceptionGroup[Exception]", error)
    return _only(group.exceptions[0]) if len(group.exceptions) == 1 else group


def problems_of(error: Exception) -> tuple[str, ...]:
    """What is wrong, in lines for log, audit and command line. What was not raised for people is only named: it may hold
    values that are nobody's business.
    """
    inner = _only(error)
    if isinstance(inner, BackendError):
        return (inner.detail,)
    if isinstance(inner, KipukaError):
        return tuple(str(inner).splitlines())
    if isinstance(inner, OSError):
        reason = inner.strerror or str(inner)
        return (f"{inner.filename}: {reason}" if inner.filename else reason,)
    hint = "set KIPUKA_DEBUG=1 and run it again to see where, and report it"
    return (f"internal error ({type(inner).__name__}); {hint}",)


def _failure(error: Exception) -> messages.Failed:
    inner = _only(error)
    match inner:
        case AlreadyRunning():
            kind = Fault.OCCUPIED
        case StartupError():
            kind = Fault.NOT_READY
        case BackendError():
            kind = Fault.TRY_AGAIN
        case _:
            kind = Fault.FAILED
    return messages.Failed(kind=kind, text="\n".join(problems_of(inner)))
