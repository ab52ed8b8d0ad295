"""The supervisor: binds, forks the workers, keeps their number, and tells them what signals mean.

In the room: the workers' lives, SIGHUP (reload), SIGTERM and SIGINT (stop), and which audit events tell of that. Not in the
room: everything that serves (`kipuka.http.worker`), and the form of orders and reports (`kipuka.http.messages`).

The workers share the sockets rather than have one each (SO_REUSEPORT): what waits in a queue is nobody's yet, so it is lost
with no worker and held up by none that is away, and an address that another server has is refused. Measured, connections
spread evenly all the same: whoever is busy asks for the next one later.

The supervisor opens nothing but sockets and the lock of its node (in PostgreSQL a row, for which it connects before it forks), has no thread and no event loop, and imports nothing once it
serves: it is forked at any time, and what it had open would be open in every worker. It waits in one `select` for
signals, reports, the answer of a check, and the next thing that is due.

A reload goes through three gates before anything changes. The file is read, over the plugins that are loaded. A forked child
examines it as `kipuka check` does. Every worker opens a second runtime from it. Then all are told to serve by that; until then
each failure leaves everything as it was.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import secrets
import selectors
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import cast

import structlog

from kipuka.api import (
    AlreadyRunning,
    BackendUnavailable,
    ConfigurationLoaded,
    ConfigurationRefused,
    KipukaError,
    ServerStopped,
    StartupError,
    WorkerDied,
    WorkerStarted,
)
from kipuka.api.events import AuditEvent
from kipuka.config import Settings
from kipuka.http import messages
from kipuka.http.app import names_of, opening_events
from kipuka.http.forking import SUPERVISED_SIGNALS, AnswerChild, ended, fork, fork_for_answer
from kipuka.http.notify import notify_ready, notify_reloading, notify_stopping
from kipuka.http.server import bind
from kipuka.http.worker import Assignment, Fault, problems_of, work
from kipuka.runtime import Composition, CompositionError, Draft, recompose
from kipuka.store.database import hold_node
from kipuka.store.enrolments import Incarnation

__all__ = ["Verdict", "examine", "supervise"]

log = structlog.get_logger(__name__)

LONG_LIFE = 10.0
"""Seconds after which a worker's death says nothing about the next one's: that one is started at once."""
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds between the deaths of workers that live shortly and their replacement: none, then the first, doubled each time."""
RELOAD_LIMIT = 60.0
"""Seconds that each gate of a reload may take."""
STOP_MARGIN = 15.0
"""Seconds that a worker has beyond `drain_delay` and `shutdown_timeout` to close what it has open, before it is killed."""

SECOND_THOUGHT = 1.0
"""Seconds after which another signal to stop hastens it. One that comes sooner is the same one: timeout(1), shells and service
managers signal a process and then its group.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What an examination found: errors, which stop a start, and the settings that it warned about."""

    errors: tuple[str, ...]
    permissive: tuple[str, ...]


Examination = Callable[[Draft], Verdict]


def supervise(
    composition: Composition,
    *,
    permissive: Sequence[str],
    examination: Examination,
    configure_logs: Callable[[Settings], None],
    environ: Mapping[str, str],
) -> None:
    """Serve with as many workers as `[server] workers` says, until SIGTERM or SIGINT; returns when all have ended.

    `permissive` is what the examination of `composition` has found, `examination` is run in a child for each reload, and
    `environ` is what the configuration was read with. Raises `StartupError` when an address or the node cannot be had, and what
    the first worker could not start for.
    """
    server = composition.settings.server
    boot = secrets.token_hex(8)
    with contextlib.ExitStack() as stack:
        stack.enter_context(hold_node(composition.settings.db.url, node=server.node, run=boot))
        addresses = {"est": server.listen}
        if server.admin_listen is not None and composition.settings.admin is not None:
            addresses["admin"] = server.admin_listen
        sockets = {
            name: stack.enter_context(bind(name=name, host=address.host, port=address.port))
            for name, address in addresses.items()
        }
        signals = stack.enter_context(_signals())
        selector = stack.enter_context(selectors.DefaultSelector())
        bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        stack.callback(os.close, bell)
        gc.freeze()  # so that a collection in a worker writes to no page that it shares with the others
        supervisor = _Supervisor(
            composition=composition,
            permissive=tuple(permissive),
            examination=examination,
            configure_logs=configure_logs,
            environ=environ,
            sockets=sockets,
            signals=signals,
            selector=selector,
            bell=bell,
            boot=boot,
        )
        supervisor.run()


