"""The server makes the private key (RFC 7030, 4.4; RULES J1): what comes, who gets it, and that nothing of it stays."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from kipuka.est.cms import read_certs_only
from kipuka.key_workshop import KeyWorkshop
from kipuka.testing import der
from kipuka.testing.client import Response, basic, bearer, encode_body, est_path
from kipuka.testing.http2 import HTTP2Peer
from kipuka.testing.inprocess import InProcessServer
from kipuka.testing.pki import Attribute, make_csr, make_key, make_root
from kipuka.x509 import generate as generating
from kipuka.x509.keys import describe_key

from .generated_keys import leaks, opened, public

pytestmark = pytest.mark.server

OPERATION = "serverkeygen"
INVALID = (401, "invalid OTP token")
SETTINGS = {
    "server": {"http2": True, "workers": 2},
    "log": {"level": "debug", "format": "json"},
    "profile": [
        {"name": "large", "key_types": ["rsa", "p384"], "min_rsa_bits": 3072},
        {"name": "signing", "key_types": ["ed25519", "rsa"], "serverkeygen_key": "rsa-2048"},
        {"name": "agreeing", "key_usage": ["digitalSignature", "keyAgreement", "keyEncipherment"]},
        {"name": "careful", "require_encrypted_key": True},
    ],
    "est": {
        "serverkeygen_recipients": "recipients.pem",
        "label": [
            {"name": "own-keys", "serverkeygen": False},
            {"name": "patient", "replay_window": 600},
            {"name": "large", "profile": "large"},
            {"name": "signing", "profile": "signing"},
            {"name": "agreeing", "profile": "agreeing"},
            {"name": "careful", "profile": "careful"},
        ],
    },
}


@pytest.fixture(scope="module")
def factory():
    """A maker of devices, whose certificates have never seen this server's CA."""
    return make_root("Factory")


@pytest.fixture(scope="module")
def badge(factory):
    """A certificate that an administrator has listed, of a device that proves itself by other means."""
    return factory.issue("badge", key="rsa2048", key_usage=("key_encipherment",))


@pytest.fixture(scope="module")
def server(kipuka_servers, badge):
    server = kipuka_servers(SETTINGS, start=False)
    listed = server.deployment.directory / "recipients.pem"
    listed.write_bytes(badge.certificate.public_bytes(Encoding.PEM))
    return server.start()


@pytest.fixture(scope="module")
def client(server):
    return server.client()


def ask(client, csr, **more):
    return client.enroll(csr, operation=OPERATION, **more)


def refused(answer):
    return (answer.status, answer.text)


def openssl(*arguments, given=None):
    done = subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- what comes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3072", "p256", "p384", "p521", "ed25519"])
def test_a_new_key_of_the_requests_kind_comes_with_its_certificate(server, client, kind):
    """RFC 7030, 4.4.2; opened with openssl, whose `pkey -check` also looks at the numbers."""
    token = server.make_token(f"made-{kind}")
    csr = make_csr(common_name="whatever", key=kind)
    answer = ask(client, csr, token=token.value)
    octets, key, certificate = opened(answer)
    assert public(key.public_key()) != public(csr.key.public_key())
    checks = [] if kind == "ed25519" else ["-check"]
    shown = openssl("pkey", "-inform", "DER", "-pubout", *checks, given=octets)
    pem = certificate.public_bytes(Encoding.PEM)
    assert openssl("x509", "-noout", "-pubkey", given=pem) in shown
    assert certificate.subject.rfc4514_string() == f"CN=made-{kind}"
    assert server.recorded(certificate) is not None
    assert server.view_token(token)["used"] == 1
    issued = server.wait_for_audit("certificate_issued", fingerprint=certificate.fingerprint(hashes.SHA256()).hex())
    assert issued["data"]["operation"] == OPERATION
    assert issued["data"]["key_protection"] == "tls"
    assert issued["data"]["generated_key"] == describe_key(key.public_key())


def test_the_answer_is_two_parts_of_mime_that_nobody_is_to_store(server, client):
    """RFC 7030, 4.4.2; RFC 9111, 5.2.2.5."""
    answer = ask(client, make_csr(), token=server.make_token("parts").value)
    assert answer.header("Content-Type").startswith("multipart/mixed; boundary=")
    assert answer.header("Cache-Control") == "no-store"
    assert answer.body.count(b"Content-Transfer-Encoding: base64\r\n") == 2


