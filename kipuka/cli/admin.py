"""`kipuka admin token create|list|revoke`.

In the room: making bearer tokens of 256 random bits (RULES E3), and showing what is known of them. Not in the room: checking
them (`kipuka.http.admin`).
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kipuka.api import timestamp
from kipuka.cli.failures import Failure
from kipuka.cli.options import config_option, json_option
from kipuka.cli.output import write_json, write_table

if TYPE_CHECKING:
    from kipuka.store.database import Store

__all__ = ["NewAdminToken", "command", "create_token"]

TOKEN_OCTETS = 32
ID_OCTETS = 8
MAX_DESCRIPTION = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class NewAdminToken:
    """A token that was just made: the only time that its secret is at hand."""

    id: str
    secret: str = field(repr=False)


async def create_token(store: Store, *, description: str) -> NewAdminToken:
    """Make a token and record its SHA-256, with the audit event."""
    from kipuka.store import admin_tokens

    token = NewAdminToken(id=secrets.token_hex(ID_OCTETS), secret=secrets.token_urlsafe(TOKEN_OCTETS))
    digest = hashlib.sha256(token.secret.encode("ascii")).hexdigest()
    await store.write(partial(admin_tokens.create, id=token.id, sha256=digest, description=description))
    return token


@click.group()
def command() -> None:
    """Bearer tokens of administrators."""


@command.group()
def token() -> None:
    """Make, list and revoke bearer tokens."""


def _described(ctx: click.Context, param: click.Parameter, value: str) -> str:
    text = value.strip()
    if not text or len(text) > MAX_DESCRIPTION or not text.isprintable():
        raise click.BadParameter(f"1 to {MAX_DESCRIPTION} printable characters are needed", ctx, param)
    return text


@token.command()
@config_option
@click.option("--description", required=True, callback=_described, help="Whose token it is, for the audit log.")
@json_option
def create(*, config: Path, description: str, as_json: bool) -> None:
    """Make a bearer token and print it, this once, alone on standard output."""
    from kipuka.cli.host import with_store

    made = with_store(config, partial(create_token, description=description))
    if as_json:
        write_json({"id": made.id, "token": made.secret, "description": description})
        return
    click.echo(made.secret)
    click.echo(f"id {made.id}, for {description}; it is not shown again", err=True)


@token.command(name="list")
@config_option
@json_option
def list_tokens(*, config: Path, as_json: bool) -> None:
    """List the tokens in the database, without their secrets. Those in the configuration file stand there."""
    from kipuka.cli.host import with_store
    from kipuka.store import admin_tokens

    found = with_store(config, lambda store: store.read(admin_tokens.listing))
    rows = [
        {
            "id": item.id,
            "description": item.description,
            "created_at": timestamp(item.created_at),
            "revoked_at": None if item.revoked_at is None else timestamp(item.revoked_at),
        }
        for item in found
    ]
    if as_json:
        write_json(rows)
        return
    write_table(["ID", "DESCRIPTION", "CREATED", "REVOKED"], [list(row.values()) for row in rows])


@token.command()
@config_option
@click.argument("token_id", metavar="ID")
def revoke(*, config: Path, token_id: str) -> None:
    """Revoke a bearer token by its id: it is refused from now on."""
    from kipuka.cli.host import with_store
    from kipuka.store import admin_tokens

    if not with_store(config, lambda store: store.write(partial(admin_tokens.revoke, id=token_id))):
        raise Failure(f"there is no bearer token {token_id} that could be revoked")
    click.echo(f"revoked {token_id}", err=True)
