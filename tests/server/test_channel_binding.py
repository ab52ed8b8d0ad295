"""Linking identity and proof of possession (RFC 7030, 3.5; RFC 9266; RULES G1, G2)."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from kipuka.testing import der
from kipuka.testing.client import basic, encode_body
from kipuka.testing.http2 import HTTP2Peer
from kipuka.testing.pki import Attribute, Credential, make_csr

pytestmark = pytest.mark.server

NAMES = {"TLSv1.2": "tls-unique", "TLSv1.3": "tls-exporter"}
VERSIONS = tuple(NAMES)


IDENTITY_LINKING = "1.2.840.113549.1.9.16.2.58"
LINKED = {"name": "linked", "profile": "linked"}
PROFILES = [{"name": "default"}, {"name": "linked", "channel_binding": "required"}]


@pytest.fixture(scope="module")
def server(kipuka_servers):
    return kipuka_servers({"est": {"label": [LINKED]}, "profile": PROFILES})


def text(octets):
    return base64.b64encode(octets).decode()


@pytest.mark.parametrize("version", VERSIONS)
def test_the_binding_of_this_connection_links(server, version):
    """RULES G1: and the audit log says which binding it was."""
    client = server.client(tls_version=version)
    token = server.make_token()
    before = server.last_sequence
    with client.connect() as connection:
        csr = make_csr(challenge_password=connection.channel_binding)
        answer = client.enroll(csr, token=token.value, connection=connection)
        assert answer.status == 200, answer.text
    issued = server.wait_for_audit("certificate_issued", after=before)
    assert issued["data"]["channel_binding"] == NAMES[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_binding_nothing_is_linked(server, version):
    """RULES G1: verified whenever present; nothing is demanded."""
    before = server.last_sequence
    assert server.client(tls_version=version).enroll(make_csr(), token=server.make_token().value).status == 200
    assert server.wait_for_audit("certificate_issued", after=before)["data"]["channel_binding"] is None


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("case", ["another connection", "the other kind", "random", "changed"])
def test_any_other_binding_is_refused(server, version, case):
    """RULES G1: 400, audited, and the token is still good."""
    client = server.client(tls_version=version)
    token = server.make_token()
    before = server.last_sequence
    with client.connect() as other, client.connect() as connection:
        octets = base64.b64decode(connection.channel_binding)
        binding = {
            "another connection": other.channel_binding,
            "the other kind": text(connection.tls_unique if version == "TLSv1.3" else connection.tls_exporter),
            "random": text(bytes(range(len(octets)))),
            "changed": text(bytes([octets[0] ^ 1]) + octets[1:]),
        }[case]
        answer = client.enroll(make_csr(challenge_password=binding), token=token.value, connection=connection)
    assert answer.status == 400
    assert binding not in answer.text
    refused = server.wait_for_audit("certificate_refused", after=before)
    assert refused["data"]["reason"] == "binding_mismatch"
    assert client.enroll(make_csr(), token=token.value).status == 200


def test_the_connection_is_closed_after_use_of_the_exporter(server):
    """RULES G2; RFC 9266, 4.1: said in the answer, and done."""
    client = server.client(tls_version="TLSv1.3")
    with client.connect() as connection:
        csr = make_csr(challenge_password=connection.channel_binding)
        answer = client.enroll(csr, token=server.make_token().value, connection=connection)
        assert answer.status == 200
        assert (answer.header("Connection") or "").lower() == "close"
        assert connection.is_closed()


def test_the_connection_stays_open_after_use_of_tls_unique_or_none(server):
    """RULES G2 is about tls-exporter."""
    for version, linked in (("TLSv1.2", True), ("TLSv1.2", False), ("TLSv1.3", False)):
        client = server.client(tls_version=version)
        with client.connect() as connection:
            challenge = connection.channel_binding if linked else None
            csr = make_csr(challenge_password=challenge)
            assert client.enroll(csr, token=server.make_token().value, connection=connection).status == 200
            assert not connection.is_closed(timeout=0.3)
            assert client.request("GET", "/.well-known/est/cacerts", connection=connection).status == 200


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_certificate_can_be_linked_and_renewed(server, version):
    """RFC 7030, 3.5 with 4.2.2: the same holds for a re-enrolment."""
    device = server.enrol(f"linked-{version}")
    client = server.client(device, tls_version=version)
    for right in (False, True):
        with client.connect() as connection, client.connect() as other:
            binding = (connection if right else other).channel_binding
            csr = make_csr(device.subject, key=device.key, challenge_password=binding)
            answer = client.enroll(csr, operation="simplereenroll", connection=connection)
        assert answer.status == (200 if right else 400), answer.text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("form", [der.utf8, der.printable, lambda value: der.tlv(0x16, value.encode())])
def test_every_string_type_of_a_challenge_is_read(server, version, form):
    """RFC 2985, 5.4.1: DirectoryString; clients send what they have."""
    client = server.client(tls_version=version)
    with client.connect() as connection:
        challenge = Attribute(oid="1.2.840.113549.1.9.7", values=(form(connection.channel_binding),))
        csr = make_csr(attributes=(challenge,))
        assert client.enroll(csr, token=server.make_token().value, connection=connection).status == 200


def test_an_ordinary_password_is_no_binding(server):
    """RULES G1 as `kipuka.est.binding` decides it: what no binding can look like is ignored."""
    csr = make_csr(challenge_password="what openssl req asked me for")
    assert server.client().enroll(csr, token=server.make_token().value).status == 200


def test_without_extended_master_secret_nothing_links(server):
    """RULES A6, G1: such a connection works, and a binding on it is refused."""
    client = replace(server.client(tls_version="TLSv1.2"), extended_master_secret=False)
    token = server.make_token(max_uses=2)
    assert client.enroll(make_csr(), token=token.value).status == 200
    with client.connect() as connection:
        csr = make_csr(challenge_password=connection.channel_binding)
        answer = client.enroll(csr, token=token.value, connection=connection)
    assert answer.status == 400
    assert "extended master secret" in answer.text


def test_a_binding_is_demanded_where_the_profile_says_so(server):
    """RULES G1; RFC 7030, 3.5: `channel_binding = "required"`; the refusal says that linking is required, and gives the use back."""
    token = server.make_token("demanded", label="linked")
    before = server.last_sequence
    for challenge in (None, "an ordinary password"):
        refused = server.client().enroll(make_csr(challenge_password=challenge), label="linked", token=token.value)
        assert refused.status == 400
        assert "linking of identity and proof of possession is required" in refused.text
        server.wait_for_audit("certificate_refused", after=before, reason="binding_missing")
    with server.client().connect() as connection:
        csr = make_csr(challenge_password=connection.channel_binding)
        answer = server.client().enroll(csr, label="linked", token=token.value, connection=connection)
        assert answer.status == 200, answer.text


def test_a_binding_is_demanded_at_renewal_too(server):
    """RULES G1: the demand is the profile's, whatever the operation."""
    with server.client().connect() as connection:
        csr = make_csr(challenge_password=connection.channel_binding)
        token = server.make_token("renewing-linked", label="linked")
        issued = server.client().enroll(csr, label="linked", token=token.value, connection=connection).certificate
    device = Credential(key=csr.key, der=issued.public_bytes(Encoding.DER))
    client = server.client(device)
    assert client.reenroll(make_csr(device.subject, key=device.key), label="linked").status == 400
    with client.connect() as connection:
        csr = make_csr(device.subject, key=device.key, challenge_password=connection.channel_binding)
        assert client.reenroll(csr, label="linked", connection=connection).status == 200


