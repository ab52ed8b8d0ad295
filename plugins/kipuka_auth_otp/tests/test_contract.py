"""The promises that every authenticator keeps, over the host's own store."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kipuka_auth_otp.authenticator import OTPAuthenticator
from kipuka_auth_otp.ledger import OTP_STORAGE
from kipuka_auth_otp.plugin import kipuka_authenticators
from kipuka_auth_otp.tokens import NewToken

from kipuka.api import Authorization, Credentials
from kipuka.testing.contract import AuthenticatorContract
from kipuka.testing.harness import OpenedAuthenticator, credentials


def presenting(token: str) -> Credentials:
    parameters = base64.b64encode(f":{token}".encode()).decode()
    return credentials(authorization=Authorization(scheme="basic", parameters=parameters))


class TestOTP(AuthenticatorContract):
    kind = kipuka_authenticators()[0]
    storages = (OTP_STORAGE,)
    scheme = "basic"

    def section(self, directory: Path) -> Mapping[str, object]:
        key = directory / "otp.key"
        if not key.exists():
            key.write_bytes(os.urandom(32))
        return {"max_failures": 1000}

    async def good(self, opened: OpenedAuthenticator) -> Credentials:
        otp: Any = opened.authenticator
        assert isinstance(otp, OTPAuthenticator)
        made = await otp.tokens.create(NewToken(client_id="workstation-42"))
        return presenting(made.created.token)

    def wrong(self) -> Sequence[Credentials]:
        return [presenting("A" * 20), presenting("short")]
