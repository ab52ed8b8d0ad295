"""Commands a plugin brings: `kipuka <entry point's name> ...`.

In the room: what a click command of a plugin may ask of the host. Not in the room: how the host finds and opens things.

A command is an ordinary click command that takes the host with `@pass_host`:

    @click.command()
    @pass_host
    def count(host: CommandHost) -> None:
        click.echo(host.run(count_tokens))

where `async def count_tokens(opened, services)` is given the plugin's opened object and its services.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import click

from kipuka.api.kinds import Services

__all__ = ["CommandHost", "pass_host"]

T = TypeVar("T")


@runtime_checkable  # click asks isinstance to find the host
class CommandHost(Protocol):
    """The host, as a command of a plugin sees it.

    Since API 1.0.
    """

    def run(self, fn: Callable[[Any, Services], Awaitable[T]], /) -> T:
        """Load the configuration, open the store and this plugin's object, and run `fn(opened, services)`.

        Writes go through the same writer, audit chain and turn-taking as the server's, which may be running beside
        (RULES K7). Errors of kipuka become one line on stderr and an exit code.
        """
        ...


pass_host = click.make_pass_decorator(CommandHost)  # type: ignore[type-abstract]
"""Decorates a command that is given the host as its first argument.

Since API 1.0.
"""