def test_a_demanded_binding_cannot_be_had_without_extended_master_secret(server):
    """RULES A6, G1: the refusal says what the connection lacks."""
    client = replace(server.client(tls_version="TLSv1.2"), extended_master_secret=False)
    token = server.make_token("old", label="linked")
    before = server.last_sequence
    for binding in (False, True):
        with client.connect() as connection:
            csr = make_csr(challenge_password=connection.channel_binding if binding else None)
            refused = client.enroll(csr, label="linked", token=token.value, connection=connection)
        assert refused.status == 400
        assert "extended master secret" in refused.text
        server.wait_for_audit("certificate_refused", after=before, reason="binding_unavailable")


@pytest.mark.parametrize("version", VERSIONS)
def test_est_identity_linking_links_and_is_verified(server, version):
    """RULES G1; RFC 7894, 3.3: by the attribute that has no other use."""
    client = server.client(tls_version=version)
    token = server.make_token("identity-linked", label="linked")
    for right in (False, True):
        with client.connect() as other, client.connect() as connection:
            binding = (connection if right else other).channel_binding
            csr = make_csr(attributes=(Attribute(oid=IDENTITY_LINKING, values=(der.printable(binding),)),))
            answer = client.enroll(csr, label="linked", token=token.value, connection=connection)
        assert answer.status == (200 if right else 400), answer.text


