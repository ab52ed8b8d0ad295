"""The built-in sinks, under the same promises as a stranger's plugin."""

from __future__ import annotations

import contextlib
import os
import sys
from contextlib import asynccontextmanager

import pytest

from kipuka.audit.file import kipuka_audit_sinks as file_sinks
from kipuka.audit.stdout import kipuka_audit_sinks as stdout_sinks
from kipuka.audit.syslog.sink import kipuka_audit_sinks as syslog_sinks
from kipuka.testing.contract import AuditSinkContract

from .collectors import StreamCollector
from .rfc5424_abnf import parse


def lines(path):
    return path.read_bytes().decode().split("\n")[:-1] if path.exists() else []


class TestFile(AuditSinkContract):
    """The sink `file`."""

    kind = file_sinks()[0]

    def section(self, directory):
        return {"path": "audit.jsonl"}

    def received(self, directory):
        return lines(directory / "audit.jsonl")

    @asynccontextmanager
    async def out_of_reach(self, directory):
        """Somebody made a folder of that name."""
        path, aside = directory / "audit.jsonl", directory / "aside"
        path.rename(aside)
        path.mkdir()
        yield
        path.rmdir()
        aside.rename(path)


class TestStdout(AuditSinkContract):
    """The sink `stdout`, whose standard output goes to a file here."""

    kind = stdout_sinks()[0]

    @pytest.fixture(autouse=True)
    def _name_the_output(self, tmp_path):
        self.output = tmp_path / "output"  # there is one standard output, however many sinks

    @asynccontextmanager
    async def open(self, directory):
        with self.output.open("a", encoding="utf-8") as output, pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", output)
            async with super().open(directory) as opened:
                yield opened

    def received(self, directory):
        return lines(self.output)

    @asynccontextmanager
    async def out_of_reach(self, directory):
        """Who read it has gone."""
        reading, writing = os.pipe()
        os.close(reading)
        broken = os.fdopen(writing, "w", encoding="utf-8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "stdout", broken)
            yield
        with contextlib.suppress(BrokenPipeError):
            broken.close()


class TestSyslog(AuditSinkContract):
    """The sink `syslog` over TCP. It has no receipts."""

    kind = syslog_sinks()[0]
    receipts = False
    largest = 6 * 1024  # `max_size` is 8192 octets, with the header and the structured data

    @pytest.fixture(autouse=True)
    def _listen(self):
        with StreamCollector() as self.collector:
            yield

    def section(self, directory):
        return {"transport": "tcp", "address": f"127.0.0.1:{self.collector.port}"}

    def received(self, directory):
        return [parse(message).msg.decode() for message in list(self.collector.messages)]

    @asynccontextmanager
    async def out_of_reach(self, directory):
        """The collector is down."""
        self.collector.stop()
        yield
        self.collector.start()