def examine(draft: Draft, examination: Examination) -> Verdict:
    """Run the examination in a child, so that nothing it opens or imports is left in this process. Raises `KipukaError`."""
    child = fork_for_answer(partial(_answer, draft, examination), forget=_nothing)
    with open(child.pipe, "rb") as pipe:  # noqa: PTH123 - a descriptor
        answer = pipe.read()
    _pid, status = os.waitpid(child.pid, 0)
    if not answer:
        raise KipukaError(f"the examination of the configuration broke off: {ended(status)}")
    return _verdict(answer)


def _nothing() -> None:
    """There is nothing to forget."""


def _answer(draft: Draft, examination: Examination) -> bytes:
    try:
        verdict = examination(draft)
    except Exception as error:
        if os.environ.get("KIPUKA_DEBUG"):
            raise
        verdict = Verdict(errors=problems_of(error), permissive=())
    return json.dumps([verdict.errors, verdict.permissive]).encode("utf-8")


def _verdict(answer: bytes) -> Verdict:
    errors, permissive = cast("list[list[str]]", json.loads(answer))
    return Verdict(errors=tuple(errors), permissive=tuple(permissive))


@contextlib.contextmanager
def _signals() -> Generator[socket.socket]:
    """A socket from which the numbers of signals are read, an octet each, until the end of the block."""
    reading, writing = socket.socketpair()
    for end in (reading, writing):
        end.setblocking(False)  # noqa: FBT003 - as the standard library has it
    numbers = (*SUPERVISED_SIGNALS, signal.SIGCHLD)
    before = {number: signal.signal(number, _heed_elsewhere) for number in numbers}
    wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    try:
        with reading, writing:
            yield reading
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)


def _heed_elsewhere(_number: int, _frame: object) -> None:
    """The signal's number is on its way through the socket."""


@dataclass(kw_only=True, slots=True, eq=False)
class _Worker:
    """A worker process, as the supervisor sees it."""

    pid: int
    slot: int
    control: socket.socket
    began: float
    replaces: int | None  # the process before it
    heard: bytes = b""  # of a report that is not complete
    hung_up: bool = False
    serving: bool = False
    drained: bool = False
    finishing: bool = False
    fault: messages.Failed | None = None


@dataclass(kw_only=True, slots=True)
class _Seat:
    """A place that is to have a worker."""

    slot: int
    life: int = 0  # of the next one
    worker: _Worker | None = None
    predecessor: int | None = None
    short_lives: int = 0  # in a row
    due: float | None = None  # when the next one is to be forked


@dataclass(kw_only=True, slots=True)
class _Reload:
    """A reload on its way through the gates."""

    composition: Composition  # where there are problems: the one that runs
    restart_needed: tuple[str, ...]
    child: AnswerChild | None  # while it is examined
    deadline: float
    problems: tuple[str, ...] = ()  # known before the examination, which is to find the others; it is refused then
    answer: bytes = b""
    examined: bool = False  # the child has ended
    permissive: tuple[str, ...] = ()
    waiting: set[int] = field(default_factory=set[int])  # slots that have not said that they have done it
    committed: bool = False


