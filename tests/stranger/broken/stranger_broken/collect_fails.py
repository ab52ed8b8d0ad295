"""Broken at collection: the hook raises."""

from kipuka.api import hookimpl

KIPUKA_API = "1.0"


@hookimpl
def kipuka_authenticators():
    raise RuntimeError("cannot say what I have")
