"""The promises that every authenticator keeps, with true tickets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from kipuka_auth_gssapi.plugin import kipuka_authenticators

from kipuka.api import Authorization, Credentials
from kipuka.testing.contract import AuthenticatorContract
from kipuka.testing.harness import OpenedAuthenticator, credentials

from .conftest import Realm
from .kdc import REALM, Tickets, negotiate


def presenting(token: bytes) -> Credentials:
    return credentials(
        authorization=Authorization(scheme="negotiate", parameters=negotiate(token).removeprefix("Negotiate "))
    )


@pytest.mark.kerberos
class TestGSSAPI(AuthenticatorContract):
    kind = kipuka_authenticators()[0]
    scheme = "negotiate"
    presented_once = True

    @pytest.fixture(autouse=True)
    def _stand_in_the_realm(self, in_realm: Realm, alice: Tickets) -> None:
        self.realm, self.alice = in_realm, alice

    def section(self, directory: Path) -> Mapping[str, object]:
        return self.realm.section(replay_cache=str(directory / "replays"))

    async def good(self, opened: OpenedAuthenticator) -> Credentials:
        return presenting(self.alice.token())

    def wrong(self) -> Sequence[Credentials]:
        return [
            presenting(self.alice.token(f"HTTP/other@{REALM}")),
            presenting(self.alice.token()[:-20]),
            presenting(b"NTLMSSP\0\x01"),
        ]
