"""The hooks of the plugin: the module that the entry point `otp` names.

In the room: one line per record. Not in the room: what the records do.
"""

from __future__ import annotations

import click

from kipuka.api import AdminRoute, AuthenticatorKind, Storage, hookimpl
from kipuka_auth_otp.authenticator import METHOD, open_otp
from kipuka_auth_otp.commands import COMMANDS
from kipuka_auth_otp.config import OTPSettings
from kipuka_auth_otp.events import EVENTS
from kipuka_auth_otp.findings import check_settings
from kipuka_auth_otp.ledger import OTP_STORAGE
from kipuka_auth_otp.routes import ROUTES

__all__ = ["kipuka_admin_routes", "kipuka_authenticators", "kipuka_commands", "kipuka_storage"]

KIPUKA_API = "1.0"


@hookimpl
def kipuka_authenticators() -> list[AuthenticatorKind[OTPSettings]]:
    """One-time passwords, section `[otp]`."""
    return [
        AuthenticatorKind(
            name=METHOD, config=OTPSettings, open=open_otp, check=check_settings, events=EVENTS, scheme="basic"
        )
    ]


@hookimpl
def kipuka_storage() -> list[Storage]:
    """The table of tokens."""
    return [OTP_STORAGE]


@hookimpl
def kipuka_admin_routes() -> list[AdminRoute]:
    """/admin/otp."""
    return list(ROUTES)


@hookimpl
def kipuka_commands() -> list[click.Command]:
    """`kipuka otp ...`."""
    return list(COMMANDS)
