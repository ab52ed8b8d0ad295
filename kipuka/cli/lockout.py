"""`kipuka lockout list|release`.

In the room: showing locked addresses and unlocking them. Not in the room: counting and locking (`kipuka.store.lockouts`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kipuka.api import LockoutsListed, Tx, timestamp
from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import write_json, write_table

if TYPE_CHECKING:
    from kipuka.store.lockouts import Lockout

__all__ = ["command"]


@click.group()
def command() -> None:
    """List locked addresses, and release them (RULES C4)."""


@command.command(name="list")
@config_option
@json_option
def list_lockouts(*, config: Path, as_json: bool) -> None:
    """List the addresses that are locked now, the latest first."""
    from kipuka.cli.host import with_store
    from kipuka.store import lockouts

    def look(tx: Tx) -> tuple[Lockout, ...]:
        found = lockouts.listing(tx)
        tx.audit(LockoutsListed(count=len(found)))
        return found

    rows = [
        {
            "counter": item.counter,
            "address": item.address,
            "failures": item.failures,
            "since": timestamp(item.since),
            "until": timestamp(item.until),
        }
        for item in with_store(config, lambda store: store.write(look))
    ]
    if as_json:
        write_json(rows)
        return
    write_table(["COUNTER", "ADDRESS", "FAILURES", "SINCE", "UNTIL"], [list(row.values()) for row in rows])


@command.command()
@config_option
@click.option("--counter", help="Only in this count, for instance otp or admin. Default: in all.")
@click.argument("address")
def release(*, config: Path, counter: str | None, address: str) -> None:
    """Unlock ADDRESS, given as a client's or as the list shows it, and forget its failures."""
    from kipuka.cli.host import with_store
    from kipuka.store import lockouts

    try:
        wanted = lockouts.normal_address(address.partition("/")[0])
    except ValueError as error:
        raise click.BadParameter(f"{address} is not an IP address", param_hint="ADDRESS") from error

    def unlock(tx: Tx) -> list[str]:
        counters = sorted({item.counter for item in lockouts.listing(tx, counter=counter) if item.address == wanted})
        return [name for name in counters if lockouts.release(tx, counter=name, address=address)]

    released = with_store(config, lambda store: store.write(unlock))
    if not released:
        raise Failure(f"{wanted} is not locked" + ("" if counter is None else f" in the count {counter}"))
    click.echo(f"released {wanted} ({', '.join(released)})", err=True)
