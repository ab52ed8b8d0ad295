"""strongSwan's `pki` enrols and renews with the default settings: TLS and HTTP are its own, and stricter than most."""

from __future__ import annotations

import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing.server import wait_until

pytestmark = [pytest.mark.interop, pytest.mark.server, pytest.mark.needs("pki")]

SIGNED = b"-----BEGIN CERTIFICATE-----"


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers(as_shipped=True)


class Pki:
    """A directory with a key and a request, in which `pki` works."""

    def __init__(self, directory, server, name, *, key=("rsa", "2048"), request=()):
        self.directory = directory
        self.server = server
        (directory / "trust.pem").write_bytes(server.deployment.trust)
        kind, size = key
        private = self.run("--gen", "--type", kind, "--size", size, "--outform", "pem")
        (directory / "client.key").write_bytes(private)
        request = self.run("--req", "--in", "client.key", "--type", "priv", "--dn", f"CN={name}", *request)
        (directory / "request.der").write_bytes(request)

    def command(self, *arguments):
        return ["pki", *arguments]

    def attempt(self, *arguments):
        """Run it: exit code, standard output, and what it said without the names of plugins that it has not."""
        done = subprocess.run(
            self.command(*arguments), cwd=self.directory, capture_output=True, timeout=60, check=False
        )
        said = [line for line in done.stderr.decode().splitlines() if not line.startswith("plugin '")]
        return done.returncode, done.stdout, "\n".join(said)

    def run(self, *arguments):
        code, out, said = self.attempt(*arguments)
        assert code == 0, said
        return out

    def url(self, path=""):
        return f"https://localhost:{self.server.port}{path}"

    def estca(self):
        """Fetch the CA certificates into ca.pem, ca-1.pem, ...; what it said."""
        code, _, said = self.attempt(
            "--estca", "--url", self.url(), "--cacert", "trust.pem", "--caout", "ca.pem", "--outform", "pem", "--force"
        )
        assert code == 0, said
        return said

    def est(self, *credential, path=""):
        """The command line of an enrolment; it wants every CA certificate up to the root."""
        anchors = ["--cacert", "ca.pem", "--cacert", "ca-1.pem"]
        return ["--est", "--url", self.url(path), "--in", "request.der", *anchors, *credential, "--outform", "pem"]

    def enrol(self, *credential):
        out = self.run(*self.est(*credential))
        (self.directory / "client.pem").write_bytes(out)
        return x509.load_pem_x509_certificate(out)


@pytest.mark.parametrize(
    "key", [pytest.param(("rsa", "2048"), id="RSA"), pytest.param(("ecdsa", "256"), id="P-256"), pytest.param(("ecdsa", "384"), id="P-384")]
)  # fmt: skip
def test_a_device_fetches_the_ca_enrols_and_renews(server, tmp_path, key):
    """`--estca`, `--est --userpass`, `--est --cert --key`: one line of base64, with the root, by the settings of `init`."""
    name = f"swan-{key[0]}-{key[1]}"
    pki = Pki(tmp_path, server, name, key=key)
    said = pki.estca()
    assert "Root CA cert is trusted" in said
    assert "Sub CA cert is trusted" in said
    root = x509.load_pem_x509_certificate((tmp_path / "ca.pem").read_bytes())
    issuing = x509.load_pem_x509_certificate((tmp_path / "ca-1.pem").read_bytes())
    assert root in x509.load_pem_x509_certificates(server.deployment.trust)
    first = pki.enrol("--userpass", f"device:{server.make_token(name).value}")
    first.verify_directly_issued_by(issuing)
    assert first.subject.rfc4514_string() == f"CN={name}"
    renewed = pki.enrol("--cert", "client.pem", "--key", "client.key")
    renewed.verify_directly_issued_by(issuing)
    assert renewed.subject == first.subject
    assert renewed.serial_number != first.serial_number
    assert server.recorded(renewed) is not None
    assert "a fatal close_notify" in server.stderr  # how it ends every connection


def test_alternative_names_are_asked_for_and_renewed(server, tmp_path):
    """RULES F1 and F2: `--req --san`, granted by the token, equal in the renewal."""
    pki = Pki(tmp_path, server, "swan-san", request=("--san", "gateway.example"))
    pki.estca()
    token = server.make_token("swan-san", san=["DNS:gateway.example"])
    for credential in (("--userpass", f":{token.value}"), ("--cert", "client.pem", "--key", "client.key")):
        certificate = pki.enrol(*credential)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["gateway.example"]


