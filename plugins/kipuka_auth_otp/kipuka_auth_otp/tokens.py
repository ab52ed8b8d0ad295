"""Making, listing, looking at and revoking tokens: what the admin routes and the commands share.

In the room: the request for a new token, its checks, and the views that are shown. Not in the room: HTTP and the command line
(`kipuka_auth_otp.routes`, `kipuka_auth_otp.commands`), and using tokens (`kipuka_auth_otp.authenticator`).

A token is shown once, in the answer to its making, and kept nowhere.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)

from kipuka.api import MalformedRequest, Services, UnknownResource, format_dn, timestamp
from kipuka_auth_otp import ledger
from kipuka_auth_otp.config import MAX_USES, OTPSettings
from kipuka_auth_otp.events import OTPListed, OTPViewed
from kipuka_auth_otp.ledger import TokenRow, TokenState
from kipuka_auth_otp.names import (
    check_client_id,
    check_label,
    common_name,
    format_san,
    parse_san,
    parse_subject,
)
from kipuka_auth_otp.secrecy import LookupKey, hash_token, mint

__all__ = ["CreatedToken", "NewToken", "TokenPage", "TokenQuery", "TokenView", "Tokens"]

T = TypeVar("T")

MAX_NAMES = 100
PAGE_LIMIT = 1000

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def _read_rfc3339(value: object) -> object:
    """A time zone is needed; fractions of a second are cut off, so that what is shown is what holds."""
    if not isinstance(value, str):
        return value
    msg = "a time as in RFC 3339 is needed, for instance 2026-06-30T23:59:59Z"
    if not _RFC3339.fullmatch(value):
        raise ValueError(msg)
    try:
        return datetime.fromisoformat(value.upper()).astimezone(UTC).replace(microsecond=0)
    except (ValueError, OverflowError):
        raise ValueError(msg) from None


def _write_rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _canonical_subject(text: str) -> str:
    return format_dn(parse_subject(text))


def _canonical_san(text: str) -> str:
    return format_san(parse_san(text))


Moment = Annotated[
    datetime,
    BeforeValidator(_read_rfc3339),
    PlainSerializer(_write_rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time in whole seconds of UTC, as in 2026-06-24T10:15:00Z."""


class NewToken(BaseModel):
    """What is asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    client_id: Annotated[str, AfterValidator(check_client_id)]
    """Whom the token is for. The certificate's subject is `CN=<client_id>`; where it is a DNS name, that name may be asked for."""

    max_uses: Annotated[StrictInt, Field(ge=1, le=MAX_USES)] | None = None
    """How many certificates the token is good for. Default: `max_uses` of `[otp]`."""

    expires_at: Moment | None = None
    """Until when, as in RFC 3339. Default: `default_ttl` of `[otp]` from now."""

    subject: Annotated[str, AfterValidator(_canonical_subject)] | None = None
    """The certificate's subject, as in RFC 4514, in place of `CN=<client_id>`."""

    san: list[Annotated[StrictStr, AfterValidator(_canonical_san)]] = Field(
        default_factory=list[str], max_length=MAX_NAMES
    )
    """The subject alternative names that may be asked for: `DNS:`, `IP:`, `email:` or `URI:` and a value."""

    label: Annotated[str, AfterValidator(check_label)] | None = None
    """The EST label at which the token is good. Default: the path without a label."""


class CreatedToken(BaseModel):
    """A new token: the only time that it is shown."""

    token: str = Field(repr=False)
    client_id: str
    created_at: Moment
    expires_at: Moment
    max_uses: int


class TokenView(BaseModel):
    """What is known of a token, which is not the token."""

    id: str
    client_id: str
    state: TokenState
    label: str | None
    subject: str | None
    san: list[str]
    max_uses: int
    used: int
    held: int
    created_at: Moment
    expires_at: Moment
    last_used_at: Moment | None
    revoked_at: Moment | None


class TokenPage(BaseModel):
    """Some tokens, newest first; `next` is the `after` of the following page, null on the last one."""

    tokens: list[TokenView]
    next: str | None


