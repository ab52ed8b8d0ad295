"""The promises that every authenticator keeps, with a true directory."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from kipuka_auth_ldap.plugin import kipuka_authenticators

from kipuka.api import Authorization, Credentials
from kipuka.testing.contract import AuthenticatorContract
from kipuka.testing.harness import OpenedAuthenticator, credentials

from .slapd import PASSWORD, Slapd


def presenting(user: str, password: str = PASSWORD) -> Credentials:
    parameters = base64.b64encode(f"{user}:{password}".encode()).decode()
    return credentials(authorization=Authorization(scheme="basic", parameters=parameters))


@pytest.mark.interop
class TestLDAP(AuthenticatorContract):
    kind = kipuka_authenticators()[0]
    scheme = "basic"

    @pytest.fixture(autouse=True)
    def _stand_before_the_directory(self, slapd: Slapd) -> None:
        self.slapd = slapd

    def section(self, directory: Path) -> Mapping[str, object]:
        return self.slapd.section()

    async def good(self, opened: OpenedAuthenticator) -> Credentials:
        return presenting("alice")

    def wrong(self) -> Sequence[Credentials]:
        return [presenting("alice", "not-the-password"), presenting("nobody-of-that-name")]
