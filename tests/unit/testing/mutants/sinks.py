"""A small audit sink that keeps the contract, and one that is broken for each promise.

In the room: `Contract`, which runs over `COLLECTORS`, and `MUTANTS`. Not in the room: real collectors (tests/unit/audit).
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from pathlib import Path

from kipuka.api import AuditSinkKind, Secret, Section
from kipuka.testing.contract import AuditSinkContract
from kipuka.testing.harness import OpenedAuditSink

from . import of_any_kind
from .light import Mutant, opened
from .of_any_kind import SECRET


class Collector:
    """The other end."""

    def __init__(self):
        self.texts: list[str] = []
        self.is_away = False


COLLECTORS: dict[Path, Collector] = {}


class Settings(Section):
    """A sample."""

    password: Secret
    """What the collector asks for."""


class Leaky(Section):
    """The same, with a secret in the open."""

    password: str
    """What the collector asks for."""


class Undescribed(Section):
    """The same, without a word on the key."""

    password: Secret


class Sink:
    """Keeps the contract."""

    def __init__(self, settings, services):
        self.password = (
            settings.password if isinstance(settings.password, str) else settings.password.get_secret_value()
        )
        self.services = services
        self.collector = COLLECTORS.setdefault(services.directory, Collector())

    async def write(self, records, /):
        await asyncio.sleep(0)
        self.reach()
        self.keep([record.to_json() for record in records])

    def reach(self):
        if self.collector.is_away:
            raise ConnectionError("the collector is away")

    def keep(self, texts):
        self.collector.texts += texts

    async def health(self):
        return "the collector is away" if self.collector.is_away else None


def kind_of(sink):
    @asynccontextmanager
    async def open_sample(settings, services):
        yield sink(settings, services)

    return AuditSinkKind(name="sample", config=Settings, open=open_sample)


class Contract(AuditSinkContract):
    """The contract over a sample."""

    patience = 0.2

    def __init__(self, kind=None):
        self.kind = kind or kind_of(Sink)

    def section(self, directory):
        return {"password": SECRET}

    def secrets(self):
        return (SECRET,)

    def open(self, directory):
        return opened(OpenedAuditSink, "sink", self.kind, self.settings(directory), directory)

    def received(self, directory):
        return list(COLLECTORS.setdefault(directory, Collector()).texts)

    @asynccontextmanager
    async def out_of_reach(self, directory):
        COLLECTORS[directory].is_away = True
        yield
        COLLECTORS[directory].is_away = False


class WritesTheJSONAnew(Sink):
    def keep(self, texts):
        super().keep([json.dumps(json.loads(text)) for text in texts])


class LeavesTheHashOut(Sink):
    async def write(self, records, /):
        self.reach()
        self.keep([record.line for record in records])


class TakesAHundred(Sink):
    def keep(self, texts):
        super().keep(texts[:100])


class SendsWhatIsSmallAhead(Sink):
    def keep(self, texts):
        if len(texts) == 1:
            self.collector.texts.insert(0, texts[0])
        else:
            super().keep(texts)


class ExpectsARecord(Sink):
    def keep(self, texts):
        assert texts[-1]
        super().keep(texts)


class SplitsLines(Sink):
    def keep(self, texts):
        super().keep("\n".join(texts).splitlines())


class CutsWhatIsLong(Sink):
    def keep(self, texts):
        super().keep([text[:4096] for text in texts])


class EmptiesTheData(Sink):
    async def write(self, records, /):
        await super().write(records)
        for record in records:
            record.data.clear()


class TakesABatchItKnowsForDone(Sink):
    def keep(self, texts):
        if not texts or texts[0] not in self.collector.texts:
            super().keep(texts)


class RefusesWhatItKnows(Sink):
    def keep(self, texts):
        if texts and texts[0] in self.collector.texts:
            raise ValueError("a duplicate")
        super().keep(texts)


class IsSilentAboutFailures(Sink):
    async def write(self, records, /):
        if not self.collector.is_away:
            await super().write(records)


class TellsThePasswordWhenItFails(Sink):
    def reach(self):
        if self.collector.is_away:
            raise ConnectionError(f"no collector took {self.password}")


class BeginsAnew(Sink):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.collector.texts.clear()


class TearsWhatIsCancelled(Sink):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.turn = asyncio.Lock()

    async def write(self, records, /):
        self.reach()
        async with self.turn:
            for record in records[:1]:
                self.collector.texts.append(record.to_json()[:20])
                await asyncio.sleep(0)
                self.collector.texts.pop()
            self.keep([record.to_json() for record in records])


class SwallowsCancellation(Sink):
    async def write(self, records, /):
        try:
            await super().write(records)
        except asyncio.CancelledError:
            self.services.log.info("cancelled")


class MixesUpWriters(Sink):
    async def write(self, records, /):
        self.batch = records
        await asyncio.sleep(0)
        await super().write(self.batch)


class Sleeps(Sink):
    async def write(self, records, /):
        time.sleep(0)  # noqa: ASYNC251
        await super().write(records)


class LogsThePassword(Sink):
    async def write(self, records, /):
        self.services.log.info("connecting", password=self.password)
        await super().write(records)


class ShowsThePassword(Sink):
    def __repr__(self):
        return f"ShowsThePassword({self.password!r})"


MUTANTS = {
    **of_any_kind.mutants(kind_of(Sink), leaky=Leaky, undescribed=Undescribed),
    **{
        sink.__name__: Mutant(test, kind_of(sink), also)
        for sink, test, *also in (
            (WritesTheJSONAnew, "test_a_record_arrives_as_it_is"),
            (LeavesTheHashOut, "test_a_record_arrives_as_it_is"),
            (TakesAHundred, "test_a_large_batch_arrives_in_order"),
            (SendsWhatIsSmallAhead, "test_batches_arrive_in_order"),
            (ExpectsARecord, "test_nothing_to_write_is_no_error"),
            (SplitsLines, "test_hostile_text_stays_within_its_record"),
            (CutsWhatIsLong, "test_a_large_record_arrives_whole"),
            (EmptiesTheData, "test_records_are_read_and_not_changed"),
            (TakesABatchItKnowsForDone, "test_the_same_records_again_are_no_error"),
            (
                RefusesWhatItKnows,
                "test_the_same_records_again_are_no_error",
                "test_the_event_loop_is_not_held_up",
                "test_a_cancelled_write_leaves_whole_records",
            ),
            (IsSilentAboutFailures, "test_what_is_not_safe_is_told"),
            (TellsThePasswordWhenItFails, "test_what_is_not_safe_is_told"),
            (BeginsAnew, "test_what_was_written_before_is_kept"),
            (TearsWhatIsCancelled, "test_a_cancelled_write_leaves_whole_records"),
            (SwallowsCancellation, "test_a_cancelled_write_leaves_whole_records"),
            (MixesUpWriters, "test_many_writes_at_once_tear_nothing"),
            (Sleeps, "test_the_event_loop_is_not_held_up"),
            (LogsThePassword, "test_no_secret_is_left_in_log_or_database"),
            (ShowsThePassword, "test_no_secret_is_left_in_log_or_database"),
        )
    },
}
