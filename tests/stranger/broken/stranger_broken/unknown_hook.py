"""Broken at registration: there is no such hook."""

from kipuka.api import hookimpl

KIPUKA_API = "1.0"


@hookimpl
def kipuka_coffee():
    return []
