"""curl sends, openssl makes keys and requests and reads every answer: nothing of kipuka is on the client's side."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.server, pytest.mark.needs("curl", "openssl")]

KEYS = {
    "RSA": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "P-256": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "P-384": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
    "Ed25519": ["-algorithm", "ED25519"],
}
TLS = {"TLS 1.2": ["--tlsv1.2", "--tls-max", "1.2"], "TLS 1.3": ["--tlsv1.3"]}
FORMS = (
    "one line of base64",
    "64 columns, LF",
    "64 columns, CRLF",
    "76 columns, LF",
    "76 columns, CRLF",
    "DER",
    "PEM",
    "PEM with its text",
)


@pytest.fixture(scope="module")
def server(kipuka_server):
    return kipuka_server


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Client:
    """A directory with a key, in which the two programs work."""

    def __init__(self, directory: Path, server, key="P-256", name="workstation-42"):
        self.directory = directory
        self.server = server
        self.name = name
        (directory / "trust.pem").write_bytes(server.deployment.trust)
        self.openssl("genpkey", *KEYS[key], "-out", "client.key")
        self.openssl("req", "-new", "-key", "client.key", "-subj", f"/CN={name}", "-out", "request.pem")

    def openssl(self, *arguments):
        return run("openssl", *arguments, cwd=self.directory)

    def curl(self, operation, *arguments, out="answer"):
        """Call, and give back the status and the headers."""
        run(
            "curl",
            "--silent",
            "--show-error",
            "--cacert",
            "trust.pem",
            "--output",
            out,
            "--dump-header",
            "headers",
            *arguments,
            f"https://localhost:{self.server.port}/.well-known/est/{operation}",
            cwd=self.directory,
        )
        headers = (self.directory / "headers").read_text().splitlines()
        finals = [line for line in headers if line.startswith("HTTP/")]
        return int(finals[-1].split()[1]), headers

    def write_body(self, form):
        """The request in that form, as `request.body`."""
        der = self.directory / "request.der"
        self.openssl("req", "-in", "request.pem", "-outform", "DER", "-out", "request.der")
        text = "".join(self.openssl("base64", "-A", "-in", "request.der").split())
        if form == "DER":
            content = der.read_bytes()
        elif form == "PEM":
            content = (self.directory / "request.pem").read_bytes()
        elif form == "PEM with its text":
            content = self.openssl("req", "-in", "request.pem", "-text").encode()
        elif form == "one line of base64":
            content = text.encode()
        else:
            columns, ending = re.fullmatch(r"(\d+) columns, (LF|CRLF)", form).groups()
            lines = re.findall(f".{{1,{columns}}}", text)
            content = "".join(line + {"LF": "\n", "CRLF": "\r\n"}[ending] for line in lines).encode()
        (self.directory / "request.body").write_bytes(content)

    def enrol(self, *arguments, operation="simpleenroll", form="64 columns, LF"):
        self.write_body(form)
        return self.curl(
            operation, "-H", "Content-Type: application/pkcs10", "--data-binary", "@request.body", *arguments
        )

    def certificates(self, out="answer"):
        """The certificates of an answer, by openssl alone; `client.crt` is the first."""
        self.openssl("base64", "-d", "-in", out, "-out", "answer.p7")
        text = self.openssl("pkcs7", "-inform", "DER", "-in", "answer.p7", "-print_certs")
        blocks = re.findall(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", text, re.DOTALL)
        (self.directory / "client.crt").write_text(blocks[0])
        return blocks

    def verify(self):
        """openssl believes the certificate, as a client's, under the roots that `cacerts` gives out."""
        assert self.curl("cacerts", out="cacerts")[0] == 200
        self.openssl("base64", "-d", "-in", "cacerts", "-out", "cacerts.p7")
        chain = self.openssl("pkcs7", "-inform", "DER", "-in", "cacerts.p7", "-print_certs")
        (self.directory / "chain.pem").write_text(chain)
        verdict = self.openssl(
            "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", "trust.pem", "-untrusted", "chain.pem",
            "client.crt",
        )  # fmt: skip
        assert verdict == "client.crt: OK\n"
        subject = self.openssl("x509", "-in", "client.crt", "-noout", "-subject", "-nameopt", "RFC2253")
        assert subject == f"subject=CN={self.name}\n"
        public = self.openssl("x509", "-in", "client.crt", "-noout", "-pubkey")
        assert public == self.openssl("pkey", "-in", "client.key", "-pubout")


