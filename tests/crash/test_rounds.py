"""SIGKILL in the middle of a run of enrolments, again and again (guarantees 1, 2 and 7).

What a client holds is recorded, nothing was issued twice for one use, what a token lost was in flight and is a recorded certificate, and the
server recovers by itself. `verdict` judges, from the clients' journals and the database alone.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random

import pytest

from kipuka.testing.server import wait_until

from . import sites, verdict
from .crowd import Crowd

pytestmark = [pytest.mark.server, pytest.mark.crash]

ROUNDS = 4
SOAK_ROUNDS = 30
SEED = int(os.environ.get("SOAK_SEED") or secrets.randbelow(1 << 32))

CASES = [
    (kind, victim, window)
    for kind, victims in sites.KILLS.items()
    for victim in victims
    for window in sites.REPLAY_WINDOWS
]
LEFT_TO_THE_SOAK = {("PostgreSQL", "a worker", 600), ("PostgreSQL", "a server", 600)}


def cases(among):
    """As parameters of a test."""
    return [
        pytest.param(
            kind,
            victim,
            window,
            id=f"{victim} on {kind}, replay_window = {window}",
            marks=[pytest.mark.needs("postgres")] if kind == "PostgreSQL" else [],
        )
        for kind, victim, window in among
    ]


@contextmanager
def run(ground, *, kind, victim, window, rounds, each_round=None):
    """Rounds of: load, a kill in its midst, load again, verdict. Gives site and crowd for what else is to be asked."""
    print(f"SOAK_SEED={SEED}", flush=True)
    rng = Random(SEED)
    site = sites.SITES[kind](ground, {"est": {"replay_window": window}} if window else {})
    with Crowd(site, ground.folder / "journals") as crowd:
        for _ in range(rounds):
            crowd.make_tokens(rng, 20)
            crowd.begin()
            enough = crowd.received + rng.randint(5, 60)
            wait_until(partial(crowd.has_received, enough), timeout=60, what="certificates")
            time.sleep(rng.uniform(0, 0.03))  # at another step of those under way each time
            crowd.kill(victim, partial(site.kills[victim], rng), of_database=victim == sites.DATABASE)
            enough = crowd.received + 10
            wait_until(partial(crowd.has_received, enough), timeout=60, what="certificates again")
            crowd.end()
            site.wait_until_well()
            assert verdict.judge(crowd.journals, site.database_url, replay_window=window) == []
            if each_round is not None:
                each_round(site)
        print(f"{crowd.received} certificates, heard besides: {dict(crowd.heard)}", flush=True)
        yield site, crowd


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("kind", "victim", "window"), cases(case for case in CASES if case not in LEFT_TO_THE_SOAK))
def test_nothing_is_lost_and_nothing_doubled_whatever_is_killed(ground, *, kind, victim, window):
    """Guarantees 1, 2 and 7."""
    with run(ground, kind=kind, victim=victim, window=window, rounds=ROUNDS) as (site, crowd):
        site.audit_verify()
        script = [sys.executable, "-I", str(Path(verdict.__file__)), "--database", site.database_url]
        script += ["--replay-window", str(window)]
        done = subprocess.run([*script, *map(str, crowd.journals)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "nothing lost, nothing doubled\n", "")


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("kind", "victim", "window"), cases(CASES))
def test_thirty_kills_lose_nothing_and_double_nothing(ground, capsys, *, kind, victim, window):
    """The same for long, with `kipuka audit verify` after each round."""
    each_round = sites.Site.audit_verify
    with (
        capsys.disabled(),
        run(ground, kind=kind, victim=victim, window=window, rounds=SOAK_ROUNDS, each_round=each_round),
    ):
        pass
