"""The hook of the plugin: the module that the entry point `pkcs11` names.

In the room: one record. Not in the room: what it does.
"""

from __future__ import annotations

from kipuka.api import CABackendKind, hookimpl
from kipuka_ca_pkcs11.backend import open_pkcs11_ca
from kipuka_ca_pkcs11.config import PKCS11CASettings, check_settings
from kipuka_ca_pkcs11.creation import PKCS11CACreator

__all__ = ["kipuka_ca_backends"]

KIPUKA_API = "1.0"


@hookimpl
def kipuka_ca_backends() -> list[CABackendKind[PKCS11CASettings]]:
    """A CA whose key is on a token, `backend = "pkcs11"`."""
    return [
        CABackendKind(
            name="pkcs11",
            config=PKCS11CASettings,
            open=open_pkcs11_ca,
            remote=False,  # a certificate is put together in this process: when no answer came, there is none
            creator=PKCS11CACreator(),
            check=check_settings,
        )
    ]
