"""The section `[ldap]` of the configuration file.

In the room: its keys, defaults and bounds, and what they say once they are read. Not in the room: files and what `kipuka check` says
about a weak choice (`kipuka_auth_ldap.findings`).
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from kipuka.api import ConfigPath, LockoutPolicy, Seconds, Secret, Section
from kipuka_auth_ldap.connection import Server, filter_problem, is_dn
from kipuka_auth_ldap.escaping import escape_dn_value, escape_filter_value
from kipuka_auth_ldap.names import read_template

__all__ = ["LDAPSettings"]

_PLACEHOLDER = "{user}"
_ATTRIBUTE = re.compile(r"[A-Za-z][A-Za-z0-9-]*(;[A-Za-z0-9-]+)*|[0-9]+(\.[0-9]+)+", re.ASCII)
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", re.ASCII)
_PORTS = {"ldaps": 636, "ldap": 389}


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


def _check_server(text: str) -> str:
    msg = f"{text!r} is no server; write ldaps://ldap.example.com or ldap://ldap.example.com, with :port where it is another"
    parts = urlsplit(text)
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(msg) from error
    host, _, _ = parts.netloc.rpartition(":") if port is not None else (parts.netloc, "", "")
    if (
        parts.scheme not in _PORTS
        or not _HOST.fullmatch(host)
        or parts.path not in {"", "/"}
        or parts.query
        or port == 0
    ):
        raise ValueError(msg)
    return f"{parts.scheme}://{host}:{port or _PORTS[parts.scheme]}"


def _check_dn(text: str) -> str:
    if not is_dn(text):
        msg = "it is not a distinguished name; write one such as ou=people,dc=example,dc=com"
        raise ValueError(msg)
    return text


def _check_filter(text: str) -> str:
    if _PLACEHOLDER not in text:
        msg = "it has no {user}, so that it would find the same for everybody; write one such as (uid={user})"
        raise ValueError(msg)
    return _well_formed(text)


def _well_formed(text: str) -> str:
    problem = filter_problem(fill_filter(text, "x"))
    if problem is not None:
        msg = f"{problem}; write one such as (uid={{user}})"
        raise ValueError(msg)
    return text


def _check_user_dn(text: str) -> str:
    if _PLACEHOLDER not in text:
        msg = "it has no {user}; write one such as uid={user},ou=people,dc=example,dc=com"
        raise ValueError(msg)
    if not is_dn(fill_dn(text, "x")):
        msg = "it is not a distinguished name; write one such as uid={user},ou=people,dc=example,dc=com"
        raise ValueError(msg)
    return text


def _check_group(text: str) -> str:
    if text.startswith("("):
        problem = filter_problem(text)
        if problem is None:
            return text
    elif is_dn(text):
        return text
    msg = "it is neither the name of a group (cn=est,ou=groups,dc=example,dc=com) nor a filter ((memberOf=cn=est,...))"
    raise ValueError(msg)


def _check_attribute(text: str) -> str:
    if not _ATTRIBUTE.fullmatch(text):
        msg = "it is not the name of an attribute; write one such as uid or sAMAccountName"
        raise ValueError(msg)
    return text


def _check_subject(text: str) -> str:
    read_template(text)
    return text


def fill_filter(template: str, user: str) -> str:
    """A filter for this user: whatever characters the name has, it is one assertion value (RFC 4515, 3)."""
    return template.replace(_PLACEHOLDER, escape_filter_value(user))


def fill_dn(template: str, user: str) -> str:
    """A distinguished name for this user: whatever characters the name has, it is in one value (RFC 4514, 2.4)."""
    return template.replace(_PLACEHOLDER, escape_dn_value(user))


_Server = Annotated[str, AfterValidator(_check_server)]
_DN = Annotated[str, AfterValidator(_check_dn)]
_Attribute = Annotated[str, AfterValidator(_check_attribute)]
_Duration = timedelta


class LDAPSettings(Section):
    """How names and passwords are checked against a directory, and whose name a certificate for one has."""

    enabled: bool = True
    """Whether directory passwords are accepted."""

    servers: Annotated[tuple[_Server, ...], BeforeValidator(_listed)] = Field(min_length=1, max_length=8)
    """The directory's servers, `ldaps://host` or `ldap://host`, with `:port` where it is not 636 or 389. One that does not answer is
    passed over for the next, and asked last for half a minute. `ldap://` is encrypted by StartTLS before anything is said."""

    ca_file: ConfigPath | None = None
    """A PEM file with the CA certificates that the servers' certificates must come from; nothing else is trusted. Needed, unless
    `allow_plaintext` is on and no server is `ldaps://`."""

    allow_plaintext: bool = False
    """Whether passwords go over `ldap://` without encryption. For a server on the same machine; anywhere else everybody on the way reads
    them."""

    bind_dn: _DN | None = None
    """The account that searches for users. Without it the search is anonymous, which many directories refuse."""

    bind_password: Secret | None = None
    """Its password; best as `file:PATH` or `env:NAME`."""

    user_base: _DN | None = None
    """Where users are searched for: at this entry and anywhere below it."""

    user_filter: Annotated[str, AfterValidator(_check_filter)] | None = None
    """The filter that finds exactly one entry, with `{user}` for what the client calls itself: `(uid={user})`, or
    `(&(objectClass=user)(sAMAccountName={user}))`. Default: `(uid={user})`."""

    user_dn: Annotated[str, AfterValidator(_check_user_dn)] | None = None
    """In place of `user_base` and `user_filter`, where all entries are named alike: `uid={user},ou=people,dc=example,dc=com`. Nothing
    is searched for; an entry must be able to read itself, or `bind_dn` to read it."""

    name_attribute: _Attribute = "uid"
    """The attribute, with one value, that has the user's name as the directory writes it: the identity's name in record and audit, and
    `{user}` in `subject`. `sAMAccountName` in Active Directory."""

    require_group: Annotated[str, AfterValidator(_check_group)] | None = None
    """Who may enrol: the name of a group that has the entry as `member` or `uniqueMember`, or the user as `memberUid`; or a filter that
    the user's own entry must pass, such as `(memberOf=cn=est,ou=groups,dc=example,dc=com)`. Default: everybody with a password."""

    subject: Annotated[str, AfterValidator(_check_subject)] = "CN={user}"
    """The certificate's subject: a distinguished name in whose values `{user}` stands for the user's name and `{attribute}` for the one
    value of that attribute, such as `CN={cn},OU=People,O=Example`. Who lacks the attribute cannot enrol."""

    email_attribute: _Attribute | None = None
    """The attribute whose values are mail addresses that the user may have in a certificate: `mail`. Only where users cannot change it
    themselves."""

    dns_attribute: _Attribute | None = None
    """The same for DNS names of machine accounts: `dNSHostName`."""

    upn_attribute: _Attribute | None = None
    """The same for Microsoft's user principal names: `userPrincipalName`."""

    connect_timeout: Seconds = Field(
        default=_Duration(seconds=3), ge=_Duration(milliseconds=100), le=_Duration(seconds=12)
    )
    """How long, in seconds, one server may take to answer a connection and its TLS handshake."""

    timeout: Seconds = Field(default=_Duration(seconds=8), ge=_Duration(milliseconds=200), le=_Duration(seconds=12))
    """How long, in seconds, a whole sign-in may take, over all servers. A server gets its even share of what is left."""

    pool_size: int = Field(default=4, ge=1, le=64, strict=True)
    """How many sign-ins each worker process has under way at a time. Eight times as many wait; more are told to come back."""

    max_failures: int = Field(default=5, ge=1, le=10_000, strict=True)
    """How many failures an address may have within `failure_window`; the next one locks it out."""

    failure_window: Seconds = Field(default=_Duration(seconds=300), gt=_Duration(0), le=_Duration(days=30))
    """How long, in seconds, a failure is counted."""

    lockout_duration: Seconds = Field(default=_Duration(seconds=900), gt=_Duration(0), le=_Duration(days=30))
    """How long, in seconds, an address stays locked out. The directory may lock the account as well, by its own rules."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        problem = self._user_problem() or self._account_problem() or self._encryption_problem()
        if problem is not None:
            raise ValueError(problem)
        return self

    def _user_problem(self) -> str | None:
        if self.user_dn is not None:
            other = next((key for key in ("user_base", "user_filter") if getattr(self, key) is not None), None)
            return f"user_dn and {other} are both there; take one of them out" if other else None
        return "user_base is missing; write where users are, or user_dn" if self.user_base is None else None

    def _account_problem(self) -> str | None:
        if (self.bind_dn is None) != (self.bind_password is None):
            return "bind_dn and bind_password go together; write both or neither"
        if self.bind_password is not None and not self.bind_password.get_secret_value():
            return "bind_password is empty, and a bind without a password is an anonymous one; write it, or take bind_dn out"
        return None

    def _encryption_problem(self) -> str | None:
        plain = self.allow_plaintext and not any(server.startswith("ldaps:") for server in self.servers)
        if self.ca_file is None and not plain:
            return "ca_file is missing: the servers' certificates must come from somewhere; name a PEM file of CA certificates"
        if len(set(self.servers)) != len(self.servers):
            return "servers names one server twice; take it out"
        return None

    @property
    def filter(self) -> str:
        """`user_filter` with its default."""
        return self.user_filter or "(uid={user})"

    @property
    def endpoints(self) -> tuple[Server, ...]:
        """`servers`, and how each is spoken to."""
        return tuple(
            Server(
                uri=uri,
                start_tls=uri.startswith("ldap:") and not self.allow_plaintext,
                ca_file=self.ca_file if uri.startswith("ldaps:") or not self.allow_plaintext else None,
            )
            for uri in self.servers
        )

    @property
    def lockout_policy(self) -> LockoutPolicy:
        """The three rate limiting keys as the host's service takes them."""
        return LockoutPolicy(max_failures=self.max_failures, window=self.failure_window, duration=self.lockout_duration)
