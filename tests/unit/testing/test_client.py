"""The test client sends what it is told and shows what it got, against a server of the standard library."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading

import pytest

from kipuka.testing.client import BODY_ENCODINGS, ESTClient, basic, encode_body, est_path
from kipuka.testing.pki import make_csr, make_root


class OneAnswerServer:
    """Reads one request per connection and gives back what it was told to."""

    def __init__(self, directory, answer, *, anchors=None):
        self.root = make_root()
        certificate, key = self.root.issue_server("localhost").write(directory, "server")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        if anchors is not None:
            self._context.verify_mode = ssl.CERT_REQUIRED
            self._context.load_verify_locations(cadata=anchors.pem.decode())
        self._answer = answer
        self.requests = []
        self.tls_unique = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def client(self, **changes):
        return ESTClient(host="127.0.0.1", port=self.port, trust=self.root.pem, timeout=5, **changes)

    def stop(self):
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(5)

    def _serve(self):
        while True:
            try:
                plain, _ = self._listening.accept()
            except OSError:
                return
            with contextlib.suppress(OSError), self._context.wrap_socket(plain, server_side=True) as secure:
                self.tls_unique.append(secure.get_channel_binding("tls-unique"))
                request = b""
                while not request.endswith((b"\r\n\r\n", b"END")):
                    request += secure.recv(65536)
                self.requests.append(request)
                secure.sendall(self._answer)


@pytest.fixture
def server(tmp_path):
    running = []

    def start(answer=b"HTTP/1.1 204 No Content\r\n\r\n", **options):
        running.append(OneAnswerServer(tmp_path, answer, **options))
        return running[-1]

    yield start
    for one in running:
        one.stop()


def test_a_request_goes_out_as_it_was_asked_for(server):
    running = server()
    running.client().request("POST", "/x", headers=[("X", "1"), ("X", "2")], body=b"bodyEND")
    head, _, body = running.requests[0].partition(b"\r\n\r\n")
    assert head.splitlines() == [
        b"POST /x HTTP/1.1",
        f"Host: localhost:{running.port}".encode(),
        b"X: 1",
        b"X: 2",
        b"User-Agent: kipuka-testing",
        b"Content-Length: 7",
    ]
    assert body == b"bodyEND"


def test_a_response_shows_repeated_headers_in_order_and_the_body(server):
    answer = (
        b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nwww-authenticate: B\r\nContent-Length: 3\r\n\r\nno\n"
    )
    got = server(answer).client().request("GET", "/")
    assert (got.status, got.reason, got.text) == (401, "Unauthorized", "no")
    assert got.all("WWW-Authenticate") == ["Basic", "B"]
    assert got.header("x") is None
    with pytest.raises(ValueError, match="2 fields"):
        got.header("www-authenticate")


def test_an_interim_response_is_passed_over_and_chunks_are_joined(server):
    answer = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n"
    )
    assert server(answer).client().request("GET", "/").body == b"abcde"


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"], ids=["head", "body"])
def test_a_cut_response_is_a_connection_error(server, answer):
    with pytest.raises(ConnectionError):
        server(answer).client().request("GET", "/")


def test_both_ends_agree_on_tls_unique(server):
    running = server()
    with running.client(tls_version="TLSv1.2").connect() as connection:
        connection.request("GET", "/")
        assert connection.tls_version == "TLSv1.2"
        assert connection.tls_unique == running.tls_unique[0]


def test_the_exporter_differs_by_connection(server):
    client = server().client(tls_version="TLSv1.3")
    seen = set()
    for _ in range(2):
        with client.connect() as connection:
            connection.request("GET", "/")
            assert connection.tls_version == "TLSv1.3"
            seen.add(connection.tls_exporter)
    assert [len(value) for value in seen] == [32, 32]


def test_a_server_signed_by_another_root_is_not_believed(server):
    running = server()
    stranger = ESTClient(host="127.0.0.1", port=running.port, trust=make_root("Other").pem, timeout=5)
    with pytest.raises(ConnectionError, match="verify failed"):
        stranger.connect()


def test_a_client_certificate_is_shown_with_its_chain(server):
    anchors = make_root("Clients")
    device = anchors.issue_ca("Between").issue_client()
    running = server(anchors=anchors)
    assert running.client(certificate=device).request("GET", "/").status == 204
    with pytest.raises(ConnectionError):  # a TLSAlert, unless the reset overtakes the alert
        running.client(certificate=device, send_chain=False).request("GET", "/")


def test_a_missing_certificate_is_a_connection_error_in_tls_1_2_too(server):
    running = server(anchors=make_root("Clients"))
    with pytest.raises(ConnectionError):
        running.client(tls_version="TLSv1.2").request("GET", "/")


@pytest.mark.parametrize("encoding", BODY_ENCODINGS)
def test_every_body_encoding_is_what_its_name_says(encoding):
    body = encode_body(make_csr(key="rsa2048").der, encoding)
    expected = {
        "one-line": (None, 0),
        "64-lf": (65, 1),
        "64-crlf": (66, 2),
        "76-lf": (77, 1),
        "76-crlf": (78, 2),
        "pem": (None, 1),
    }
    if encoding == "der":
        assert body[:1] == b"\x30"
        return
    width, ending = expected[encoding]
    first = body.splitlines(keepends=True)[0]
    assert len(first) - len(first.rstrip(b"\r\n")) == ending
    assert width is None or len(first) == width


def test_small_things_are_written_as_the_rfcs_say():
    assert basic("open sesame", "Aladdin") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="  # RFC 7617, section 2
    assert est_path("cacerts") == "/.well-known/est/cacerts"
    assert est_path("simpleenroll", "factory") == "/.well-known/est/factory/simpleenroll"
