"""The acceptor's side of GSSAPI: one token in, one verdict out.

In the room: every call into the Kerberos library. All of them block. Not in the room: HTTP, connections, and what a principal
may have (`kipuka_auth_gssapi.mapping`).

Nothing here asks a KDC or DNS: a ticket proves itself under a key of the keytab. Only Kerberos is accepted, raw or inside
SPNEGO, whatever other mechanisms are installed. The raw calls of python-gssapi are used, which raise at once what went wrong: its
`SecurityContext.step` hands out a token and keeps the error for later.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from gssapi.raw.chan_bindings import ChannelBindings
from gssapi.raw.creds import Creds
from gssapi.raw.ext_cred_store import acquire_cred_from
from gssapi.raw.ext_rfc4178 import set_neg_mechs
from gssapi.raw.misc import GSSError
from gssapi.raw.names import Name, display_name
from gssapi.raw.oids import OID
from gssapi.raw.sec_contexts import SecurityContext, accept_sec_context, inquire_context
from gssapi.raw.types import RequirementFlag

from kipuka_auth_gssapi.principals import Principal
from kipuka_auth_gssapi.statuses import Failure, describe

__all__ = ["Accepted", "Acceptor", "Context", "Failure", "Unfinished"]

_KERBEROS = OID.from_int_seq("1.2.840.113554.1.2.2")  # RFC 4121, 1
_SPNEGO = OID.from_int_seq("1.3.6.1.5.5.2")  # RFC 4178, 3.1

Context = SecurityContext
"""A half-finished exchange, as the library has it."""


class _Result(Protocol):
    """What the library's calls give, which its stubs leave unknown."""

    context: SecurityContext
    initiator_name: Name
    mech: OID
    token: bytes | None
    flags: Container[RequirementFlag]
    more_steps: bool


class _Inquired(Protocol):
    target_name: Name


class _Acquired(Protocol):
    creds: Creds


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The client is this principal. `token` proves the server to the client in turn, where the client asked for that."""

    principal: Principal
    bound: bool  # the client sent channel bindings, and they are this connection's
    token: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Unfinished:
    """The exchange needs another token of the client."""

    context: Context
    token: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptor:
    """Accepts tokens under the keys of a keytab that belong to one of `services` (principals in text form).

    The keytab is opened for each exchange, so that a new key counts at once.
    """

    keytab: Path
    services: frozenset[str]
    replay_cache: Path | None = None

    def step(self, token: bytes, *, context: Context | None, binding: bytes | None) -> Accepted | Unfinished | Failure:
        """Take a client's token, of a new exchange or of the one in `context`.

        `binding` is the application data of the connection's channel binding, or None where it has none. Never raises for
        what a client sent.
        """
        try:
            given = accept_sec_context(
                token,
                acceptor_creds=self._credentials(),
                context=context,
                channel_bindings=None if binding is None else ChannelBindings(application_data=binding),
            )
            result = cast("_Result", given)
            if result.more_steps:
                return Unfinished(context=result.context, token=result.token or b"")
            return self._verdict(result)
        except GSSError as error:
            return describe(error)
        except ValueError as error:
            return Failure(reason="unreadable_principal", explanation=f"the principal {error}")

    def _verdict(self, result: _Result) -> Accepted | Failure:
        """What a finished exchange has proved. Raises ValueError for a principal that cannot be read."""
        if result.mech != _KERBEROS:
            return Failure(reason="unsupported_mechanism", explanation="the mechanism is not Kerberos")
        # The name of the key that opened the ticket, not the one that the ticket shows in clear.
        inquired = cast("_Inquired", inquire_context(result.context, target_name=True))
        service = _text(inquired.target_name)
        if service not in self.services:
            return Failure(reason="unknown_service", explanation=f"the ticket is for {service}")
        return Accepted(
            principal=Principal.parse(_text(result.initiator_name)),
            bound=RequirementFlag.channel_bound in result.flags,
            token=result.token,
        )

    def _credentials(self) -> Creds:
        """The right to accept under any key of the keytab, for Kerberos alone."""
        # Named, so that no variable of the environment can switch the replay cache off.
        replays = "dfl:" if self.replay_cache is None else f"file2:{self.replay_cache}"
        store: dict[bytes | str, bytes | str] = {b"keytab": f"FILE:{self.keytab}".encode(), b"rcache": replays.encode()}
        acquired = acquire_cred_from(store, mechs=[_KERBEROS, _SPNEGO], usage="accept")
        credentials = cast("_Acquired", acquired).creds
        set_neg_mechs(credentials, [_KERBEROS])
        return credentials


def _text(name: Name) -> str:
    """The name's text form. Raises UnicodeDecodeError, which is a ValueError."""
    return display_name(name, name_type=False).name.decode("utf-8")
