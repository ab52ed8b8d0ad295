"""`kipuka audit prune`.

In the room: how far back is asked for, and how the outcome is told. Not in the room: what may be removed (`kipuka.audit.prune`).
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option, json_option, moment
from kipuka.cli.output import printable, write_json

if TYPE_CHECKING:
    from kipuka.audit.prune import NotPruned, Pruned

__all__ = ["prune"]


@click.command()
@config_option
@click.option("--before", callback=moment, metavar="DATE", help="Remove events of before this date (UTC).")
@click.option(
    "--older-than", type=click.IntRange(1, 100_000), metavar="DAYS", help="Remove older events than these days."
)
@click.option("--without-copy", is_flag=True, help="Remove them though no sink is configured that has them.")
@json_option
def prune(*, config: Path, before: datetime | None, older_than: int | None, without_copy: bool, as_json: bool) -> None:
    """Remove this server's oldest audit events from the database, beside a running server.

    Only what every sink has had and a signed head covers is removed; a signed record of it stays, from which the chain can be verified.
    Certificates are not touched.
    """
    from kipuka.audit.prune import NotPruned
    from kipuka.audit.prune import prune as remove
    from kipuka.cli.host import run_as_operator
    from kipuka.runtime import compose, node_keys, open_admin_store

    if (before is None) == (older_than is None):
        raise click.UsageError("write either --before or --older-than")
    composition = compose(config, os.environ)
    settings = composition.settings
    own, trusted = node_keys(settings.audit)
    if own is None:
        raise Failure("there is no key to sign what is left: run `kipuka audit key create`; nothing was removed")
    if not settings.sinks and not without_copy:
        raise Failure("no sink has a copy of the events; write --without-copy to remove them all the same")
    limit = before or datetime.now(UTC) - timedelta(days=older_than or 0)

    async def work() -> Pruned | NotPruned:
        async with open_admin_store(composition) as store:
            sinks = [item.id for item in settings.sinks]
            return await remove(store, own, trusted=trusted, before=limit, sinks=sinks)

    outcome = run_as_operator(work())
    if isinstance(outcome, NotPruned):
        raise Failure("\n".join([*map(printable, outcome.findings), "the log is not intact: nothing more was removed"]))
    if as_json:
        sequence = None if outcome.stub is None else outcome.stub.sequence
        write_json({"events": outcome.events, "pruned_up_to": sequence, "held_by": outcome.held_by})
        return
    if outcome.stub is None or not outcome.events:
        click.echo("nothing was removed")
    else:
        click.echo(
            printable(f"removed {outcome.events} events of {outcome.stub.node}, up to sequence {outcome.stub.sequence}")
        )
    if outcome.held_by is not None:
        click.echo(f"older events stay: {outcome.held_by}")
