"""Two nodes of two workers each on one PostgreSQL database, as several machines would be.

In the room: `Cluster`, and a look at all the certificates that it has issued, when it ends. Not in the room: PostgreSQL itself (`kipuka.testing.postgresql`).
"""

from __future__ import annotations

from contextlib import ExitStack

from kipuka.testing.server import Deployment, wait_until
from kipuka.testing.toml import merged

PATIENT = {
    "otp": {
        "hash_algorithm": "sha256-hmac"
    },  # five failures are few: a test that fails more often calls from several addresses
    "server": {"max_requests_per_minute_per_address": 1_000_000, "max_connections_per_address": 4000, "workers": 2},
}


class Cluster:
    """Nodes `alpha` and `beta` with the same keys, each with a folder and a port. A context manager that runs both.

    `examine` is the fixture `kipuka_examine`: what it says against what the nodes leave in the database is a failure.
    """

    def __init__(self, server, folder, changes=None, *, examine, environ=None):
        self._examine = examine
        self.postgresql = server.create_database()
        alpha = Deployment.create(folder / "alpha", db=self.postgresql.url, environ=environ)
        beta = alpha.copy(folder / "beta")
        for name, deployment in (("alpha", alpha), ("beta", beta)):
            deployment.configure(merged(PATIENT, changes or {}))
            deployment.configure({"server": {"node": name}})
        self.alpha, self.beta = alpha.serve(), beta.serve()
        self.nodes = (self.alpha, self.beta)

    def __enter__(self):
        with ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
                node.wait_for_workers(node.deployment.settings["server"]["workers"])
            self._stack = stack.pop_all()
        return self

    def __exit__(self, failure, *_):
        self._stack.close()
        if failure is None:  # else the database may be dead, and what has failed is told already
            faults = self._examine(self.alpha.deployment)
            assert not faults, "\n".join(faults)
        unexpected = [line for node in self.nodes if not node.tracebacks_expected for line in node.tracebacks()]
        assert not unexpected, "\n".join(node.stderr for node in self.nodes)

    def rows(self, statement, *arguments):
        """What is in the database."""
        return self.postgresql.execute(statement, *arguments)

    def verify(self):
        """The audit chains of both nodes are whole, once each has a signed head: a second after its first event at the latest."""
        unsigned = (
            "SELECT node FROM audit_heads WHERE node NOT IN"
            " (SELECT node FROM audit_events WHERE event = 'audit_head_signed')"
        )
        wait_until(lambda: not self.rows(unsigned), what="a signed head of every node")
        self.alpha.deployment.kipuka("audit", "verify")
