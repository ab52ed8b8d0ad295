"""What `kipuka check` finds of private keys that the server makes (RULES J1), and that a start finds the same."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.api import StartupError
from kipuka.cli.check import check_file
from kipuka.runtime import compose, open_foundation, open_runtime
from kipuka.testing.pki import make_root

ROOT = make_root()
EST = {"serverkeygen_signer_cert": "signer.pem", "serverkeygen_signer_key": "signer.key"}


@pytest.fixture
def check(deployment):
    """What is found after the configuration was changed: severities and problems by key."""

    def look(est, **more):
        deployment.configure({"server": {"listen": "127.0.0.1:0"}, "est": est, **more})
        found = check_file(deployment.config_file, {})
        assert all(finding.remedy for finding in found)
        return {(finding.severity, finding.key): finding.problem for finding in found}

    return look


@pytest.fixture
def signer(deployment):
    """Puts a signer in place."""

    def put(**changes):
        soon = datetime.now(UTC) + timedelta(days=300)
        credential = ROOT.issue("authority", not_after=soon, **changes)
        (deployment.directory / "signer.pem").write_bytes(credential.pem)
        file = deployment.directory / "signer.key"
        file.touch(0o600)
        file.write_bytes(credential.key_pem())
        return credential

    return put


@pytest.fixture
def listed(deployment):
    """Lists recipients."""

    def put(*credentials):
        content = b"".join(item.certificate.public_bytes(Encoding.PEM) for item in credentials)
        (deployment.directory / "recipients.pem").write_bytes(content)
        return {"serverkeygen_recipients": "recipients.pem"}

    return put


def start(deployment):
    async def open_all():
        composition = compose(deployment.config_file, {})
        async with open_foundation(composition) as foundation, open_runtime(composition, foundation) as runtime:
            return runtime.enrolment._keys.encryption

    return asyncio.run(open_all())


def test_a_sound_signer_and_recipients_are_nothing_to_speak_of(check, signer, listed, deployment):
    soon = datetime.now(UTC) + timedelta(days=300)
    authority = signer(key="p384")
    device = ROOT.issue("a", key="rsa2048", key_usage=("key_encipherment",), not_after=soon)
    assert check(EST | listed(device)) == {}
    encryption = start(deployment)
    assert encryption.signer.certificates[0] == authority.certificate
    assert list(encryption.recipients.values()) == [device.certificate]


def test_without_a_signer_of_its_own_the_server_signs_and_where_no_keys_are_made_nobody(check, deployment):
    assert check({}) == {}
    (own, *_) = x509.load_pem_x509_certificates((deployment.directory / "tls" / "server.pem").read_bytes())
    assert start(deployment).signer.certificates[0] == own
    assert check({"serverkeygen": False}) == {}
    assert start(deployment).signer is None


@pytest.mark.parametrize("key", ["mldsa44", "ed448"])
def test_a_signer_that_signs_no_messages_is_an_error(check, signer, deployment, key):
    signer(key=key)
    assert "RSA, ECDSA or Ed25519" in check(EST)["error", "est.serverkeygen_signer_cert"]
    with pytest.raises(StartupError, match="cannot be signed with it"):
        start(deployment)


def test_a_key_of_another_certificate_is_an_error(check, signer, deployment):
    signer()
    (deployment.directory / "signer.key").write_bytes(ROOT.key_pem())
    assert "not the key" in check(EST)["error", "est.serverkeygen_signer_key"]
    with pytest.raises(StartupError, match="not the key"):
        start(deployment)


def test_a_key_without_its_password_is_an_error(check, signer, deployment):
    (deployment.directory / "signer.key").write_bytes(signer().key_pem(b"secret"))
    assert "encrypted" in check(EST)["error", "est.serverkeygen_signer_key_password"]
    with pytest.raises(StartupError, match="password is missing or wrong"):
        start(deployment)
    assert check(EST | {"serverkeygen_signer_key_password": "secret"}).keys() <= {("warning", "")}
    start(deployment)


def test_a_signer_is_written_whole(check):
    found = check({"serverkeygen_signer_cert": "signer.pem"})
    assert found["error", "est"] == "serverkeygen_signer_cert and serverkeygen_signer_key belong together"
    found = check({"serverkeygen_signer_cert": None, "serverkeygen_signer_key_password": "x"})
    assert "of no use" in found["error", "est"]


def test_a_signers_key_that_others_can_read_and_a_certificate_that_ends_are_warned_about(check, signer, deployment):
    signer()
    (deployment.directory / "signer.key").chmod(0o644)
    credential = ROOT.issue("authority", not_after=datetime.now(UTC) + timedelta(days=3))
    assert "others than the server" in check(EST)["warning", "est.serverkeygen_signer_key"]
    (deployment.directory / "signer.pem").write_bytes(credential.pem)
    assert "expires on" in check(EST)["warning", "est.serverkeygen_signer_cert"]


def test_a_recipient_that_nothing_can_be_encrypted_to_is_an_error(check, listed, deployment):
    found = check(listed(ROOT.issue("signs-only", key="p256")))
    assert found["error", "est.serverkeygen_recipients"].startswith("nothing can be encrypted to")
    assert "keyAgreement" in found["error", "est.serverkeygen_recipients"]
    with pytest.raises(StartupError, match="keyAgreement"):
        start(deployment)


def test_a_file_of_recipients_that_is_not_there_or_none_is_an_error(check, deployment):
    est = {"serverkeygen_recipients": "recipients.pem"}
    assert "no file" in check(est)["error", "est.serverkeygen_recipients"]
    (deployment.directory / "recipients.pem").write_bytes(b"nothing")
    assert "no readable PEM certificate" in check(est)["error", "est.serverkeygen_recipients"]
    with pytest.raises(StartupError, match="no PEM certificate"):
        start(deployment)


def test_a_server_that_cannot_sign_is_a_warning_unless_somebody_else_does_or_no_keys_are_made(
    check, signer, deployment
):
    soon = datetime.now(UTC) + timedelta(days=300)
    server = ROOT.issue("server", key="mldsa44", dns=["localhost"], not_after=soon)
    (deployment.directory / "tls" / "server.pem").write_bytes(server.pem)
    (deployment.directory / "tls" / "server.key").write_bytes(server.key_pem())
    assert "cannot be handed out encrypted" in check({})["warning", "est.serverkeygen"]
    assert ("warning", "est.serverkeygen") not in check({"serverkeygen": False})
    signer()
    assert ("warning", "est.serverkeygen") not in check(EST)


def test_a_demand_that_nobody_can_meet_is_a_warning(check, listed):
    careful = {"profile": [{"name": "default", "require_encrypted_key": True}]}
    key = ("warning", "profile[default].require_encrypted_key")
    assert key not in check({}, **careful)
    bare = careful | {"tls": {"client_auth": None}}
    assert "nobody" in check({}, **bare)[key]
    assert "no keys are made" in check({"serverkeygen": False}, **bare)[key]
    assert key not in check({"serverkeygen": True} | listed(ROOT.issue("a", key="rsa2048", key_usage=None)), **bare)