def password(server, name="workstation-42", **more):
    return ["-u", f":{server.make_token(name, **more).value}"]


@pytest.mark.parametrize("version", TLS)
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_request_is_read(server, tmp_path, form, version):
    """RFC 8951, 3.1: any wrapping, and the DER and PEM that people have in their files."""
    client = Client(tmp_path, server)
    status, _ = client.enrol(*password(server), *TLS[version], form=form)
    assert status == 200, (tmp_path / "answer").read_text()
    assert len(client.certificates()) == 1
    client.verify()


@pytest.mark.parametrize("version", TLS)
@pytest.mark.parametrize("key", KEYS)
def test_a_device_of_every_key_type_enrols_and_renews_with_its_certificate(server, tmp_path, key, version):
    """The chapter: first a token, then the certificate, which renews itself."""
    name = f"{key}-{version}".replace(" ", "-").replace(".", "-")
    client = Client(tmp_path, server, key=key, name=name)
    status, _ = client.enrol(*password(server, name), *TLS[version])
    assert status == 200, (tmp_path / "answer").read_text()
    client.certificates()
    client.verify()
    first = (tmp_path / "client.crt").read_text()
    (tmp_path / "current.crt").write_text(first)
    certificate = ["--cert", "current.crt", "--key", "client.key"]
    status, _ = client.enrol(*certificate, *TLS[version], operation="simplereenroll")
    assert status == 200, (tmp_path / "answer").read_text()
    client.certificates()
    client.verify()
    assert (tmp_path / "client.crt").read_text() != first


def test_a_chunked_request_is_read(server, tmp_path):
    """curl sends it when it is told to."""
    client = Client(tmp_path, server)
    status, _ = client.enrol(*password(server), "-H", "Transfer-Encoding: chunked")
    assert status == 200
    client.certificates()
    client.verify()


@pytest.mark.parametrize("options", [("--http1.0", "--no-alpn"), ("--http1.1",), ("--http2",)], ids=" ".join)
def test_every_version_of_http_that_curl_may_ask_for_is_served(server, tmp_path, options):
    """HTTP/2 is off by default: a client that offers it falls back."""
    client = Client(tmp_path, server)
    status, _ = client.enrol(*options, *password(server))
    assert status == 200
    client.certificates()
    client.verify()


def test_curl_speaks_http_2_where_it_is_switched_on(kipuka_servers, tmp_path):
    """`[server] http2`: a first enrolment, a renewal, the refusals, and the body that is too large."""
    server = kipuka_servers({"server": {"http2": True}})
    client = Client(tmp_path, server)
    status, headers = client.enrol("--http2", *password(server))
    assert (status, headers[0].split()[0]) == (200, "HTTP/2")
    client.certificates()
    client.verify()
    certificate = ["--http2", "--cert", "client.crt", "--key", "client.key"]
    assert client.enrol(*certificate, operation="simplereenroll")[0] == 200
    client.certificates()
    client.verify()
    assert (client.enrol("--http2", "-u", ":" + "x" * 20)[0], _text(tmp_path)) == (401, "invalid OTP token")
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    large = ["-H", "Content-Type: application/pkcs10", "--data-binary", "@large"]
    for version in ("--http2", "--http1.1"):
        status, headers = client.curl("simpleenroll", version, *password(server), *large)
        assert (status, _text(tmp_path)) == (413, "the request body is too large")
    assert client.enrol("--http1.1", *password(server))[0] == 200


