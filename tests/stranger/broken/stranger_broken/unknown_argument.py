"""Broken at registration: hooks take nothing."""

from kipuka.api import hookimpl

KIPUKA_API = "1.0"


@hookimpl
def kipuka_authenticators(application):
    return []
