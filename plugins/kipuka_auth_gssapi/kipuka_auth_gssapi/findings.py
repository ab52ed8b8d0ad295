"""What `kipuka check` says about a weak or impossible `[gssapi]`.

In the room: the findings. Not in the room: the bounds that no section may leave (`kipuka_auth_gssapi.config`), and whether
the server's certificate can be bound to, which the host looks at.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from kipuka.api import Finding
from kipuka_auth_gssapi.config import GSSAPISettings
from kipuka_auth_gssapi.keytab import KeytabEntry, KeytabError, loose_mode, read_keytab
from kipuka_auth_gssapi.principals import Principal

__all__ = ["check_settings"]


def check_settings(settings: GSSAPISettings) -> Iterator[Finding]:
    """Errors for what cannot work, warnings for what is weak."""
    yield from _keytab(settings)
    yield from _mapping(settings)
    cache = settings.replay_cache
    if cache is not None and not os.access(cache.parent, os.W_OK | os.X_OK):
        yield Finding(
            severity="error",
            key="replay_cache",
            problem=f"{cache.parent} is no folder that files can be made in",
            remedy="name a file in a folder that belongs to the server's account, or take replay_cache out",
        )


def _keytab(settings: GSSAPISettings) -> Iterator[Finding]:
    path = settings.keytab
    try:
        entries = read_keytab(path)
    except KeytabError as error:
        yield Finding(
            severity="error",
            key="keytab",
            problem=f"{path} {error}",
            remedy="export the keys of the service principal into it, readable by the server's account",
        )
        return
    mode = loose_mode(path)
    if mode is not None:
        yield Finding(
            severity="warning",
            key="keytab",
            problem=f"{path} has mode {mode}: others than the server can read or change it",
            remedy=f"chmod 600 '{path}'",
        )
    for service in settings.service_principal:
        yield from _service(settings, service, entries)


def _service(settings: GSSAPISettings, service: str, entries: tuple[KeytabEntry, ...]) -> Iterator[Finding]:
    own = [entry for entry in entries if entry.principal == service]
    if not own:
        there = ", ".join(dict.fromkeys(entry.principal for entry in entries)) or "nothing"
        yield Finding(
            severity="error",
            key="service_principal",
            problem=f"{settings.keytab} has no key of {service}; it has: {there}",
            remedy="export that principal's keys into the keytab, or name one that is in it",
        )
        return
    newest = max(entry.version for entry in own)
    current = [entry for entry in own if entry.version == newest]
    if all(entry.is_weak for entry in current):
        yield Finding(
            severity="warning",
            key="keytab",
            problem=f"{service} has {current[0].encryption} keys only, which are weak",
            remedy="have the KDC make AES keys, and export them again",
        )
    if Principal.parse(service).components[0] != "HTTP":
        yield Finding(
            severity="warning",
            key="service_principal",
            problem=f"{service} does not begin with HTTP/: clients ask for a ticket for HTTP/ and the host name",
            remedy="write HTTP/ and the name that clients use in the URL",
        )


def _mapping(settings: GSSAPISettings) -> Iterator[Finding]:
    realms = settings.allowed_realms
    templates = [template for template in (settings.user_template, settings.machine_template) if template is not None]
    if not templates and not settings.explicit_mapping:
        yield Finding(
            severity="warning",
            key="principal_mapping",
            problem="no principal is mapped: nobody can enrol with a ticket",
            remedy="write default_template, or principals in [gssapi.principal_mapping]",
        )
    for principal in settings.explicit_mapping:
        if principal.realm not in realms:
            yield Finding(
                severity="error",
                key="principal_mapping",
                problem=f"{principal} is not of a realm that is let in ({', '.join(sorted(realms))})",
                remedy=f"write realms = [{', '.join(sorted({*(repr(r) for r in realms), repr(principal.realm)}))}]".replace(
                    "'", '"'
                ),
            )
    if len(realms) > 1 and any(not template.fields & {"principal", "realm"} for template in templates):
        yield Finding(
            severity="warning",
            key="default_template",
            problem="principals of different realms can get the same subject",
            remedy="write {principal} or {realm} in the template",
        )
