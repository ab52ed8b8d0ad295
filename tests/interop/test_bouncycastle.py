"""BouncyCastle's EST client (`org.bouncycastle.est`) enrols and renews with the default settings.

The client's side is `bouncycastle/Checks.java`; one JVM serves the whole module.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from kipuka.est.enveloped import KeySigner, choose
from kipuka.est.keygen import encrypted_key, private_key_info
from kipuka.testing.pki import make_key, make_root

pytestmark = [pytest.mark.interop, pytest.mark.server, pytest.mark.needs("jdk", "bouncycastle")]

PROGRAM = Path(__file__).parent / "bouncycastle" / "Checks.java"
JARS = ":".join(f"/usr/share/java/{name}.jar" for name in ("bcprov", "bcutil", "bcpkix", "bctls"))


class Java:
    """The program, running; a call is one check."""

    def __init__(self, process, errors):
        self._process = process
        self._errors = errors

    def __call__(self, check, server, **settings):
        given = {"server": f"localhost:{server.port}", **settings}
        words = [check, *(f"{name}={value}" for name, value in given.items())]
        self._process.stdin.write("\t".join(words) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._errors.read_text()
        return json.loads(line)


@pytest.fixture(scope="module")
def java(kipuka_template, tmp_path_factory):
    directory = tmp_path_factory.mktemp("java")
    (directory / "trust.pem").write_bytes(kipuka_template.trust)
    errors = directory / "errors"
    with errors.open("w") as stderr:
        process = subprocess.Popen(
            # Every check is short: the compiler that optimises costs more than it gains.
            ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", JARS, str(PROGRAM), "trust.pem"],
            cwd=directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    yield Java(process, errors)
    process.stdin.close()
    try:
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers(as_shipped=True)


def certificate_of(seen):
    assert seen["result"] == "ok", seen
    assert seen["count"] == "1"
    return x509.load_der_x509_certificate(base64.b64decode(seen["certificate"]))


@pytest.mark.parametrize("settings", [{"bootstrap": 1}, {}], ids=["without anchors", "with anchors"])
@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])
def test_it_fetches_the_ca_certificates_up_to_the_root(java, server, settings, tls):
    """RFC 7030, 4.1; it compares the content type with `application/pkcs7-mime` letter by letter (bcgit/bc-java#901)."""
    seen = java("cacerts", server, tls=tls, **settings)
    assert seen["result"] == "ok", seen
    found = [x509.load_der_x509_certificate(base64.b64decode(item)) for item in seen["certificates"].split()]
    assert {item.subject.rfc4514_string() for item in found} == {
        item.subject.rfc4514_string() for item in server.client().cacerts().certificates()
    }
    assert any(item in x509.load_pem_x509_certificates(server.deployment.trust) for item in found)


def test_it_takes_204_for_no_csr_attributes(java, server):
    """RFC 7030, 4.5.2."""
    assert java("csrattrs", server) == {"attributes": "false", "result": "ok"}


@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize("key", ["P-256", "P-384", "RSA"])
def test_a_device_enrols_with_a_password_and_renews_with_its_certificate(java, server, key, tls):
    """First without credentials, then, on a new connection, with them; the renewal has a new key."""
    name = f"java-{key}-{tls}".replace(".", "-")
    token = server.make_token(name)
    first = certificate_of(java("enrol", server, device=name, key=key, tls=tls, token=token.value))
    first.verify_directly_issued_by(server.deployment.authority().certificate)
    assert first.subject.rfc4514_string() == f"CN={name}"
    assert server.view_token(token)["used"] == 1
    renewed = certificate_of(java("enrol", server, device=name, key=key, tls=tls, renew=1, certificate=name))
    assert renewed.subject == first.subject
    assert renewed.public_key() != first.public_key()
    assert server.recorded(renewed) is not None


def test_identity_and_proof_of_possession_are_linked_by_tls_unique(java, server):
    """RFC 7030, 3.5 (RULES G1): at the enrolment and at the renewal, as `simpleEnrollPoP` does it."""
    token = server.make_token("java-linked")
    for credential in ({"token": token.value}, {"renew": 1, "certificate": "java-linked"}):
        seen = java("enrol", server, device="java-linked", tls="TLSv1.2", linked=1, **credential)
        fingerprint = certificate_of(seen).fingerprint(hashes.SHA256()).hex()
        issued = server.wait_for_audit("certificate_issued", fingerprint=fingerprint)
        assert issued["data"]["channel_binding"] == "tls-unique"


def test_over_tls_1_3_it_has_nothing_to_link_with(java, server):
    """tls-unique is not defined for TLS 1.3 (RFC 9266, 3), and this version knows no tls-exporter."""
    token = server.make_token("java-unlinked")
    seen = java("enrol", server, device="java-unlinked", tls="TLSv1.3", linked=1, token=token.value)
    assert (seen["result"], seen["status"]) == ("refused", "0"), seen  # an exception before any answer
    assert server.view_token(token)["used"] == 0


def test_what_it_asks_first_without_credentials_counts_for_nothing(java, kipuka_servers):
    """RULES C4: the first 401 of every enrolment is no failure; a lock-out after two failures never comes."""
    server = kipuka_servers({"otp": {"max_failures": 2}})
    for number in range(4):
        token = server.make_token(f"java-{number}")
        certificate_of(java("enrol", server, device=f"java-{number}", token=token.value))
    assert server.audit("locked_out") == []


def test_a_wrong_password_is_refused_with_the_text(java, server):
    """The chapter, Troubleshooting: the exception has status and text."""
    seen = java("enrol", server, device="java-wrong", token="x" * 20)
    assert (seen["result"], seen["status"], seen["body"].strip()) == ("refused", "401", "invalid OTP token")


def test_a_password_for_a_label_is_used_there(java, kipuka_servers):
    """RFC 7030, 3.2.2: `withLabel`."""
    server = kipuka_servers({"est": {"label": [{"name": "printers", "ca": "main"}]}})
    token = server.make_token("java-label", label="printers")
    assert java("enrol", server, device="java-label", token=token.value)["status"] == "401"
    certificate_of(java("enrol", server, device="java-label", token=token.value, label="printers"))


@pytest.mark.parametrize("key", ["P-256", "RSA"])
@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])
def test_the_server_makes_the_key_and_the_device_renews_with_it(java, server, key, tls):
    """RFC 7030, 4.4: `simpleEnrollWithServersideCreation`, whose parser reads both parts."""
    name = f"java-made-{key}-{tls}".replace(".", "-")
    token = server.make_token(name)
    seen = java("keygen", server, device=name, key=key, tls=tls, token=token.value)
    certificate = certificate_of(seen)
    private = load_der_private_key(base64.b64decode(seen["key"]), None)
    assert private.public_key() == certificate.public_key()
    assert server.view_token(token)["used"] == 1
    certificate_of(java("enrol", server, device=name, tls=tls, renew=1, certificate=name))


