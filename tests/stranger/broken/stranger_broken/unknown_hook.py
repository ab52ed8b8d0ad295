"""Broken at registration: there is no such hook."""

from kipuka.api import hookimpl


@hookimpl
def kipuka_coffee():
    return []
