"""One connection to one directory server, and every call into python-ldap.

In the room: TLS, time limits, bind and search, and what the library raises turned into values and `Trouble`. Not in the room: which
server, and in what order (`kipuka_auth_ldap.sign_in`); what an answer means (`kipuka_auth_ldap.verdicts`).

All of it blocks, within its limits, and runs in threads (`kipuka_auth_ldap.threads`). python-ldap speaks through OpenLDAP's own
library. What that would read from /etc/ldap/ldap.conf, ~/.ldaprc and LDAP* variables is switched off: the section says it all. So is
the trace that python-ldap writes at a variable's word, with passwords.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

os.environ["LDAPNOINIT"] = "1"  # ldap.conf(5); the library looks at it once, when it is first used
os.environ.pop("PYTHON_LDAP_TRACE_LEVEL", None)

import ldap
from ldap.controls import DecodeControlTuples, LDAPControl
from ldap.controls.ppolicy import PasswordPolicyControl
from ldap.controls.pwdpolicy import PasswordExpiredControl
from ldap.ldapobject import SimpleLDAPObject

from kipuka_auth_ldap.verdicts import BindAnswer, Policy, PolicyError, Trouble, printable

__all__ = ["Deadline", "Entry", "Link", "Server", "filter_problem", "is_dn", "open_link"]

_POLICY_ERRORS: Mapping[int | None, PolicyError | None] = {
    None: None,
    0: "expired",
    1: "locked",
    2: "change_after_reset",
}
Missing = Literal["none", "several"]
_NO_SUCH_OBJECT, _SIZE_LIMIT_EXCEEDED = 32, 4
_ENCRYPTION_MISSING = {8, 13}  # strongerAuthRequired, confidentialityRequired
_EMPTY_FILTER = "(objectClass=*)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """Where a directory server is, and how it is spoken to. `ca_file` is None where nothing is encrypted."""

    uri: str  # "ldaps://host:port" or "ldap://host:port"
    start_tls: bool
    ca_file: Path | None


class Deadline:
    """A moment that nothing goes on after."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then. Raises `Trouble` when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise Trouble("timed_out", "no answer in time", away=True)
        return seconds

    def share(self, parts: int) -> Deadline:
        """An earlier one, after that part of what is left. Raises `Trouble` when nothing is."""
        return Deadline(self.left() / parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An entry of the directory: its name, and the values of the attributes that were asked for, under lower-case names."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]


class Link:
    """A connection that is open and, unless the section says otherwise, encrypted. Made by `open_link`."""

    def __init__(self, handle: SimpleLDAPObject, deadline: Deadline) -> None:
        self._handle = handle
        self._deadline = deadline

    def bind(self, dn: str, password: str) -> BindAnswer:
        """A simple bind (RFC 4511, 4.2); with both empty an anonymous one. Raises `Trouble` where no answer comes.

        Never call it with a name and no password (RFC 4513, 5.1.2): ValueError.
        """
        if dn and not password:
            msg = "a bind with a name and without a password authenticates nobody"
            raise ValueError(msg)
        handle, ask = self._handle, [PasswordPolicyControl()]
        try:
            controls = self._answer(lambda: handle.simple_bind(dn, password, serverctrls=ask))[1]
        except ldap.LDAPError as error:
            code, text, controls = _said(error)
            if code < 0:
                raise _trouble(error) from None
            return BindAnswer(code=code, text=text, policy=_policy(controls))
        return BindAnswer(code=0, policy=_policy(controls))

    def find(
        self, base: str, *, filter_text: str | None = None, below: bool, attributes: Sequence[str]
    ) -> Entry | Missing:
        """The one entry that is `base`, or `below` it, and passes the filter (RFC 4511, 4.5). References to elsewhere are left
        alone. Raises `Trouble`.
        """
        scope = ldap.SCOPE_SUBTREE if below else ldap.SCOPE_BASE
        handle, left = self._handle, self._deadline.left()
        wanted = list(attributes) or ["1.1"]  # RFC 4511, 4.5.1.8: none at all
        try:
            found, _ = self._answer(
                lambda: handle.search_ext(
                    base, scope, filter_text or _EMPTY_FILTER, wanted, timeout=max(1, int(left)), sizelimit=2
                )
            )
        except ldap.LDAPError as error:
            code = _said(error)[0]
            if code == _SIZE_LIMIT_EXCEEDED:
                return "several"
            if code == _NO_SUCH_OBJECT and not below:
                return "none"
            raise _trouble(error) from None
        entries = [(dn, values) for dn, values in found if dn is not None]
        if len(entries) != 1:
            return "several" if entries else "none"
        ((dn, values),) = entries
        return Entry(dn=dn, attributes={name.lower(): tuple(value) for name, value in values.items()})

    def _answer(
        self, ask: Callable[[], int]
    ) -> tuple[Sequence[tuple[str | None, dict[str, list[bytes]]]], Sequence[LDAPControl]]:
        self._deadline.left()
        message = ask()
        _, data, _, controls, _, _ = self._handle.result4(message, timeout=self._deadline.left())
        return data or [], controls


@contextmanager
def open_link(server: Server, deadline: Deadline, *, connect_timeout: float) -> Generator[Link]:
    """Connect within `connect_timeout` seconds, and encrypt. Raises `Trouble`, also where the server's certificate is not good.

    The connection itself is made by the first request on it.
    """
    try:
        handle = _handle(server, deadline, connect_timeout)
    except ldap.LDAPError as error:
        raise _trouble(error) from None
    try:
        if server.start_tls:
            try:
                handle.start_tls_s()
            except ldap.LDAPError as error:
                raise _trouble(error) from None
        yield Link(handle, deadline)
    finally:
        with suppress(ldap.LDAPError):  # it may never have been a connection
            handle.unbind_ext()


def _handle(server: Server, deadline: Deadline, connect_timeout: float) -> SimpleLDAPObject:
    handle = ldap.initialize(server.uri)
    left = deadline.left()
    handle.set_option(ldap.OPT_PROTOCOL_VERSION, ldap.VERSION3)
    handle.set_option(ldap.OPT_REFERRALS, 0)
    handle.set_option(ldap.OPT_NETWORK_TIMEOUT, min(connect_timeout, left))
    handle.set_option(ldap.OPT_TIMEOUT, left)  # for what the library waits for itself, such as StartTLS
    if server.ca_file is not None:
        handle.set_option(ldap.OPT_X_TLS_CACERTFILE, str(server.ca_file))
        handle.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
        handle.set_option(ldap.OPT_X_TLS_PROTOCOL_MIN, ldap.OPT_X_TLS_PROTOCOL_TLS1_2)
        handle.set_option(ldap.OPT_X_TLS_NEWCTX, 0)  # the settings before it take effect
    return handle


def is_dn(text: str) -> bool:
    """Whether the text is a distinguished name that the library can read."""
    return bool(text) and ldap.dn.is_dn(text)


def filter_problem(text: str) -> str | None:
    """Why the text is no search filter (RFC 4515); None when it is one. The library reads it before it finds nobody to send it to."""
    handle = ldap.initialize("ldapi://%2Fdev%2Fnull")
    try:
        handle.search_ext("", ldap.SCOPE_BASE, text, ["1.1"])
    except ldap.FILTER_ERROR:
        return "it is not a search filter as in RFC 4515"
    except ldap.LDAPError:
        return None
    finally:
        with suppress(ldap.LDAPError):
            handle.unbind_ext()
    return None


def _said(error: ldap.LDAPError) -> tuple[int, str, Sequence[LDAPControl]]:
    """Result code (negative: the library's own), text and controls of an error."""
    first = error.args[0] if error.args else None
    details = cast("Mapping[str, object]", first) if isinstance(first, dict) else dict[str, object]()
    code = details.get("result", getattr(error, "errnum", -1))
    text = str(details.get("info") or "")
    raw = cast("Sequence[tuple[str, bool, bytes | None]] | None", details.get("ctrls"))
    return (code if isinstance(code, int) else -1), text, DecodeControlTuples(raw)


def _policy(controls: Sequence[LDAPControl]) -> Policy:
    for control in controls:
        if isinstance(control, PasswordPolicyControl):
            return Policy(error=_POLICY_ERRORS.get(control.error, "other"), grace_left=control.graceAuthNsRemaining)
    # 2.16.840.1.113730.3.4.4: the password has expired, or was reset (389 Directory Server).
    return Policy(error="expired" if any(isinstance(one, PasswordExpiredControl) for one in controls) else None)


def _trouble(error: ldap.LDAPError) -> Trouble:
    code, text, _ = _said(error)
    name = type(error).__name__
    explanation = f"{name.lower().replace('_', ' ')}" + (f": {printable(text)}" if text else "")
    if isinstance(error, ldap.TIMEOUT):
        return Trouble("timed_out", "no answer in time", away=True)
    if code in _ENCRYPTION_MISSING:
        return Trouble("encryption_required", explanation)
    return Trouble("server_down" if code < 0 else "search_failed", explanation, away=code < 0 or code in {51, 52})
