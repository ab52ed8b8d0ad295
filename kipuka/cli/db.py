"""`kipuka db upgrade|status|backup`.

In the room: which revision the tables are at, bringing them to the newest, and where a copy goes. Not in the room: migrations
(`kipuka.store.schema`) and copying (`kipuka.store.backup`).
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from kipuka.cli.failures import ExitCode, Failure
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import write_json, write_table

__all__ = ["command"]


@click.group()
def command() -> None:
    """Bring the database's schema up to date, and copy it."""


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


@command.command()
@config_option
@click.argument("target", metavar="FILE", type=click.Path(path_type=Path))
def backup(*, config: Path, target: Path) -> None:
    """Copy an SQLite database to FILE, which must be new, while the server runs.

    The copy is of one moment, was examined, and is readable by you alone. Of PostgreSQL make one with pg_dump.
    """
    from kipuka.runtime import compose
    from kipuka.store.backup import back_up

    url = compose(config, os.environ).settings.db.url
    if not url.startswith("sqlite:"):
        raise Failure("this database is PostgreSQL's: copy it with pg_dump --format=custom (docs/how-to/postgresql.md)")
    if target.exists():
        raise Failure(f"{target} is there already; nothing was changed")
    size = back_up(Path(url.removeprefix("sqlite:///")), target)
    click.echo(f"wrote {target}, {size} octets")