class _Supervisor:
    def __init__(
        self,
        *,
        composition: Composition,
        permissive: tuple[str, ...],
        examination: Examination,
        configure_logs: Callable[[Settings], None],
        environ: Mapping[str, str],
        sockets: Mapping[str, socket.socket],
        signals: socket.socket,
        selector: selectors.BaseSelector,
        bell: int,
        boot: str,
    ) -> None:
        self._composition = composition
        self._permissive = permissive
        self._examination = examination
        self._configure_logs = configure_logs
        self._environ = environ
        self._sockets = sockets
        self._addresses = [cast("tuple[str, int]", bound.getsockname()[:2]) for bound in sockets.values()]
        self._signals = signals
        self._selector = selector
        self._bell = bell
        self._boot = boot
        self._seats = [_Seat(slot=slot) for slot in range(composition.settings.server.workers)]
        self._announced = False  # the first worker has begun to serve
        self._stop_began: float | None = None  # None: the server is not stopping
        self._stop_by: float | None = None  # when what has not ended by itself is killed
        self._reload: _Reload | None = None
        self._reload_again = False
        self._reloads = 0  # the number of the last one
        self._unrecorded: list[AuditEvent] = []
        self._recorder: tuple[_Worker, list[AuditEvent]] | None = None
        selector.register(signals, selectors.EVENT_READ, self._on_signal)

    def run(self) -> None:
        """Until the last worker has ended. Raises what the first one could not start for."""
        self._seats[0].due = time.monotonic()
        while self._stop_by is None or self._workers():
            self._on_time()
            for key, _events in self._selector.select(self._pause()):
                cast("Callable[[], None]", key.data)()
        log.info("server_stopped")

    def _workers(self) -> list[_Worker]:
        return [seat.worker for seat in self._seats if seat.worker is not None]

    # --- what wakes it ---

    def _pause(self) -> float | None:
        moments = [self._stop_by, self._reload.deadline if self._reload is not None else None]
        if self._may_fork():
            moments += [seat.due for seat in self._seats]
        due = [moment for moment in moments if moment is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _on_time(self) -> None:
        now = time.monotonic()
        if self._stop_by is not None and self._stop_by <= now:
            for worker in self._workers():
                self._kill(worker, "it has not stopped in time")
            self._stop_by = now + STOP_MARGIN
        if self._reload is not None and self._reload.deadline <= now:
            self._reload_is_late(self._reload)
        for seat in self._seats:
            if seat.due is not None and seat.due <= now and self._may_fork():
                self._fork(seat)

    def _on_signal(self) -> None:
        for number in self._signals.recv(4096):
            match number:
                case signal.SIGCHLD:
                    self._reap()
                case signal.SIGHUP:
                    self._reload_again = True
                    self._begin_reload()
                case _:
                    self._begin_stop()

    def _on_report(self, worker: _Worker) -> None:
        if worker.control.fileno() < 0:
            return  # it was reaped in the same round
        with contextlib.suppress(BlockingIOError):
            while data := self._receive(worker):
                worker.heard += data
            self._selector.unregister(worker.control)  # it has hung up, and is about to end
            worker.hung_up = True
        *lines, worker.heard = worker.heard.split(b"\n")
        for line in lines:
            self._heed(worker, messages.decode(line))

    def _receive(self, worker: _Worker) -> bytes:
        if worker.hung_up:
            raise BlockingIOError
        try:
            return worker.control.recv(65536)
        except ConnectionResetError:
            return b""

    def _heed(self, worker: _Worker, report: messages.Message) -> None:
        match report:
            case messages.Opened():
                self._let_serve(worker)
            case messages.Serving():
                worker.serving = True
                self._take_up_service()
            case messages.Failed():
                worker.fault = report
            case messages.Recorded():
                self._recorder = None
                self._flush_events()
            case messages.Prepared() | messages.Refused():
                if self._reload is not None and report.reload == self._reloads:
                    self._heed_answer(worker, report)
            case messages.Committed():
                self._passed_gate(worker)
            case messages.Drained():
                worker.drained = True
                self._finish_drained()
            case _:
                msg = f"a supervisor is told no such thing: {report}"
                raise TypeError(msg)

    # --- the workers' lives ---

    def _may_fork(self) -> bool:
        """Not while a reload is with the workers: who is born then would have missed it."""
        with_workers = self._reload is not None and self._reload.child is None
        return self._stop_by is None and not with_workers

    def _fork(self, seat: _Seat) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - as the standard library has it
        assignment = Assignment(
            composition=self._composition,
            incarnation=Incarnation(boot=self._boot, slot=seat.slot, life=seat.life),
            sockets=self._sockets,
            control=theirs,
            bell=self._bell,
            environ=self._environ,
            configure_logs=self._configure_logs,
        )
        seat.due = None
        seat.life += 1
        with theirs:
            try:
                pid = fork(partial(work, assignment), forget=partial(self._forget, ours))
            except OSError as error:
                ours.close()
                log.error("worker_not_forked", worker=seat.slot, reason=error.strerror)
                seat.short_lives += 1
                seat.due = time.monotonic() + _back_off(seat.short_lives)
                return
        worker = _Worker(pid=pid, slot=seat.slot, control=ours, began=time.monotonic(), replaces=seat.predecessor)
        seat.worker = worker
        self._selector.register(ours, selectors.EVENT_READ, partial(self._on_report, worker))

    def _forget(self, *more: socket.socket) -> None:
        """In a child: close what is the supervisor's alone. An end of a sibling's socket pair that stayed open here would keep
        that sibling from noticing the supervisor's death.
        """
        self._selector.close()
        for own in (self._signals, *more, *(worker.control for worker in self._workers())):
            own.close()
        if self._reload is not None and self._reload.child is not None:
            os.close(self._reload.child.pipe)

    def _let_serve(self, worker: _Worker) -> None:
        if self._stop_by is not None:
            return
        started = WorkerStarted(worker=worker.slot, pid=worker.pid, replaces=worker.replaces)
        opening: tuple[AuditEvent, ...] = ()
        if not self._announced:
            opening = opening_events(
                self._composition.settings,
                self._addresses,
                plugins=sorted(self._composition.plugins.loaded),
                permissive=self._permissive,
            )
        self._order(worker, messages.Serve(events=messages.told((*opening, started))))

    def _take_up_service(self) -> None:
        if self._stop_by is not None:
            return
        if not self._announced:
            self._announced = True
            log.info("listening", addresses=names_of(self._addresses), workers=len(self._seats))
            notify_ready()
            for seat in self._seats[1:]:
                seat.due = time.monotonic()
        self._flush_events()
        self._begin_reload()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._reload is not None and self._reload.child is not None and self._reload.child.pid == pid:
                self._reload.examined = True  # its answer is in the pipe
            for seat in self._seats:
                if seat.worker is not None and seat.worker.pid == pid:
                    self._bury(seat, seat.worker, status)

    def _bury(self, seat: _Seat, worker: _Worker, status: int) -> None:
        self._on_report(worker)  # its last words
        worker.control.close()
        seat.worker, seat.predecessor = None, worker.pid
        cause = worker.fault.text if worker.fault is not None else ended(status)
        if self._recorder is not None and self._recorder[0] is worker:
            self._unrecorded[:0] = self._recorder[1]
            self._recorder = None
        if self._stop_by is not None:
            if not worker.finishing:
                log.error("worker_died", worker=worker.slot, pid=worker.pid, cause=cause)
            self._finish_drained()
            return
        if not self._announced:
            raise _startup_error(worker.fault, status)
        log.error("worker_died", worker=worker.slot, pid=worker.pid, cause=cause)
        lived = time.monotonic() - worker.began
        seat.short_lives = 1 if lived >= LONG_LIFE else seat.short_lives + 1
        seat.due = time.monotonic() + _back_off(seat.short_lives)
        self._record(WorkerDied(worker=worker.slot, pid=worker.pid, cause=cause))
        if self._reload is not None and self._reload.child is None:
            if self._reload.committed:
                self._passed_gate(worker)
            else:
                self._refuse_reload((f"worker {worker.slot} died while it opened the configuration: {cause}",))

    def _order(self, worker: _Worker, order: messages.Message) -> None:
        line = messages.encode(order)
        try:
            sent = worker.control.send(line)
        except BlockingIOError:
            sent = 0
        except OSError:
            return  # it is dead, and will be buried
        if sent < len(line):
            self._kill(worker, "it takes no orders")

    def _order_all(self, order: messages.Message) -> None:
        for worker in self._workers():
            self._order(worker, order)

    def _kill(self, worker: _Worker, reason: str) -> None:
        log.error("worker_killed", worker=worker.slot, pid=worker.pid, reason=reason)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    # --- audit events: a worker records them, the supervisor has no store ---

    def _record(self, *events: AuditEvent) -> None:
        self._unrecorded += events
        self._flush_events()

    def _flush_events(self) -> None:
        if self._recorder is not None or not self._unrecorded:
            return
        for worker in self._workers():
            if worker.serving and not worker.drained:
                events, self._unrecorded = self._unrecorded, []
                self._recorder = worker, events
                self._order(worker, messages.Record(events=messages.told(events)))
                return

    # --- stop ---

    def _begin_stop(self) -> None:
        if self._stop_began is not None:
            if time.monotonic() - self._stop_began >= SECOND_THOUGHT:
                log.warning("stop_hastened")
                self._order_all(messages.Hasten())
            return
        self._stop_began = time.monotonic()
        server = self._composition.settings.server
        limit = (server.drain_delay + server.shutdown_timeout).total_seconds()
        self._stop_by = time.monotonic() + limit + STOP_MARGIN
        log.info("server_stopping", workers=len(self._workers()))
        notify_stopping()
        for bound in self._sockets.values():
            bound.close()
        if self._reload is not None:
            self._drop_examination(self._reload)
            self._reload = None
        self._order_all(messages.Stop())

    def _finish_drained(self) -> None:
        """Let those end that have nothing more to do. The last is the one that feeds the sinks, so that it feeds all of it."""
        if self._stop_by is None:
            return
        keeper, *others = self._workers() or [None]
        for worker in others:
            if worker is not None and worker.drained and not worker.finishing:
                worker.finishing = True
                self._order(worker, messages.Finish())
        if keeper is not None and not others and keeper.drained and not keeper.finishing:
            keeper.finishing = True
            events = (*self._unrecorded, ServerStopped(pid=os.getpid()))
            self._order(keeper, messages.Finish(events=messages.told(events)))

    # --- reload ---

    def _begin_reload(self) -> None:
        if not self._reload_again or self._reload is not None or not self._announced or self._stop_by is not None:
            return
        self._reload_again = False
        self._reloads += 1
        notify_reloading()
        file = self._composition.settings.file
        composition, restart_needed, problems = self._composition, (), ()
        try:
            try:
                again = recompose(self._composition, file, self._environ)
                draft = composition = again.composition
                restart_needed = again.restart_needed
            except CompositionError as error:
                draft, problems = error.draft, problems_of(error)
            child = fork_for_answer(partial(_answer, draft, self._examination), forget=self._forget)
        except Exception as error:  # noqa: BLE001 - a plugin's model may raise anything; the server goes on
            self._refuse_reload((*problems, *problems_of(error)))
            return
        self._reload = _Reload(
            composition=composition,
            restart_needed=restart_needed,
            child=child,
            deadline=time.monotonic() + RELOAD_LIMIT,
            problems=problems,
        )
        self._selector.register(child.pipe, selectors.EVENT_READ, partial(self._on_answer, self._reload))

    def _on_answer(self, reload: _Reload) -> None:
        if reload.child is None:
            return
        data = os.read(reload.child.pipe, 65536)
        reload.answer += data
        if data:
            return
        self._drop_examination(reload)
        if not reload.answer:
            self._refuse_reload(("the examination of the configuration broke off",))
            return
        verdict = _verdict(reload.answer)
        if verdict.errors or reload.problems:
            self._refuse_reload(verdict.errors)
            return
        reload.permissive = verdict.permissive
        self._to_all(reload, messages.Prepare(reload=self._reloads, sha256=reload.composition.settings.sha256))

    def _heed_answer(self, worker: _Worker, report: messages.Prepared | messages.Refused) -> None:
        if isinstance(report, messages.Refused):
            self._refuse_reload(report.problems)
        else:
            self._passed_gate(worker)

    def _to_all(self, reload: _Reload, order: messages.Message) -> None:
        reload.deadline = time.monotonic() + RELOAD_LIMIT
        reload.waiting = {worker.slot for worker in self._workers()}
        self._order_all(order)
        if not reload.waiting:
            self._all_passed(reload)

    def _passed_gate(self, worker: _Worker) -> None:
        reload = self._reload
        if reload is None or worker.slot not in reload.waiting:
            return
        reload.waiting.discard(worker.slot)
        if not reload.waiting:
            self._all_passed(reload)

    def _all_passed(self, reload: _Reload) -> None:
        if not reload.committed:
            reload.committed = True
            self._composition, self._permissive = reload.composition, reload.permissive
            self._configure_logs(reload.composition.settings)
            self._to_all(reload, messages.Commit())
            return
        self._reload = None
        settings = reload.composition.settings
        log.info("configuration_loaded", file=str(settings.file), restart_needed=list(reload.restart_needed))
        self._record(
            ConfigurationLoaded(
                file=str(settings.file),
                sha256=settings.sha256,
                plugins=tuple(sorted(reload.composition.plugins.loaded)),
                permissive=reload.permissive,
                restart_needed=reload.restart_needed,
            )
        )
        self._reload_ended()

    def _refuse_reload(self, problems: Iterable[str]) -> None:
        """Leave everything as it is."""
        told = tuple(problems) if self._reload is None else (*self._reload.problems, *problems)
        if self._reload is not None:
            self._drop_examination(self._reload)
            self._order_all(messages.Abandon())
        self._reload = None
        file = str(self._composition.settings.file)
        log.error("configuration_refused", file=file, problems=list(told))
        self._record(ConfigurationRefused(file=file, problems=told))
        self._reload_ended()

    def _reload_ended(self) -> None:
        notify_ready()
        self._begin_reload()  # where another one was asked for meanwhile

    def _reload_is_late(self, reload: _Reload) -> None:
        if not reload.committed:
            self._refuse_reload((f"the configuration was not opened within {RELOAD_LIMIT:g} seconds",))
            return
        for worker in self._workers():
            if worker.slot in reload.waiting:
                self._kill(worker, "it has not taken the new configuration")
        reload.deadline = time.monotonic() + RELOAD_LIMIT

    def _drop_examination(self, reload: _Reload) -> None:
        child, reload.child = reload.child, None
        if child is None:
            return
        self._selector.unregister(child.pipe)
        os.close(child.pipe)
        if not reload.examined:
            os.kill(child.pid, signal.SIGKILL)  # it is there until it is reaped, even when it has ended


def _back_off(short_lives: int) -> float:
    """Seconds until a worker is replaced, after so many short lives in a row."""
    if short_lives <= 1:
        return 0.0
    return min(FIRST_PAUSE * 2.0 ** (short_lives - 2), LONGEST_PAUSE)


def _startup_error(fault: messages.Failed | None, status: int) -> KipukaError:
    """Why the first worker did not come to serve, as the command line tells errors."""
    if fault is None:
        return KipukaError(f"the worker ended before it served: {ended(status)}")
    match Fault(fault.kind):
        case Fault.OCCUPIED:
            return AlreadyRunning(fault.text)
        case Fault.NOT_READY:
            return StartupError(fault.text)
        case Fault.TRY_AGAIN:
            return BackendUnavailable(fault.text, reason="worker_not_started")
        case Fault.FAILED:
            return KipukaError(fault.text)
