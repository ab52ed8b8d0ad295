"""What EST clients in the field need of an answer, with the default settings (CLIENTS: strongSwan, BouncyCastle, libest, curl)."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from kipuka.testing.client import encode_body
from kipuka.testing.pki import make_csr

pytestmark = pytest.mark.server

CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"


@pytest.fixture(scope="module")
def server(kipuka_server):
    return kipuka_server


@pytest.fixture(scope="module")
def device(server):
    return server.enrol("habitual")


@pytest.fixture(scope="module")
def answers(server, device):
    """One answer of each sort."""
    client = server.client()
    return {
        "cacerts": client.cacerts(),
        "csrattrs": client.csrattrs(),
        "enrolled": client.enroll(make_csr(), token=server.make_token().value),
        "renewed": server.client(device).reenroll(make_csr(device.subject, key=device.key)),
        "challenged": client.enroll(make_csr()),
        "denied": client.enroll(make_csr(), token="x" * 20),
        "certificate required": client.reenroll(make_csr()),
        "malformed": client.enroll(b"garbage", token="x" * 20),
        "wrong type": client.enroll(make_csr(), content_type="text/plain"),
        "wrong method": client.request("GET", "/.well-known/est/simpleenroll"),
        "not there": client.request("GET", "/nothing"),
    }


def test_all_headers_together_stay_below_a_kibibyte(answers):
    """strongSwan reads no more; BouncyCastle's lines have the same bound."""
    for name, answer in answers.items():
        assert len(answer.head) < 1024, name


def test_a_body_comes_in_one_piece_after_the_head(server):
    """strongSwan takes what one read gives it for the whole body."""
    client = replace(server.client(), user_agent=None)
    with client.connect() as connection:
        connection.send(connection.format_request("GET", "/.well-known/est/cacerts"))
        head = connection.receive()
        assert head.endswith(b"\r\n\r\n")
        body = connection.receive()
        assert f"Content-Length: {len(body)}\r\n".encode() in head


def test_every_body_has_its_content_length(answers):
    """strongSwan and BouncyCastle read no chunks."""
    for name, answer in answers.items():
        if answer.status == 204:
            assert answer.header("Content-Length") is None  # RFC 9110, 8.6
        else:
            assert answer.header("Content-Length") == str(len(answer.body)), name
        assert answer.header("Transfer-Encoding") is None


def test_names_of_fields_are_written_as_they_are_registered(answers):
    """Their case says nothing (RFC 9110, 5.1), but libest compares it."""
    written = set()
    for answer in answers.values():
        written |= {line.partition(b":")[0].decode() for line in answer.head.splitlines()[1:] if line}
    assert written == {
        "Allow",
        "Content-Length",
        "Content-Transfer-Encoding",
        "Content-Type",
        "Date",
        "WWW-Authenticate",
        "X-Request-Id",
    }


def test_nothing_is_said_of_the_software(answers):
    """DESIGN, TLS: no server header."""
    for answer in answers.values():
        assert answer.header("Server") is None


def test_the_first_401_has_basic_first_and_an_empty_body(answers):
    """BouncyCastle reads the first challenge only, and wants a Content-Length."""
    answer = answers["challenged"]
    assert (answer.status, answer.body, answer.header("Content-Length")) == (401, b"", "0")
    assert answer.all("WWW-Authenticate")[0] == 'Basic realm="kipuka", charset="UTF-8"'


def test_bouncycastle_enrols_in_two_requests_on_two_connections(server):
    """The first, without credentials, touches neither token nor lock-out."""
    client = server.client()
    token = server.make_token()
    for _ in range(3):
        assert client.enroll(make_csr()).status == 401
    assert server.view_token(token)["used"] == 0
    assert client.enroll(make_csr(), token=token.value).status == 200


@pytest.mark.parametrize("name", ["cacerts", "enrolled", "renewed"])
def test_content_transfer_encoding_is_sent_all_the_same(answers, name):
    """BouncyCastle decodes base64 only where it stands (RFC 8951 tells receivers to ignore it)."""
    assert answers[name].header("Content-Transfer-Encoding") == "base64"


def test_the_content_types_are_those_of_the_rfc(answers):
    """RFC 7030, 4.1.3 and 4.2.3."""
    assert answers["cacerts"].header("Content-Type").startswith("application/pkcs7-mime")
    assert answers["enrolled"].header("Content-Type") == CERTS_ONLY
    assert answers["renewed"].header("Content-Type") == CERTS_ONLY


def test_csrattrs_without_attributes_is_a_204(answers):
    """RFC 7030, 4.5.2."""
    assert (answers["csrattrs"].status, answers["csrattrs"].body) == (204, b"")


