"""Clients that Debian does not have, played octet by octet: what cisco/libest and globalsign/est write on the wire, and how they read.

From their published sources (facts, no code): names, order and values of the fields, line lengths, what follows a request, when
they open another connection, and how much of an answer's form they rely on.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from pyasn1.codec.der.decoder import decode as read
from pyasn1_alt_modules import rfc7030

from kipuka.distinguished_names import parse_dn
from kipuka.est.csrattrs import decode
from kipuka.testing.client import basic
from kipuka.testing.pki import Credential, make_csr

pytestmark = [pytest.mark.interop, pytest.mark.server]


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers(as_shipped=True)


WEB = {
    "name": "web",
    "names": "csr",
    "key_types": ["rsa"],
    "min_rsa_bits": 3072,
    "subject_patterns": {"CN": ["device-*"], "O": ["Example"]},
    "subject_required": ["CN", "O"],
    "san_patterns": {"dns": ["*.example.com"]},
    "san_required": ["dns"],
}
LARGE, HUGE = (WEB | {"name": name, "min_rsa_bits": bits} for name, bits in (("large", 4096), ("huge", 8192)))
LINKED = {"name": "linked", "channel_binding": "required"}
DEVICE = parse_dn("CN=device-1,O=Example")


@pytest.fixture(scope="module")
def asking(kipuka_servers):
    """A server that asks for things: at a label with a template, and at one without."""
    profiles = [WEB, LARGE, HUGE, LINKED]
    labels = [{"name": profile["name"], "profile": profile["name"]} for profile in profiles]
    return kipuka_servers({"est": {"label": labels}, "profile": [{"name": "default"}, *profiles]})


def wrapped(der, columns, ending):
    text = base64.b64encode(der).decode()
    return "".join(line + ending for line in re.findall(f".{{1,{columns}}}", text)).encode()


# -- libest ------------------------------------------------------------------------------------------------------------


class LibestFailed(Exception):
    """What libest calls an error, by the same words."""


@dataclass
class Libest:
    """libest 3.2: TLS 1.2, a connection for every request, credentials only after a 401, and a reader that compares names."""

    server: object
    password: str | None = None
    certificate: object = None
    label: str | None = None
    authenticating = False

    def get(self, operation):
        """Two line ends too many follow every GET."""
        return self._exchange(self._head("GET", operation) + b"\r\n\r\n", operation)

    def enrol(self, csr, operation="simpleenroll"):
        """As it does: without credentials; after a 401 once more on a new connection; the certificate."""
        try:
            return self._post(csr, operation)
        except PermissionError:
            self.authenticating = True
            return self._post(csr, operation)

    def _post(self, csr, operation):
        body = wrapped(csr.der, 64, "\n")
        head = self._head("POST", operation, "Content-Type: application/pkcs10", f"Content-Length: {len(body)}")
        # a line end follows the body, which is none of it
        answer = self._exchange(head + b"\r\n" + body + b"\r\n", operation)
        (certificate,) = pkcs7.load_der_pkcs7_certificates(answer)
        return certificate

    def _head(self, method, operation, *more):
        label = "" if self.label is None else f"/{self.label}"
        fields = [
            f"{method} /.well-known/est{label}/{operation} HTTP/1.1",
            "User-Agent: libest 3.2.0p",
            "Connection: close",
            f"Host: localhost:{self.server.port}",
            "Accept: */*",
            *more,
        ]
        if self.authenticating and self.password is not None:
            fields.append("Authorization: Basic " + base64.b64encode(f"estuser:{self.password}".encode()).decode())
        return "".join(f"{field}\r\n" for field in fields).encode()

    def _exchange(self, octets, operation):
        with self.server.client(self.certificate, tls_version="TLSv1.2").connect() as connection:
            connection.send(octets)
            return self._read(connection.receive_until_closed(), operation)

    def _read(self, answer, operation):
        """All that comes until the server closes; names letter by letter; base64 by OpenSSL, so lines of at most 76."""
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        fields = dict(reversed([line.split(": ", 1) for line in lines]))  # of several, the first
        if status.startswith("HTTP/1.1 401"):
            if self.authenticating:
                raise LibestFailed("HTTP auth failure")
            if not fields["WWW-Authenticate"].startswith("Basic"):
                raise LibestFailed("Unsupported WWW-Authenticate method")
            raise PermissionError
        if status.startswith("HTTP/1.1 204") and operation == "csrattrs":
            return b""
        if not status.startswith("HTTP/1.1 200"):
            raise LibestFailed(status)
        wanted = "application/pkcs7-mime" + ("; smime-type=certs-only" if "enroll" in operation else "")
        wanted = "application/csrattrs" if operation == "csrattrs" else wanted
        assert fields["Content-Type"].startswith(wanted)
        assert int(fields["Content-Length"]) == len(body)
        assert all(len(line) <= 76 for line in body.split(b"\n"))
        return base64.b64decode(body)


def test_libest_fetches_the_ca_certificates_and_asks_for_attributes(server):
    """RFC 7030, 4.1 and 4.5: the line ends behind its requests are no second request."""
    libest = Libest(server)
    found = pkcs7.load_der_pkcs7_certificates(libest.get("cacerts"))
    assert any(item in x509.load_pem_x509_certificates(server.deployment.trust) for item in found)
    assert libest.get("csrattrs") == b""


LIBEST_MOST, LIBEST_MOST_LINKED = 1024, 1035


def libest_looks_for_a_challenge(octets):
    """How it reads CSR attributes: into every SEQUENCE and SET, over all else; for challengePassword and for nothing else.

    By tag numbers alone, whatever the class is. It takes no more than 1,024 octets, 1,035 with a challengePassword.
    """
    at, found = 0, False
    while at < len(octets):
        number, length, at = octets[at] & 0x1F, octets[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(octets[at : at + size]), at + size
        if number == 6:
            found |= octets[at : at + length] == bytes.fromhex("2a864886f70d010907")
        if number not in {16, 17}:
            at += length
    if at != len(octets) or len(octets) > (LIBEST_MOST_LINKED if found else LIBEST_MOST):
        raise LibestFailed("EST_ERR_BAD_ASN1_HEX")
    return found


def test_libest_links_its_request_where_the_attributes_ask_for_it_and_passes_over_the_rest(asking):
    """RFC 8951, section 4; RFC 9908, section 4. The names and the key are up to the program that uses it."""
    attributes = Libest(asking, label="web").get("csrattrs")
    assert decode(attributes).template is not None
    assert libest_looks_for_a_challenge(attributes) is False
    csr = make_csr(DEVICE, key="rsa3072", dns=("device-1.example.com",))
    token = asking.make_token(label="web")
    first = Libest(asking, password=token.value, label="web").enrol(csr)
    assert first.subject == DEVICE
    assert libest_looks_for_a_challenge(Libest(asking, label="linked").get("csrattrs")) is True
    token = asking.make_token("libest-3", label="linked")
    for authorization in (None, basic(token.value, "estuser")):
        with asking.client(tls_version="TLSv1.2").connect() as connection:
            csr = make_csr(challenge_password=connection.channel_binding)
            answer = asking.client(tls_version="TLSv1.2").enroll(
                csr, authorization=authorization, label="linked", connection=connection
            )
    assert answer.status == 200, answer.text


def test_libest_reads_no_template_with_the_largest_placeholder(asking):
    """The one answer that it refuses; whoever needs such keys and libest leaves `csrattrs` out."""
    with pytest.raises(LibestFailed, match="BAD_ASN1_HEX"):
        libest_looks_for_a_challenge(Libest(asking, label="huge").get("csrattrs"))
    assert libest_looks_for_a_challenge(Libest(asking, label="large").get("csrattrs")) is False


def test_libest_enrols_with_a_password_and_renews_with_its_certificate(server):
    """First without credentials, which counts for nothing (RULES C4), then with Basic on a new connection."""
    token = server.make_token("libest-1")
    libest = Libest(server, password=token.value)
    csr = make_csr(common_name="libest-1", key="rsa2048")
    first = libest.enrol(csr)
    assert first.subject.rfc4514_string() == "CN=libest-1"
    assert server.view_token(token)["used"] == 1
    own = Credential(key=csr.key, der=first.public_bytes(Encoding.DER))
    renewed = Libest(server, certificate=own).enrol(csr, "simplereenroll")
    assert renewed.subject == first.subject
    assert renewed.serial_number != first.serial_number


def test_libest_links_its_request_to_each_connection(server):
    """RFC 7030, 3.5: the challengePassword is made anew for the second connection, after the 401."""
    token = server.make_token("libest-2")
    client = server.client(tls_version="TLSv1.2")
    for authorization in (None, basic(token.value, "estuser")):
        with client.connect() as connection:
            csr = make_csr(common_name="libest-2", challenge_password=connection.channel_binding)
            answer = client.enroll(csr, authorization=authorization, connection=connection)
    assert answer.status == 200, answer.text
    issued = server.wait_for_audit("certificate_issued", subject="CN=libest-2")
    assert issued["data"]["channel_binding"] == "tls-unique"


def test_libest_is_told_that_a_password_is_wrong(server):
    """It asks once with credentials, and gives up."""
    with pytest.raises(LibestFailed, match="HTTP auth failure"):
        Libest(server, password="x" * 20).enrol(make_csr())


# -- globalsign/est ----------------------------------------------------------------------------------------------------


@dataclass
class GlobalSign:
    """globalsign/est's estclient: Go's HTTP over TLS 1.3, a body of unknown length, credentials in the first request."""

    server: object
    password: str | None = None
    certificate: object = None
    tls_version: str = "TLSv1.3"
    label: str | None = None

    def get(self, operation, accept):
        return self._exchange(self._head("GET", operation, f"Accept: {accept}"))

    def enrol(self, csr, operation="simpleenroll", *, connection=None):
        """Chunks, of which the first comes with the head; lines of 76 that end in CRLF, the last one too."""
        authorization = []
        if self.password is not None:  # only with a user name
            authorization = ["Authorization: Basic " + base64.b64encode(f"est:{self.password}".encode()).decode()]
        head = self._head(
            "POST",
            operation,
            "Transfer-Encoding: chunked",
            "Accept: application/pkcs7-mime",
            *authorization,
            "Content-Transfer-Encoding: base64",
            "Content-Type: application/pkcs10",
        )
        body = wrapped(csr.der, 76, "\r\n")
        return self._exchange(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), connection)

    def _head(self, method, operation, *more):
        label = "" if self.label is None else f"/{self.label}"
        fields = [
            f"{method} /.well-known/est{label}/{operation} HTTP/1.1",
            f"Host: localhost:{self.server.port}",
            "User-Agent: GlobalSign EST Client v1.0.6 github.com/globalsign/est",
            *more,
            "Accept-Encoding: gzip",
        ]
        return "".join(f"{field}\r\n" for field in fields).encode() + b"\r\n"

    def connect(self):
        return self.server.client(self.certificate, tls_version=self.tls_version).connect()

    def _exchange(self, octets, connection=None):
        if connection is None:
            with self.connect() as own:
                return self._exchange(octets, own)
        connection.send(octets)
        return connection.read_response(octets.split(b" ", 1)[0].decode())


def test_globalsign_fetches_the_ca_certificates_and_asks_for_attributes(server):
    """It asks for gzip as all of Go does, takes any parameter of the content type, and line breaks or none."""
    client = GlobalSign(server)
    answer = client.get("cacerts", "application/pkcs7-mime")
    assert (answer.status, answer.header("Content-Encoding")) == (200, None)
    assert answer.header("Content-Type").startswith("application/pkcs7-mime")
    assert len(answer.certificates()) == 2
    assert client.get("csrattrs", "application/csrattrs").status == 204


def globalsign_lists(octets):
    """How it reads CSR attributes: what is there by its name alone, and the rest by type, with values of whatever kind."""
    asked, rest = read(octets, asn1Spec=rfc7030.CsrAttrs())
    assert not rest
    names = [str(item["oid"]) for item in asked if item.getName() == "oid"]
    attributes = [item["attribute"] for item in asked if item.getName() == "attribute"]
    types = {str(item["attrType"]): len(item["attrValues"]) for item in attributes}
    return names, types


def test_globalsign_lists_what_is_asked_for_and_uses_none_of_it(asking):
    """RFC 9908, section 4: to it a template is an attribute of a type that it does not know."""
    answer = GlobalSign(asking, label="web").get("csrattrs", "application/csrattrs")
    assert (answer.status, answer.header("Content-Type")) == (200, "application/csrattrs")
    names, types = globalsign_lists(base64.b64decode(answer.body))
    assert names == ["2.5.4.3", "2.5.4.10", "2.5.29.17"]
    assert types == {"1.2.840.113549.1.1.1": 1, "1.2.840.113549.1.9.16.2.61": 1}
    token = asking.make_token(label="web").value
    refused = GlobalSign(asking, password=token, label="web").enrol(make_csr())
    assert (refused.status, refused.text.rstrip().endswith("(rule key_types)")) == (400, True), refused.text
    csr = make_csr(DEVICE, key="rsa3072", dns=("device-1.example.com",))
    accepted = GlobalSign(asking, password=token, label="web").enrol(csr)
    assert accepted.certificate.subject == DEVICE
    linked = base64.b64decode(GlobalSign(asking, label="linked").get("csrattrs", "application/csrattrs").body)
    assert globalsign_lists(linked) == (["1.2.840.113549.1.9.7", "1.2.840.113549.1.9.16.2.58"], {})


def test_globalsign_enrols_with_a_password_and_renews_with_its_certificate(server):
    """Its request is chunked, for which it needs no setting."""
    token = server.make_token("globalsign-1")
    csr = make_csr(common_name="globalsign-1")
    first = GlobalSign(server, password=token.value).enrol(csr).certificate
    assert first.subject.rfc4514_string() == "CN=globalsign-1"
    own = Credential(key=csr.key, der=first.public_bytes(Encoding.DER))
    renewed = GlobalSign(server, certificate=own).enrol(csr, "simplereenroll").certificate
    assert renewed.subject == first.subject
    assert renewed.serial_number != first.serial_number


def test_globalsign_links_its_request_where_the_connection_is_tls_1_2(server):
    """There it puts tls-unique into the challengePassword, with a line end behind it."""
    token = server.make_token("globalsign-2")
    client = GlobalSign(server, password=token.value, tls_version="TLSv1.2")
    with client.connect() as connection:
        csr = make_csr(common_name="globalsign-2", challenge_password=connection.channel_binding + "\r\n")
        certificate = client.enrol(csr, connection=connection).certificate
    issued = server.wait_for_audit("certificate_issued", fingerprint=certificate.fingerprint(SHA256()).hex())
    assert issued["data"]["channel_binding"] == "tls-unique"


def test_globalsign_is_told_why_in_text(server):
    """The body of a refusal, where it is text/plain, is what it prints; a 202 is an error of it that carries Retry-After."""
    answer = GlobalSign(server, password="x" * 20).enrol(make_csr())
    assert (answer.status, answer.text) == (401, "invalid OTP token")
    assert answer.header("Content-Type").startswith("text/plain")
