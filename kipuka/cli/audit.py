"""`kipuka audit verify|tail|sinks`.

In the room: asking for a verification, reading the last events and how far sinks have come, and how it is told. Not in the room: the
chain (`kipuka.audit.verify`), the rows (`kipuka.store.events`), and what the node's key is needed for (`kipuka.cli.audit_key`).
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from kipuka.api import timestamp
from kipuka.cli import audit_key, audit_prune
from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import printable, write_json, write_table

if TYPE_CHECKING:
    from kipuka.api import AuditRecord, ReadTx
    from kipuka.audit.heads import SignedHead, TrustedKeys
    from kipuka.audit.verify import ChainSummary, Report
    from kipuka.store.database import Store
    from kipuka.store.events import ChainHead

__all__ = ["command"]

BATCH = 500
POLL_SECONDS = 0.5


@click.group()
def command() -> None:
    """Look at the audit log, verify it, and prune it."""


command.add_command(audit_key.head)
command.add_command(audit_key.key)
command.add_command(audit_prune.prune)


@dataclass(frozen=True, slots=True)
class _Given:
    """What `--head` was given: a place in a chain, of this server's where no node is named; or signed heads from a file."""

    node: str | None = None
    sequence: int = 0
    hash: str = ""
    signed: tuple[SignedHead, ...] = ()
    text: str = ""