def test_cacerts_has_the_chain_up_to_the_root(server, answers):
    """strongSwan must find the root; RULES F7."""
    certificates = {certificate.subject: certificate for certificate in answers["cacerts"].certificates()}
    issuing = server.deployment.authority().certificate
    assert issuing in certificates.values()
    above = issuing
    while above.issuer != above.subject:
        above = certificates[above.issuer]
    assert above in x509.load_pem_x509_certificates(server.deployment.trust)


def test_an_enrolment_answers_with_the_issued_certificate_alone(server, answers):
    """RFC 7030, 4.2.3."""
    certificate = answers["enrolled"].certificate
    certificate.verify_directly_issued_by(server.deployment.authority().certificate)
    assert not certificate.extensions.get_extension_for_oid(ExtensionOID.BASIC_CONSTRAINTS).value.ca


def is_one_line(answer):
    return b"\n" not in answer.body and b"\r" not in answer.body


def is_wrapped(answer):
    lines = answer.body.split(b"\n")
    return lines[-1] == b"" and b"\r" not in answer.body and {len(line) for line in lines[:-2]} == {64}


def test_without_a_user_agent_the_answer_is_one_line(server):
    """`[est] base64_lines = "auto"`: strongSwan names itself not and reads one line; OpenSSL reads lines of 64."""
    for agent, fits in ((None, is_one_line), ("curl/7.88.1", is_wrapped)):
        client = replace(server.client(), user_agent=agent)
        for answer in (client.cacerts(), client.enroll(make_csr(), token=server.make_token().value)):
            assert answer.status == 200
            assert fits(answer)
            assert base64.b64decode(answer.body)


@pytest.mark.parametrize(("setting", "fits"), [("always", is_wrapped), ("never", is_one_line)])
def test_the_lines_can_be_set(kipuka_servers, setting, fits):
    """`[est] base64_lines`."""
    server = kipuka_servers({"est": {"base64_lines": setting}})
    for agent in (None, "curl/7.88.1"):
        assert fits(replace(server.client(), user_agent=agent).cacerts())
    server.stop()


def test_expect_100_continue_is_answered(server):
    """curl sends it with larger bodies, and waits."""
    token = server.make_token()
    client = server.client()
    body = encode_body(make_csr().der, "64-lf")
    with client.connect() as connection:
        headers = {
            "Content-Type": "application/pkcs10",
            "Expect": "100-continue",
            "Content-Length": str(len(body)),
            "Authorization": "Basic " + base64.b64encode(f":{token.value}".encode()).decode(),
        }
        connection.send(connection.format_request("POST", "/.well-known/est/simpleenroll", headers=headers))
        interim = connection.receive()
        assert interim.startswith(b"HTTP/1.1 100")
        connection.send(body)
        assert connection.read_response("POST").status == 200


def test_requests_follow_each_other_on_one_connection(server, device):
    """Keep-alive, after successes and refusals alike."""
    client = server.client(device)
    with client.connect() as connection:
        for _ in range(3):
            assert client.request("GET", "/.well-known/est/cacerts", connection=connection).status == 200
            assert client.enroll(b"garbage", connection=connection).status == 400
            csr = make_csr(device.subject, key=device.key)
            assert client.enroll(csr, operation="simplereenroll", connection=connection).status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_chunked_request_is_read(server, chunked):
    """RFC 9112, 7.1: clients may send it though many cannot read it."""
    answer = server.client().enroll(make_csr(), token=server.make_token().value, chunked=chunked)
    assert answer.status == 200


def test_line_ends_around_a_request_are_no_request(server):
    """RFC 9112, 2.2: libest sends one more after a body, and two more after a GET."""
    client = server.client()
    with client.connect() as connection:
        for _ in range(3):
            request = connection.format_request("GET", "/.well-known/est/cacerts")
            connection.send(b"\r\n" + request + b"\r\n\r\n")
            assert connection.read_response().status == 200


def test_what_follows_a_request_that_closes_is_not_looked_at(server):
    """RFC 9112, 9.6: the request is answered, and nothing after it, be it a request or not."""
    client = server.client()
    for rest in (b"\r\n", b"GET /.well-known/est/csrattrs HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x00" * 100):
        with client.connect() as connection:
            close = {"Connection": "close"}
            connection.send(connection.format_request("GET", "/.well-known/est/cacerts", headers=close) + rest)
            assert connection.read_response().status == 200
            assert connection.is_closed()


def test_a_device_of_the_kit_can_renew(kipuka_server, kipuka_device):
    """The fixture that plugins' suites use: enrolled at the module's server, with its key."""
    answer = kipuka_server.client(kipuka_device).enroll(make_csr(kipuka_device.subject), operation="simplereenroll")
    assert answer.status == 200, answer.text
    assert answer.certificate.subject == kipuka_device.subject
