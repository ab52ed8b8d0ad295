"""The server inside the test's own process, which can be stopped at each named step of an enrolment.

In the room: `InProcessServer` and `Gate`. Not in the room: SIGTERM, SIGKILL and what a process does
(`kipuka.testing.server`).

    with InProcessServer(deployment) as server:
        gate = server.stop_at("sign")
        connection.send(request)
        gate.wait()           # the server stands before that step
        connection.abort()    # the client leaves
        gate.open()           # the server goes on
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from kipuka.http.app import run
from kipuka.runtime import Runtime, compose, open_foundation, open_runtime, utc_now
from kipuka.testing.client import ESTClient, TLSVersion
from kipuka.testing.pki import Credential
from kipuka.testing.server import Deployment

__all__ = ["STEPS", "Gate", "InProcessServer"]

STEPS = (
    "receive",
    "read_csr",
    "authenticate",
    "reserve",
    "authorise",
    "prove_possession",
    "sign",
    "check_certificate",
    "record",
    "answer",
)
"""The named steps of an enrolment, in order (docs/explanation/enrolment-cycle.md)."""

WAIT = 30.0


class Gate:
    """Holds the next request that comes to a step. May be used from the test's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._open = asyncio.Event()
        self._reached = threading.Event()
        self._fault: BaseException | None = None

    def wait(self, timeout: float = WAIT) -> None:
        """Return when a request stands before the step. Raises TimeoutError."""
        if not self._reached.wait(timeout):
            msg = "no request came to this step"
            raise TimeoutError(msg)

    def open(self) -> None:
        """Let the request go on."""
        self._loop.call_soon_threadsafe(self._open.set)

    def fail(self, fault: BaseException) -> None:
        """Let the step fail with this exception instead."""
        self._fault = fault
        self.open()

    async def hold(self) -> None:
        """The server's side."""
        self._reached.set()
        await self._open.wait()
        if self._fault is not None:
            raise self._fault


class InProcessServer:
    """A server over a deployment, in a thread with an event loop of its own; a context manager."""

    def __init__(self, deployment: Deployment, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.deployment = deployment
        self.steps: list[str] = []  # every step any request has come to, in order
        self._clock = clock
        self._gates: dict[str, Gate] = {}
        self._held: list[Gate] = []
        self._started = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._fault: BaseException | None = None
        self._runtime: Runtime | None = None
        self._port = 0
        self._thread = threading.Thread(target=self._main, name="kipuka-in-process")

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(WAIT):
            msg = "the server did not start"
            raise TimeoutError(msg)
        if self._fault is not None:
            raise self._fault
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        loop, stop = self._loop, self._stop
        if loop is not None and stop is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(stop.set)
            for gate in (*self._gates.values(), *self._held):
                gate.open()
        self._thread.join(WAIT)
        if self._fault is not None:
            raise self._fault

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def runtime(self) -> Runtime:
        """What is open; it belongs to the server's thread."""
        if self._runtime is None:
            msg = "the server is not running"
            raise RuntimeError(msg)
        return self._runtime

    def client(self, certificate: Credential | None = None, *, tls_version: TLSVersion | None = None) -> ESTClient:
        """A client that trusts this server."""
        return ESTClient(
            host="127.0.0.1",
            port=self._port,
            trust=self.deployment.trust,
            certificate=certificate,
            tls_version=tls_version,
        )

    def stop_at(self, step: str) -> Gate:
        """Hold the next request that comes to that step."""
        if self._loop is None:
            msg = "the server is not running"
            raise RuntimeError(msg)
        gate = self._gates[step] = Gate(self._loop)
        return gate

    def come_to_rest(self) -> None:
        """Return when no connection is served and every enrolment has come to its end. Raises TimeoutError."""
        if self._loop is None:
            msg = "the server is not running"
            raise RuntimeError(msg)
        asyncio.run_coroutine_threadsafe(self._come_to_rest(), self._loop).result(WAIT)

    async def _come_to_rest(self) -> None:
        while served := [task for task in asyncio.all_tasks() if task.get_name().startswith("connection ")]:
            await asyncio.wait(served)
        await self.runtime.enrolment.drain()

    async def _checkpoint(self, step: str) -> None:
        self.steps.append(step)
        gate = self._gates.pop(step, None)
        if gate is not None:
            self._held.append(gate)
            await gate.hold()

    def _main(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as fault:  # noqa: BLE001 - it is raised again in the test's thread
            self._fault = fault
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        composition = compose(self.deployment.config_file, {})
        async with (
            open_foundation(composition, clock=self._clock) as foundation,
            open_runtime(composition, foundation, checkpoint=self._checkpoint) as runtime,
        ):
            self._runtime = runtime
            await run(runtime, stop=self._stop, started=self._note_start)

    def _note_start(self, addresses: Sequence[tuple[str, int]]) -> None:
        self._port = addresses[0][1]
        self._started.set()
