"""Broken at registration: hooks are synchronous."""

from kipuka.api import hookimpl

KIPUKA_API = "1.0"


@hookimpl
async def kipuka_authenticators():
    return []