def test_the_key_usage_is_that_of_the_made_key(server, client):
    """RSA keys may transport keys, which is known before the key is."""
    for kind, transports in (("rsa2048", True), ("p256", False)):
        _, _, certificate = opened(ask(client, make_csr(key=kind), token=server.make_token("usage").value))
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert usage.key_encipherment is transports


@pytest.mark.parametrize(
    ("label", "kind", "made"),
    [
        pytest.param(None, "rsa1024", rsa.RSAPublicKey, id="too small a size becomes one that is made"),
        pytest.param(None, "k256", ec.EllipticCurvePublicKey, id="a kind that nobody takes becomes the default"),
        pytest.param("large", "rsa2048", rsa.RSAPublicKey, id="the profile's smallest size"),
        pytest.param("large", "p256", ec.EllipticCurvePublicKey, id="the profile's best"),
        pytest.param("signing", "p256", rsa.RSAPublicKey, id="the profile's own word"),
    ],
)
def test_another_key_is_made_where_the_profile_does_not_take_the_requests_kind(server, client, label, kind, made):
    """RULES J1: no key rule holds for the request's own key."""
    where = {} if label is None else {"label": label}
    _, key, _ = opened(ask(client, make_csr(key=kind), token=server.make_token("other", **where).value, **where))
    found = key.public_key()
    assert isinstance(found, made)
    assert found.key_size == {(None, "rsa1024"): 2048, ("large", "rsa2048"): 3072, ("large", "p256"): 384}.get(
        (label, kind), 2048 if made is rsa.RSAPublicKey else 256
    )


def test_the_requests_key_and_signature_are_ignored(server, client):
    """RFC 7030, 4.4.1: a broken signature, and a key that is somebody else's (RULES F5), do not matter."""
    broken = make_csr(break_signature=True)
    opened(ask(client, broken, token=server.make_token("broken").value))
    assert refused(client.enroll(broken, token=server.make_token("broken").value))[0] == 400
    taken = make_key("p256")
    assert client.enroll(make_csr(key=taken), token=server.make_token("first").value).status == 200
    opened(ask(client, make_csr(key=taken), token=server.make_token("second").value))


def test_a_device_gets_a_further_key_with_its_certificate(server, client):
    """RFC 7030, 4.4: a client may ask for additional certificates with the one it has; its names are its own."""
    device = server.enrol("workstation")
    _, key, certificate = opened(ask(server.client(device), make_csr(common_name="workstation")))
    assert certificate.subject == device.certificate.subject
    assert public(certificate.public_key()) == public(key.public_key())
    assert public(key.public_key()) != public(device.key.public_key())


async def test_it_works_over_http2(server):
    token = server.make_token("http2")
    more = [("content-type", "application/pkcs10"), ("authorization", basic(token.value))]
    peer = await HTTP2Peer.ready(server.port)
    stream = await peer.request(est_path(OPERATION), "POST", encode_body(make_csr().der, "64-lf"), more)
    answer = await peer.response(stream)
    await peer.peer.close()
    opened(Response(status=answer.status, reason="", headers=tuple(answer.fields), body=answer.body, head=b""))


# -- who gets it -------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_permitted_is_refused_and_no_use_is_spent(server, client):
    """RULES F1: the names go the way of every other request's."""
    token = server.make_token("modest")
    answer = ask(client, make_csr(dns=("dc.example",)), token=token.value)
    assert answer.status == 403
    assert "dc.example" in answer.text
    server.wait_for_audit("certificate_refused", operation=OPERATION, reason="name_refused")
    assert (server.view_token(token)["used"], server.view_token(token)["held"]) == (0, 0)
    opened(ask(client, make_csr(), token=token.value))


def test_of_many_uses_of_a_token_at_once_one_gets_a_key(server, client):
    """Guarantee 2."""
    token = server.make_token("crowd")
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(client, make_csr(), token=token.value).status, range(12)))
    assert Counter(answers)[200] == 1
    assert set(answers) <= {200, 401, 503}
    assert server.view_token(token)["used"] == 1