def test_it_never_asks_for_csr_attributes(kipuka_servers, tmp_path):
    """RFC 7030, 4.5: they are optional. What the profile wants has to be in its command lines."""
    profile = {"name": "default", "key_types": ["rsa"], "min_rsa_bits": 3072, "csr_signature_hashes": ["sha384"]}
    server = kipuka_servers({"profile": [profile]})
    assert server.client().csrattrs().status == 200
    asked_before = server.stderr.count("csrattrs")
    credential = ("--userpass", f":{server.make_token('swan-asked').value}")
    for directory, size, digest, problem in (
        ("a", "2048", "sha384", "HTTP 400"),
        ("b", "3072", "sha256", "HTTP 400"),
        ("c", "3072", "sha384", None),
    ):
        (tmp_path / directory).mkdir()
        pki = Pki(tmp_path / directory, server, "swan-asked", key=("rsa", size), request=("--digest", digest))
        pki.estca()
        code, _, said = pki.attempt(*pki.est(*credential))
        assert (code == 0) == (problem is None), said
        assert problem is None or problem in said
    assert server.wait_for_audit("certificate_refused", rule="min_rsa_bits")
    assert server.wait_for_audit("certificate_refused", rule="csr_signature_hashes")
    assert server.stderr.count("csrattrs") == asked_before


def test_a_wrong_password_is_told_by_its_status(server, tmp_path):
    """It says the status, and keeps the text to itself."""
    pki = Pki(tmp_path, server, "swan-wrong")
    pki.estca()
    code, out, said = pki.attempt(*pki.est("--userpass", "device:" + "x" * 20))
    assert (code != 0, out) == (True, b"")
    assert "EST request failed: HTTP 401" in said


def test_user_and_password_have_174_characters_at_most(server, tmp_path):
    """It sends a longer pair garbled. The longest token (128) leaves 45 for the name, which the server ignores."""
    pki = Pki(tmp_path, server, "swan-long")
    pki.estca()
    token = server.make_token("swan-long").value
    longest = f"{'u' * (174 - 1 - len(token))}:{token}"
    assert pki.attempt(*pki.est("--userpass", f"u{longest}"))[0] != 0
    assert pki.enrol("--userpass", longest).subject.rfc4514_string() == "CN=swan-long"


def test_it_cannot_read_lines_of_base64(kipuka_servers, tmp_path):
    """Why `[est] base64_lines` is "auto": what OpenSSL's readers need shuts it out."""
    pki = Pki(tmp_path, kipuka_servers({"est": {"base64_lines": "always"}}), "swan-lines")
    code, _, said = pki.attempt("--estca", "--url", pki.url(), "--cacert", "trust.pem", "--caout", "ca.pem")
    assert code != 0, said
    assert not (tmp_path / "ca.pem").exists()


def test_it_has_no_way_to_name_a_label(kipuka_servers, tmp_path):
    """The path of its URL comes before `/.well-known/est`: a label, which comes after it, cannot be written."""
    server = kipuka_servers({"est": {"label": [{"name": "gateways", "ca": "main"}]}})
    pki = Pki(tmp_path, server, "swan-label")
    pki.estca()
    credential = ("--userpass", f":{server.make_token('swan-label', label='gateways').value}")
    code, _, said = pki.attempt(*pki.est(*credential, path="/gateways"))
    assert code != 0
    assert "HTTP 404" in said
    assert "path=/gateways/.well-known/est/simpleenroll" in server.stderr + server.stdout


def test_it_waits_for_a_ca_that_has_not_decided(kipuka_servers, site, tmp_path):
    """RFC 7030, 4.2.3: 202 with Retry-After; it asks again with the same password until the certificate comes."""
    server = kipuka_servers(
        {
            "server": {"workers": 1},  # its key is in memory
            "ca": [{"id": "far", "backend": "faraway", "behave_file": "behave", "retry_after": 2}],
            "est": {"default_ca": "far"},
        },
        environ=site("badge_and_smithy"),
    )
    behave = server.deployment.directory / "behave"
    behave.write_text("pending")
    pki = Pki(tmp_path, server, "swan-patient")
    root = server.client().cacerts().certificates()[0]
    (tmp_path / "ca.pem").write_bytes(server.deployment.trust)
    (tmp_path / "ca-1.pem").write_bytes(root.public_bytes(Encoding.PEM))
    token = server.make_token("swan-patient")
    arguments = pki.est("--userpass", f":{token.value}", "--interval", "1", "--maxpolltime", "60")
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(pki.command(*arguments), cwd=tmp_path, stdout=subprocess.PIPE, stderr=said)
    try:
        server.wait_for_audit("certificate_pending")
        wait_until(lambda: server.stderr.count("status=202") >= 2, timeout=30, what="a second 202")
        assert server.view_token(token)["held"] == 1
        behave.write_text("sign")
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert out.startswith(SIGNED), (tmp_path / "said").read_text()
    assert "going to sleep for 2 seconds" in (tmp_path / "said").read_text()
    assert server.view_token(token)["used"] == 1
