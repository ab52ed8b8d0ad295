"""Broken at registration: hooks are synchronous."""

from kipuka.api import hookimpl


@hookimpl
async def kipuka_authenticators():
    return []