def test_a_label_that_makes_no_keys_says_so_before_it_asks_anything(server, client):
    """RULES J1: 404, whatever the request has or lacks; its other operations go on."""
    off = (404, "no private keys are made here: make one, and use simpleenroll")
    token = server.make_token("own", label="own-keys")
    assert refused(ask(client, make_csr(), label="own-keys", token=token.value)) == off
    assert refused(ask(client, make_csr(), label="own-keys")) == off
    assert refused(client.request("GET", est_path(OPERATION, "own-keys"))) == off
    server.wait_for_audit("request_rejected", reason="serverkeygen_off")
    assert server.view_token(token)["used"] == 0
    assert client.enroll(make_csr(), label="own-keys", token=token.value).status == 200


@pytest.mark.parametrize("operation", ["simpleenroll", OPERATION])
def test_what_is_refused_is_refused_as_for_simpleenroll(server, client, operation):
    """RULES C1, C2, C3, C5."""
    token = server.make_token("careful")

    def send(**more):
        return client.enroll(more.pop("csr", make_csr()), operation=operation, token=token.value, **more)

    assert client.request("GET", est_path(operation)).status == 405
    assert send(content_type="text/plain").status == 415
    assert send(csr=b"x" * 70_000).status == 413
    assert send(csr=b"garbage").status == 400
    assert send(headers={"Authorization": basic(token.value)}).status == 400
    assert send(headers={"Sec-Fetch-Site": "cross-site"}).status == 403
    assert send(headers={"Origin": "https://elsewhere.example"}).status == 403
    assert refused(client.enroll(make_csr(), operation=operation)) == (401, "")
    assert refused(client.enroll(make_csr(), operation=operation, token="wrong")) == INVALID
    with client.connect() as connection:
        foreign = make_csr(challenge_password=connection.channel_binding)
        assert send(csr=foreign).status == 400
    assert server.view_token(token)["used"] == 0


# -- a lost answer -----------------------------------------------------------------------------------------------------


def test_a_retry_gets_a_new_key_and_the_first_certificate_is_revoked(server, client):
    """RULES D4: no key is kept that could be given again; the token is spent once."""
    token = server.make_token("forgetful", label="patient", san=["DNS:forgetful.example"])
    csr = make_csr(dns=("forgetful.example",), key="rsa2048")
    found = [opened(ask(client, csr, label="patient", token=token.value)) for _ in range(3)]
    assert len({key for key, _, _ in found}) == 3
    for _, key, certificate in found:
        assert public(key.public_key()) == public(certificate.public_key())
        assert certificate.subject == found[0][2].subject
        for kind in (x509.SubjectAlternativeName, x509.KeyUsage, x509.ExtendedKeyUsage):
            assert certificate.extensions.get_extension_for_class(kind) == found[0][
                2
            ].extensions.get_extension_for_class(kind)
    states = [server.recorded(certificate)["state"] for _, _, certificate in found]
    assert states == ["revoked", "revoked", "valid"]
    assert server.recorded(found[0][2])["revocation_reason"] == "superseded"
    server.wait_for_audit(
        "certificate_revoked", fingerprint=found[0][2].fingerprint(hashes.SHA256()).hex(), reason="superseded"
    )
    view = server.view_token(token)
    assert (view["used"], view["held"]) == (1, 0)


def test_a_spent_token_is_good_for_nothing_but_the_same_request(server, client):
    """RULES D4: with another request, or at another operation, it is spent; nothing that was issued is touched."""
    token = server.make_token("spent", label="patient")
    csr = make_csr()
    _, _, certificate = opened(ask(client, csr, label="patient", token=token.value))
    assert refused(ask(client, make_csr(), label="patient", token=token.value)) == INVALID
    assert refused(client.enroll(csr, label="patient", token=token.value)) == INVALID
    assert server.recorded(certificate)["state"] == "valid"


def test_a_certificate_that_was_revoked_has_no_successor(server, client):
    """RULES D4: as for simpleenroll, a retry gets nothing for what was taken back."""
    token = server.make_token("taken-back", label="patient")
    csr = make_csr()
    _, _, certificate = opened(ask(client, csr, label="patient", token=token.value))
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex()
    assert server.admin("POST", f"/admin/certificates/{fingerprint}/revoke", {"reason": "keyCompromise"}).status == 200
    assert refused(ask(client, csr, label="patient", token=token.value)) == INVALID


