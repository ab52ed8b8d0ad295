"""The promises that every CA backend keeps, over the host's own store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from kipuka_ca_local.plugin import kipuka_ca_backends

from kipuka.testing.contract import CABackendContract
from kipuka.testing.pki import make_root

SECRET = "open sesame, and close again"


class TestLocalCA(CABackendContract):
    """An issuing CA under a root, on P-256, its key encrypted."""

    kind = kipuka_ca_backends()[0]
    issuing = make_root().issue_ca("Issuing CA")

    def section(self, directory: Path) -> Mapping[str, object]:
        (directory / "chain.pem").write_bytes(self.issuing.chain_pem + self.issuing.root.pem)
        key = directory / "issuing.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(self.issuing.key_pem(SECRET.encode()))
        return {"cert": "chain.pem", "key": "issuing.key", "key_password": SECRET}


class TestLocalCAWithRSA(TestLocalCA):
    """The same with RSA, which signs in the host's pool."""

    issuing = make_root(key="rsa2048").issue_ca("Issuing CA", key="rsa2048")
    key_kinds = ("p256",)
