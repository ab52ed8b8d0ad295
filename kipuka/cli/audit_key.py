"""`kipuka audit head|key`.

In the room: making the node's key, and what the key has signed last. Not in the room: signing (`kipuka.audit.signer`), and holding
signatures against the log (`kipuka audit verify`).
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import printable, write_json

if TYPE_CHECKING:
    from kipuka.audit.heads import NodeKey, SignedHead, TrustedKeys
    from kipuka.store.database import Store

__all__ = ["head", "key", "sign_now", "write_key_pair"]

DEFAULT_FILE = "audit.key"


@click.command()
@config_option
@json_option
def head(*, config: Path, as_json: bool) -> None:
    """Print how far this server's chain was signed last. Kept elsewhere, it shows later that nothing up to it was cut."""
    from kipuka.audit.heads import check_head
    from kipuka.cli.host import run_as_operator
    from kipuka.runtime import compose, node_keys, open_admin_store

    composition = compose(config, os.environ)
    _own, trusted = node_keys(composition.settings.audit)

    async def look() -> SignedHead | None:
        async with open_admin_store(composition) as store:
            return await _newest(store)

    signed = run_as_operator(look())
    if signed is None:
        raise Failure("no head was signed yet")
    if trusted and (problem := check_head(signed, trusted)) is not None:
        raise Failure(printable(f"the last signed head is not good: {problem}"))
    if as_json:
        write_json(asdict(signed))
    else:
        click.echo(printable(f"{signed.node}:{signed.sequence}:{signed.hash}"))
        click.echo(printable(f"signed at {signed.time} by the key {signed.key}"))


async def _newest(store: Store) -> SignedHead | None:
    from kipuka.api.events import AuditHeadSigned
    from kipuka.audit.heads import read_head
    from kipuka.store import events

    row = await store.read(partial(events.newest, node=store.node, event=AuditHeadSigned.name))
    if row is None:
        return None
    try:
        signed = read_head(json.loads(row.line))
    except ValueError:
        signed = None
    if signed is None:
        raise Failure(f"sequence {row.sequence}: the last signed head cannot be read: run `kipuka audit verify`")
    return signed


@click.group()
def key() -> None:
    """The key that signs how far the audit log goes."""


@key.command()
@config_option
@click.argument("file", type=click.Path(path_type=Path), required=False)
def create(*, config: Path, file: Path | None) -> None:
    """Make a key in FILE, for its owner alone, and its public half beside it, with the suffix .pub.

    Default of FILE: [audit] node_key of the configuration, else audit.key beside it. Where the configuration names the key, the log as it
    is now is signed at once.
    """
    from kipuka.cli.host import run_as_operator
    from kipuka.runtime import compose, node_keys, open_admin_store

    composition = compose(config, os.environ)
    audit = composition.settings.audit
    chosen = file or audit.node_key or composition.settings.file.parent / DEFAULT_FILE
    made = write_key_pair(chosen)
    click.echo(f"wrote {chosen}, and {chosen.with_suffix('.pub')} for auditors")
    click.echo(f"the key's name is {made.id}")
    if audit.node_key is None or audit.node_key.resolve() != chosen.resolve():
        click.echo(f'write into {composition.settings.file}, and restart the server:\n[audit]\nnode_key = "{chosen}"')
        return

    async def sign() -> None:
        own, trusted = node_keys(audit)
        async with open_admin_store(composition) as store:
            if own is not None:
                await sign_now(store, own, trusted)

    run_as_operator(sign())


@key.command()
@config_option
def public(*, config: Path) -> None:
    """Print the public key (PEM), for auditors: `kipuka audit verify --node-key FILE`."""
    from kipuka.audit.heads import public_pem
    from kipuka.runtime import compose, node_keys

    own, _trusted = node_keys(compose(config, os.environ).settings.audit)
    if own is None:
        raise Failure("there is no key: run `kipuka audit key create`")
    click.echo(public_pem(own.public).decode("ascii"), nl=False)


def write_key_pair(file: Path) -> NodeKey:
    """A new key in `file`, and its public half beside it. Raises Failure rather than overwrite either."""
    from kipuka.audit.heads import public_pem, write_key

    public_file = file.with_suffix(".pub")
    if public_file == file:
        raise Failure(f"{file}: a private key does not end in .pub")
    for one in (file, public_file):
        if one.exists():
            raise Failure(f"{one} is there already; nothing was changed")
    try:
        made = write_key(file)
        with public_file.open("xb") as stream:
            stream.write(public_pem(made.public))
    except OSError as error:
        raise Failure(f"{error.filename}: {error.strerror}") from error
    return made


async def sign_now(store: Store, own: NodeKey, trusted: TrustedKeys) -> None:
    """Sign the log as it is, unless it is not what was signed before (an event says so then)."""
    from kipuka.audit.signer import HeadSigner

    await HeadSigner(store, own, trusted=trusted).sign()
