"""Broken at opening: the hardware is not there."""

from contextlib import asynccontextmanager

from kipuka.api import AuthenticatorKind, Section, hookimpl

KIPUKA_API = "1.0"


class Settings(Section):
    """Nothing to set."""


@asynccontextmanager
async def open_nothing(settings, services):
    raise RuntimeError("no reader is plugged in")
    yield


@hookimpl
def kipuka_authenticators():
    return [AuthenticatorKind(name="broken_open", config=Settings, open=open_nothing)]
