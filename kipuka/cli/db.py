"""`kipuka db upgrade|status`.

In the room: which revision the tables are at, and bringing them to the newest. Not in the room: migrations
(`kipuka.store.schema`).
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from kipuka.cli.failures import ExitCode
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import write_json, write_table

__all__ = ["command"]


@click.group()
def command() -> None:
    """Bring the database's schema up to date."""


@command.command()
@config_option
def upgrade(config: Path) -> None:
    """Make the database where it is missing, and bring all tables to the newest revision.

    All tables are changed, or none. Stop the server first, and keep a copy of the database.
    """
    from kipuka.runtime import compose
    from kipuka.store import schema

    composition = compose(config, os.environ)
    for before in schema.upgrade(composition.settings.db.url, composition.plugins.storages):
        if before.is_newest:
            click.echo(f"{before.owner}: {before.newest}, nothing to do")
        else:
            click.echo(f"{before.owner}: {before.current or 'no tables'} -> {before.newest}")


@command.command()
@config_option
@json_option
def status(*, config: Path, as_json: bool) -> None:
    """Show at which revision the tables are. Exit code 3 when an upgrade is needed."""
    from kipuka.runtime import compose
    from kipuka.store import schema

    composition = compose(config, os.environ)
    found = schema.status(composition.settings.db.url, composition.plugins.storages)
    if as_json:
        write_json([{"owner": item.owner, "current": item.current, "newest": item.newest} for item in found])
    else:
        write_table(["TABLES OF", "CURRENT", "NEWEST"], [[item.owner, item.current, item.newest] for item in found])
    if not all(item.is_newest for item in found):
        raise click.exceptions.Exit(int(ExitCode.CONFIGURATION))
