"""What a run of clients is set on: servers, their database, and what can be killed of them.

In the room: `Site`, and one builder for each kind of deployment (`SITES`). Not in the room: clients (`crowd`), verdicts (`verdict`), and
trouble with the disk (`trouble`).

A kind that is added here is tried by every crash test: it names what can be killed, and how a client finds a server.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from kipuka.testing.client import ESTClient
from kipuka.testing.pki import Credential
from kipuka.testing.postgresql import PostgreSQLServer
from kipuka.testing.server import Deployment, RunningServer, Token, wait_until
from kipuka.testing.toml import merged

from ..server.cluster import Cluster  # noqa: TID252 - tests are no package that is installed
from .verdict import WORKED_ON, read_database

WORKERS = 2
TOGETHER: Mapping[str, Any] = {
    "server": {"workers": WORKERS},
    "profile": [{"name": "default", "unique_keys": False}],
    "otp": {"max_failures": 10000},  # who asks again for an answer that was lost may be told so
}
"""The configuration of a server of a site."""

DATABASE = "PostgreSQL"
"""The kill whose victim is the database. A commit that was under way then may have happened though the client heard 503."""


@dataclass
class Ground:
    """What a site is built on: how single servers are made, a folder of the test's own, and what ends with the test.

    `postgresql` gives a PostgreSQL server that runs, and that may be killed. `examine` is the fixture `kipuka_examine`.
    """

    kipuka_servers: Callable[..., RunningServer]
    postgresql: Callable[[], PostgreSQLServer]
    examine: Callable[[Deployment], Sequence[str]]
    folder: Path
    stack: contextlib.ExitStack


Kill = Callable[[Random], Callable[[], object] | None]
"""Kills at once, and gives what then starts again what does not do so itself."""


@dataclass
class Site:
    """Running servers that share one database. `kills` says what can be killed, by name."""

    servers: Sequence[RunningServer]
    database_url: str
    kills: Mapping[str, Kill]
    _turns: Any = field(default_factory=itertools.count)

    @property
    def addresses(self) -> list[tuple[str, int]]:
        return [(server.host, server.port) for server in self.servers]

    def client(self, certificate: Credential | None = None) -> ESTClient:
        """A client of the servers in turn, as a load balancer would have it; each call asks the next one."""
        return self.servers[next(self._turns) % len(self.servers)].client(certificate)

    def make_token(self, client_id: str, **more: object) -> Token:
        return self.servers[0].make_token(client_id, **more)

    def wait_until_well(self) -> None:
        """Every server has its workers, and nothing is left of what was under way."""
        for server in self.servers:
            server.wait_for_workers(WORKERS)
        wait_until(self.is_settled, timeout=60, what="the end of everything that was under way")

    def is_settled(self) -> bool:
        rows = read_database(self.database_url)
        return not any(row["state"] in WORKED_ON for row in rows["enrolments"])

    def audit_verify(self) -> None:
        """`kipuka audit verify` finds nothing, and every sink has every event of its server, in order."""
        self.servers[0].deployment.kipuka("audit", "verify")
        for server in self.servers:
            wait_until(lambda server=server: is_whole(server), what="every event in the sink")


def is_whole(server: RunningServer) -> bool:
    """Whether the file has every number from the first on up to the last. At least once: a batch comes again after a crash."""
    sequences = {record["sequence"] for record in server.audit()}
    return sequences == set(range(1, max(sequences) + 1))


def kill_worker(servers: Sequence[RunningServer]) -> Kill:
    """SIGKILL to one worker. Its supervisor puts another in its place."""

    def act(rng: Random) -> None:
        os.kill(rng.choice(rng.choice(servers).workers()), signal.SIGKILL)

    return act


def kill_server(servers: Sequence[RunningServer]) -> Kill:
    """SIGKILL to every process of one server at once; then it is started, as a service manager would."""

    def act(rng: Random) -> Callable[[], object]:
        server = rng.choice(servers)
        server.kill()
        return server.start

    return act


def kill_postgresql(postgresql: PostgreSQLServer) -> Kill:
    """An immediate stop, or SIGKILL to every process of it; then it is started, as a service manager would."""

    def act(rng: Random) -> Callable[[], object]:
        rng.choice((postgresql.kill, postgresql.destroy))()
        return postgresql.start

    return act


def sqlite(ground: Ground, changes: Mapping[str, Any], *, prepare=None, environ=None) -> Site:
    """One server of two workers over one file. `prepare` is given the deployment before the start."""
    server = ground.kipuka_servers(merged(TOGETHER, changes), start=False, environ=environ)
    if prepare is not None:
        prepare(server.deployment)
    server.start()
    server.wait_for_workers(WORKERS)
    servers = [server]
    return Site(
        servers=servers,
        database_url=f"sqlite:///{server.deployment.database}",
        kills={"a worker": kill_worker(servers), "the server": kill_server(servers)},
    )


def postgresql(ground: Ground, changes: Mapping[str, Any], *, server: PostgreSQLServer | None = None) -> Site:
    """Two servers of two workers each on one PostgreSQL: the ground's own, or `server`."""
    database = server or ground.postgresql()
    cluster = Cluster(database, ground.folder, merged(TOGETHER, changes), examine=ground.examine)
    ground.stack.enter_context(cluster)
    return Site(
        servers=cluster.nodes,
        database_url=cluster.postgresql.url,
        kills={
            "a worker": kill_worker(cluster.nodes),
            "a server": kill_server(cluster.nodes),
            DATABASE: kill_postgresql(database),
        },
    )


SITES: Mapping[str, Callable[..., Site]] = {"SQLite": sqlite, "PostgreSQL": postgresql}
KILLS: Mapping[str, Sequence[str]] = {
    "SQLite": ("a worker", "the server"),
    "PostgreSQL": ("a worker", "a server", DATABASE),
}
"""What each kind of site can have killed, known before one is built: a test is made of each."""

REPLAY_WINDOWS: Sequence[int] = (0, 600)
"""The `[est] replay_window` that each run of kills is made with, in seconds. 0 is what a server has where nothing is written."""
