"""Hangs while it is opened, as one does that waits for a server that never answers."""

import asyncio
from contextlib import asynccontextmanager

from kipuka.api import AuthenticatorKind, Section, hookimpl

KIPUKA_API = "1.0"


class Settings(Section):
    """Nothing to set."""


@asynccontextmanager
async def open_never(settings, services):
    await asyncio.Event().wait()
    yield


@hookimpl
def kipuka_authenticators():
    return [AuthenticatorKind(name="hung_open", config=Settings, open=open_never)]
