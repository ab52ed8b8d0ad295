"""What of a changed configuration takes effect in a running server, and what waits for a restart.

In the room: a pure function of the settings that run and those that were read. Not in the room: plugins, whose set must be the
same (`kipuka.runtime.recompose`), and the reload itself (`kipuka.http.supervisor`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pydantic import BaseModel

from kipuka.config.settings import Settings

__all__ = ["Reload", "reload"]

_WITH_THE_PROCESS = ("server", "db")
"""Sections that a process is made with: what it listens on, how it waits, its name, its database."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reload:
    """The settings to go on with, and the dotted keys whose new values wait for a restart."""

    settings: Settings
    restart_needed: tuple[str, ...] = ()


def reload(running: Settings, read: Settings) -> Reload:
    """Go on with what was read, but with `[server]` and `[db]` as they run.

    Where `admin_listen` has changed, `[admin]` waits with it: it might be meant for the new listener alone.
    """
    waiting: list[str] = []
    for section in _WITH_THE_PROCESS:
        before: BaseModel = getattr(running, section)
        now: BaseModel = getattr(read, section)
        names = type(before).model_fields
        waiting += [f"{section}.{name}" for name in names if getattr(before, name) != getattr(now, name)]
    settings = replace(read, server=running.server, db=running.db)
    if "server.admin_listen" in waiting and running.admin != read.admin:
        waiting.append("admin")
        settings = replace(settings, admin=running.admin)
    return Reload(settings=settings, restart_needed=tuple(waiting))
