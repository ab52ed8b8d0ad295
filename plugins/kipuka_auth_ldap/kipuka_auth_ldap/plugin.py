"""The hooks of the plugin: the module that the entry point `ldap` names.

In the room: one line per record. Not in the room: what the records do.
"""

from __future__ import annotations

from kipuka.api import AuthenticatorKind, hookimpl
from kipuka_auth_ldap.authenticator import METHOD, open_ldap
from kipuka_auth_ldap.config import LDAPSettings
from kipuka_auth_ldap.findings import check_settings

__all__ = ["kipuka_authenticators"]

KIPUKA_API = "1.0"


@hookimpl
def kipuka_authenticators() -> list[AuthenticatorKind[LDAPSettings]]:
    """Directory name and password, section `[ldap]`."""
    return [AuthenticatorKind(name=METHOD, config=LDAPSettings, open=open_ldap, check=check_settings)]
