"""The commands `kipuka otp create`, `otp list` and `otp revoke`.

In the room: options and how results are printed. Not in the room: the work (`kipuka_auth_otp.tokens`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import TypeVar

import click
from pydantic import ValidationError

from kipuka.api import CommandHost, Services, pass_host
from kipuka_auth_otp.authenticator import OTPAuthenticator
from kipuka_auth_otp.ledger import TokenState
from kipuka_auth_otp.tokens import PAGE_LIMIT, Made, NewToken, TokenPage, TokenQuery, TokenView

__all__ = ["COMMANDS"]

T = TypeVar("T")
Work = Callable[[OTPAuthenticator, Services], Awaitable[T]]

MAX_SECONDS = 3650 * 86400
_UNITS: Mapping[str, int] = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def _duration(_context: click.Context, _option: click.Parameter, value: str | None) -> timedelta | None:
    if value is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", value, re.ASCII)
    if match is None:
        raise click.BadParameter("a number and s, m, h, d or w are needed, as in 24h")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > MAX_SECONDS:
        raise click.BadParameter("that is more than ten years")
    return timedelta(seconds=seconds)


@click.command()
@click.option("--client-id", required=True, help="Whom the token is for; the certificate's subject is CN=<client id>.")
@click.option(
    "--expires-in",
    callback=_duration,
    metavar="DURATION",
    help="How long it is good, as in 90s, 15m, 24h, 7d. Default: [otp] default_ttl.",
)
@click.option("--max-uses", type=int, help="How many certificates it is good for. Default: [otp] max_uses.")
@click.option("--label", help="The EST label it is good at. Default: the path without a label.")
@click.option("--subject", help="The certificate's subject (RFC 4514) in place of CN=<client id>.")
@click.option(
    "--san", multiple=True, help="A name that may be asked for: DNS:, IP:, email: or URI: and a value. Repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_host
def create(
    host: CommandHost,
    *,
    client_id: str,
    expires_in: timedelta | None,
    max_uses: int | None,
    label: str | None,
    subject: str | None,
    san: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a one-time password and print it, this once, alone on standard output."""
    wanted = _wanted(client_id=client_id, max_uses=max_uses, subject=subject, san=list(san), label=label)

    async def work(otp: OTPAuthenticator, services: Services) -> Made:
        if expires_in is None:
            return await otp.tokens.create(wanted)
        until = (services.clock() + expires_in).replace(microsecond=0)
        return await otp.tokens.create(wanted.model_copy(update={"expires_at": until}))

    made = _run(host, work)
    if as_json:
        fields = made.created.model_dump(mode="json")
        click.echo(_json({"id": made.id, **fields}))
        return
    shown = made.created.model_dump(mode="json")
    click.echo(made.created.token)
    click.echo(
        f"id {made.id}, for {made.created.client_id}, good for {made.created.max_uses} "
        f"{'certificate' if made.created.max_uses == 1 else 'certificates'} until {shown['expires_at']}",
        err=True,
    )


@click.command(name="list")
@click.option("--client-id", help="Only those for this client.")
@click.option("--state", type=click.Choice([state.value for state in TokenState]), help="Only those in this state.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_host
def list_tokens(host: CommandHost, *, client_id: str | None, state: str | None, as_json: bool) -> None:
    """List one-time passwords, without the passwords, newest first."""

    async def work(otp: OTPAuthenticator, _services: Services) -> list[TokenView]:
        found: list[TokenView] = []
        after: str | None = None
        while True:
            page: TokenPage = await otp.tokens.listing(
                TokenQuery(
                    client_id=client_id,
                    state=None if state is None else TokenState(state),
                    after=after,
                    limit=PAGE_LIMIT,
                )
            )
            found += page.tokens
            after = page.next
            if after is None:
                return found

    tokens = [token.model_dump(mode="json") for token in _run(host, work)]
    if as_json:
        click.echo(_json(tokens))
        return
    header = ("ID", "CLIENT", "STATE", "USED", "EXPIRES", "LABEL")
    _print_table(
        [
            header,
            *(
                (
                    token["id"],
                    token["client_id"],
                    token["state"],
                    f"{token['used']}/{token['max_uses']}",
                    token["expires_at"],
                    token["label"] or "-",
                )
                for token in tokens
            ),
        ]
    )


@click.command()
@click.argument("token_id", metavar="ID")
@pass_host
def revoke(host: CommandHost, *, token_id: str) -> None:
    """Revoke a one-time password by its id."""

    async def work(otp: OTPAuthenticator, _services: Services) -> TokenView:
        return await otp.tokens.revoke(token_id)

    token = _run(host, work)
    click.echo(f"revoked {token.id}, for {token.client_id}", err=True)


def _run(host: CommandHost, work: Work[T]) -> T:
    return host.run(work)


def _wanted(**fields: object) -> NewToken:
    try:
        return NewToken.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise click.UsageError(f"{option}: {first['msg'].removeprefix('Value error, ')}") from error


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


COMMANDS: tuple[click.Command, ...] = (create, list_tokens, revoke)
