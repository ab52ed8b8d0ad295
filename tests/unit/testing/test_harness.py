"""One object over a real store: what it recorded, and that the store is there again."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta

from kipuka.api import AuditSinkKind, Section, ServerStopped
from kipuka.testing.harness import open_audit_sink


class Nothing(Section):
    """A section without keys."""


@asynccontextmanager
async def opener(settings, services):
    await services.audit(ServerStopped(pid=7))
    yield object()


KIND = AuditSinkKind(name="sample", config=Nothing, open=opener)


async def test_what_was_recorded_can_be_read(tmp_path, kipuka_clock):
    async with open_audit_sink(KIND, {}, directory=tmp_path, clock=kipuka_clock) as opened:
        (record,) = await opened.audited()
    assert (record.event, record.data, record.time) == ("server_stopped", {"pid": 7}, kipuka_clock())


async def test_a_second_opening_finds_what_the_first_left_and_other_directories_are_empty(tmp_path, kipuka_clock):
    for count in (1, 2, 3):
        kipuka_clock.advance(timedelta(minutes=1))
        async with open_audit_sink(KIND, {}, directory=tmp_path, clock=kipuka_clock) as opened:
            assert len(await opened.audited()) == count
    other = tmp_path / "other"
    other.mkdir()
    async with open_audit_sink(KIND, {}, directory=other) as opened:
        assert [record.sequence for record in await opened.audited()] == [1]
