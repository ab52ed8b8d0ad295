"""Kill the process at any instant: what was answered is there (DESIGN guarantee 1)."""

from __future__ import annotations

import asyncio
import random
import select
import subprocess
import sys
import time

import pytest
import sqlalchemy

from kipuka.audit.chain import seal
from kipuka.audit.verify import verify_store
from kipuka.store.database import open_store
from kipuka.store.tables import admin_tokens

COMMIT_IN_A_LOOP = """
import asyncio, os, sys
from datetime import UTC, datetime
from functools import partial
from kipuka.audit.chain import seal
from kipuka.store import admin_tokens
from kipuka.store.database import open_store

async def main(url, start):
    async with open_store(url, node="alpha", clock=lambda: datetime.now(UTC), seal=seal, exclusive=True) as store:
        async def client(number):
            while True:
                name = f"{start}-{number}"
                await store.write(partial(admin_tokens.create, id=name, sha256=name, description=""))
                os.write(1, f"{name}\\n".encode())  # the client has its answer
                number += 1000
        await asyncio.gather(*(client(number) for number in range(20)))

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


def run_and_kill(url, start, seconds):
    """Which units were answered until the process was killed, so many seconds after the first answer."""
    process = subprocess.Popen([sys.executable, "-c", COMMIT_IN_A_LOOP, url, str(start)], stdout=subprocess.PIPE)
    assert select.select([process.stdout], [], [], 30)[0], "it never answered"
    time.sleep(seconds)
    process.kill()
    output, _ = process.communicate()
    return output.decode().split("\n")[:-1]


async def look(url, clock):
    async with open_store(url, node="alpha", clock=clock, seal=seal, exclusive=True) as store:
        there = await store.read(lambda tx: tx.execute(sqlalchemy.select(admin_tokens.c.id)).scalars().all())
        return set(there), await verify_store(store)


@pytest.mark.crash
def test_every_answered_unit_is_there_after_kill_9_and_the_chain_is_whole(url, clock):
    answered: set[str] = set()
    randomness = random.Random(7)
    for start in range(20):
        answered.update(run_and_kill(url, start, randomness.uniform(0.01, 0.3)))
        if start >= 3 and len(answered) > 40:
            break
    assert len(answered) > 40
    there, report = asyncio.run(look(url, clock))
    assert answered <= there
    assert report.intact
    assert [chain.events for chain in report.chains] == [len(there)], "each unit with its event, or neither"
