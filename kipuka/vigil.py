"""Says which plugin is being waited for, where nothing can end the waiting.

In the room: a line on stderr when code of a plugin that blocks its thread takes long. Not in the room: time limits (`kipuka.runtime`
for openers, whoever calls for the rest).

A module that hangs while it is imported, or a plain function that does not return, cannot be ended from outside: a thread cannot be
killed, and what it holds (the import lock, for one) would stay held. So the one thing to do is to name it; ending the process is the
administrator's decision, or the service manager's. Nothing is served yet, and nothing is open.
"""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager

import click

__all__ = ["PATIENCE", "told_when_slow"]

PATIENCE = 5.0
"""Seconds before somebody is told."""


@contextmanager
def told_when_slow(plugin: str, owner: str, doing: str, *, after: float | None = None) -> Generator[None]:
    """Tell on stderr, once, when the block takes longer than `after` seconds (default: `PATIENCE`)."""
    patience = PATIENCE if after is None else after

    def tell() -> None:
        remedy = f'if that goes on, stop kipuka and write disabled = ["{plugin}"] below [plugins]'
        text = f"warning: plugin {plugin} ({owner}) is still {doing} after {patience:g} seconds; {remedy}"
        click.echo(text, err=True)

    timer = threading.Timer(patience, tell)
    timer.daemon = True  # it keeps nobody from leaving
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # the server forks, which no other thread should see
