"""Taking turns to write: fair, freed by death, and limited in time."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from functools import partial

import pytest

from kipuka.api import BackendUnavailable, ServerStopped
from kipuka.audit.chain import seal
from kipuka.audit.verify import verify_store
from kipuka.store import events
from kipuka.store.database import open_store
from kipuka.store.turnstile import Turnstile, TurnstileBlocked
from kipuka.testing.server import wait_until

WRITE_IN_A_LOOP = """
import asyncio, sys, time
from datetime import UTC, datetime
from kipuka.api import ServerStopped
from kipuka.api import BackendUnavailable, ServerStopped
from kipuka.audit.chain import seal
from kipuka.store.database import open_store

async def main(url, node, seconds):
    units = within = 0
    async with open_store(url, node=node, clock=lambda: datetime.now(UTC), seal=seal) as store:
        print("ready", flush=True)
        begin = float(sys.stdin.readline())
        end = begin + seconds

        async def client():
            nonlocal units, within
            while (now := time.monotonic()) < end + 0.5:
                await store.audit(ServerStopped(pid=1))
                units += 1
                within += begin <= now < end

        await asyncio.gather(*(client() for _ in range(4)))
    print(units, within)

asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
"""


def run_writers(url, *nodes, seconds):
    """Let processes write at the same time, each as fast as it can.

    How many units each has committed, and how many of them within `seconds` in which all of them were at it.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE_IN_A_LOOP, url, node, str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for node in nodes
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    begin = time.monotonic() + 0.5  # one clock for all processes of a machine
    for process in processes:
        process.stdin.write(f"{begin}\n")
        process.stdin.flush()
    said = [process.communicate(timeout=40)[0].split() for process in processes]
    return [int(units) for units, _ in said], [int(within) for _, within in said]


async def look(url, clock):
    async with open_store(url, node="gamma", clock=clock, seal=seal) as store:
        heads = {head.node: head.sequence for head in await store.read(events.heads)}
        return heads, await verify_store(store)


def test_two_saturated_processes_write_one_file_fairly_with_one_chain_per_node(url, clock):
    """DESIGN, the store: with busy_timeout alone one writer starves the other. RULES K7: commands write beside the server."""
    counts, shares = run_writers(url, "alpha", "beta", seconds=2)
    assert min(shares) > 10
    assert max(shares) < 2 * min(shares)
    heads, report = asyncio.run(look(url, clock))
    assert heads == {"alpha": counts[0], "beta": counts[1]}
    assert report.intact


def test_two_processes_of_one_node_share_its_chain(url, clock):
    """RULES K7: a command writes to the chain of the node whose configuration it has."""
    counts, _ = run_writers(url, "alpha", "alpha", seconds=1)
    heads, report = asyncio.run(look(url, clock))
    assert heads == {"alpha": sum(counts)}
    assert report.intact


async def test_a_store_writes_in_its_turn_only(database, store):
    other = Turnstile(database, limit=timedelta(seconds=5))
    with other.turn():
        write = asyncio.create_task(store.audit(ServerStopped(pid=1)))
        await asyncio.sleep(0.2)
        assert not write.done()
    await write
    other.close()


async def test_a_turn_that_does_not_come_is_unavailable_and_nothing_was_written(database, store):
    """A process that was stopped within its turn holds up the others, but not for good."""
    store._dialect._turnstile._limit = 0.1
    other = Turnstile(database, limit=timedelta(seconds=5))
    with other.turn(), pytest.raises(BackendUnavailable):
        await store.audit(ServerStopped(pid=1))
    await store.audit(ServerStopped(pid=2))
    records = await store.read(partial(events.after, node="alpha", sequence=0, limit=9))
    assert [record.data["pid"] for record in records] == [2]
    other.close()


def test_who_waits_has_the_next_turn_also_when_the_last_one_wants_another_at_once(tmp_path):
    """Of two that always want a turn neither has two while the other waits."""
    stem = tmp_path / "t"
    a, b = Turnstile(stem, limit=timedelta(seconds=60)), Turnstile(stem, limit=timedelta(seconds=60))
    order = []

    def wait_in_line():
        with b.turn():
            order.append("b")

    for _ in range(20):
        with a.turn():
            order.append("a")
            waiting = threading.Thread(target=wait_in_line)
            waiting.start()
            wait_until(partial(somebody_is_in_line, stem), what="the one who waits")
        with a.turn():
            order.append("a")
        waiting.join()
    assert order == ["a", "b", "a"] * 20
    a.close()
    b.close()


def somebody_is_in_line(stem):
    """Whether the place of the next one is taken."""
    descriptor = os.open(stem.with_name(f"{stem.name}-next.lock"), os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_wait_has_a_limit(tmp_path):
    stem = tmp_path / "t"
    holder, other = Turnstile(stem, limit=timedelta(seconds=5)), Turnstile(stem, limit=timedelta(seconds=0.1))
    with holder.turn():
        began = time.monotonic()
        with pytest.raises(TurnstileBlocked), other.turn():
            pytest.fail("two have the turn")
        assert time.monotonic() - began >= 0.1
    with other.turn():
        pass
    holder.close()
    other.close()


def hold(stem, ready):
    with Turnstile(stem, limit=timedelta(seconds=5)).turn():
        ready.set()
        time.sleep(60)


@pytest.mark.crash
def test_a_turn_ends_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "t", ready))
    process.start()
    assert ready.wait(30)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    turnstile = Turnstile(tmp_path / "t", limit=timedelta(seconds=1))
    with turnstile.turn():
        pass
    turnstile.close()
    process.close()


def test_the_turn_is_given_back_after_an_exception(tmp_path):
    turnstile = Turnstile(tmp_path / "t", limit=timedelta(seconds=0.1))
    with pytest.raises(KeyError), turnstile.turn():
        raise KeyError
    with turnstile.turn():
        pass
    turnstile.close()


def test_the_lock_files_are_the_owners_only(tmp_path):
    before = os.umask(0)
    try:
        Turnstile(tmp_path / "t", limit=timedelta(seconds=1)).close()
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
