"""Tickets over HTTP/2: what one stream brings is for that stream alone (RULES C1)."""

from __future__ import annotations

import asyncio
import base64
import subprocess
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.serialization import pkcs7
from gssapi import RequirementFlag

from kipuka.testing.client import basic, encode_body, est_path
from kipuka.testing.http2 import Answer, HTTP2Peer
from kipuka.testing.pki import make_csr
from kipuka.testing.server import RunningServer

from .kdc import REALM, negotiate

pytestmark = [pytest.mark.kerberos, pytest.mark.server]

FAILED = "GSSAPI authentication failed"
NTLM = b"NTLMSSP\0\x01\0\0\0\x97\x82\x08\xe2" + bytes(24)
ALICE = f"CN=alice@{REALM},OU=Users,DC=example,DC=com"
BOB = "CN=User,OU=People,DC=example,DC=com"
THREE_LEGS = (RequirementFlag.mutual_authentication, RequirementFlag.dce_style)


@pytest.fixture(name="server", scope="module")
def _server(deploy):
    with deploy(server={"workers": 1, "http2": True}).serve() as server:
        yield server
        assert not server.tracebacks(), server.stderr


def a_body() -> bytes:
    return encode_body(make_csr(common_name="whatever").der, "one-line")


@dataclass
class Client:
    """Enrols over the streams of one connection, each with a key of its own."""

    peer: HTTP2Peer

    async def begin(self, authorization: str | None = None, *, send_body: bool = True) -> int:
        """A stream that asks for a certificate, all of it or without its body yet."""
        fields = [("content-type", "application/pkcs10")]
        if authorization is not None:
            fields.append(("authorization", authorization))
        body = a_body() if send_body else None
        return await self.peer.request(est_path("simpleenroll"), "POST", body, fields, end=send_body)

    async def finish(self, stream: int) -> Answer:
        """Send the body that was kept back."""
        await self.peer.upload(stream, a_body())
        return await self.peer.response(stream)

    async def enrol(self, authorization: str | None = None) -> Answer:
        return await self.peer.response(await self.begin(authorization))


@pytest.fixture(name="client")
async def _client(server: RunningServer):
    peer = await HTTP2Peer.ready(server.port)
    yield Client(peer)
    await peer.peer.close()


def challenges(answer: Answer) -> list[str]:
    return [value for name, value in answer.fields if name == "www-authenticate"]


def schemes(answer: Answer) -> list[str]:
    return [challenge.split()[0] for challenge in challenges(answer)]


def token_of(answer: Answer) -> bytes:
    (challenge,) = challenges(answer)
    return base64.b64decode(challenge.removeprefix("Negotiate "), validate=True)


def text_of(answer: Answer) -> str:
    return answer.body.decode().removesuffix("\n")


def subject_of(answer: Answer) -> str:
    assert answer.status == 200, answer
    (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.body))
    return certificate.subject.rfc4514_string()


async def events_of(server: RunningServer, answers: list[Answer], name: str) -> list[dict]:
    """The audit records of that event which these requests caused, all of them."""
    mark = await asyncio.to_thread(server.make_token, "a-mark")  # its event comes after all those of the requests
    await asyncio.to_thread(server.wait_for_audit, "otp_created", token=mark.id)
    ids = [answer.headers["x-request-id"] for answer in answers]
    return [record for record in server.audit(name) if record["request_id"] in ids]


async def test_a_parallel_stream_without_a_ticket_gets_nothing_from_the_first(server, client, alice):
    """RULES C1: while a stream with a good ticket is under way, and after it has won, the others are on their own."""
    good = negotiate(alice.token())
    bad = negotiate(alice.token(f"HTTP/other@{REALM}"))
    opened = await client.begin()
    first = await client.begin(good, send_body=False)
    during = [await client.begin() for _ in range(3)]
    worse = [await client.begin(authorization) for authorization in (bad, negotiate(NTLM))]
    held = [await client.begin(authorization, send_body=False) for authorization in (None, bad)]
    won = await client.finish(first)
    assert subject_of(won) == ALICE
    assert schemes(won) == ["Negotiate"]
    nothing = [await client.peer.response(stream) for stream in (opened, *during)]
    nothing += [await client.finish(held[0]), await client.enrol()]
    denied = [await client.peer.response(stream) for stream in worse]
    denied += [await client.finish(held[1]), await client.enrol(good)]  # the last one brings what was taken already
    for answer, text in [*((one, "") for one in nothing), *((one, FAILED) for one in denied)]:
        assert (answer.status, text_of(answer)) == (401, text)
        assert schemes(answer) == ["Basic", "Negotiate"]
    assert client.peer.goaway is None
    every = [won, *nothing, *denied]
    issued = await events_of(server, every, "certificate_issued")
    assert [event["request_id"] for event in issued] == [won.headers["x-request-id"]]
    assert [event["identity"] for event in issued] == [f"gssapi:alice@{REALM}"]
    failed = await events_of(server, every, "authentication_failed")
    assert sorted(event["data"]["reason"] for event in failed) == [
        "ntlm_token",
        "replayed",
        "unknown_service",
        "unknown_service",
    ]


async def test_streams_with_tickets_of_their_own_get_names_of_their_own(client, realm, alice):
    """Side by side on one connection, nobody takes another one's name."""
    bob = realm.kdc.kinit("bob")
    streams = [await client.begin(negotiate(tickets.token()), send_body=False) for tickets in (alice, bob, alice, bob)]
    answers = [await client.finish(stream) for stream in reversed(streams)]
    assert [subject_of(answer) for answer in reversed(answers)] == [ALICE, BOB, ALICE, BOB]


async def test_an_exchange_of_three_legs_is_neither_used_nor_ended_by_other_streams(server, client, realm, alice):
    """It waits for its next token on the connection; a ticket, a password and what is no ticket are others' affairs."""
    token = await asyncio.to_thread(server.make_token, "device")
    initiator = alice.client(flags=THREE_LEGS)
    first = await client.enrol(negotiate(alice.step(initiator)))
    assert (first.status, text_of(first)) == (401, "")
    assert subject_of(await client.enrol(negotiate(realm.kdc.kinit("bob").token()))) == BOB
    assert subject_of(await client.enrol(basic(token.value))) == "CN=device"
    assert (await client.enrol()).status == 401
    for wrong in (negotiate(NTLM), "Negotiate", "Negotiate !", negotiate(alice.token(f"HTTP/other@{REALM}"))):
        refused = await client.enrol(wrong)
        assert (refused.status, text_of(refused)) == (401, FAILED)
    last = await client.enrol(negotiate(alice.step(initiator, token_of(first))))
    assert subject_of(last) == ALICE


@pytest.mark.interop
def test_curl_enrols_with_a_ticket_over_http_2(server, alice, tmp_path):
    """The line of the chapter, with a client that offers HTTP/2 as curl does unless it is told otherwise."""
    (tmp_path / "trust.pem").write_bytes(server.deployment.trust)
    (tmp_path / "request.csr").write_bytes(make_csr(common_name="whatever").pem)
    shown = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail-with-body", "--http2", "--negotiate", "-u", ":"),
            *("--cacert", "trust.pem", "-H", "Content-Type: application/pkcs10", "--data-binary", "@request.csr"),
            *("-o", "answer", "-w", "%{http_version}", f"https://localhost:{server.port}{est_path('simpleenroll')}"),
        ],
        cwd=tmp_path,
        env=alice.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.returncode, shown.stdout) == (0, "2"), shown.stderr
    (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode((tmp_path / "answer").read_bytes()))
    assert certificate.subject.rfc4514_string() == ALICE