def test_without_a_window_a_lost_answer_is_lost(server, client):
    """The chapter promises single use."""
    token, csr = server.make_token("single"), make_csr()
    opened(ask(client, csr, token=token.value))
    assert refused(ask(client, csr, token=token.value)) == INVALID


# -- encrypted to a key of the client's --------------------------------------------------------------------------------

SYMMETRIC, ASYMMETRIC, CAPABILITIES = (
    "1.2.840.113549.1.9.16.2.37",
    "1.2.840.113549.1.9.16.2.54",
    "1.2.840.113549.1.9.15",
)
AES128, TRIPLE_DES = "2.16.840.1.101.3.4.1.2", "1.2.840.113549.3.7"
ENCRYPTED = "application/pkcs7-mime; smime-type=server-generated-key"


def naming(identifier, *capabilities, oid=ASYMMETRIC, **more):
    """A request that names a key to encrypt to."""
    attributes = [Attribute(oid=oid, values=(der.octet_string(identifier),))]
    if capabilities:
        listed = der.sequence(*(der.sequence(der.object_identifier(found)) for found in capabilities))
        attributes.append(Attribute(oid=CAPABILITIES, values=(listed,)))
    return make_csr(attributes=attributes, **more)


def identifier_of(device):
    return device.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest


def unwrapped(server, answer, device, folder, trust=None):
    """What `opened` gives, of an encrypted answer: by openssl, which follows the signature up to the server's root."""
    assert answer.status == 200, answer.text
    (key_type, message), (_, certificates) = answer.parts()
    assert key_type == ENCRYPTED
    for name, content in {
        "message": message,
        "key": device.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "certificate": device.certificate.public_bytes(Encoding.PEM),
        "root": trust or server.deployment.trust,
    }.items():
        (folder / name).write_bytes(content)
    signed = openssl(
        *("cms", "-decrypt", "-binary", "-inform", "DER", "-in", f"{folder}/message"),
        *("-recip", f"{folder}/certificate", "-inkey", f"{folder}/key"),
    )
    (folder / "signed").write_bytes(der.sequence(der.object_identifier("1.2.840.113549.1.7.2"), der.context(0, signed)))
    package = openssl(
        *("cms", "-verify", "-binary", "-inform", "DER", "-in", f"{folder}/signed"),
        *("-CAfile", f"{folder}/root", "-purpose", "any"),
    )
    (certificate,) = read_certs_only(certificates)
    info = bytes(asn1.decode_der(asn1.TLV, package).data)  # AsymmetricKeyPackage: a SEQUENCE OF, with one in it
    return info, load_der_private_key(info, None), certificate


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384"])
def test_a_private_key_comes_encrypted_to_the_clients_own_certificate(server, tmp_path, kind):
    """RFC 7030, 4.4.1.2 and 4.4.2: named by its subject key identifier; signed by the server."""
    device = server.enrol(f"encrypted-{kind}", label="agreeing", key=kind)
    csr = naming(identifier_of(device), AES128, common_name=f"encrypted-{kind}")
    answer = ask(server.client(device), csr, label="agreeing")
    _, key, certificate = unwrapped(server, answer, device, tmp_path)
    assert public(key.public_key()) == public(certificate.public_key())
    assert server.recorded(certificate) is not None
    issued = server.wait_for_audit("certificate_issued", fingerprint=certificate.fingerprint(hashes.SHA256()).hex())
    assert issued["data"]["key_protection"] == "cms"
    assert issued["data"]["key_recipient"] == device.certificate.fingerprint(hashes.SHA256()).hex()
    shown = openssl("cms", "-cmsout", "-print", "-noout", "-inform", "DER", "-in", f"{tmp_path}/message")
    assert b"aes-128-cbc" in shown


def test_a_private_key_comes_encrypted_to_a_certificate_that_an_administrator_listed(server, client, badge, tmp_path):
    """RULES J1: whatever the client proves itself with, here a token."""
    token = server.make_token("badged")
    answer = ask(client, naming(identifier_of(badge)), token=token.value)
    _, key, certificate = unwrapped(server, answer, badge, tmp_path)
    assert public(key.public_key()) == public(certificate.public_key())


