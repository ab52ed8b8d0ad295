"""Opening a sample without a database: the contract is run on a hundred mutants, and none of them needs one.

In the room: services that run here, and a store that is a dictionary with a roll-back. Not in the room: any sample.
"""

from __future__ import annotations

import asyncio
import copy
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass
class Mutant:
    """A sample that is broken in one way: the test that must see it, and those that cannot help seeing it too."""

    test: str
    kind: Any
    also: tuple[str, ...] = ()


class Log:
    def __init__(self, entries):
        self._entries = entries

    def info(self, event, **members):
        self._entries.append(json.dumps({"event": event, **members}, default=repr))


class Services:
    """What a sample borrows."""

    def __init__(self, entries):
        self.log = Log(entries)

    def clock(self):
        return datetime.now(UTC)

    async def run_blocking(self, fn, /, *args, **kwargs):
        return await asyncio.to_thread(fn, *args, **kwargs)


class Tx:
    """A transaction over a dictionary."""

    def __init__(self, rows):
        self.rows = rows


class LightStore:
    """All rows of one directory. What a unit raises undoes what it did."""

    def __init__(self, rows):
        self.rows = rows

    async def write(self, fn):
        before = copy.deepcopy(self.rows)
        try:
            return fn(Tx(self.rows))
        except BaseException:
            self.rows.clear()
            self.rows.update(before)
            raise


ROWS: dict[Any, dict[str, Any]] = {}
"""By directory, as a database file would be there after a restart."""


@asynccontextmanager
async def opened(made, member, kind, settings, directory):
    """The kind's object as `kipuka.testing.harness` would give it, with the light things around it."""
    entries: list[str] = []
    services = Services(entries)
    services.rows = ROWS.setdefault(directory, {})
    services.directory = directory
    async with kind.open(settings, services) as subject:
        around = {
            "services": services,
            "store": LightStore(services.rows),
            "database": directory / "none",
            "log": entries,
        }
        yield made(**{member: subject}, **around)
