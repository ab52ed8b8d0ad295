"""The hooks of the plugin: the module that the entry point `gssapi` names.

In the room: one line per record. Not in the room: what the records do.
"""

from __future__ import annotations

import click

from kipuka.api import AuthenticatorKind, Needs, hookimpl
from kipuka_auth_gssapi.authenticator import METHOD, open_gssapi
from kipuka_auth_gssapi.commands import COMMANDS
from kipuka_auth_gssapi.config import GSSAPISettings
from kipuka_auth_gssapi.findings import check_settings

__all__ = ["kipuka_authenticators", "kipuka_commands"]

KIPUKA_API = "1.0"

HEADER_SIZE = 72 * 1024
"""Active Directory's tickets grow with the user's groups, up to 64 KiB in base64 (RULES H1)."""


def _needs(settings: GSSAPISettings) -> Needs:
    required = settings.channel_binding == "required"
    return Needs(header_size=HEADER_SIZE, server_end_point="channel_binding" if required else None)


@hookimpl
def kipuka_authenticators() -> list[AuthenticatorKind[GSSAPISettings]]:
    """Kerberos tickets, section `[gssapi]`."""
    return [
        AuthenticatorKind(
            name=METHOD, config=GSSAPISettings, open=open_gssapi, check=check_settings, needs=_needs, scheme="negotiate"
        )
    ]


@hookimpl
def kipuka_commands() -> list[click.Command]:
    """`kipuka gssapi ...`."""
    return list(COMMANDS)
