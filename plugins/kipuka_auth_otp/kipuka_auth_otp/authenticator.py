"""The authenticator: judges a Basic credential, and spends the token's uses as certificates are recorded.

In the room: reading the header (RFC 7617), the order of the checks, and which failures count for a lock-out (RULES C4). Not in
the room: the statements (`kipuka_auth_otp.ledger`), hashing (`kipuka_auth_otp.secrecy`), and the counting itself, which is the
host's.

Which failures count: secrets that are unknown, spent, expired or revoked. A header that cannot be read carries no secret; a token
at another label than its own is no guess; one that another request holds is good; a spent one that asks again for a lost answer gets it.
None of these count. A success takes nothing off the count: otherwise the holder of one good token could guess for ever.
"""

from __future__ import annotations

import base64
import binascii
import unicodedata
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from cryptography import x509

from kipuka.api import (
    Authenticated,
    AuthOutcome,
    Claim,
    Credentials,
    Denied,
    Identity,
    Lockouts,
    NotPresented,
    Services,
    StartupError,
    Tx,
)
from kipuka_auth_otp import ledger
from kipuka_auth_otp.config import OTPSettings
from kipuka_auth_otp.ledger import INVALID, METHOD, TokenRow
from kipuka_auth_otp.memory import Verified
from kipuka_auth_otp.names import common_name, host_name_of, parse_san, parse_subject
from kipuka_auth_otp.secrecy import LookupKey, LookupKeyError, is_token_shaped, read_lookup_key, verify_token
from kipuka_auth_otp.tokens import Tokens

__all__ = ["METHOD", "OTPAuthenticator", "open_otp", "read_password"]

COUNTED = frozenset({"unknown_token", "token_spent", "token_expired", "token_revoked"})
"""The reasons that count for a lock-out (RULES C4)."""


class OTPAuthenticator:
    """One-time passwords in HTTP Basic authentication; the user name is ignored (RULES D3)."""

    def __init__(self, settings: OTPSettings, key: LookupKey, services: Services) -> None:
        self._key = key
        self._services = services
        self._verified = Verified(services.clock)
        self._lockouts: Lockouts = services.lockouts(settings.lockout_policy)
        self.tokens = Tokens(settings, key, services)
        """The administrator's side."""

    @property
    def challenge(self) -> str:
        """RFC 7617, 2 and 2.1."""
        return 'Basic realm="kipuka", charset="UTF-8"'

    async def authenticate(self, credentials: Credentials, /) -> AuthOutcome:
        """Judge the token in the Authorization field; spends nothing."""
        authorization = credentials.authorization
        if authorization is None or authorization.scheme != "basic":
            return NotPresented()
        token = read_password(authorization.parameters)
        if token is None:
            return Denied(detail=INVALID, reason="malformed_basic_credentials")
        address = credentials.connection.client_address
        locked = await self._lockouts.check(address)
        if locked is not None:
            return locked
        verdict = self._judge(await self._find(token), credentials.label)
        if isinstance(verdict, Denied) and verdict.reason in COUNTED and verdict.spent is None:
            return await self._lockouts.failure(address) or verdict
        return verdict

    async def count_failure(self, denied: Denied, credentials: Credentials, /) -> Denied:
        """A spent token that asked for something new: a failure like the others."""
        return await self._lockouts.failure(credentials.connection.client_address) or denied

    def _judge(self, row: TokenRow | None, label: str | None) -> Authenticated | Denied:
        if row is None:
            return Denied(detail=INVALID, reason="unknown_token")
        if row.label != label:
            return Denied(detail=INVALID, reason="token_of_another_label", name=row.client_id)
        # A token that another request holds is a good one here: the reservation says whether it can be had, since the
        # holder may be this very request, asked again while the CA still decides (RFC 7030, 4.2.3).
        denied = ledger.ended(row, self._services.clock())
        return denied or Authenticated(identity=_identity(row), claim=Claim(plugin=METHOD, ref=row.id))

    def reserve(self, tx: Tx, ref: str, /) -> Denied | None:
        """Hold one use of the token with the id `ref`."""
        return ledger.reserve(tx, ref)

    def redeem(self, tx: Tx, ref: str, /) -> None:
        """Spend the held use."""
        ledger.redeem(tx, ref)

    def release(self, tx: Tx, ref: str, /) -> None:
        """Give the held use back."""
        ledger.release(tx, ref)

    async def _find(self, token: str) -> TokenRow | None:
        """The row of a token. Only one that the look-up index knows is ever hashed, and that not with each request (RULES D1)."""
        if not is_token_shaped(token):
            return None
        for row in await self._services.read(partial(ledger.candidates, lookup=self._key.index(token))):
            pair = (token, row.hash)
            if pair in self._verified:
                return row
            if await self._services.run_blocking(verify_token, token, row.hash, self._key):
                self._verified.add(pair)
                return row
        return None


@asynccontextmanager
async def open_otp(settings: OTPSettings, services: Services) -> AsyncGenerator[OTPAuthenticator, None]:
    """The authenticator over the look-up key of the settings. Raises StartupError without a usable key."""
    try:
        key = read_lookup_key(settings.lookup_key)
    except LookupKeyError as error:
        msg = f"otp.lookup_key: {error}"
        raise StartupError(msg) from error
    yield OTPAuthenticator(settings, key, services)


def read_password(parameters: str) -> str | None:
    """The password of Basic credentials (RFC 7617, 2), or None where they are malformed.

    They are base64 of `user-id ":" password` in UTF-8, without control characters. The user-id is ignored.
    """
    try:
        text = base64.b64decode(parameters.strip(" \t"), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeError, ValueError):
        return None
    if any(unicodedata.category(character) == "Cc" for character in text):
        return None
    _, colon, password = text.partition(":")
    return password if colon else None


def _identity(row: TokenRow) -> Identity:
    subject: x509.Name = common_name(row.client_id) if row.subject is None else parse_subject(row.subject)
    return Identity(
        method=METHOD,
        name=row.client_id,
        subject=subject,
        permitted_names=tuple(parse_san(name) for name in row.san),
        host_name=host_name_of(row.client_id),
    )
