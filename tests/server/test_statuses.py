"""Statuses, headers and texts of everything that is not an enrolment (RULES C1 to C5, H1, H2)."""

from __future__ import annotations

import json
import time

import pytest

from kipuka.testing.client import basic, encode_body
from kipuka.testing.pki import make_csr

pytestmark = pytest.mark.server

ENROLL = "/.well-known/est/simpleenroll"
PKCS10 = {"Content-Type": "application/pkcs10"}


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers({"est": {"label": [{"name": "factory"}]}})


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def is_one_sentence(answer):
    return (
        answer.header("Content-Type") == "text/plain; charset=utf-8"
        and answer.text != ""
        and len(answer.text.splitlines()) == 1
    )


def test_two_authorization_fields_are_a_400(server, client):
    """RULES C1; not even a right token among them is used."""
    token = server.make_token()
    fields = [
        ("Content-Type", "application/pkcs10"),
        ("Authorization", basic("x" * 20)),
        ("Authorization", basic(token.value)),
    ]
    answer = client.request("POST", ENROLL, headers=fields, body=encode_body(make_csr().der, "64-lf"))
    assert answer.status == 400
    assert is_one_sentence(answer)
    assert server.view_token(token)["used"] == 0


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"Sec-Fetch-Site": "cross-site"}, id="sec-fetch-site"),
        pytest.param({"Origin": "https://evil.example"}, id="origin"),
        pytest.param({"Origin": "null"}, id="null origin"),
        pytest.param({"Origin": "https://["}, id="origin that is no URL"),
    ],
)
def test_a_cross_site_request_is_refused_and_allows_nobody(server, client, headers):
    """RULES C5: no CORS, on EST and admin alike."""
    token = server.make_token()
    answer = client.enroll(make_csr(), token=token.value, headers=headers)
    assert answer.status == 403
    assert is_one_sentence(answer)
    admin = client.request(
        "POST",
        "/admin/otp",
        headers={
            "Authorization": f"Bearer {server.deployment.admin_token}",
            "Content-Type": "application/json",
            **headers,
        },
        body=b'{"client_id": "x"}',
    )
    assert admin.status == 403
    for got in (answer, admin):
        assert not [name for name, _ in got.headers if name.lower().startswith("access-control-")]
    assert server.view_token(token)["used"] == 0


@pytest.mark.parametrize("headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}])
def test_a_same_site_request_is_not_refused(server, client, headers):
    """RULES C5."""
    token = server.make_token()
    assert client.enroll(make_csr(), token=token.value, headers=headers).status == 200


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/json", "application/pkcs7-mime", "application/pkcs10x"]
)
def test_another_media_type_is_a_415(server, client, content_type):
    """RULES C2, C5: before credentials are looked at, with or without them."""
    token = server.make_token()
    for credential in (None, token.value):
        answer = client.enroll(make_csr(), token=credential, content_type=content_type)
        assert answer.status == 415
        assert "application/pkcs10" in answer.text
    assert server.view_token(token)["used"] == 0


@pytest.mark.parametrize("content_type", ["application/pkcs10; charset=utf-8", "Application/PKCS10"])
def test_the_media_type_is_compared_as_media_types_are(server, client, content_type):
    """RFC 9110, 8.3.1."""
    answer = client.enroll(make_csr(), token=server.make_token().value, content_type=content_type)
    assert answer.status == 200, answer.text


def test_a_content_encoding_is_a_415(server, client):
    """RULES H1: nothing is decompressed."""
    import gzip

    token = server.make_token()
    body = gzip.compress(encode_body(make_csr().der, "64-lf"))
    answer = client.enroll(body, token=token.value, headers={"Content-Encoding": "gzip"})
    assert answer.status == 415
    assert server.view_token(token)["used"] == 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "simpleenroll", {"POST"}),
        ("PUT", "simpleenroll", {"POST"}),
        ("DELETE", "simplereenroll", {"POST"}),
        ("OPTIONS", "simpleenroll", {"POST"}),
        ("POST", "cacerts", {"GET", "HEAD"}),
        ("POST", "csrattrs", {"GET", "HEAD"}),
        ("PATCH", "factory/simpleenroll", {"POST"}),
    ],
)
def test_another_method_is_a_405_that_names_the_right_ones(client, method, path, allowed):
    """RULES C2; RFC 9110, 15.5.6: Allow."""
    answer = client.request(method, f"/.well-known/est/{path}", headers=PKCS10, body=b"x" if method != "GET" else None)
    assert answer.status == 405
    assert {name.strip() for name in answer.header("Allow").split(",")} == allowed
    assert is_one_sentence(answer)


