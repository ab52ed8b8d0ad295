"""Names, paths and header fields that are meant to be read as something else, by us, by a proxy before us, or by who reads the log."""

from __future__ import annotations

import json

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka.testing.client import basic, encode_body
from kipuka.testing.pki import make_csr, make_root

pytestmark = pytest.mark.server

EVIL = 'x\r\nevent=forged "\x1b[2J\u202e\u2028,O=y+CN=z'
STEERS = frozenset("\r\x1b\x00\u2028\u2029\u202e\u0085")


@pytest.fixture(scope="module")
def server(kipuka_servers):
    profiles = [{"name": "default"}, {"name": "any", "names": "csr", "subject_patterns": {"CN": ["*"]}}]
    labels = [{"name": "factory"}, {"name": "partners", "profile": "any"}]
    return kipuka_servers({"est": {"label": labels}, "profile": profiles})


@pytest.fixture(scope="module")
def partner(server):
    """A foreign CA that is trusted for EST: it may name its clients as it likes."""
    root = make_root("Partner")
    anchors = server.deployment.directory / str(server.deployment.settings["tls"]["client_auth"]["trust_anchors"])
    anchors.write_bytes(anchors.read_bytes() + root.pem)
    server.restart()
    return root


@pytest.mark.parametrize(
    "path",
    ["//admin/certificates", "/%61dmin/certificates", "/admin%2fcertificates", "/admin%2Fcertificates", "/ADMIN/certificates",
     "/admin;x/certificates", "/admin/./certificates", "/x/../admin/certificates", "/x/%2e%2e/admin/certificates", "/admin\\certificates"],
)  # fmt: skip
def test_only_what_is_written_out_is_the_admin_interface(server, path):
    """A proxy that closes /admin to the world compares octets: nothing else may lead there, not even for an administrator."""
    assert server.admin("GET", path).status == 404
    assert server.admin("GET", "/admin/certificates").status == 200


@pytest.mark.parametrize(
    "path",
    ["factory%2fsimpleenroll", "factory//simpleenroll", "factory/./simpleenroll", "factory/simpleenroll/", "FACTORY/simpleenroll",
     "/simpleenroll", "simpleenroll/simpleenroll", "cacerts/simpleenroll", "factory%00/simpleenroll", "factory;x/simpleenroll"],
)  # fmt: skip
def test_a_label_that_is_nearly_one_is_none(server, path):
    """RFC 7030, 3.2.2. A token of that label is not used."""
    token = server.make_token("device-1", label="factory")
    body = encode_body(make_csr().der, "64-lf")
    headers = {"Content-Type": "application/pkcs10", "Authorization": basic(token.value)}
    assert server.client().request("POST", f"/.well-known/est/{path}", headers=headers, body=body).status == 404
    assert server.view_token(token)["used"] == 0


def test_a_label_may_be_percent_encoded_and_is_the_same_label_then(server):
    """RFC 3986, 6.2.2.2. It is compared after decoding, so the token of another label does not fit either way."""
    headers = {"Content-Type": "application/pkcs10"}
    body = encode_body(make_csr().der, "64-lf")
    for label, status in (("factory", 200), (None, 401)):
        more = {} if label is None else {"label": label}
        token = server.make_token("device-1", **more)
        answer = server.client().request(
            "POST",
            "/.well-known/est/%66actory/simpleenroll",
            headers={**headers, "Authorization": basic(token.value)},
            body=body,
        )
        assert answer.status == status, answer.text


@pytest.mark.parametrize(
    "path",
    ["/admin/certificates/%00", "/admin/otp/a%00b", "/admin/certificates?subject=%00", "/admin/certificates?%00=1"],
)
def test_a_nul_reaches_no_database(server, path):
    assert server.admin("GET", path).status == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Client-Cert": "MIIB", "X-SSL-Client-Verify": "SUCCESS", "X-SSL-Client-S-DN": "CN=device-1"},
        {"Proxy-Authorization": "{good}"},
        {"Authorization": "{good}, Basic eA=="},
        {"Authorization": "Basic\t{parameters}"},
        {"Cookie": "Authorization={good}"},
        {"X-Authorization": "{good}", "Authorization": "Basic"},
    ],
)
def test_a_credential_counts_in_its_own_field_only(server, headers):
    token = server.make_token()
    good = basic(token.value)
    fields = {name: value.format(good=good, parameters=good.partition(" ")[2]) for name, value in headers.items()}
    assert server.client().enroll(make_csr(), headers=fields).status == 401
    assert server.view_token(token)["used"] == 0


def test_an_address_in_a_header_field_is_nobodys(server):
    """RULES C4: lock-outs and the audit log go by the address of the connection."""
    after = server.last_sequence
    fields = {"X-Forwarded-For": "198.51.100.7", "Forwarded": "for=198.51.100.7", "X-Real-IP": "198.51.100.7"}
    assert server.client().enroll(make_csr(), token="Z" * 20, headers=fields).status == 401
    record = server.wait_for_audit("authentication_failed", after=after)
    assert record["client_address"] == "127.0.0.1"


def test_what_a_client_is_called_steers_neither_the_log_nor_the_terminal(server, partner):
    """A trusted CA's client with line breaks, escapes and right-to-left text in its subject, who is recorded under another name."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, EVIL)])
    device = partner.issue_client(name, dns=("device-1.example",))
    client = server.client(device)
    assert client.enroll(make_csr(subject=name, dns=("device-1.example",))).status == 403
    assert (
        server.client(partner.issue_client(name, not_after=partner.certificate.not_valid_before_utc))
        .enroll(make_csr())
        .status
        == 401
    )
    server.wait_for_audit("certificate_refused", reason="name_refused")
    assert client.enroll(make_csr(), label="partners").status == 200
    lines = server.deployment.audit_file.read_text(encoding="utf-8")
    assert "forged" in lines
    assert all(json.loads(line) for line in lines.splitlines())  # splitlines knows more line ends than JSON does
    commands = [
        server.deployment.kipuka(*words).stdout
        for words in (("audit", "tail"), ("audit", "tail", "--json"), ("cert", "list"), ("cert", "list", "--json"))
    ]
    for text in (lines, server.stderr, server.stdout, *commands):
        assert not STEERS & set(text)
    server.deployment.kipuka("audit", "verify")
