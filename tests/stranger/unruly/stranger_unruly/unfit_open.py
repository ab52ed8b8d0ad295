"""Its opener gives an object that is no authenticator."""

from contextlib import asynccontextmanager

from kipuka.api import AuthenticatorKind, Section, hookimpl

KIPUKA_API = "1.0"


class Settings(Section):
    """Nothing to set."""


@asynccontextmanager
async def open_dictionary(settings, services):
    yield {"authenticate": None}


@hookimpl
def kipuka_authenticators():
    return [AuthenticatorKind(name="unfit_open", config=Settings, open=open_dictionary)]
