"""Broken at collection: a dictionary is no record."""

from kipuka.api import hookimpl

KIPUKA_API = "1.0"


@hookimpl
def kipuka_authenticators():
    return [{"name": "broken_record"}]
