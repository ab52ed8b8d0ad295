# ruff: noqa: S101 - these are tests
r"""The promises every audit sink keeps, as a pytest class to derive from.

    class TestLedger(AuditSinkContract):
        kind = LEDGER

        def section(self, directory):
            return {"book": "ledger.jsonl"}

        def received(self, directory):
            book = directory / "ledger.jsonl"
            return book.read_bytes().decode().split("\n")[:-1] if book.exists() else []

In the room: `AuditSinkContract`, whose tests run with pytest alone. Not in the room: what one sink promises beyond this; that is the
deriving class's to add.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from kipuka.api import AuditRecord, AuditSinkKind
from kipuka.testing.contract.kind import PARALLEL, TURNS, KindContract, cancel_after
from kipuka.testing.contract.loop import what_blocks
from kipuka.testing.harness import OpenedAuditSink, open_audit_sink
from kipuka.testing.records import HOSTILE, make_records

__all__ = ["AuditSinkContract"]

MANY = 500
"""As many records as the host gives in one `write`."""

_PAUSE = 0.025  # seconds between two attempts, as between two of the host's


class AuditSinkContract(KindContract[AuditSinkKind[Any], OpenedAuditSink]):
    """Derive, name the class `Test...`, and say what has arrived at the other end.

    What the host does is done here: one `write` at a time, the same records again after one that raised, everything from where it
    stopped after a restart (at least once, in order).
    """

    kind: ClassVar[AuditSinkKind[Any]]
    receipts: ClassVar[bool] = (
        True  # when `write` returns the other end has them; False: it cannot know (datagrams, syslog)
    )
    largest: ClassVar[int] = 64 * 1024  # octets of the largest record that arrives whole

    def received(self, directory: Path) -> Sequence[str]:
        """What has arrived so far, in order: the JSON of each record, whole or torn, and nothing left out."""
        raise NotImplementedError

    def open(self, directory: Path) -> Any:
        """The sink, opened over a store in `directory`."""
        return open_audit_sink(self.kind, self.section(directory), directory=directory, storages=self.storages)

    def subject(self, opened: OpenedAuditSink) -> object:
        """The sink itself."""
        return opened.sink

    async def working(self, opened: OpenedAuditSink, directory: Path) -> object:
        """Another record arrives."""
        before = len(self.received(directory))
        await opened.sink.write(make_records(1, first=before + 1))
        return await self.arrived(directory, before + 1)

    async def attempted(self, opened: OpenedAuditSink, directory: Path) -> None:
        """A record is written, whatever becomes of it."""
        await self._ended(opened, make_records(1, first=len(self.received(directory)) + 1))

    async def arrived(self, directory: Path, count: int) -> list[dict[str, Any]]:
        """What arrived, once it is `count` records or more; each is whole."""
        for _ in range(1 if self.receipts else int(self.patience / _PAUSE)):
            there = self.received(directory)
            if len(there) >= count:
                break
            await asyncio.sleep(_PAUSE)
        there = self.received(directory)
        assert len(there) >= count, f"{count} records were written and {len(there)} arrived"
        return [_whole(text) for text in there]

    async def deliver(self, opened: OpenedAuditSink, records: Sequence[AuditRecord]) -> None:
        """Write as the host does: until it returns."""
        for _ in range(int(self.patience / _PAUSE)):
            try:
                async with asyncio.timeout(30):
                    await opened.sink.write(records)
            except Exception:  # noqa: BLE001 - a sink may raise anything; the host then asks again
                await asyncio.sleep(_PAUSE)
            else:
                return
        pytest.fail("the sink took nothing any more")

    # -- what arrives ----------------------------------------------------------------------------------------------

    def test_a_record_arrives_as_it_is(self, tmp_path: Path) -> None:
        """RULES I1: with its hash, so that `kipuka audit verify` can check the copy. A batch may be one record."""

        async def test(opened: OpenedAuditSink) -> None:
            (record,) = make_records(1)
            await opened.sink.write([record])
            await self.arrived(tmp_path, 1)
            (text,) = self.received(tmp_path)
            assert json.loads(text) == json.loads(record.to_json())
            assert text in {record.to_json(), record.to_ascii_json()}, "the canonical JSON was written anew"

        self.run(tmp_path, test)

    def test_a_large_batch_arrives_in_order(self, tmp_path: Path) -> None:
        """`AuditSink.write`: the host gives up to 500 at a time."""

        async def test(opened: OpenedAuditSink) -> None:
            records = make_records(MANY)
            await opened.sink.write(records)
            assert _numbers(await self.arrived(tmp_path, MANY)) == _numbers_of(records)

        self.run(tmp_path, test)

    def test_batches_arrive_in_order(self, tmp_path: Path) -> None:
        """`AuditSink`: in order, over batches of every size."""

        async def test(opened: OpenedAuditSink) -> None:
            records, begin = make_records(42), 0
            for size in (1, 2, 1, 30, 1, 7):
                await opened.sink.write(records[begin : begin + size])
                begin += size
            assert _numbers(await self.arrived(tmp_path, 42)) == _numbers_of(records)

        self.run(tmp_path, test)

    def test_nothing_to_write_is_no_error(self, tmp_path: Path) -> None:
        """An empty batch leaves nothing behind, and the next one arrives."""

        async def test(opened: OpenedAuditSink) -> None:
            await opened.sink.write([])
            await opened.sink.write(make_records(1))
            assert _numbers(await self.arrived(tmp_path, 1)) == [1]

        self.run(tmp_path, test)

    def test_hostile_text_stays_within_its_record(self, tmp_path: Path) -> None:
        """Line breaks, U+2028, bidirectional controls, quotes: one record stays one record, and says what it said."""

        async def test(opened: OpenedAuditSink) -> None:
            records = make_records(len(HOSTILE), texts=HOSTILE)
            await opened.sink.write(records)
            arrived = await self.arrived(tmp_path, len(records))
            assert [one["data"]["reason"] for one in arrived] == list(HOSTILE)
            assert _numbers(arrived) == _numbers_of(records)

        self.run(tmp_path, test)

    def test_a_large_record_arrives_whole(self, tmp_path: Path) -> None:
        """`largest`: a record is not cut, unless the sink says where."""

        async def test(opened: OpenedAuditSink) -> None:
            room = self.largest - len(make_records(1, filling="")[0].to_json())
            records = make_records(1, filling="x" * room)
            assert len(records[0].to_json()) == self.largest
            await opened.sink.write(records)
            (arrived,) = await self.arrived(tmp_path, 1)
            assert arrived["data"]["filling"] == "x" * room

        self.run(tmp_path, test)

    def test_records_are_read_and_not_changed(self, tmp_path: Path) -> None:
        """The same values go to every sink."""

        async def test(opened: OpenedAuditSink) -> None:
            records = make_records(3)
            before = copy.deepcopy(records)
            await opened.sink.write(records)
            assert records == before

        self.run(tmp_path, test)

    # -- at least once ---------------------------------------------------------------------------------------------

    def test_the_same_records_again_are_no_error(self, tmp_path: Path) -> None:
        """At least once: what came is given again after a crash, and everything after it arrives as well."""

        async def test(opened: OpenedAuditSink) -> None:
            records = make_records(5)
            await opened.sink.write(records[:3])
            await opened.sink.write(records)
            arrived = await self.arrived(tmp_path, 5)
            assert list(dict.fromkeys(_numbers(arrived))) == [1, 2, 3, 4, 5]

        self.run(tmp_path, test)

    def test_what_is_not_safe_is_told(self, tmp_path: Path) -> None:
        """`AuditSink.write`: it raises while the other end is not there, and shows no secret; then everything arrives."""

        async def test(opened: OpenedAuditSink) -> None:
            records = make_records(3)
            await self.deliver(opened, records[:1])
            away = self.out_of_reach(tmp_path)
            if away is None:
                pytest.skip("it says of nothing that it may be out of reach")
            async with away:
                # Where there are no receipts the first may be lost without anybody noticing, but not one after the other.
                attempts = [await self._ended(opened, records[1:]) for _ in range(1 if self.receipts else 3)]
                raised = [end for end in attempts if end is not None]
                assert raised, "`write` returned, although nothing can have arrived"
                for secret in self.all_secrets(tmp_path):
                    assert all(secret not in f"{end!r} {end}" for end in raised)
            await self.deliver(opened, records[1:])
            arrived = await self.arrived(tmp_path, 3)
            assert list(dict.fromkeys(_numbers(arrived))) == [1, 2, 3]

        self.run(tmp_path, test)

    def test_what_was_written_before_is_kept(self, tmp_path: Path) -> None:
        """After a restart the sink goes on where it was: nothing that had arrived is gone."""
        records = make_records(8)

        async def first(opened: OpenedAuditSink) -> None:
            await opened.sink.write(records[:4])
            await self.arrived(tmp_path, 4)

        async def second(opened: OpenedAuditSink) -> None:
            await opened.sink.write(records[4:])
            assert list(dict.fromkeys(_numbers(await self.arrived(tmp_path, 8)))) == list(range(1, 9))

        self.run(tmp_path, first)
        self.run(tmp_path, second)

    # -- how it behaves among others -------------------------------------------------------------------------------

    def test_a_cancelled_write_leaves_whole_records(self, tmp_path: Path) -> None:
        """A time-out cancels it in the middle: no torn record, and everything arrives when it is given again."""

        async def test(opened: OpenedAuditSink) -> None:
            records = make_records(50)
            for turns in range(TURNS):
                await cancel_after(turns, self._attempt(opened, records))
            await self.deliver(opened, records)
            arrived = await self.arrived(tmp_path, 50)
            assert list(dict.fromkeys(_numbers(arrived))) == list(range(1, 51))

        self.run(tmp_path, test)

    def test_many_writes_at_once_tear_nothing(self, tmp_path: Path) -> None:
        """A `write` that ran into its time limit may still be at work when the next comes: each arrives whole, or raises."""

        async def test(opened: OpenedAuditSink) -> None:
            records = make_records(3 * PARALLEL)
            batches = [records[begin : begin + 3] for begin in range(0, 3 * PARALLEL, 3)]
            ends = await asyncio.gather(*(opened.sink.write(batch) for batch in batches), return_exceptions=True)
            for batch, end in zip(batches, ends, strict=True):
                if isinstance(end, BaseException):
                    assert isinstance(end, Exception)
                    await self.deliver(opened, batch)
            numbers = _numbers(await self.arrived(tmp_path, 3 * PARALLEL))
            assert set(numbers) == set(range(1, 3 * PARALLEL + 1))
            for batch in batches:  # its own order is kept
                first = [numbers.index(record.sequence) for record in batch]
                assert first == sorted(first)

        self.run(tmp_path, test)

    def test_the_event_loop_is_not_held_up(self, tmp_path: Path) -> None:
        """Enrolments are answered in the same loop: what waits or computes for long runs in `Services.run_blocking`."""

        async def test(opened: OpenedAuditSink) -> None:
            _, signs = await what_blocks(lambda: opened.sink.write(make_records(20)))
            assert not signs, signs

        self.run(tmp_path, test)

    def test_no_secret_is_left_in_log_or_database(self, tmp_path: Path) -> None:
        """A search for the section's secrets in all that the sink left behind, also while the other end is away."""

        async def test(opened: OpenedAuditSink) -> None:
            await self.deliver(opened, make_records(1))
            async with self._away(tmp_path) as is_away:
                if is_away:
                    await asyncio.gather(opened.sink.write(make_records(1, first=2)), return_exceptions=True)
            traces = opened.traces() + repr(opened.sink)
            for secret in self.all_secrets(tmp_path):
                assert secret not in traces

        self.run(tmp_path, test)

    @asynccontextmanager
    async def _away(self, directory: Path) -> AsyncGenerator[bool, None]:
        away = self.out_of_reach(directory)
        if away is None:
            yield False
            return
        async with away:
            yield True

    async def _ended(self, opened: OpenedAuditSink, records: Sequence[AuditRecord]) -> Exception | None:
        try:
            await opened.sink.write(records)
        except Exception as error:  # noqa: BLE001 - a sink may raise anything
            return error
        return None

    def _attempt(self, opened: OpenedAuditSink, records: Sequence[AuditRecord]) -> Awaitable[None]:
        async def attempt() -> None:
            with contextlib.suppress(Exception):  # the write before may still be at work; these come again
                await opened.sink.write(records)

        return attempt()


def _whole(text: str) -> dict[str, Any]:
    try:
        read = json.loads(text)
    except ValueError:
        pytest.fail(f"a torn record arrived: {text[:200]!r}")
    assert isinstance(read, dict), text[:200]
    return read  # type: ignore[reportUnknownVariableType]


def _numbers(arrived: Sequence[dict[str, Any]]) -> list[int]:
    return [int(one["sequence"]) for one in arrived]


def _numbers_of(records: Sequence[AuditRecord]) -> list[int]:
    return [record.sequence for record in records]
