"""One connection to one directory server, and every call into python-ldap.

In the room: sockets, TLS, time limits, bind and search, and what libraries raise turned into values and `Trouble`. Not in the room: which
server, and in what order (`kipuka_auth_ldap.sign_in`); what an answer means (`kipuka_auth_ldap.verdicts`).

All of it blocks, within its limits, and runs in threads (`kipuka_auth_ldap.authenticator`). python-ldap speaks the protocol through OpenLDAP's
own library, but its socket leads to this module, which carries the octets to the server and back. Left to itself the library waits for
ever where a server stalls in the TLS handshake (measured: OpenLDAP 2.5 with GnuTLS, whatever time limits are set), compares
`localhost` with the machine's host name, and takes trust from files that the section does not name.

What the library would read from /etc/ldap/ldap.conf, ~/.ldaprc and LDAP* variables is switched off, and so is the trace that
python-ldap writes at a variable's word, with passwords.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

os.environ["LDAPNOINIT"] = "1"  # ldap.conf(5); the library looks at it once, when it is first used
os.environ.pop("PYTHON_LDAP_TRACE_LEVEL", None)

import ldap
from ldap.controls import DecodeControlTuples, LDAPControl
from ldap.controls.ppolicy import PasswordPolicyControl
from ldap.controls.pwdpolicy import PasswordExpiredControl
from ldap.extop import ExtendedRequest
from ldap.ldapobject import SimpleLDAPObject

from kipuka_auth_ldap.verdicts import BindAnswer, Policy, PolicyError, Trouble, printable

__all__ = ["Deadline", "Entry", "Link", "Missing", "Server", "filter_problem", "is_dn", "open_link"]

Missing = Literal["none", "several"]
START_TLS = "1.3.6.1.4.1.1466.20037"
"""RFC 4511, 4.14.1."""

_PIECE = 16384
_PARTS = {ldap.RES_SEARCH_ENTRY, ldap.RES_SEARCH_REFERENCE}

_POLICY_ERRORS: Mapping[int | None, PolicyError | None] = {
    None: None,
    0: "expired",
    1: "locked",
    2: "change_after_reset",
}
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

    @property
    def is_over(self) -> bool:
        """Whether that moment has come."""
        return time.monotonic() >= self._end

    def left(self) -> float:
        """Seconds until then. Raises `Trouble` when there are none."""
        seconds = self._end - time.monotonic()
        if seconds <= 0:
            raise Trouble("timed_out", "no answer in time", away=True)
        return seconds

    def within(self, seconds: float) -> Deadline:
        """The earlier of this one and one after so many seconds. Raises `Trouble` when nothing is left."""
        return Deadline(min(self.left(), seconds))

    def share(self, parts: int) -> Deadline:
        """An earlier one, after that part of what is left. Raises `Trouble` when nothing is."""
        return Deadline(self.left() / parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """An entry of the directory: its name, and the values of the attributes that were asked for, under lower-case names."""

    dn: str
    attributes: Mapping[str, tuple[bytes, ...]]


class _Conversation:
    """The library's side of a connection: what it sends is carried to the server's socket, and what comes is carried back."""

    def __init__(self, remote: socket.socket, deadline: Deadline) -> None:
        self._remote = remote
        self._deadline = deadline
        self._near, far = socket.socketpair()
        self.handle: SimpleLDAPObject = ldap.initialize("ldap://", fileno=far.detach())  # which closes it
        self.handle.set_option(ldap.OPT_PROTOCOL_VERSION, ldap.VERSION3)
        self.handle.set_option(ldap.OPT_REFERRALS, 0)

    def answer(
        self, ask: Callable[[], int]
    ) -> tuple[Sequence[tuple[str | None, dict[str, list[bytes]]]], Sequence[LDAPControl]]:
        """What the server answers to the request that `ask` sends. Raises LDAPError for an answer that is none of success, and `Trouble`
        where there is none.
        """
        message = ask()
        try:
            self._send()
            found: list[tuple[str | None, dict[str, list[bytes]]]] = []
            while True:
                # One by one: asked for all of them, the library says "not yet" while the last one is in its buffer.
                kind, data, _, controls, _, _ = self.handle.result4(message, all=0, timeout=0)
                if kind is None:
                    self._receive()
                elif kind in _PARTS:
                    found += data or []
                else:
                    return found, controls
        except TimeoutError:
            raise Trouble("timed_out", "no answer in time", away=True) from None
        except OSError as error:
            raise _away(error) from None

    def _send(self) -> None:
        """All that the library has written is there: it is one small message, which a socket pair holds."""
        self._near.settimeout(0)
        with suppress(BlockingIOError):
            while piece := self._near.recv(_PIECE):
                self._remote.settimeout(self._deadline.left())
                self._remote.sendall(piece)

    def _receive(self) -> None:
        self._remote.settimeout(self._deadline.left())
        piece = self._remote.recv(_PIECE)
        if not piece:
            raise Trouble("server_down", "the server ended the connection", away=True)
        self._near.settimeout(self._deadline.left())
        self._near.sendall(piece)

    def close(self) -> None:
        """Take leave of the server, where it still listens, and of the library."""
        with suppress(ldap.LDAPError):
            self.handle.unbind_ext()
        with suppress(OSError, Trouble):
            self._send()
        self._near.close()

    def leave(self) -> None:
        """Take leave of the library alone; the server hears nothing of it."""
        self._near.close()
        with suppress(ldap.LDAPError):
            self.handle.unbind_ext()


class Link:
    """A connection that is open and, unless the section says otherwise, encrypted. Made by `open_link`."""

    def __init__(self, conversation: _Conversation, deadline: Deadline) -> None:
        self._conversation = conversation
        self._handle = conversation.handle
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
            controls = self._conversation.answer(lambda: handle.simple_bind(dn, password, serverctrls=ask))[1]
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
        handle, seconds = self._handle, max(1, int(self._deadline.left()))
        wanted = list(attributes) or ["1.1"]  # RFC 4511, 4.5.1.8: none at all
        text = filter_text or _EMPTY_FILTER
        try:
            found, _ = self._conversation.answer(
                lambda: handle.search_ext(base, scope, text, wanted, timeout=seconds, sizelimit=2)
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


@contextmanager
def open_link(server: Server, deadline: Deadline, *, connect_timeout: float) -> Generator[Link]:
    """Connect and encrypt within `connect_timeout` seconds. Raises `Trouble`, also where the server's certificate is not good."""
    limit = deadline.within(connect_timeout)
    with _connected(server, limit) as remote:
        conversation = _Conversation(remote, deadline)
        try:
            yield Link(conversation, deadline)
        finally:
            conversation.close()


