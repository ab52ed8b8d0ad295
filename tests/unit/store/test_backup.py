"""A copy of a database in use."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest

from kipuka.api import KipukaError, ServerStopped
from kipuka.audit.chain import seal
from kipuka.audit.verify import verify_store
from kipuka.store import events
from kipuka.store.backup import back_up
from kipuka.store.database import open_store


async def test_a_copy_made_while_a_server_writes_is_whole_and_of_one_moment(store, database, clock, tmp_path):
    copy = tmp_path / "copy.db"
    over = asyncio.Event()

    async def write():
        number = 0
        while not over.is_set():
            number += 1
            await store.audit(ServerStopped(pid=number))

    writing = [asyncio.create_task(write()) for _ in range(3)]
    await store.audit(ServerStopped(pid=0))
    size = await asyncio.to_thread(back_up, database, copy)
    over.set()
    await asyncio.gather(*writing)
    assert copy.stat().st_size == size
    assert copy.stat().st_mode & 0o777 == 0o600
    async with open_store(f"sqlite:///{copy}", node="beta", clock=clock, seal=seal) as other:
        report = await verify_store(other)
        assert report.intact
        copied = await other.read(partial(events.after, node="alpha", sequence=0, limit=100_000))
    written = await store.read(partial(events.after, node="alpha", sequence=0, limit=100_000))
    assert copied
    assert copied == written[: len(copied)]


def test_nothing_is_overwritten_and_nothing_half_left(database, tmp_path):
    copy = tmp_path / "copy.db"
    copy.write_text("mine")
    with pytest.raises(FileExistsError):
        back_up(database, copy)
    assert copy.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("copy")) == ["copy.db"]


@pytest.mark.parametrize("damage", [b"not a database at all, but long enough" * 50, b""])
def test_what_is_damaged_or_missing_is_told_and_leaves_nothing(tmp_path, damage):
    broken = tmp_path / "broken.db"
    if damage:
        broken.write_bytes(damage)
    with pytest.raises(KipukaError, match="cannot be copied"):
        back_up(broken, tmp_path / "copy.db")
    assert not [path for path in Path(tmp_path).iterdir() if path.name.startswith("copy")]