def test_head_answers_as_get_without_a_body(client):
    """RFC 9110, 9.3.2."""
    head = client.request("HEAD", "/.well-known/est/cacerts")
    got = client.cacerts()
    assert head.status == 200
    assert head.body == b""
    assert head.header("Content-Type") == got.header("Content-Type")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/.well-known/est",
        "/.well-known/est/",
        "/.well-known/est/nothing",
        "/.well-known/est/nolabel/cacerts",
        "/.well-known/est/nolabel/simpleenroll",
        "/.well-known/est/factory/nothing",
        "/.well-known/est/factory/factory/cacerts",
        "/.well-known/est//cacerts",
        "/.well-known/est/cacerts/",
        "/.well-known/est/../est/cacerts",
        "/.well-known/est/FACTORY/cacerts",
        "/.well-known/est/fullcmc",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_what_is_not_there_is_a_404(client, method, path):
    """RULES C2: before media type, size and credentials."""
    answer = client.request(method, path, body=b"x" if method == "POST" else None)
    assert answer.status == 404
    assert is_one_sentence(answer)


def test_a_label_serves_every_operation(server, client):
    """RFC 7030, 3.2.2; RULES D3: a token is good at its own label only."""
    assert client.cacerts("factory").status == 200
    assert client.csrattrs("factory").status == 204
    elsewhere, here = server.make_token("device-1"), server.make_token("device-1", label="factory")
    refused = client.enroll(make_csr(), label="factory", token=elsewhere.value)
    assert (refused.status, refused.text) == (401, "invalid OTP token")
    refused = client.enroll(make_csr(), token=here.value)
    assert (refused.status, refused.text) == (401, "invalid OTP token")
    assert client.enroll(make_csr(), label="factory", token=here.value).status == 200
    assert client.enroll(make_csr(), token=elsewhere.value).status == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [65537, 1_000_000])
def test_a_body_over_the_limit_is_drained_and_answered_with_413(server, client, size, chunked):
    """RULES H2: the client hears it although it was still sending; nothing ends in a traceback."""
    token = server.make_token()
    body = b"M" * size
    answer = client.enroll(body, token=token.value, chunked=chunked)
    assert answer.status == 413
    assert is_one_sentence(answer)
    assert server.view_token(token)["used"] == 0
    assert server.tracebacks() == []


def test_a_body_at_the_limit_is_read(client):
    """`[server] max_body_size`."""
    answer = client.enroll(b" " * 65536, token="x" * 20)
    assert answer.status == 400


def test_no_credential_is_answered_before_the_body_is_parsed(client):
    """RULES C2, C3: 401 with every challenge and an empty body, whatever the body is."""
    for body in (b"garbage", b"", encode_body(make_csr().der, "64-lf")):
        answer = client.enroll(body)
        assert (answer.status, answer.body, answer.header("Content-Length")) == (401, b"", "0")
        assert answer.all("WWW-Authenticate")[0].startswith("Basic ")


def test_a_malformed_csr_is_a_400_before_the_token_is_looked_at(server, client):
    """RULES C2: the parse comes before authentication, so a slip of the client costs no failure and no use."""
    token = server.make_token()
    before = server.last_sequence
    for credential in (token.value, "w" * 20):
        answer = client.enroll(b"TUlNSU1JTUk=", token=credential)
        assert answer.status == 400
        assert is_one_sentence(answer)
    server.wait_for_audit("request_rejected", after=before)
    assert [e for e in server.audit("authentication_failed") if e["sequence"] > before] == []
    assert server.view_token(token) | {"used": 0, "held": 0} == server.view_token(token)


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        pytest.param({"break_signature": True}, 400, id="proof of possession"),
        pytest.param({"key": "rsa1024"}, 400, id="key"),
        pytest.param({"key": "p224"}, 400, id="curve"),
        pytest.param({"dns": ("dc.example.com",)}, 403, id="name"),
        pytest.param({"email": ("root@example.com",)}, 403, id="email"),
    ],
)
def test_a_refusal_after_the_reservation_gives_the_use_back(server, client, broken, status):
    """RULES C2, C3: a refused name, key or proof costs the client nothing, and the audit log says which it was."""
    token = server.make_token()
    before = server.last_sequence
    for _ in range(3):
        answer = client.enroll(make_csr(**broken), token=token.value)
        assert answer.status == status, answer.text
        assert is_one_sentence(answer)
    refused = server.wait_for_audit("certificate_refused", after=before)
    assert refused["outcome"] == "failure"
    view = server.view_token(token)
    assert (view["used"], view["held"]) == (0, 0)
    assert client.enroll(make_csr(), token=token.value).status == 200