@pytest.mark.parametrize(
    ("oid", "reason", "words"),
    [
        ("1.2.840.113549.1.9.16.2.56", "otp_challenge", "Authorization field"),
        ("1.2.840.113549.1.9.16.2.57", "revocation_challenge", "no certificate is revoked by a password"),
    ],
)
def test_the_other_challenges_are_refused_not_ignored(server, oid, reason, words):
    """RFC 7894, section 4: each challenge that is there must be processed with success; these two nothing here can process."""
    token = server.make_token()
    before = server.last_sequence
    csr = make_csr(attributes=(Attribute(oid=oid, values=(der.utf8("what nobody checks"),)),))
    refused = server.client().enroll(csr, token=token.value)
    assert refused.status == 400
    assert words in refused.text
    server.wait_for_audit("certificate_refused", after=before, reason=reason)
    assert "what nobody checks" not in json.dumps(server.audit())
    assert server.client().enroll(make_csr(), token=token.value).status == 200


def test_the_connection_is_closed_after_a_binding_of_another_one(server):
    """RULES G2; RFC 9266, 4.1: a connection is good for one comparison, however it ends; tls-unique has no such rule."""
    for version in VERSIONS:
        client = server.client(tls_version=version)
        with client.connect() as other, client.connect() as connection:
            csr = make_csr(challenge_password=other.channel_binding)
            answer = client.enroll(csr, token=server.make_token().value, connection=connection)
            assert answer.status == 400
            if version == "TLSv1.3":
                assert connection.is_closed()
            else:
                assert not connection.is_closed(timeout=0.3)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_second_request_on_a_connection_links_too(server, version):
    """RFC 5929, 3.1: the first Finished message counts, however many requests came before."""
    client = server.client(tls_version=version)
    with client.connect() as connection:
        for _ in range(3):
            assert client.request("GET", "/.well-known/est/cacerts", connection=connection).status == 200
        csr = make_csr(challenge_password=connection.channel_binding)
        assert client.enroll(csr, token=server.make_token().value, connection=connection).status == 200


async def test_over_http_2_the_connection_ends_after_that_response_and_a_token_is_good_for_its_stream_only(
    kipuka_servers,
):
    """RULES C1, G2: requests that present nothing get nothing of their neighbour's token."""
    server = kipuka_servers({"server": {"http2": True}})
    token = await asyncio.to_thread(server.make_token)
    peer = await HTTP2Peer.ready(server.port)
    binding = base64.b64encode(peer.peer.tls.export_keying_material(b"EXPORTER-Channel-Binding", 32)).decode()
    body = encode_body(make_csr(challenge_password=binding).der, "one-line")
    path, kind = "/.well-known/est/simpleenroll", ("content-type", "application/pkcs10")
    before = await peer.request(path, "POST", body, [kind])
    linked = await peer.request(path, "POST", body, [kind, ("authorization", basic(token.value))])
    assert (await peer.response(before)).status == 401
    answer = await peer.response(linked)
    assert answer.status == 200
    assert "connection" not in answer.headers
    await peer.rest()
    assert peer.goaway == 0
    await asyncio.to_thread(server.wait_for_audit, "certificate_issued", channel_binding="tls-exporter")
    await peer.peer.close()