class TokenQuery(BaseModel):
    """Which tokens to list."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    client_id: str | None = None
    """Only those for this client."""

    state: TokenState | None = None
    """Only those in this state: active, spent, expired or revoked."""

    after: str | None = Field(default=None, max_length=64)
    """Only those older than the token with this id: the `next` of the page before."""

    limit: int = Field(default=100, ge=1, le=PAGE_LIMIT)
    """At most so many."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """A new token and the id it is known by from now on."""

    id: str
    created: CreatedToken


class Tokens:
    """The administrator's side of tokens."""

    def __init__(self, settings: OTPSettings, key: LookupKey, services: Services) -> None:
        self._settings = settings
        self._key = key
        self._services = services

    async def create(self, wanted: NewToken) -> Made:
        """Make a token; returns when it is durable. Raises MalformedRequest, whose text names the field."""
        now = self._services.clock()
        expires_at = self._expiry(wanted.expires_at, now)
        if wanted.subject is None:
            _named("client_id", common_name, wanted.client_id)
        token = mint(self._settings.token_length)
        # It ends in the database, so the slow hash is run where it blocks nobody.
        recorded = await self._services.run_blocking(hash_token, token, self._settings.hash_algorithm, self._key)
        row = TokenRow(
            id=_new_id(now),
            lookup=self._key.index(token),
            hash=recorded,
            client_id=wanted.client_id,
            label=wanted.label,
            subject=wanted.subject,
            san=tuple(dict.fromkeys(wanted.san)),
            max_uses=wanted.max_uses or self._settings.max_uses,
            used=0,
            held=0,
            created_at=timestamp(now),
            expires_at=timestamp(expires_at),
            last_used_at=None,
            revoked_at=None,
        )
        await self._services.write(partial(ledger.add, row=row))
        return Made(
            id=row.id,
            created=CreatedToken(
                token=token,
                client_id=row.client_id,
                created_at=now,
                expires_at=expires_at,
                max_uses=row.max_uses,
            ),
        )

    async def listing(self, query: TokenQuery) -> TokenPage:
        """A page of tokens, which is audited."""
        rows = await self._services.read(
            partial(
                ledger.page,
                client_id=query.client_id,
                state=query.state,
                after=query.after,
                limit=query.limit + 1,  # one more than is shown says whether there is a next page
            )
        )
        shown = rows[: query.limit]
        await self._services.audit(OTPListed(count=len(shown)))
        now = self._services.clock()
        return TokenPage(
            tokens=[_view(row, now) for row in shown], next=shown[-1].id if len(rows) > len(shown) else None
        )

    async def view(self, ref: str) -> TokenView:
        """One token, which is audited. Raises UnknownResource."""
        row = await self._services.read(partial(ledger.find, ref=ref))
        if row is None:
            raise UnknownResource("there is no such token", reason="unknown_token")
        await self._services.audit(OTPViewed(token=row.id, client_id=row.client_id))
        return _view(row, self._services.clock())

    async def revoke(self, ref: str) -> TokenView:
        """Revoke a token; revoking it again changes nothing. Raises UnknownResource."""
        row = await self._services.write(partial(ledger.revoke, ref=ref))
        if row is None:
            raise UnknownResource("there is no such token", reason="unknown_token")
        return _view(row, self._services.clock())

    def _expiry(self, wanted: datetime | None, now: datetime) -> datetime:
        if wanted is None:
            return (now + self._settings.default_ttl).replace(microsecond=0)
        if wanted <= now:
            raise MalformedRequest("expires_at: it is in the past", reason="invalid_fields")
        latest = now + self._settings.max_ttl
        if wanted > latest:
            raise MalformedRequest(
                f"expires_at: it is later than {_write_rfc3339(latest)}, the latest that max_ttl of [otp] allows",
                reason="invalid_fields",
            )
        return wanted


def _named(field: str, check: Callable[[str], T], value: str) -> T:
    try:
        return check(value)
    except ValueError as error:
        raise MalformedRequest(f"{field}: {error}", reason="invalid_fields") from error


def _new_id(now: datetime) -> str:
    """An id that sorts by time (48 bits of milliseconds, 80 random bits)."""
    return f"{int(now.timestamp() * 1000):012x}{secrets.token_hex(10)}"


def _view(row: TokenRow, now: datetime) -> TokenView:
    return TokenView(
        id=row.id,
        client_id=row.client_id,
        state=ledger.state_at(row, now),
        label=row.label,
        subject=row.subject,
        san=list(row.san),
        max_uses=row.max_uses,
        used=row.used,
        held=row.held,
        created_at=_moment(row.created_at),
        expires_at=_moment(row.expires_at),
        last_used_at=None if row.last_used_at is None else _moment(row.last_used_at),
        revoked_at=None if row.revoked_at is None else _moment(row.revoked_at),
    )


def _moment(stored: str) -> datetime:
    return datetime.fromisoformat(stored)