def test_curl_waits_for_100_continue_with_a_larger_body(server, tmp_path):
    """RFC 9110, 10.1.1: it holds the body back until it may send it."""
    client = Client(tmp_path, server)
    client.openssl("genpkey", *KEYS["RSA"], "-out", "client.key")
    many = ",".join(f"DNS:name-{number}.workstation-42.example" for number in range(30))
    client.openssl(
        "req", "-new", "-key", "client.key", "-subj", "/CN=workstation-42", "-addext", f"subjectAltName={many}",
        "-out", "request.pem",
    )  # fmt: skip
    status, headers = client.enrol("-H", "Expect: 100-continue", *password(server, san=many.split(",")))
    assert status == 200, (tmp_path / "answer").read_text()
    assert headers[0].startswith("HTTP/1.1 100")
    client.certificates()
    client.verify()


def test_curl_asks_for_the_head_alone(server, tmp_path):
    """RFC 9110, 9.3.2: the fields of GET, and no body."""
    client = Client(tmp_path, server)
    assert client.curl("cacerts")[0] == 200
    size = (tmp_path / "answer").stat().st_size
    status, headers = client.curl("cacerts", "--head", out="head")
    assert status == 200
    assert f"Content-Length: {size}" in headers
    assert client.curl("simpleenroll", "--head")[0] == 405


def test_curl_sends_the_password_only_when_it_is_asked(server, tmp_path):
    """`--anyauth`: the first request has neither credentials nor a body; the challenge is read, Basic is chosen."""
    client = Client(tmp_path, server)
    status, headers = client.enrol("--anyauth", *password(server))
    statuses = [line.split()[1] for line in headers if line.startswith("HTTP/")]
    assert (status, statuses) == (200, ["401", "200"])
    client.certificates()
    client.verify()


def test_openssl_reads_the_ca_certificates_as_cms_and_as_pkcs7(server, tmp_path):
    """RFC 7030, 4.1.3: certs-only CMS, which PKCS #7 of old is; signed by nobody, and no more than certificates in it."""
    client = Client(tmp_path, server)
    assert client.curl("cacerts")[0] == 200
    client.openssl("base64", "-d", "-in", "answer", "-out", "cacerts.p7")
    shown = client.openssl("cms", "-cmsout", "-print", "-noout", "-inform", "DER", "-in", "cacerts.p7")
    assert "contentType: pkcs7-signedData" in shown
    assert re.search(r"signerInfos:\s+<EMPTY>", shown)
    assert re.search(r"crls:\s+<ABSENT>", shown)
    listed = client.openssl("pkcs7", "-inform", "DER", "-in", "cacerts.p7", "-print_certs", "-noout")
    (tmp_path / "chain.pem").write_text(client.openssl("pkcs7", "-inform", "DER", "-in", "cacerts.p7", "-print_certs"))
    assert listed.count("subject=") == 2
    assert client.openssl("verify", "-x509_strict", "-CAfile", "trust.pem", "chain.pem") == "chain.pem: OK\n"


def test_the_chapters_lines_work_with_a_header_for_the_encoding(server, tmp_path):
    """RFC 7030, 4.2.1 with Content-Transfer-Encoding, which RFC 8951 tells us to ignore."""
    client = Client(tmp_path, server)
    for encoding in ("base64", "binary", "8bit"):
        status, _ = client.enrol("-H", f"Content-Transfer-Encoding: {encoding}", *password(server))
        assert status == 200
        client.certificates()


def test_a_challenge_password_of_openssl_req_is_no_obstacle(server, tmp_path):
    """What `openssl req` asks for is no channel binding (RULES G1)."""
    client = Client(tmp_path, server)
    (tmp_path / "req.cnf").write_text(
        "[req]\nprompt = no\ndistinguished_name = dn\nattributes = a\n[dn]\nCN = workstation-42\n"
        "[a]\nchallengePassword = A challenge password\nunstructuredName = An optional company name\n"
    )
    client.openssl("req", "-new", "-key", "client.key", "-config", "req.cnf", "-out", "request.pem")
    status, _ = client.enrol(*password(server))
    assert status == 200, (tmp_path / "answer").read_text()
    client.certificates()
    client.verify()


