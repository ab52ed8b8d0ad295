"""The promises that every CA backend keeps, over the host's own store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kipuka_ca_pkcs11.plugin import kipuka_ca_backends

from kipuka.testing.contract import CABackendContract
from kipuka.testing.pki import make_root

from .softhsm import MODULE, SoftHSM

LONGEST_PAUSE_HERE = 0.5
"""Seconds: twice the first pause, since no test asks often while the token is away."""


class TestPKCS11CA(CABackendContract):
    """An issuing CA under a root, its key on P-256 on a token."""

    kind = kipuka_ca_backends()[0]
    issuing = make_root().issue_ca("Issuing CA")

    @pytest.fixture(autouse=True)
    def _with_hsm(self, hsm: SoftHSM) -> None:
        hsm.bring(self.issuing)
        self.hsm = hsm

    def section(self, directory: Path) -> Mapping[str, object]:
        (directory / "chain.pem").write_bytes(self.issuing.chain_pem + self.issuing.root.pem)
        return {
            "cert": "chain.pem",
            "module": str(MODULE),
            "token": "kipuka",
            "key_label": "issuing",
            "pin": self.hsm.pin,
        }

    @asynccontextmanager
    async def out_of_reach(self, directory: Path) -> AsyncGenerator[None, None]:
        self.hsm.take_away()
        try:
            yield
        finally:
            self.hsm.bring_back()
            await asyncio.sleep(2 * LONGEST_PAUSE_HERE)  # the token is looked for again after a pause

    def creation_options(self, directory: Path) -> Mapping[str, str]:
        pin = directory / "pin"
        pin.write_text(self.hsm.pin, encoding="ascii")
        return {"module": str(MODULE), "token": "kipuka", "pin": f"file:{pin}"}


class TestPKCS11CAWithRSA(TestPKCS11CA):
    """The same with RSA."""

    issuing = make_root(key="rsa2048").issue_ca("Issuing CA", key="rsa2048")
    key_kinds = ("p256",)
