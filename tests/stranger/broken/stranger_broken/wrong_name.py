"""Broken at collection: the kind is named otherwise than the entry point (RULES K2)."""

from kipuka.api import AuthenticatorKind, Section, hookimpl

KIPUKA_API = "1.0"


class Settings(Section):
    """Nothing to set."""


def open_nothing(settings, services):
    raise NotImplementedError


@hookimpl
def kipuka_authenticators():
    return [AuthenticatorKind(name="something_else", config=Settings, open=open_nothing)]