def test_a_retry_is_encrypted_to_the_same_key(server, client, badge, tmp_path):
    """RULES D4."""
    token, csr = server.make_token("badged-twice", label="patient"), naming(identifier_of(badge))
    keys = [
        unwrapped(server, ask(client, csr, label="patient", token=token.value), badge, tmp_path)[0] for _ in range(2)
    ]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        pytest.param(lambda _: naming(b"nobody's"), "the key to encrypt to is not known here", id="unknown"),
        pytest.param(lambda _: naming(b"k1", oid=SYMMETRIC), "no symmetric keys are kept here", id="symmetric"),
        pytest.param(
            naming,
            "nothing can be encrypted to the key that the request names: its certificate does not allow keyAgreement",
            id="not for it",
        ),
        pytest.param(lambda _: naming(b"x" * 65), "the identifier of the key to encrypt to has not", id="too long"),
    ],
)
def test_a_key_that_cannot_be_used_is_a_400_that_says_why(server, request_, text):
    """RFC 7030, 4.4.1.1 and 4.4.1.2: the request is terminated, and the key is not sent without encryption instead."""
    device = server.enrol("unsuited")
    answer = ask(server.client(device), request_(identifier_of(device)))
    assert answer.status == 400
    assert answer.text.startswith(text)


def test_a_client_that_can_read_no_cipher_of_ours_is_told_so(server, client, badge):
    answer = ask(client, naming(identifier_of(badge), TRIPLE_DES), token=server.make_token("old").value)
    assert answer.status == 400
    assert "AES" in answer.text


def test_where_the_profile_demands_it_no_plain_key_is_handed_out(server, client, badge, tmp_path):
    """RULES J1: the refusal names the rule, and nothing is spent."""
    token = server.make_token("careful", label="careful")
    answer = ask(client, make_csr(), label="careful", token=token.value)
    assert answer.status == 400
    assert answer.text.endswith("(rule require_encrypted_key)")
    refusal = server.wait_for_audit("certificate_refused", reason="encryption_required")
    assert refusal["data"]["rule"] == "require_encrypted_key"
    assert server.view_token(token)["used"] == 0
    answer = ask(client, naming(identifier_of(badge)), label="careful", token=token.value)
    unwrapped(server, answer, badge, tmp_path)


def test_somebody_elses_certificate_is_not_the_clients_own(server):
    """RULES J1: only the certificate of this very connection, or a listed one."""
    first, second = (server.enrol(name, label="agreeing", key="rsa2048") for name in ("first-own", "second-own"))
    answer = ask(server.client(first), naming(identifier_of(second), common_name="first-own"), label="agreeing")
    assert answer.status == 400


# -- the key is nowhere ------------------------------------------------------------------------------------------------


def everything(server, before):
    """All that the server wrote: its directory with the database and the audit log, its output, and new temporary files."""
    directory = server.deployment.directory
    files = [path for path in directory.parent.rglob("*") if path.is_file()]
    for folder in {Path(tempfile.gettempdir()), Path("/var/tmp"), Path("/dev/shm")}:
        files += [
            path for path in folder.glob("*") if path.is_file() and str(path) not in before and os.access(path, os.R_OK)
        ]
    return {str(path): path.read_bytes() for path in files}


def test_the_search_finds_a_key_that_is_there():
    """A search that finds nothing has to be able to find something."""
    for kind in ("rsa2048", "p256", "ed25519"):
        key = make_key(kind)
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        for written in (der, der.hex().encode(), base64.b64encode(b"x" + der), base64.encodebytes(b"12345" + der)):
            assert leaks([(der, key)], {"there": written})
            assert not leaks([(der, key)], {"there": os.urandom(5000)})


