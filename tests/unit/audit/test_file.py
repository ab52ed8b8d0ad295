"""The file sink."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from functools import partial

import pytest

from kipuka.api import ServerStopped
from kipuka.audit import file
from kipuka.audit.file import FileSinkSettings, check_file_sink, kipuka_audit_sinks, open_file_sink
from kipuka.audit.pipeline import open_outbox
from kipuka.audit.verify import verify_file
from kipuka.store import events


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


@pytest.fixture
def open_sink(path, services):
    return lambda: open_file_sink(FileSinkSettings(path=path), services)


@pytest.fixture
async def records(store):
    for number in range(6):
        await store.audit(ServerStopped(pid=number))
    return await store.read(partial(events.after, node="alpha", sequence=0, limit=10))


def test_its_kind_is_named_as_its_type():
    """RULES K2."""
    [kind] = kipuka_audit_sinks()
    assert (kind.name, kind.config) == ("file", FileSinkSettings)


def test_a_relative_path_is_relative_to_the_configuration_file(tmp_path):
    """RULES K6."""
    settings = FileSinkSettings.model_validate({"path": "logs/a.jsonl"}, context={"base": tmp_path})
    assert settings.path == tmp_path / "logs" / "a.jsonl"


async def test_the_file_is_the_owners_only(path, open_sink):
    """DESIGN guarantee 8: also under a permissive umask."""
    before = os.umask(0)
    try:
        async with open_sink():
            assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


async def test_each_event_is_one_line_of_json_and_the_file_verifies(path, open_sink, records):
    async with open_sink() as sink:
        await sink.write(records[:4])
        await sink.write(records[4:])
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines == [record.to_json() for record in records]
    assert [json.loads(line)["sequence"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert verify_file(path).intact


async def test_through_the_outbox_a_file_has_the_whole_log(path, open_sink, store, records):
    async with open_sink() as sink, open_outbox(store, {"file": sink}):
        await store.audit(ServerStopped(pid=7))
    report = verify_file(path)
    assert report.intact
    assert report.chains[0].events == 7


async def test_what_is_there_is_appended_to(path, open_sink, records):
    for part in (records[:3], records[3:]):
        async with open_sink() as sink:
            await sink.write(part)
    assert len(path.read_text().splitlines()) == 6


async def test_records_are_on_disk_when_write_returns(open_sink, records, monkeypatch):
    synced = []
    real = os.fsync
    async with open_sink() as sink:
        monkeypatch.setattr(file.os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
        await sink.write(records)
    assert len(synced) == 1


async def test_a_line_that_a_crash_tore_is_ended_and_its_record_comes_whole(path, open_sink, records):
    path.write_text(f"{records[0].to_json()}\n{records[1].to_json()[:30]}")
    async with open_sink() as sink:
        await sink.write(records[1:])
    assert len(path.read_text().splitlines()) == 7
    assert verify_file(path).intact


async def test_a_file_that_was_renamed_is_followed_by_a_new_one(path, open_sink, records):
    async with open_sink() as sink:
        await sink.write(records[:2])
        old = path.rename(path.with_suffix(".1"))
        await sink.write(records[2:4])
        path.unlink()
        await sink.write(records[4:])
    assert len(old.read_text().splitlines()) == 2
    assert len(path.read_text().splitlines()) == 2
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_was_copied_and_truncated_begins_anew(path, open_sink, records):
    """`copytruncate` of logrotate: what is written between its two steps is lost to it, but nothing is written beyond a hole."""
    async with open_sink() as sink:
        await sink.write(records[:3])
        copy = path.with_suffix(".1")
        copy.write_bytes(path.read_bytes())
        os.truncate(path, 0)
        await sink.write(records[3:])
    assert path.read_text() == "".join(f"{record.to_json()}\n" for record in records[3:])
    assert verify_file(path).intact
    assert len(copy.read_text().splitlines()) == 3


async def test_a_folder_that_goes_and_comes_back_has_the_whole_log(path, services, records):
    """DESIGN guarantee 7: a disk that was not mounted for a while."""
    folder = path.parent / "disk"
    folder.mkdir()
    settings = FileSinkSettings(path=folder / "audit.jsonl")
    async with open_file_sink(settings, services) as sink:
        await sink.write(records[:2])
        away = folder.rename(folder.with_name("away"))
        with pytest.raises(FileNotFoundError):
            await sink.write(records[2:])
        away.rename(folder)
        await sink.write(records[2:])
    assert settings.path.read_text().splitlines() == [record.to_json() for record in records]


async def test_a_full_disk_raises_and_the_records_come_again_whole(path, open_sink, records, monkeypatch):
    real = os.write

    def half(descriptor, data):
        real(descriptor, bytes(data)[:40])
        raise OSError(28, "No space left on device")

    async with open_sink() as sink:
        await sink.write(records[:2])
        monkeypatch.setattr(file.os, "write", half)
        with pytest.raises(OSError, match="No space"):
            await sink.write(records[2:])
        monkeypatch.undo()
        await sink.write(records[2:])
    assert verify_file(path).intact


async def test_a_short_write_is_continued(path, open_sink, records, monkeypatch):
    real = os.write
    async with open_sink() as sink:
        monkeypatch.setattr(file.os, "write", lambda descriptor, data: real(descriptor, bytes(data)[:7]))
        await sink.write(records)
    assert path.read_text().splitlines() == [record.to_json() for record in records]


async def test_a_write_that_hangs_takes_one_thread_and_not_one_more_per_attempt(open_sink, records, monkeypatch):
    gate = threading.Event()
    real = os.fsync
    async with open_sink() as sink:
        monkeypatch.setattr(file.os, "fsync", lambda descriptor: (gate.wait(20), real(descriptor)))
        hanging = asyncio.create_task(sink.write(records[:1]))
        await asyncio.sleep(0.1)
        async with asyncio.timeout(15):
            with pytest.raises(OSError, match="has not come to its end"):
                await sink.write(records[:1])
        gate.set()
        await hanging


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
async def test_what_is_no_regular_file_is_refused(path, open_sink, make):
    make(path)
    with pytest.raises(OSError):  # noqa: PT011 - the system's own words differ
        async with open_sink():
            pytest.fail("it was opened")
    assert [finding.severity for finding in check_file_sink(FileSinkSettings(path=path))] == ["error"]


async def test_a_missing_folder_is_seen_at_once(tmp_path, services):
    settings = FileSinkSettings(path=tmp_path / "none" / "audit.jsonl")
    with pytest.raises(FileNotFoundError):
        async with open_file_sink(settings, services):
            pytest.fail("it was opened")
    [finding] = check_file_sink(settings)
    assert (finding.severity, finding.key) == ("error", "path")


def test_a_file_that_others_may_read_is_warned_of(path):
    path.touch(mode=0o600)
    assert list(check_file_sink(FileSinkSettings(path=path))) == []
    path.chmod(0o640)
    [finding] = check_file_sink(FileSinkSettings(path=path))
    assert finding.severity == "warning"
    assert "chmod 600" in finding.remedy


def test_a_file_that_is_not_there_yet_is_fine(path):
    assert list(check_file_sink(FileSinkSettings(path=path))) == []
    assert not path.exists()
