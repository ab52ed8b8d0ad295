"""How a plugin is told what to do wrong: the text of a file, read at each call."""

import asyncio

from kipuka.api import ConfigPath, Section


class Settings(Section):
    """The keys of all three kinds."""

    behave_file: ConfigPath
    """What to do wrong; nothing, where there is no such file."""


async def misbehave(settings, method):
    """Raise, hang, or give what to answer instead: `(answer,)`; None: behave."""
    how = told(settings, method)
    if how == "raise":
        raise RuntimeError("a private sentence")
    if how == "hang":
        await asyncio.Event().wait()
    if how == "none":
        return (None,)
    if how == "text":
        return ("a private sentence",)
    return None


def told(settings, method):
    """The behaviour for that method, from a line `method how`."""
    file = settings.behave_file
    lines = file.read_text().splitlines() if file.exists() else []
    return next((how for name, how in map(str.split, lines) if name == method), None)


def now(settings, method):
    """The same for a plain function."""
    if told(settings, method) == "raise":
        raise RuntimeError("a private sentence")
