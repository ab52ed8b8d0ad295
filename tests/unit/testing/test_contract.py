"""The built-in mtls, under the same promises as a stranger's plugin."""

from __future__ import annotations

from kipuka.api import CertificateProblem, ClientCertificate
from kipuka.mtls import kipuka_authenticators
from kipuka.testing.contract import AuthenticatorContract
from kipuka.testing.harness import credentials
from kipuka.testing.pki import make_root

ROOT = make_root()


class TestClientCertificates(AuthenticatorContract):
    """The built-in mtls, under the same promises as a stranger's plugin."""

    kind = kipuka_authenticators()[0]

    def section(self, directory):
        (directory / "anchors.pem").write_bytes(ROOT.pem)
        return {"mode": "optional", "trust_anchors": "anchors.pem"}

    async def good(self, opened):
        return credentials(client_certificate=ClientCertificate(certificate=ROOT.issue_client().certificate))

    def wrong(self):
        bad = [
            ClientCertificate(certificate=ROOT.issue_client().certificate, problem=problem, reason="some_reason")
            for problem in CertificateProblem
        ]
        unreadable = ClientCertificate(
            certificate=None, problem=CertificateProblem.UNKNOWN_AUTHORITY, reason="unparsable"
        )
        return [credentials(client_certificate=judged) for judged in (*bad, unreadable)]
