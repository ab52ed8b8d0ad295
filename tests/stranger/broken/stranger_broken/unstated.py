"""Broken by its version: it states none."""

from kipuka.api import hookimpl


@hookimpl
def kipuka_authenticators():
    return []
