"""`kipuka audit verify|tail|sinks`.

In the room: asking for a verification, reading the last events and how far sinks have come, and how it is told. Not in the room: the
chain (`kipuka.audit.verify`) and the rows (`kipuka.store.events`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kipuka.api import timestamp
from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import printable, write_json, write_table

if TYPE_CHECKING:
    from kipuka.api import AuditRecord, ReadTx
    from kipuka.audit.verify import Report
    from kipuka.store.database import Store
    from kipuka.store.events import ChainHead

__all__ = ["command"]

BATCH = 500
POLL_SECONDS = 0.5


@click.group()
def command() -> None:
    """Look at the audit log, and verify it."""


def _heads(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[ChainHead]:
    from kipuka.store.events import ChainHead

    found: list[ChainHead] = []
    for text in value:
        matched = re.fullmatch(r"([^:]+):([0-9]{1,18}):([0-9a-f]{64})", text)
        if matched is None:
            raise click.BadParameter(f"{text} is not NODE:SEQUENCE:HASH, as verify prints it", ctx, param)
        found.append(ChainHead(node=matched[1], sequence=int(matched[2]), hash=matched[3]))
    return found


@command.command()
@config_option
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Verify this file of JSON lines, as the sink `file` writes it, instead of the database.",
)
@click.option(
    "--head",
    "heads",
    multiple=True,
    callback=_heads,
    metavar="NODE:SEQUENCE:HASH",
    help="A head that an earlier verification printed: it must still be part of the chain. Repeatable.",
)
@json_option
def verify(*, config: Path, file: Path | None, heads: list[ChainHead], as_json: bool) -> None:
    """Compute every hash of the audit log again, and say where an event was changed, removed or moved.

    Exit code 1 when anything is found. A cut at the end shows only against a head that was noted before: keep what this command
    prints, elsewhere.
    """
    from kipuka.audit.verify import verify_file, verify_store

    if file is not None:
        report = verify_file(file, known=heads)
    else:
        from kipuka.cli.host import with_store

        report = with_store(config, partial(verify_store, known=heads))
    if as_json:
        _write_report(report)
    else:
        for chain in report.chains:
            click.echo(f"{chain.node}: {chain.events} events, head {chain.node}:{chain.last}:{chain.head}")
    if not report.intact:
        raise Failure("\n".join(printable(str(finding)) for finding in report.findings))
    if not as_json:
        click.echo("the audit log is intact")


def _write_report(report: Report) -> None:
    write_json(
        {
            "intact": report.intact,
            "chains": [
                {
                    "node": chain.node,
                    "first": chain.first,
                    "last": chain.last,
                    "events": chain.events,
                    "head": f"{chain.node}:{chain.last}:{chain.head}",
                }
                for chain in report.chains
            ],
            "findings": [
                {
                    "node": finding.node,
                    "sequence": finding.sequence,
                    "line": finding.line,
                    "problem": finding.problem,
                    "detail": finding.detail,
                }
                for finding in report.findings
            ],
        }
    )


def _line(record: AuditRecord) -> str:
    """One event for people: when, what, how it ended, who, from where, and the data."""
    data = " ".join(f"{key}={_value(value)}" for key, value in record.data.items() if value not in (None, [], ""))
    who = " ".join(part for part in (record.identity, record.client_address) if part)
    parts = [timestamp(record.time), f"{record.node}#{record.sequence}", record.event, record.outcome, who, data]
    return printable("  ".join(part for part in parts if part))


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@command.command()
@config_option
@click.option("-n", "--lines", type=click.IntRange(min=0), default=10, show_default=True, help="How many events.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new events until Ctrl-C.")
@click.option("--event", metavar="NAME", help="Only events of this name, for instance certificate_issued.")
@click.option("--node", metavar="NAME", help="Only events of this node.")
@json_option
def tail(*, config: Path, lines: int, follow: bool, event: str | None, node: str | None, as_json: bool) -> None:
    """Print the last events, oldest first; with --json one JSON object a line, exactly as it was hashed."""
    from kipuka.cli.host import with_store

    def show(record: AuditRecord) -> None:
        click.echo(record.to_json() if as_json else _line(record))

    async def print_events(store: Store) -> None:
        from kipuka.store import events

        # Where each chain ends is read first, so that no event falls between the two readings.
        places = {head.node: head.sequence for head in await store.read(events.heads)}
        last = await store.read(partial(events.tail, limit=lines, node=node, event=event)) if lines else ()
        for record in last:
            if record.sequence <= places.get(record.node, 0):
                show(record)
        while follow:
            for record in await _news(store, places):
                if (event is None or record.event == event) and (node is None or record.node == node):
                    show(record)
            await asyncio.sleep(POLL_SECONDS)

    try:
        with_store(config, print_events)
    except KeyboardInterrupt:
        if not follow:
            raise


async def _news(store: Store, places: dict[str, int]) -> list[AuditRecord]:
    """The events after the places, which move on with them; in the order of their time."""
    from kipuka.store import events

    found: list[AuditRecord] = []
    for head in await store.read(events.heads):
        place = places.get(head.node, 0)
        while place < head.sequence:
            batch = await store.read(partial(events.after, node=head.node, sequence=place, limit=BATCH))
            if not batch:
                break
            found += batch
            place = batch[-1].sequence
        places[head.node] = place
    return sorted(found, key=lambda record: (record.time, record.node, record.sequence))


@command.command()
@config_option
@json_option
def sinks(*, config: Path, as_json: bool) -> None:
    """Show how far each configured sink has come, and which do not take their events at the moment."""
    from kipuka.cli.host import run_as_operator
    from kipuka.runtime import compose, open_admin_store
    from kipuka.store import events

    composition = compose(config, os.environ)
    items = composition.settings.sinks

    async def look() -> list[dict[str, Any]]:
        async with open_admin_store(composition) as store:
            node = store.node

            def read(tx: ReadTx) -> list[dict[str, Any]]:
                last = next((head.sequence for head in events.heads(tx) if head.node == node), 0)
                taken = events.cursors(tx, node)
                failing = events.failing(tx, node, [item.id for item in items])
                return [
                    {
                        "id": item.id,
                        "type": item.type,
                        "on_failure": item.on_failure,
                        "sequence": taken.get(item.id, 0),
                        "behind": last - taken.get(item.id, 0),
                        "failing_since": timestamp(failing[item.id]) if item.id in failing else None,
                    }
                    for item in items
                ]

            return await store.read(read)

    rows = run_as_operator(look())
    if as_json:
        write_json(rows)
        return
    write_table(
        ["ID", "TYPE", "ON FAILURE", "LAST EVENT", "BEHIND", "FAILING SINCE"], [list(row.values()) for row in rows]
    )
