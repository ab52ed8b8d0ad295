"""The hook of the plugin: the module that the entry point `local` names.

In the room: one record. Not in the room: what it does.
"""

from __future__ import annotations

from kipuka.api import CABackendKind, hookimpl
from kipuka_ca_local.backend import open_local_ca
from kipuka_ca_local.config import LocalCASettings, check_settings
from kipuka_ca_local.creation import LocalCACreator

__all__ = ["kipuka_ca_backends"]

KIPUKA_API = "1.0"


@hookimpl
def kipuka_ca_backends() -> list[CABackendKind[LocalCASettings]]:
    """A CA in PEM files, `backend = "local"`."""
    return [
        CABackendKind(
            name="local",
            config=LocalCASettings,
            open=open_local_ca,
            remote=False,  # it signs in this process: when no answer came, there was none
            creator=LocalCACreator(),
            check=check_settings,
        )
    ]
