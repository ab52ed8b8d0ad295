"""An authenticator whose credential is used up: `Authorization: Coupon NAME:MAC`, each name good for one certificate.

It counts failures, among them a used coupon that asks for something new.
"""

from __future__ import annotations

import hashlib
import hmac
from contextlib import asynccontextmanager
from datetime import timedelta

from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka.api import (
    Authenticated,
    AuthenticatorKind,
    Claim,
    DenialKind,
    Denied,
    Identity,
    LockoutPolicy,
    NotPresented,
    Secret,
    Section,
    Storage,
    hookimpl,
)
from kipuka.api.storage import Column, MetaData, String, Table, select, update

KIPUKA_API = "1.0"

_metadata = MetaData()
USES = Table(
    "coupon_uses", _metadata, Column("name", String(64), primary_key=True), Column("state", String(8), nullable=False)
)


class CouponSettings(Section):
    """The section [coupon]."""

    secret: Secret
    """What the coupons are made with."""

    max_failures: int = 3
    """Failures of one address within a minute; the next one locks it."""


class Coupons:
    """Judges coupons, and tears them off."""

    challenge = 'Coupon realm="stranger"'

    def __init__(self, settings, services):
        self._secret = settings.secret.get_secret_value().encode()
        self._services = services
        policy = LockoutPolicy(
            max_failures=settings.max_failures, window=timedelta(minutes=1), duration=timedelta(minutes=1)
        )
        self._lockouts = services.lockouts(policy)

    async def authenticate(self, credentials):
        given = credentials.authorization
        if given is None or given.scheme != "coupon":
            return NotPresented()
        address = credentials.connection.client_address
        locked = await self._lockouts.check(address)
        if locked is not None:
            return locked
        name, _, mac = given.parameters.partition(":")
        expected = hmac.new(self._secret, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        if not name or not hmac.compare_digest(expected.encode(), mac.encode("utf-8", "surrogatepass")):
            return await self._lockouts.failure(address) or Denied(detail="no such coupon", reason="forged_coupon")
        if await self._services.read(lambda tx: state_of(tx, name)) == "used":
            return spent(name)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        identity = Identity(method="coupon", name=name, subject=subject)
        return Authenticated(identity=identity, claim=Claim(plugin="coupon", ref=name))

    async def count_failure(self, denied, credentials):
        return await self._lockouts.failure(credentials.connection.client_address) or denied

    def reserve(self, tx, ref):
        match state_of(tx, ref):
            case "used":
                return spent(ref)
            case "held":
                wait = timedelta(seconds=1)
                return Denied(detail="the coupon is in use", reason="held", kind=DenialKind.BUSY, retry_after=wait)
            case "free":
                move(tx, ref, "held")
            case None:
                tx.add(USES, {"name": ref, "state": "held"})
        return None

    def redeem(self, tx, ref):
        move(tx, ref, "used")

    def release(self, tx, ref):
        move(tx, ref, "free")


def spent(name):
    return Denied(detail="the coupon was used", reason="coupon_used", spent=Claim(plugin="coupon", ref=name))


def state_of(tx, name):
    return tx.execute(select(USES.c.state).where(USES.c.name == name)).scalar_one_or_none()


def move(tx, name, state):
    tx.execute(update(USES).where(USES.c.name == name).values(state=state))


@asynccontextmanager
async def open_coupons(settings, services):
    yield Coupons(settings, services)


@hookimpl
def kipuka_authenticators():
    return [AuthenticatorKind(name="coupon", config=CouponSettings, open=open_coupons)]


@hookimpl
def kipuka_storage():
    return [Storage(prefix="coupon", metadata=_metadata, migrations="stranger.coupon_migrations")]
