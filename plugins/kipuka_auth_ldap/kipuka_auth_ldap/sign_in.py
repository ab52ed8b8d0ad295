"""One sign-in: find the user's entry, try the password, look at the group; on the first server that answers.

In the room: the steps and their order, and the choice of servers. Not in the room: the wire (`kipuka_auth_ldap.connection`), what an
answer to a bind means (`kipuka_auth_ldap.verdicts`), the certificate's names (`kipuka_auth_ldap.mapping`), threads.

An unknown user costs what a wrong password costs: the password is tried on an entry that is not there. What is kept from one sign-in to
the next is which server was away; never a password, a connection or a verdict, so that an account that is disabled is out at once.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from kipuka_auth_ldap.basic import SignIn
from kipuka_auth_ldap.config import LDAPSettings, fill_dn, fill_filter
from kipuka_auth_ldap.connection import Deadline, Entry, Link, Server, open_link
from kipuka_auth_ldap.escaping import escape_dn_value, escape_filter_value
from kipuka_auth_ldap.verdicts import Refusal, Trouble, judge_bind, judge_service_bind

__all__ = ["RETRY_AFTER", "Directory", "ServerTrouble"]

T = TypeVar("T")

RETRY_AFTER = 30.0
"""For so many seconds a server that was away is asked only when the others do not answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ServerTrouble:
    """A server that could not say, and why."""

    server: str
    reason: str
    explanation: str


class Directory:
    """The directory that the settings describe. Its methods block, and may be called from several threads at once."""

    def __init__(
        self, settings: LDAPSettings, attributes: Sequence[str], report: Callable[[ServerTrouble], None]
    ) -> None:
        self._settings = settings
        self._attributes = tuple(attributes)
        self._report = report
        self._servers = settings.endpoints
        self._lock = threading.Lock()
        self._away: dict[str, float] = {}

    def sign_in(self, credentials: SignIn) -> Entry | Refusal:
        """The entry of whoever that is, with the attributes that were asked for. Raises `Trouble` when no server can say."""
        return self._on_some_server(lambda link: self._sign_in(link, credentials))

    def probe(self) -> Mapping[str, str | None]:
        """What is wrong with each server at the moment, or None: whether it answers, and takes the server's own account."""
        return {server.uri: self._probe(server) for server in self._servers}

    def _probe(self, server: Server) -> str | None:
        timeout = self._settings.connect_timeout.total_seconds()
        try:
            with open_link(server, Deadline(timeout), connect_timeout=timeout) as link:
                self._bind_service(link)
        except Trouble as trouble:
            self._note(server, trouble)
            return f"{trouble.reason}: {trouble.explanation}"
        self._note(server, None)
        return None

    def _on_some_server(self, act: Callable[[Link], T]) -> T:
        whole = Deadline(self._settings.timeout.total_seconds())
        troubles: list[Trouble] = []
        servers = self._ranked()
        for place, server in enumerate(servers):
            try:
                share = whole.share(len(servers) - place)
                with open_link(server, share, connect_timeout=self._settings.connect_timeout.total_seconds()) as link:
                    found = act(link)
            except Trouble as trouble:
                troubles.append(trouble)
                self._note(server, trouble)
                self._report(ServerTrouble(server=server.uri, reason=trouble.reason, explanation=trouble.explanation))
            else:
                self._note(server, None)
                return found
        told = "; ".join(
            f"{server.uri}: {trouble.reason}, {trouble.explanation}"
            for server, trouble in zip(servers, troubles, strict=True)
        )
        raise Trouble(troubles[-1].reason, told, away=all(trouble.away for trouble in troubles))

    def _ranked(self) -> Sequence[Server]:
        """As configured, but those that were away a moment ago last."""
        now = time.monotonic()
        with self._lock:
            return sorted(self._servers, key=lambda server: self._away.get(server.uri, 0.0) > now)

    def _note(self, server: Server, trouble: Trouble | None) -> None:
        with self._lock:
            if trouble is None:
                self._away.pop(server.uri, None)
            elif trouble.away:
                self._away[server.uri] = time.monotonic() + RETRY_AFTER

    def _sign_in(self, link: Link, credentials: SignIn) -> Entry | Refusal:
        found = self._by_name(link, credentials) if self._settings.user_dn else self._by_search(link, credentials)
        if isinstance(found, Refusal) or self._settings.require_group is None:
            return found
        return found if self._is_member(link, found, credentials.user) else _outside(self._settings.require_group)

    def _by_search(self, link: Link, credentials: SignIn) -> Entry | Refusal:
        base = str(self._settings.user_base)
        self._bind_service(link)
        wanted = fill_filter(self._settings.filter, credentials.user)
        found = link.find(base, filter_text=wanted, below=True, attributes=self._attributes)
        if not isinstance(found, Entry):
            nobody = f"cn={escape_dn_value(secrets.token_hex(8))},{base}"
            judge_bind(link.bind(nobody, credentials.password))
            return Refusal(reason="unknown_user" if found == "none" else "ambiguous_user", counts=True)
        refusal = judge_bind(link.bind(found.dn, credentials.password))
        if refusal is None:
            self._back_to_service(link)
        return refusal or found

    def _by_name(self, link: Link, credentials: SignIn) -> Entry | Refusal:
        dn = fill_dn(str(self._settings.user_dn), credentials.user)
        refusal = judge_bind(link.bind(dn, credentials.password))
        if refusal is not None:
            return refusal
        if self._settings.bind_dn is not None:
            self._bind_service(link)
        found = link.find(dn, below=False, attributes=self._attributes)
        if not isinstance(found, Entry):
            raise Trouble("entry_unreadable", f"{dn} cannot be read; let it read itself, or write bind_dn")
        return found

    def _back_to_service(self, link: Link) -> None:
        if self._settings.require_group is not None:
            self._bind_service(link)

    def _bind_service(self, link: Link) -> None:
        secret = self._settings.bind_password
        password = "" if secret is None else secret.get_secret_value()
        judge_service_bind(link.bind(self._settings.bind_dn or "", password))

    def _is_member(self, link: Link, entry: Entry, user: str) -> bool:
        group = str(self._settings.require_group)
        if group.startswith("("):
            return link.find(entry.dn, filter_text=group, below=False, attributes=()) != "none"
        names = entry.attributes.get(self._settings.name_attribute.lower(), ())
        known = names[0].decode("utf-8", "replace") if len(names) == 1 else user
        dn = escape_filter_value(entry.dn)
        members = f"(|(member={dn})(uniqueMember={dn})(memberUid={escape_filter_value(known)}))"
        return link.find(group, filter_text=members, below=False, attributes=()) != "none"


def _outside(group: str) -> Refusal:
    return Refusal(reason="not_in_group", explanation=f"not in {group}")
