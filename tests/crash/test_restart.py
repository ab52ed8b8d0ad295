"""A restart under load: each server in turn ends by SIGTERM and is started again. Nobody hears worse than a connection to open anew."""

from __future__ import annotations

from functools import partial
from itertools import cycle, islice
from random import Random

import pytest

from kipuka.testing.server import wait_until

from . import sites, verdict
from .crowd import Crowd

pytestmark = [pytest.mark.server, pytest.mark.crash, pytest.mark.timeout(300)]

RESTARTS = 2


@pytest.mark.parametrize(
    ("kind", "window"),
    [
        pytest.param("SQLite", 0, id="SQLite"),
        pytest.param("PostgreSQL", 0, id="PostgreSQL", marks=pytest.mark.needs("postgres")),
        pytest.param("PostgreSQL", 600, id="PostgreSQL, replay_window = 600", marks=pytest.mark.needs("postgres")),
    ],
)
def test_a_rolling_restart_loses_nothing_and_breaks_off_no_answer(ground, kind, window):
    """No kill is written down, so the verdict takes no lost answer at all, though with the window off nothing may be asked for again."""
    site = sites.SITES[kind](ground, {"est": {"replay_window": window}} if window else {})
    with Crowd(site, ground.folder / "journals") as crowd:
        crowd.make_tokens(Random(7030), 20)
        crowd.begin()
        for server in islice(cycle(site.servers), RESTARTS):
            wait_until(partial(crowd.has_received, crowd.received + 15), timeout=60, what="certificates")
            assert server.stop() == 0
            server.start()
            server.wait_for_workers(sites.WORKERS)
        wait_until(partial(crowd.has_received, crowd.received + 15), timeout=60, what="certificates again")
        crowd.end()
        site.wait_until_well()
        assert crowd.not_retriable == []
        assert set(crowd.heard) <= {"ConnectionRefusedError", "ConnectionResetError"}
        assert verdict.judge(crowd.journals, site.database_url, replay_window=window) == []
    site.audit_verify()
