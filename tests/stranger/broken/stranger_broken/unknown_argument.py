"""Broken at registration: hooks take nothing."""

from kipuka.api import hookimpl


@hookimpl
def kipuka_authenticators(application):
    return []
