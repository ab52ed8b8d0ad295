"""An authenticator: `Authorization: Badge NAME:MAC`, where MAC is HMAC-SHA256 of the name under a shared secret."""

from __future__ import annotations

import hashlib
import hmac
from contextlib import asynccontextmanager

from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka.api import (
    Authenticated,
    AuthenticatorKind,
    Denied,
    Finding,
    Identity,
    NotPresented,
    Secret,
    Section,
    hookimpl,
)

KIPUKA_API = "1.0"


class BadgeSettings(Section):
    """The section [badge]."""

    secret: Secret
    """What the badges are made with."""

    misbehave: str = ""
    """For tests: "raise" makes every judgement an exception, "open" makes the opener fail."""


class Badge:
    """Judges badges."""

    challenge = 'Badge realm="stranger"'

    def __init__(self, settings, services):
        self._settings = settings
        self._log = services.log

    async def authenticate(self, credentials):
        given = credentials.authorization
        if given is None or given.scheme != "badge":
            return NotPresented()
        if self._settings.misbehave == "raise":
            raise RuntimeError("the badge reader is on fire")
        name, _, mac = given.parameters.partition(":")
        key = self._settings.secret.get_secret_value().encode()
        expected = hmac.new(key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
        if not name or not hmac.compare_digest(expected.encode(), mac.encode("utf-8", "surrogatepass")):
            return Denied(detail="badge refused", reason="forged_badge")
        self._log.info("badge_shown", name=name)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return Authenticated(identity=Identity(method="badge", name=name, subject=subject))


@asynccontextmanager
async def open_badge(settings, services):
    if settings.misbehave == "open":
        raise RuntimeError("no badge reader is plugged in")
    yield Badge(settings, services)


def check(settings):
    if len(settings.secret.get_secret_value()) < 8:
        yield Finding(severity="error", key="secret", problem="it is too short", remedy="use 8 characters or more")


KIND = AuthenticatorKind(name="badge", config=BadgeSettings, open=open_badge, check=check)


@hookimpl
def kipuka_authenticators():
    return [KIND]
