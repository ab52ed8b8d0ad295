"""The kit as pytest fixtures. A plugin's suite asks for them with one line in its top `conftest.py`:

    pytest_plugins = ["kipuka.testing.fixtures"]

In the room: `kipuka_template`, `kipuka_servers`, `kipuka_server`, `kipuka_examine` and `kipuka_postgresql`. Not in the room: anything that is imported unasked: the
kit is no `pytest11` entry point, so that a site that installs kipuka does not find strange fixtures in its own tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from kipuka.testing.clock import FakeClock
from kipuka.testing.pki import Credential
from kipuka.testing.postgresql import PostgreSQLServer
from kipuka.testing.server import Deployment, RunningServer, ServerDied

__all__ = ["ServerFactory", "kipuka_examine", "kipuka_postgresql", "kipuka_server", "kipuka_servers", "kipuka_template"]

ServerFactory = Callable[..., RunningServer]

_PATIENT: Mapping[str, object] = {
    "otp": {"hash_algorithm": "sha256-hmac", "max_failures": 10000},
    "server": {"max_requests_per_minute_per_address": 1_000_000, "max_connections_per_address": 4000},
    "audit": {"flood_threshold": 100_000},
}
"""Tests fail to log in all the time, and ask a lot, from one address: they must not lock each other out, nor wait for argon2, nor look for
their failures in a sum."""


@pytest.fixture(scope="session")
def kipuka_template(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """A deployment as `kipuka init` makes it, once in a run, to be copied and never served."""
    return Deployment.create(tmp_path_factory.mktemp("kipuka") / "template")


@pytest.fixture(scope="session")
def kipuka_examine() -> Callable[[Deployment], Sequence[str]]:
    """What is said against a server's deployment once it has stopped, one text each: nothing. A suite that examines what its servers leave
    behind, such as every certificate (`Deployment.issued`), has a fixture of this name that says more.
    """
    return lambda _deployment: ()


@pytest.fixture(scope="module")
def kipuka_servers(
    kipuka_template: Deployment,
    tmp_path_factory: pytest.TempPathFactory,
    kipuka_examine: Callable[[Deployment], Sequence[str]],
) -> Iterator[ServerFactory]:
    """Starts servers: `kipuka_servers(changes, start=True, as_shipped=False)`.

    `changes` are laid over the configuration that `kipuka init` wrote. Unless `as_shipped`, failures do not lock the
    test's own address and are audited one by one, and token hashes are quick. All stop when the module ends, and none may have logged a
    traceback: a test that expects one says so with `server.tracebacks_expected = True`.
    """
    running: list[RunningServer] = []

    def make(
        changes: Mapping[str, object] | None = None,
        *,
        start: bool = True,
        as_shipped: bool = False,
        environ: Mapping[str, str] | None = None,
    ) -> RunningServer:
        deployment = kipuka_template.copy(tmp_path_factory.mktemp("server") / "kipuka", environ=environ)
        if not as_shipped:
            deployment.configure(_PATIENT)
        deployment.configure(changes or {})
        server = deployment.serve()
        running.append(server)
        return server.start() if start else server

    yield make
    faults: list[str] = []
    for server in running:
        if server.is_running:
            try:
                server.stop()
            except ServerDied as died:  # it was killed; the others are to be stopped all the same
                faults.append(str(died))
        if not server.tracebacks_expected and server.tracebacks():
            faults.append("a server logged what nobody expected:\n" + server.stderr)
        faults += kipuka_examine(server.deployment)
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.fixture(scope="module")
def kipuka_server(kipuka_servers: ServerFactory) -> RunningServer:
    """A running server as `kipuka init` configures it, one per module."""
    return kipuka_servers()


@pytest.fixture
def kipuka_device(kipuka_server: RunningServer) -> Credential:
    """A device that has enrolled at `kipuka_server`: its key and certificate, for `kipuka_server.client(kipuka_device)`."""
    return kipuka_server.enrol()


@pytest.fixture
def kipuka_clock() -> FakeClock:
    """A clock that stands still until the test moves it, for what is opened with `kipuka.testing.harness`."""
    return FakeClock()


@pytest.fixture(scope="session")
def kipuka_postgresql() -> Iterator[PostgreSQLServer]:
    """A running PostgreSQL, one for all tests of this process; each makes databases of its own there."""
    with PostgreSQLServer() as server:
        yield server