def test_a_refused_name_is_named(server, client):
    """RULES F1: a SAN is granted or refused by name, never lost in silence."""
    answer = client.enroll(make_csr(dns=("dc.example.com",)), token=server.make_token().value)
    assert "dc.example.com" in answer.text


@pytest.mark.parametrize(
    ("method", "path", "body", "content_type", "status"),
    [
        ("POST", "/admin/otp", b"{}", "application/json", 400),
        ("POST", "/admin/otp", b"{", "application/json", 400),
        ("POST", "/admin/otp", b"[]", "application/json", 400),
        ("POST", "/admin/otp", b'{"client_id": "x", "surprise": 1}', "application/json", 400),
        ("POST", "/admin/otp", b'{"client_id": "x"}', "text/plain", 415),
        ("POST", "/admin/otp", b'{"client_id": "x"}', None, 415),
        ("GET", "/admin/otp/nothing", None, None, 404),
        ("DELETE", "/admin/otp/nothing", None, None, 404),
        ("GET", "/admin/nothing", None, None, 404),
        ("PUT", "/admin/otp", b"{}", "application/json", 405),
    ],
)
def test_admin_errors_are_json(server, client, method, path, body, content_type, status):  # noqa: PLR0917 - a table
    """RULES C5, E: the admin API answers in JSON, also when it refuses."""
    headers = {"Authorization": f"Bearer {server.deployment.admin_token}"}
    if content_type is not None:
        headers["Content-Type"] = content_type
    answer = client.request(method, path, headers=headers, body=body)
    assert answer.status == status
    assert answer.header("Content-Type") == "application/json"
    assert set(json.loads(answer.body)) == {"error", "detail", "request_id"}


@pytest.mark.parametrize("authorization", [None, "Bearer x", "Basic eDp5", "Bearer"])
def test_admin_needs_a_bearer_token(client, authorization):
    """The chapter: /admin/* has its own authentication."""
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = client.calling_from("127.0.0.9").request("GET", "/admin/otp", headers=headers)
    assert answer.status == 401
    assert answer.all("WWW-Authenticate")[0].startswith("Bearer ")


def test_a_slow_header_and_a_slow_body_end_at_their_deadlines(kipuka_servers):
    """RULES H1."""
    server = kipuka_servers({"server": {"header_timeout": 1, "body_timeout": 1, "idle_timeout": 2}})
    client = server.client()
    with client.connect() as connection:
        connection.send(b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\n")
        started = time.monotonic()
        connection.receive_until_closed(10)
        assert time.monotonic() - started < 8
    with client.connect() as connection:
        request = connection.format_request("POST", ENROLL, headers={**PKCS10, "Content-Length": "1000"}, body=b"MIIB")
        connection.send(request)
        started = time.monotonic()
        rest = connection.receive_until_closed(10)
        assert time.monotonic() - started < 8
        assert rest == b"" or rest.startswith(b"HTTP/1.1 4")
    assert client.cacerts().status == 200
    assert server.tracebacks() == []


def test_content_length_together_with_transfer_encoding_is_refused(client):
    """RULES H1: no request smuggling."""
    with client.connect() as connection:
        connection.send(
            b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkcs10\r\n"
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
        )
        answer = connection.read_response("POST")
    assert answer.status == 400


def test_a_header_over_the_limit_is_refused(client):
    """RULES H1: 16 KiB."""
    with client.connect() as connection:
        connection.send(b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 20000)
        data = connection.receive_until_closed(15)
    assert data == b"" or data.startswith(b"HTTP/1.1 4")
