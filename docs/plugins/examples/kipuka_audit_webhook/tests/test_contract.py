"""The promises that every audit sink keeps."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from kipuka_audit_webhook.plugin import kipuka_audit_sinks
from receiver import SECRET, Receiver

from kipuka.testing.contract import AuditSinkContract


class TestContract(AuditSinkContract):
    kind = kipuka_audit_sinks()[0]

    @pytest.fixture(autouse=True)
    def _start_a_receiver(self):
        with Receiver() as self.receiver:
            yield

    def section(self, directory):
        return {"url": self.receiver.url, "secret": SECRET, "batch": 40}

    def received(self, directory):
        return self.receiver.lines()

    @asynccontextmanager
    async def out_of_reach(self, directory):
        self.receiver.stop()
        yield
        self.receiver.start()
