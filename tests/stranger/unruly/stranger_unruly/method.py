"""An authenticator that believes everybody: `Authorization: Unruly NAME`; or does what no authenticator may."""

from contextlib import asynccontextmanager

from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka.api import (
    AdminReply,
    AdminRoute,
    Authenticated,
    AuthenticatorKind,
    Claim,
    Continue,
    Identity,
    NotPresented,
    hookimpl,
)
from stranger_unruly.behaviour import Settings, misbehave, now, told

KIPUKA_API = "1.0"


class Unruly:
    def __init__(self, settings):
        self.settings = settings

    @property
    def challenge(self):
        now(self.settings, "challenge")
        return "Unruly\r\nX-Injected: yes" if told(self.settings, "challenge") == "inject" else "Unruly"

    def authenticate(self, credentials):
        if told(self.settings, "authenticate") == "plain":
            return NotPresented()
        return self._authenticate(credentials)

    async def _authenticate(self, credentials):
        given = credentials.authorization
        if given is None or given.scheme != "unruly":
            return NotPresented()
        instead = await misbehave(self.settings, "authenticate")
        if instead is not None:
            return instead[0]
        match told(self.settings, "authenticate"):
            case "inject":
                return Continue(challenge="Unruly\r\nX-Injected: yes")
            case "steal":
                return Authenticated(identity=self._identity("thief"), claim=Claim(plugin="otp", ref="1"))
        return Authenticated(
            identity=self._identity(given.parameters), claim=Claim(plugin="unruly", ref=given.parameters)
        )

    def _identity(self, name):
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return Identity(method="unruly", name=name, subject=subject)

    def reserve(self, tx, ref):
        now(self.settings, "reserve")
        return True if told(self.settings, "reserve") == "text" else None

    def redeem(self, tx, ref):
        now(self.settings, "redeem")

    def release(self, tx, ref):
        now(self.settings, "release")

    async def health(self):
        instead = await misbehave(self.settings, "health")
        return None if instead is None else instead[0]


@asynccontextmanager
async def open_unruly(settings, services):
    yield Unruly(settings)


async def show(opened, request):
    instead = await misbehave(opened.settings, "route")
    return AdminReply() if instead is None else instead[0]


@hookimpl
def kipuka_authenticators():
    return [AuthenticatorKind(name="unruly", config=Settings, open=open_unruly)]


@hookimpl
def kipuka_admin_routes():
    return [AdminRoute(method="GET", path="/admin/unruly", summary="Nothing.", handler=show, status=204)]
