"""Broken at collection: a dictionary is no record."""

from kipuka.api import hookimpl


@hookimpl
def kipuka_authenticators():
    return [{"name": "broken_record"}]
