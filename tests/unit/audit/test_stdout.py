"""The stdout sink."""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from functools import partial

import pytest
from pydantic import ValidationError

from kipuka.api import ServerStopped
from kipuka.audit.stdout import StdoutSinkSettings, kipuka_audit_sinks, open_stdout_sink
from kipuka.audit.verify import verify_lines
from kipuka.store import events


@pytest.fixture
async def records(store):
    for number in range(3):
        await store.audit(ServerStopped(pid=number))
    return await store.read(partial(events.after, node="alpha", sequence=0, limit=10))


def test_its_kind_is_named_as_its_type_and_has_nothing_to_set():
    """RULES K2."""
    [kind] = kipuka_audit_sinks()
    assert (kind.name, kind.config) == ("stdout", StdoutSinkSettings)
    with pytest.raises(ValidationError):
        StdoutSinkSettings.model_validate({"path": "x"})


async def test_each_event_is_one_line_of_json(services, records, capsys):
    async with open_stdout_sink(StdoutSinkSettings(), services) as sink:
        await sink.write(records)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [record.to_json() for record in records]
    assert verify_lines(lines).intact


async def test_a_reader_that_is_slow_does_not_hold_up_the_event_loop_and_takes_one_thread(
    services, records, monkeypatch
):
    gate = threading.Event()

    class Slow(io.StringIO):
        def flush(self):
            gate.wait(20)

    monkeypatch.setattr(sys, "stdout", Slow())
    async with open_stdout_sink(StdoutSinkSettings(), services) as sink:
        slow = asyncio.create_task(sink.write(records))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(15):
            with pytest.raises(OSError, match="has not come to its end"):
                await sink.write(records)
        gate.set()
        await slow


async def test_a_reader_that_has_gone_is_an_error(services, records, monkeypatch):
    class Closed(io.StringIO):
        def write(self, _text):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    async with open_stdout_sink(StdoutSinkSettings(), services) as sink:
        with pytest.raises(BrokenPipeError):
            await sink.write(records)
