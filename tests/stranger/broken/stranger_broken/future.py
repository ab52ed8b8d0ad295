"""Broken by its version: written for an API that is not there yet, with a name that only that one has."""

from kipuka.api import Telepathy, hookimpl

KIPUKA_API = "1.3"


@hookimpl
def kipuka_authenticators():
    return [Telepathy()]