def test_no_private_key_is_left_anywhere(server, client, badge, tmp_path_factory):
    """RFC 7030, 4.4; RULES J1: not in log, database, audit log or temporary file, of requests that ended well or badly."""
    before = {
        str(path) for folder in (tempfile.gettempdir(), "/var/tmp", "/dev/shm") for path in Path(folder).glob("*")
    }
    found = []
    for kind in ("rsa2048", "p256", "ed25519"):
        token = server.make_token("searched", label="patient")
        csr = make_csr(key=kind)
        found += [opened(ask(client, csr, label="patient", token=token.value)) for _ in range(2)]
    csr = naming(identifier_of(badge))
    answer = ask(client, csr, token=server.make_token("searched").value)
    scratch = tmp_path_factory.mktemp("unwrapped")
    found.append(unwrapped(server, answer, badge, scratch))
    server.wait_for_audit("certificate_issued", fingerprint=found[-1][2].fingerprint(hashes.SHA256()).hex())
    server.restart()  # what was in a buffer is on disk
    places = everything(server, before)
    assert any(place.endswith(".db") for place in places)
    assert leaks([(der, key) for der, key, _ in found], places) == []


# -- RSA keys are made one after another -------------------------------------------------------------------------------


class SlowMaker:
    """Stands for a machine on which an RSA key takes as long as a test needs."""

    def __init__(self):
        self.asked, self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0), threading.Event()

    def __call__(self, kind):
        self.begun.release()
        assert self.go_on.wait(30)
        return generating.generate(kind)


@pytest.fixture
def busy(kipuka_template, tmp_path, monkeypatch):
    """A server in this process with room for one client that waits for an RSA key beside the one who gets it."""
    maker = SlowMaker()
    monkeypatch.setattr("kipuka.key_workshop.QUEUE", 1)
    monkeypatch.setattr("kipuka.key_workshop.generate", maker)
    deployment = kipuka_template.copy(tmp_path / "kipuka")
    deployment.configure({"otp": {"hash_algorithm": "sha256-hmac"}})
    wait_for_one = KeyWorkshop.make

    async def make(workshop, kind):
        maker.asked.release()  # in this step of the event loop it also takes its place in the queue
        return await wait_for_one(workshop, kind)

    monkeypatch.setattr(KeyWorkshop, "make", make)
    with InProcessServer(deployment) as running:
        yield running, maker
        maker.go_on.set()


def make_token(running, name):
    headers = {"Authorization": bearer(running.deployment.admin_token), "Content-Type": "application/json"}
    body = json.dumps({"client_id": name}).encode()
    answer = running.client().request("POST", "/admin/otp", headers=headers, body=body)
    return json.loads(answer.body)["token"]


def test_when_too_many_wait_for_rsa_keys_the_next_hears_503_and_others_are_served(busy):
    """RULES J1: a bounded queue; no use is spent, and neither elliptic curves nor enrolments wait for RSA."""
    running, maker = busy
    tokens = [make_token(running, f"rsa-{number}") for number in range(3)]
    csr = make_csr(key="rsa2048")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask, running.client(), csr, token=tokens[0])
        assert maker.begun.acquire(timeout=30)
        second = pool.submit(ask, running.client(), csr, token=tokens[1])
        assert all(maker.asked.acquire(timeout=30) for _ in range(2))
        late = ask(running.client(), csr, token=tokens[2])
        assert refused(late) == (503, "the server is too busy")
        assert late.header("Retry-After") == "2"
        assert ask(running.client(), make_csr(), token=make_token(running, "curve")).status == 200
        assert running.client().enroll(make_csr(), token=make_token(running, "own")).status == 200
        maker.go_on.set()
        for waiting in (first, second):
            opened(waiting.result(30))
    opened(ask(running.client(), csr, token=tokens[2]))


def test_a_client_that_leaves_while_its_key_is_made_loses_nothing(busy):
    """From the reservation on it is not the client's any more: the certificate is recorded, the use spent (guarantee 1)."""
    running, maker = busy
    token = make_token(running, "left")
    headers = {"Content-Type": "application/pkcs10", "Authorization": basic(token)}
    with running.client().connect() as connection:
        body = encode_body(make_csr(key="rsa2048").der, "64-lf")
        connection.send(connection.format_request("POST", est_path(OPERATION), headers=headers, body=body))
        assert maker.begun.acquire(timeout=30)
        connection.abort()
    maker.go_on.set()
    running.come_to_rest()
    assert refused(ask(running.client(), make_csr(), token=token)) == INVALID