def test_alternative_names_of_openssl_req_are_granted_or_refused_by_name(server, tmp_path):
    """RULES F1."""
    client = Client(tmp_path, server)
    client.openssl(
        "req", "-new", "-key", "client.key", "-subj", "/CN=x", "-addext", "subjectAltName=DNS:printer.example",
        "-out", "request.pem",
    )  # fmt: skip
    status, _ = client.enrol(*password(server))
    assert status == 403
    assert "printer.example" in (tmp_path / "answer").read_text()
    status, _ = client.enrol(*password(server, san=["DNS:printer.example"]))
    assert status == 200
    client.certificates()
    shown = client.openssl("x509", "-in", "client.crt", "-noout", "-ext", "subjectAltName,keyUsage,extendedKeyUsage")
    assert "DNS:printer.example" in shown
    assert "Digital Signature" in shown
    assert "TLS Web Client Authentication" in shown


@pytest.mark.parametrize("version", TLS)
def test_curl_hears_the_four_texts(server, tmp_path, version):
    """The chapter, Troubleshooting."""
    client = Client(tmp_path, server)
    heard = {}
    heard["no certificate"] = client.enrol(*TLS[version], operation="simplereenroll")[0], _text(tmp_path)
    client.openssl("req", "-x509", "-key", "client.key", "-subj", "/CN=me", "-days", "1", "-out", "self.crt")
    own = ["--cert", "self.crt", "--key", "client.key"]
    heard["own certificate"] = client.enrol(*own, *TLS[version])[0], _text(tmp_path)
    heard["wrong token"] = client.enrol("-u", ":" + "x" * 20, *TLS[version])[0], _text(tmp_path)
    assert heard == {
        "no certificate": (403, "client certificate required"),
        "own certificate": (401, "certificate signed by unknown authority"),
        "wrong token": (401, "invalid OTP token"),
    }


def test_curl_hears_that_it_is_locked_out(kipuka_servers, tmp_path):
    """The chapter, Troubleshooting: the fourth text."""
    server = kipuka_servers({"otp": {"max_failures": 2}})
    client = Client(tmp_path, server)
    answers = [(client.enrol("-u", ":" + "x" * 20)[0], _text(tmp_path)) for _ in range(3)]
    assert answers == [(401, "invalid OTP token")] * 2 + [(429, "too many failures, locked out")]
    headers = (tmp_path / "headers").read_text().lower()
    assert "retry-after:" in headers


def test_the_admin_lines_of_the_chapter_work(server, tmp_path):
    """The chapter, Generating OTP Tokens."""
    client = Client(tmp_path, server)
    made = run(
        "curl", "--silent", "--show-error", "--cacert", "trust.pem", "-X", "POST",
        f"https://localhost:{server.port}/admin/otp",
        "-H", f"Authorization: Bearer {server.deployment.admin_token}",
        "-H", "Content-Type: application/json",
        "-d", '{"client_id": "workstation-42", "max_uses": 1}',
        cwd=tmp_path,
    )  # fmt: skip
    token = json.loads(made)["token"]
    assert client.enrol("-u", f":{token}")[0] == 200
    client.certificates()
    client.verify()


def test_openssl_s_client_sees_a_hardened_server(server, tmp_path):
    """RULES A6: no TLS 1.1, no resumption, no renegotiation, no compression."""
    client = Client(tmp_path, server)

    def s_client(*arguments, text=""):
        return subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-servername", "localhost", *arguments],
            cwd=client.directory,
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    assert s_client("-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0").returncode != 0
    good = s_client("-tls1_2", "-CAfile", "trust.pem", "-verify_return_error")
    assert "Verify return code: 0 (ok)" in good.stdout
    assert "Compression: NONE" in good.stdout
    assert "TLS session ticket" not in good.stdout
    renegotiated = s_client("-tls1_2", text="R\n")
    assert "RENEGOTIATING" in renegotiated.stdout + renegotiated.stderr
    assert renegotiated.returncode != 0


def _text(directory):
    return (directory / "answer").read_text().strip()
