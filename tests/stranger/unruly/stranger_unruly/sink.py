"""A sink that keeps nothing, or does what no sink may."""

from contextlib import asynccontextmanager

from kipuka.api import AuditSinkKind, hookimpl
from stranger_unruly.behaviour import Settings, misbehave

KIPUKA_API = "1.0"


class UnrulySink:
    def __init__(self, settings):
        self.settings = settings

    async def write(self, records):
        instead = await misbehave(self.settings, "write")
        return None if instead is None else instead[0]


@asynccontextmanager
async def open_sink(settings, services):
    yield UnrulySink(settings)


@hookimpl
def kipuka_audit_sinks():
    return [AuditSinkKind(name="unruly_sink", config=Settings, open=open_sink)]