def _heads(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[_Given]:
    found: list[_Given] = []
    for text in value:
        matched = re.fullmatch(r"(?:([^:]+):)?([0-9]{1,18}):([0-9a-f]{64})", text)
        if matched is not None:
            found.append(_Given(node=matched[1], sequence=int(matched[2]), hash=matched[3], text=text))
        elif Path(text).is_file():
            found.append(_Given(signed=_heads_in(ctx, param, Path(text)), text=text))
        else:
            problem = f"{text} is not NODE:SEQUENCE:HASH or SEQUENCE:HASH, as verify prints it, and no file"
            raise click.BadParameter(problem, ctx, param)
    return found


def _heads_in(ctx: click.Context, param: click.Parameter, file: Path) -> tuple[SignedHead, ...]:
    """The signed heads among the lines of a file: a sink's, or what `kipuka audit head --json` printed."""
    from kipuka.audit.heads import read_head

    found: list[SignedHead] = []
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise click.BadParameter(f"{file} cannot be read: {error.strerror}", ctx, param) from error
    for line in [text, *text.split("\n")]:  # one document over several lines, or one a line
        try:
            content: object = json.loads(line)
        except (ValueError, RecursionError):
            continue
        head = read_head(cast("dict[str, Any]", content)) if isinstance(content, dict) else None
        if head is not None and head not in found:
            found.append(head)
    if not found:
        raise click.BadParameter(f"there is no signed head in {file}", ctx, param)
    return tuple(found)


def _known(given: list[_Given], trusted: TrustedKeys, own_node: Callable[[], str]) -> list[ChainHead]:
    """The places that must be part of the log. Raises Failure for a signed head that is none."""
    from kipuka.audit.heads import check_head
    from kipuka.store.events import ChainHead

    known: list[ChainHead] = []
    for one in given:
        for head in one.signed:
            problem = check_head(head, trusted) if trusted else None
            if problem is not None:
                raise Failure(
                    printable(f"{one.text}: the head of node {head.node}, sequence {head.sequence}: {problem}")
                )
            known.append(head.head)
        if not one.signed:
            known.append(ChainHead(node=one.node or own_node(), sequence=one.sequence, hash=one.hash))
    return known


@command.command()
@config_option
@click.option(
    "--file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Verify this file of JSON lines, as the sink `file` writes it, instead of the database.",
)
@click.option(
    "--against-database",
    is_flag=True,
    help="With --file: verify the database too, and that it has every event of the file.",
)
@click.option(
    "--head",
    "heads",
    multiple=True,
    callback=_heads,
    metavar="FILE|[NODE:]SEQUENCE:HASH",
    help="A head that was kept elsewhere and must still be part of the log: as verify prints it, or a file with signed heads (a sink's, or of"
    " `kipuka audit head --json`). Repeatable.",
)
@click.option(
    "--node-key",
    "node_keys",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The public key of a node (PEM), for signed heads. Repeatable. Default: those of [audit] in the configuration.",
)
@json_option
def verify(
    *,
    config: Path,
    file: Path | None,
    against_database: bool,
    heads: list[_Given],
    node_keys: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Compute every hash of the audit log again, check the signed heads, and say where an event was changed, removed or moved.

    Exit code 1 when anything is found. What comes after the last signed head can be cut or written anew, and only a head that was kept
    elsewhere shows it.
    """
    from kipuka.audit.verify import verify_file, verify_file_and_store, verify_store

    if against_database and file is None:
        raise click.UsageError("--against-database needs --file")
    needs_config = file is None or against_database
    trusted, own_node = _trust(config, node_keys, config_is_needed=needs_config)
    known = _known(heads, trusted, own_node)
    if file is not None and not against_database:
        report = verify_file(file, known=known, trusted=trusted)
    else:
        from kipuka.cli.host import with_store

        if file is None:
            report = with_store(config, partial(verify_store, known=known, trusted=trusted))
        else:
            report = with_store(config, partial(verify_file_and_store, path=file, known=known, trusted=trusted))
    if as_json:
        _write_report(report, checked=bool(trusted))
    else:
        for chain in report.chains:
            click.echo(printable(_summary(chain)))
        if not trusted:
            click.echo("signatures were not checked: there is no key ([audit] node_key, or --node-key)")
    if not report.intact:
        raise Failure("\n".join(printable(str(finding)) for finding in report.findings))
    if not as_json:
        click.echo("the audit log is intact")


def _trust(
    config: Path, node_keys: tuple[Path, ...], *, config_is_needed: bool
) -> tuple[TrustedKeys, Callable[[], str]]:
    """Whose signatures count, and what this server's own chain is called. An auditor elsewhere has no configuration."""
    from kipuka.audit.heads import TrustedKeys, load_public_key
    from kipuka.runtime import compose
    from kipuka.runtime import node_keys as configured_keys

    given = TrustedKeys(load_public_key(file) for file in node_keys) if node_keys else None
    if not config_is_needed and (given is not None or not config.exists()):

        def unknown() -> str:
            raise Failure("--head without a node: write NODE:SEQUENCE:HASH")

        return given or TrustedKeys(), unknown
    settings = compose(config, os.environ).settings
    trusted = given if given is not None else configured_keys(settings.audit)[1]
    return trusted, lambda: settings.server.node


def _summary(chain: ChainSummary) -> str:
    parts = [f"{chain.node}: {chain.events} events, head {chain.node}:{chain.last}:{chain.head}"]
    if chain.signed is not None:
        covered = f"signed up to sequence {chain.signed.sequence} at {chain.signed.time}, {chain.uncovered} after it"
        parts.append(covered)
    if chain.pruned is not None:
        parts.append(f"pruned up to sequence {chain.pruned.sequence} on {chain.pruned.pruned_at}")
    return "; ".join(parts)


def _write_report(report: Report, *, checked: bool) -> None:
    write_json(
        {
            "intact": report.intact,
            "signatures_checked": checked,
            "chains": [
                {
                    "node": chain.node,
                    "first": chain.first,
                    "last": chain.last,
                    "events": chain.events,
                    "head": f"{chain.node}:{chain.last}:{chain.head}",
                    "signed": None
                    if chain.signed is None
                    else {
                        "sequence": chain.signed.sequence,
                        "time": chain.signed.time,
                        "events_after": chain.uncovered,
                    },
                    "pruned": None
                    if chain.pruned is None
                    else {
                        "sequence": chain.pruned.sequence,
                        "time": chain.pruned.pruned_at,
                        "events": chain.pruned.count,
                    },
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
