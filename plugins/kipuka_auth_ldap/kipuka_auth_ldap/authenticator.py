"""The authenticator: judges a Basic credential by the directory's word.

In the room: the order of the checks, what a client hears, and which failures count for a lock-out (RULES C3, C4). Not in the room:
reading the header (`kipuka_auth_ldap.basic`), asking the directory (`kipuka_auth_ldap.sign_in`), names (`kipuka_auth_ldap.mapping`).

Whoever may not enrol for what his password or account is hears one sentence, whatever the reason; the reason is for audit. A directory that
cannot say is a 503, and counts for nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from kipuka.api import (
    Authenticated,
    AuthOutcome,
    BackendUnavailable,
    Credentials,
    DenialKind,
    Denied,
    Identity,
    Lockouts,
    NotPresented,
    Services,
    Threads,
)
from kipuka_auth_ldap.basic import SignIn, read_basic
from kipuka_auth_ldap.config import LDAPSettings
from kipuka_auth_ldap.connection import Deadline, Entry
from kipuka_auth_ldap.mapping import NameMapping, Unmapped
from kipuka_auth_ldap.sign_in import Directory, ServerTrouble
from kipuka_auth_ldap.verdicts import Refusal, Trouble

__all__ = ["METHOD", "LDAPAuthenticator", "open_ldap"]

METHOD = "ldap"
INVALID = "invalid user name or password"
AWAY = "the directory is not available at the moment"
NOT_HERE = "this account may not enrol here"

COME_BACK = timedelta(seconds=10)

WAITING = 8
"""So many sign-ins wait for each thread."""

SLACK = timedelta(seconds=1)
"""How long a call may take beyond its own time limits before nobody waits for it any more: a resolver has limits of its own."""


class LDAPAuthenticator:
    """Directory name and password in HTTP Basic authentication."""

    def __init__(self, settings: LDAPSettings, threads: Threads, services: Services) -> None:
        self._mapping = NameMapping.of(settings)
        self._directory = Directory(settings, self._mapping.attributes, self._report)
        self._threads = threads
        self._services = services
        self._timeout = settings.timeout
        self._probe_patience = settings.connect_timeout * len(settings.servers) + SLACK
        self._lockouts: Lockouts = services.lockouts(settings.lockout_policy)

    @property
    def challenge(self) -> str:
        """RFC 7617, 2 and 2.1. The realm is what a person is asked for: with one-time passwords on too, the two can be told apart."""
        return 'Basic realm="kipuka directory", charset="UTF-8"'

    async def authenticate(self, credentials: Credentials, /) -> AuthOutcome:
        """Ask the directory whether the password in the Authorization field is right; every time anew."""
        authorization = credentials.authorization
        if authorization is None or authorization.scheme != "basic":
            return NotPresented()
        sign_in = read_basic(authorization.parameters)
        if isinstance(sign_in, str):
            return Denied(detail=INVALID, reason=sign_in)
        address = credentials.connection.client_address
        locked = await self._lockouts.check(address)
        if locked is not None:
            return locked
        found = await self._ask(sign_in)
        if isinstance(found, Denied):
            return found
        if isinstance(found, Entry):
            return self._recognise(sign_in, found)
        denied = _denied(sign_in, found)
        return (await self._lockouts.failure(address) if found.counts else None) or denied

    async def health(self) -> str | None:
        """None when a server answers and takes the server's own account; else what is wrong with each."""
        try:
            found = await self._threads.run(self._directory.probe, patience=self._probe_patience)
        except (TimeoutError, BackendUnavailable):
            return "the directory has not answered in time"
        if None in found.values():
            return None
        return "; ".join(f"{server}: {problem}" for server, problem in found.items())

    async def _ask(self, sign_in: SignIn) -> Entry | Refusal | Denied:
        try:
            ask = partial(self._directory.sign_in, sign_in, Deadline(self._timeout.total_seconds()))
            return await self._threads.run(ask, patience=self._timeout + SLACK)
        except BackendUnavailable:
            return _busy(sign_in, "directory_queue_full", None)
        except TimeoutError:
            return _busy(sign_in, "directory_timed_out", None)
        except Trouble as trouble:
            return _busy(sign_in, f"directory_{trouble.reason}", trouble.explanation)

    def _recognise(self, sign_in: SignIn, entry: Entry) -> Authenticated | Denied:
        mapped = self._mapping.find(entry.attributes)
        if isinstance(mapped, Unmapped):
            return _not_permitted(sign_in, mapped.reason, f"{entry.dn}: {mapped.explanation}")
        if mapped.unfit:
            self._services.log.warning("ldap_names_left_out", entry=entry.dn, attributes=list(mapped.unfit))
        return Authenticated(
            identity=Identity(method=METHOD, name=mapped.name, subject=mapped.subject, permitted_names=mapped.permitted)
        )

    def _report(self, trouble: ServerTrouble) -> None:
        self._services.log.warning(
            "ldap_server_trouble", server=trouble.server, reason=trouble.reason, explanation=trouble.explanation
        )


def _denied(sign_in: SignIn, refusal: Refusal) -> Denied:
    if refusal.reason == "not_in_group":
        return _not_permitted(sign_in, refusal.reason, refusal.explanation)
    return Denied(detail=INVALID, reason=refusal.reason, name=sign_in.user, explanation=refusal.explanation)


def _not_permitted(sign_in: SignIn, reason: str, explanation: str | None) -> Denied:
    return Denied(
        detail=NOT_HERE, reason=reason, kind=DenialKind.NOT_PERMITTED, name=sign_in.user, explanation=explanation
    )


def _busy(sign_in: SignIn, reason: str, explanation: str | None) -> Denied:
    return Denied(
        detail=AWAY,
        reason=reason,
        kind=DenialKind.BUSY,
        retry_after=COME_BACK,
        name=sign_in.user,
        explanation=explanation,
    )


@asynccontextmanager
async def open_ldap(settings: LDAPSettings, services: Services) -> AsyncGenerator[LDAPAuthenticator, None]:
    """The authenticator with threads of its own. A directory that is away does not stop the start: it may come back."""
    waiting, farewell = WAITING * settings.pool_size, settings.timeout + SLACK
    async with services.open_threads(settings.pool_size, waiting=waiting, farewell=farewell) as threads:
        yield LDAPAuthenticator(settings, threads, services)
