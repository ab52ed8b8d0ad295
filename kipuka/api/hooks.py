"""The six hooks (RULES K3). Each is synchronous, runs once at start, takes nothing and returns a list of records.

In the room: the markers and the specifications. Not in the room: the records (`kipuka.api.kinds`, `kipuka.api.storage`,
`kipuka.api.routes`).

A plugin is a module named by an entry point of the group `kipuka.plugins`, with functions marked `@hookimpl` and the line
`KIPUKA_API = "1.0"`, the version of `kipuka.api` that it was written for. The entry point's name is the name of its kind.
Order never comes from here: it comes from the configuration file.
"""

from __future__ import annotations

from typing import Any

import click
import pluggy

from kipuka.api.kinds import AuditSinkKind, AuthenticatorKind, CABackendKind
from kipuka.api.routes import AdminRoute
from kipuka.api.storage import Storage

__all__ = [
    "API_VERSION",
    "ENTRY_POINT_GROUP",
    "HookSpecs",
    "hookimpl",
]

API_VERSION = "1.0"
"""The version of this contract, major and minor. A plugin's module states the one it was written for, `KIPUKA_API = "1.0"`, and
runs on every kipuka of the same major version that is not older.

Since API 1.0.
"""

ENTRY_POINT_GROUP = "kipuka.plugins"
"""The group of entry points in which kipuka looks for plugins.

Since API 1.0.
"""

hookspec = pluggy.HookspecMarker("kipuka")
hookimpl = pluggy.HookimplMarker("kipuka")
"""Marks a function of a plugin's module as the hook of its name.

Since API 1.0.
"""


class HookSpecs:
    """What a plugin module may implement; each hook is optional.

    Since API 1.0.
    """

    @hookspec
    def kipuka_authenticators(self) -> list[AuthenticatorKind[Any]]:  # type: ignore[empty-body]
        """Methods of proving identity.

        Since API 1.0.
        """

    @hookspec
    def kipuka_ca_backends(self) -> list[CABackendKind[Any]]:  # type: ignore[empty-body]
        """Ways to sign certificates.

        Since API 1.0.
        """

    @hookspec
    def kipuka_audit_sinks(self) -> list[AuditSinkKind[Any]]:  # type: ignore[empty-body]
        """Places audit records go to.

        Since API 1.0.
        """

    @hookspec
    def kipuka_storage(self) -> list[Storage]:  # type: ignore[empty-body]
        """The plugin's own tables and their migrations.

        Since API 1.0.
        """

    @hookspec
    def kipuka_admin_routes(self) -> list[AdminRoute]:  # type: ignore[empty-body]
        """Routes under /admin.

        Since API 1.0.
        """

    @hookspec
    def kipuka_commands(self) -> list[click.Command]:  # type: ignore[empty-body]
        """Commands under `kipuka <entry point's name>`.

        Since API 1.0.
        """
