"""The command `kipuka gssapi test`.

In the room: how a mapping is shown. Not in the room: the mapping (`kipuka_auth_gssapi.mapping`).
"""

from __future__ import annotations

import json

import click

from kipuka.api import CommandHost, Services, format_dn, pass_host
from kipuka_auth_gssapi.authenticator import GSSAPIAuthenticator
from kipuka_auth_gssapi.mapping import Mapped, Unmapped
from kipuka_auth_gssapi.names import format_san
from kipuka_auth_gssapi.principals import Principal

__all__ = ["COMMANDS"]


def _principal(_context: click.Context, _option: click.Parameter, value: str) -> Principal:
    try:
        return Principal.parse(value)
    except ValueError as error:
        msg = f"a principal {error}"
        raise click.BadParameter(msg) from error


@click.command(name="test")
@click.option(
    "--principal",
    required=True,
    callback=_principal,
    metavar="PRINCIPAL",
    help="Whom to look up, as in alice@EXAMPLE.COM, host/web.example.com@EXAMPLE.COM or 'WS42$@EXAMPLE.COM'.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_host
def test_principal(host: CommandHost, *, principal: Principal, as_json: bool) -> None:
    """Show the names that a principal's certificate can have. Asks no KDC and needs no ticket."""

    async def work(opened: GSSAPIAuthenticator, _services: Services) -> Mapped | Unmapped:
        return opened.mapping.find(principal)

    found = host.run(work)
    if isinstance(found, Unmapped):
        msg = f"principal not mapped: {found.explanation}"
        raise click.ClickException(msg)
    names = [format_san(name, principal) for name in found.names]
    if as_json:
        shown = {
            "principal": str(principal),
            "subject": format_dn(found.subject),
            "names": names,
            "host_name": found.host_name,
        }
        click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        return
    click.echo(f"subject  {format_dn(found.subject)}")
    for name in names:
        click.echo(f"name     {name}")
    if found.host_name is not None and f"DNS:{found.host_name}" not in names:
        click.echo(f"name     DNS:{found.host_name}, and that followed by a domain of the profile's san_domains")


COMMANDS: tuple[click.Command, ...] = (test_principal,)
