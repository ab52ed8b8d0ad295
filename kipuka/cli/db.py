"""`kipuka db upgrade|status|backup|migrate-to`.

In the room: which revision the tables are at, bringing them to the newest, and where a copy goes. Not in the room: migrations
(`kipuka.store.schema`), copying (`kipuka.store.backup`) and moving (`kipuka.store.move`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kipuka.cli.failures import ExitCode, Failure
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import printable, write_json, write_table

if TYPE_CHECKING:
    from kipuka.api import ReadTx
    from kipuka.store.events import PendingEvent

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


@command.command(name="migrate-to")
@config_option
@click.argument("url", metavar="URL")
def migrate_to(*, config: Path, url: str) -> None:
    """Move everything of the SQLite database into the empty PostgreSQL database at URL, and compare every row.

    Stop the server first. URL may be written as env:NAME or file:PATH, so that its password is on no command line. All is moved, or
    nothing; the SQLite database and the configuration stay as they are.
    """
    from kipuka.api import DatabaseMigrated
    from kipuka.audit.chain import seal
    from kipuka.audit.verify import verify_rows
    from kipuka.cli.host import operator
    from kipuka.runtime import compose, node_keys
    from kipuka.store.context import AuditContext
    from kipuka.store.events import PendingEvent
    from kipuka.store.move import NotMoved, move

    composition = compose(config, os.environ)
    settings = composition.settings
    _own, trusted = node_keys(settings.audit)
    source = settings.db.url.removeprefix("sqlite:///")

    def examine(tx: ReadTx) -> list[str]:
        return [str(finding) for finding in verify_rows(tx, trusted=trusted).findings]

    def event(rows: Mapping[str, int]) -> PendingEvent:
        migrated = DatabaseMigrated(source=source, rows=dict(rows))
        return PendingEvent(time=datetime.now(UTC), event=migrated, context=AuditContext(identity=operator()))

    try:
        rows = move(
            settings.db.url,
            _resolved(url),
            node=settings.server.node,
            storages=composition.plugins.storages,
            examine=examine,
            event=event,
            seal=seal,
            tell=lambda table, count: click.echo(f"{table}: {count} rows copied"),
        )
    except NotMoved as error:
        lines = [printable(line) for line in str(error).splitlines()]
        raise Failure("\n".join([*lines, "nothing was moved"])) from error
    click.echo(
        f"moved {sum(rows.values())} rows of {len(rows)} tables, each read back and compared; the audit log is intact"
    )
    click.echo(f"the SQLite database {source} is as it was: keep it, and start no server on it any more")
    click.echo(f"write into {settings.file}, and start the server:\n[db]")
    if url.startswith(("env:", "file:")):
        click.echo(f'url = "{url}"')
    else:
        click.echo('url = "URL", as it was given here; with a password better as env:NAME or file:PATH')


def _resolved(url: str) -> str:
    """The URL that `env:NAME` or `file:PATH` stands for, as in the configuration; a path is taken from where the command is run."""
    from pydantic import ValidationError

    from kipuka.config.sections import DatabaseSection

    try:
        return DatabaseSection.model_validate({"url": url}).url
    except ValidationError as error:
        raise click.BadParameter(error.errors()[0]["msg"].removeprefix("Value error, "), param_hint="URL") from error
