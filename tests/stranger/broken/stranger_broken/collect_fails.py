"""Broken at collection: the hook raises."""

from kipuka.api import hookimpl


@hookimpl
def kipuka_authenticators():
    raise RuntimeError("cannot say what I have")
