"""How a command reaches what is configured: the store, a plugin's opened object, and plugins' own commands.

In the room: opening what a command needs, beside a running server (RULES K7), under the name of the operating system's
user. Not in the room: what is opened and how (`kipuka.runtime`).
"""

from __future__ import annotations

import asyncio
import copy
import os
import pwd
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kipuka.api import CABackend, CommandHost, Services
from kipuka.api.hooks import ENTRY_POINT_GROUP
from kipuka.cli.options import CONFIG_HELP, config_file

if TYPE_CHECKING:  # imported when a command needs them: `kipuka --help` does without the whole host
    from kipuka.revocation import RevocationOrder
    from kipuka.runtime import Composition
    from kipuka.store.certificates import Revoked
    from kipuka.store.database import Store

__all__ = [
    "PluginHost",
    "open_ca",
    "operator",
    "plugin_group",
    "plugin_summaries",
    "run_as_operator",
    "with_revocations",
    "with_store",
]

T = TypeVar("T")


def operator() -> str:
    """Whom the audit log names for what a command does: `cli:` and the user that the process runs as."""
    number = os.getuid()
    try:
        return f"cli:{pwd.getpwuid(number).pw_name}"
    except KeyError:  # containers often have no name for their user
        return f"cli:{number}"


def run_as_operator(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's asynchronous work; its audit events carry the operator's name. Plugins' warnings go to stderr."""
    from kipuka.cli.logs import configure_logs
    from kipuka.store.context import AuditContext, audit_context

    configure_logs(form="console", level="warning")
    before = audit_context.set(AuditContext(identity=operator()))
    try:
        return asyncio.run(work)
    finally:
        audit_context.reset(before)


def with_store(config: Path, work: Callable[[Store], Awaitable[T]]) -> T:
    """Open the store of a configuration, beside a running server, and run `work(store)`."""
    from kipuka.runtime import compose, open_admin_store

    composition = compose(config, os.environ)

    async def opened() -> T:
        async with open_admin_store(composition) as store:
            return await work(store)

    return run_as_operator(opened())


@asynccontextmanager
async def open_ca(composition: Composition, ca: str) -> AsyncGenerator[tuple[Store, CABackend], None]:
    """The store, and the opened backend of the `[[ca]]` item of that id."""
    from kipuka.runtime import open_admin_store, open_backend

    async with open_admin_store(composition) as store, open_backend(composition, ca, store) as backend:
        yield store, backend


def with_revocations(config: Path, order: RevocationOrder) -> Revoked:
    """Carry out an order to revoke, beside a running server, with the certificate's CA where that can be opened.

    Where it cannot, the server is left to tell it: a certificate is taken back also while its CA is away.
    """
    from kipuka.revocation import Revocations
    from kipuka.runtime import compose, open_admin_store, open_backend
    from kipuka.store import certificates

    composition = compose(config, os.environ)
    settings = composition.settings

    async def opened() -> Revoked:
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(open_admin_store(composition))
            found = await store.read(partial(certificates.find, id=order.id))
            backends: dict[str, CABackend] = {}
            if found is not None and any(item.id == found.ca for item in settings.cas):
                try:
                    backend = await stack.enter_async_context(open_backend(composition, found.ca, store))
                except Exception as error:  # noqa: BLE001 - a backend is a plugin, and may raise anything
                    click.echo(f"the CA {found.ca} cannot be opened here: {type(error).__name__}", err=True)
                else:
                    backends[found.ca] = backend
            revocations = Revocations(store=store, backends=backends, ca_timeout=settings.est.ca_timeout)
            return await revocations.revoke(order)

    return run_as_operator(opened())


class PluginHost(CommandHost):
    """The host that a plugin's command is given. Nothing is read or opened before the command asks for it."""

    def __init__(self, plugin: str) -> None:
        self.plugin = plugin
        self.config: Path | None = None  # as given with -c

    def run(self, fn: Callable[[Any, Services], Awaitable[T]], /) -> T:
        """Open the store and the plugin's object, and run `fn(opened, services)`."""
        from kipuka.runtime import compose, open_plugin

        composition = compose(config_file(self.config), os.environ)

        async def opened() -> T:
            async with open_plugin(composition, self.plugin) as (value, services):
                return await fn(value, services)

        return run_as_operator(opened())


def _entry_points() -> list[metadata.EntryPoint]:
    return sorted(metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: entry.name)


def plugin_summaries() -> list[tuple[str, str]]:
    """The installed plugins that are not part of kipuka itself, and where each comes from. Imports none of them."""
    return [
        (entry.name, f"from {entry.dist.name} {entry.dist.version}")
        for entry in _entry_points()
        if entry.dist is not None and entry.dist.name != "kipuka"
    ]


def plugin_group(name: str) -> click.Group | None:
    """The commands of the plugin of that name as a group (RULES K2), or None where no plugin is called so."""
    if all(entry.name != name for entry in _entry_points()):
        return None
    from kipuka import plugins

    loaded = plugins.load(plugins.discover(), {name: f"the command kipuka {name}"})
    commands = loaded.commands(name)
    if not commands:
        raise click.UsageError(f"the plugin {name} brings no commands")
    host = PluginHost(name)

    def remember(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
        del ctx, param
        if value is not None:
            host.config = value

    return click.Group(
        name,
        commands={str(command.name): _with_config(command, remember) for command in commands},
        help=f"Commands of the plugin {name}.",
        context_settings={"obj": host},
        params=[_config_parameter(remember)],
    )


Callback = Callable[[click.Context, click.Parameter, Path | None], None]


def _config_parameter(remember: Callback) -> click.Option:
    return click.Option(
        ["-c", "--config"],
        type=click.Path(path_type=Path),
        expose_value=False,
        callback=remember,
        metavar="FILE",
        help=CONFIG_HELP,
    )


def _with_config(command: click.Command, remember: Callback) -> click.Command:
    """The command with `-c FILE`, so that every command of kipuka takes it in the same place."""
    changed = copy.copy(command)
    if isinstance(command, click.Group) and isinstance(changed, click.Group):
        changed.commands = {key: _with_config(inner, remember) for key, inner in command.commands.items()}
        return changed
    taken = {option for parameter in command.params for option in parameter.opts}
    if "-c" not in taken and "--config" not in taken:
        changed.params = [*command.params, _config_parameter(remember)]
    return changed