def test_its_linked_request_for_a_key_is_a_simpleenroll(java, server):
    """docs/reference/clients.md says so of `simpleEnrollPopWithServersideCreation` in this version, which then misses the key."""
    token = server.make_token("java-made-linked")
    seen = java("keygen", server, device="java-made-linked", tls="TLSv1.2", linked=1, token=token.value)
    assert "getPrivateKeyInfo()" in seen["said"]
    issued = server.wait_for_audit("certificate_issued", subject="CN=java-made-linked")
    assert issued["data"]["operation"] == "simpleenroll"


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p521"])
@pytest.mark.parametrize("capability", [None, "1.2.840.113549.1.1.7", "2.16.840.1.101.3.4.1.5"])
def test_it_opens_an_encrypted_key_and_verifies_its_signature(java, server, kind, capability):
    """RFC 7030, 4.4.2; RFC 5753; OAEP and AES-128 where the client asks for them."""
    root, sent = make_root(), make_key("p256")
    usage = ("key_encipherment",) if kind.startswith("rsa") else ("key_agreement",)
    device = root.issue("device", key=kind, key_usage=usage)
    wishes = [] if capability is None else [x509.ObjectIdentifier(capability)]
    part = encrypted_key(
        sent,
        signer=KeySigner(certificates=(root.certificate,), key=root.key),
        recipient=device.certificate,
        chosen=choose(device.certificate, wishes),
    )
    private = device.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    given = {"message": part.der, "key": private, "certificate": device.der}
    seen = java("open", server, **{name: base64.b64encode(content).decode() for name, content in given.items()})
    assert seen["result"] == "ok", seen
    assert (seen["content"], seen["verified"]) == ("2.16.840.1.101.2.1.2.78.5", "true")
    assert private_key_info(sent) in base64.b64decode(seen["package"])


def test_it_may_ask_again_where_the_ca_has_not_decided(java, kipuka_servers, site):
    """RFC 7030, 4.2.3: 202 with Retry-After is no failure; its own object has what to ask again with."""
    server = kipuka_servers(
        {
            "server": {"workers": 1},  # its key is in memory
            "ca": [{"id": "far", "backend": "faraway", "behave_file": "behave", "retry_after": 1}],
            "est": {"default_ca": "far"},
        },
        environ=site("badge_and_smithy"),
    )
    behave = server.deployment.directory / "behave"
    behave.write_text("pending")
    token = server.make_token("java-patient")
    seen = java("enrol", server, device="java-patient", token=token.value)
    assert seen == {"result": "pending", "now": "false"}
    assert server.view_token(token)["held"] == 1
    behave.write_text("sign")
    certificate_of(java("again", server, device="java-patient"))
    assert server.view_token(token)["used"] == 1