@contextmanager
def _connected(server: Server, limit: Deadline) -> Generator[socket.socket]:
    parts = urlsplit(server.uri)
    host = str(parts.hostname)
    try:
        remote = socket.create_connection((host, parts.port or 0), timeout=limit.left())
    except OSError as error:
        raise _away(error) from None
    try:
        if server.start_tls:
            _start_tls(remote, limit)
        if server.ca_file is not None:
            remote = _encrypted(remote, host, server.ca_file, limit)
        yield remote
    finally:
        remote.close()


def _start_tls(remote: socket.socket, limit: Deadline) -> None:
    """RFC 4511, 4.14. What came unencrypted goes with this conversation: none of it is taken for an answer later."""
    plain = _Conversation(remote, limit)
    handle = plain.handle
    try:
        plain.answer(lambda: handle.extop(ExtendedRequest(START_TLS, None)))
    except ldap.LDAPError as error:
        code, text, _ = _said(error)
        told = f"the server refuses StartTLS, result code {code}" + (f": {printable(text)}" if text else "")
        raise Trouble("start_tls_refused", told, away=True) from None
    finally:
        plain.leave()


def _encrypted(remote: socket.socket, host: str, ca_file: Path, limit: Deadline) -> socket.socket:
    """TLS 1.2 or later, to a server whose certificate comes from `ca_file` and has this host's name or address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=ca_file)
        remote.settimeout(limit.left())
        remote.getpeername()  # of a connection that is no more, wrap_socket makes one without TLS
        encrypted = context.wrap_socket(remote, server_hostname=host)
    except OSError as error:
        remote.close()
        raise _away(error) from None
    if encrypted.version() is None:
        encrypted.close()
        raise Trouble("server_down", "the server ended the connection", away=True)
    return encrypted


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


def _away(error: OSError) -> Trouble:
    """A connection that cannot be made, be trusted, or be kept."""
    if isinstance(error, TimeoutError):
        return Trouble("timed_out", "no answer in time", away=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Trouble("certificate_not_good", printable(error.verify_message), away=True)
    words = error.reason if isinstance(error, ssl.SSLError) else error.strerror
    return Trouble("server_down", printable(str(words or error)), away=True)


def _trouble(error: ldap.LDAPError) -> Trouble:
    code, text, _ = _said(error)
    name = type(error).__name__
    explanation = f"{name.lower().replace('_', ' ')}" + (f": {printable(text)}" if text else "")
    if code in _ENCRYPTION_MISSING:
        return Trouble("encryption_required", explanation)
    return Trouble("server_down" if code < 0 else "search_failed", explanation, away=code < 0 or code in {51, 52})
