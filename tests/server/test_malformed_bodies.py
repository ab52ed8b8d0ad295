"""Whatever is posted, the answer is a sentence and never a fault of ours (RULES C2, H)."""

from __future__ import annotations

import base64
import random

import pytest

from kipuka.testing import der
from kipuka.testing.client import BODY_ENCODINGS, encode_body
from kipuka.testing.pki import Attribute, make_csr, make_key

pytestmark = pytest.mark.server

GOOD = make_csr(dns=("device-1",)).der
PEM = encode_body(GOOD, "pem")


def nested(depth):
    content = b""
    for _ in range(depth):
        content = der.sequence(content)
    return content


def attribute(*values, oid="1.2.840.113549.1.9.14"):
    return make_csr(attributes=(Attribute(oid=oid, values=values),)).der


BODIES = {
    "empty": b"",
    "white space": b" \r\n\t ",
    "a NUL": b"\0",
    "many NULs": b"\0" * 5000,
    "NUL in base64": base64.b64encode(GOOD)[:100] + b"\0" + base64.b64encode(GOOD)[100:],
    "base64 garbage": b"!!!!" + base64.b64encode(GOOD),
    "base64 of nothing": b"====",
    "base64 of text": base64.b64encode(b"hello, world"),
    "base64 cut": base64.b64encode(GOOD)[:-5],
    "base64 twice": base64.b64encode(base64.b64encode(GOOD)),
    "base64url": base64.urlsafe_b64encode(b"\xff\xfe" * 40),
    "UTF-16": PEM.decode().encode("utf-16"),
    "JSON": b'{"csr": "..."}',
    "XML": b"<?xml version='1.0'?><!DOCTYPE x [<!ENTITY a 'b'>]><x>&a;</x>",
    "DER cut": GOOD[:50],
    "DER of one octet": b"\x30",
    "DER and more": GOOD + b"\0",
    "DER twice": GOOD + GOOD,
    "length beyond the end": der.tlv(0x30, GOOD[4:], length=b"\x82\xff\xff"),
    "huge length": der.tlv(0x30, b"abc", length=b"\x84\x7f\xff\xff\xff"),
    "length of 126 octets": der.tlv(0x30, b"abc", length=b"\xfe" + b"\xff" * 126),
    "indefinite length": b"\x30\x80" + GOOD[4:] + b"\0\0",
    "deep nesting": nested(5000),
    "deep nesting within": attribute(nested(3000)),
    "an INTEGER": der.integer(1 << 4000),
    "version 2": make_csr(version=2).der,
    "version below zero": make_csr(version=-1).der,
    "two extension requests": make_csr(
        dns=("a.example",),
        attributes=(Attribute(oid="1.2.840.113549.1.9.14", values=(der.sequence(),)),),
    ).der,
    "extension request of nothing": attribute(),
    "extension request of NULL": attribute(der.null()),
    "extension request of two values": attribute(der.sequence(), der.sequence(der.null())),
    "challenge of two values": attribute(der.utf8("a"), der.utf8("b"), oid="1.2.840.113549.1.9.7"),
    "challenge of NULL": attribute(der.null(), oid="1.2.840.113549.1.9.7"),
    "key of nothing": make_csr(public_key_der=der.sequence()).der,
    "key of unknown algorithm": make_csr(
        public_key_der=der.sequence(der.algorithm("1.2.3.4"), der.bit_string(b"key"))
    ).der,
    "key off its curve": make_csr(
        public_key_der=der.sequence(
            der.algorithm("1.2.840.10045.2.1", der.object_identifier("1.2.840.10045.3.1.7")),
            der.bit_string(b"\x04" + b"\x01" * 64),
        )
    ).der,
    "RSA key of even modulus": make_csr(
        public_key_der=der.sequence(
            der.algorithm("1.2.840.113549.1.1.1", der.null()),
            der.bit_string(der.sequence(der.integer(1 << 2047), der.integer(65537))),
        )
    ).der,
    "RSA exponent of one": make_csr(
        public_key_der=der.sequence(
            der.algorithm("1.2.840.113549.1.1.1", der.null()),
            der.bit_string(der.sequence(der.integer((1 << 2047) + 1), der.integer(1))),
        )
    ).der,
    "wrong PEM label": PEM.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"),
    "PEM of a key": PEM.replace(b"CERTIFICATE REQUEST", b"PRIVATE KEY"),
    "PEM without an end": PEM.split(b"-----END")[0],
    "PEM with another end": PEM.replace(b"-----END CERTIFICATE REQUEST", b"-----END X"),
    "PEM twice": PEM + PEM,
    "PEM headers only": b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
    "MD5 signature": make_csr(key="rsa2048", signature="md5").der,
    "SHA-1 signature": make_csr(key="rsa2048", signature="sha1").der,
    "signed by another key": make_csr(signing_key=make_key()).der,
    "a thousand names": make_csr(dns=tuple(f"n{number}.example" for number in range(1000))).der,
    "60 KiB of base64 letters": b"A" * 60000,
    "60 KiB of dashes": b"-----BEGIN " * 5500,
}


@pytest.fixture(scope="module")
def server(kipuka_server):
    return kipuka_server


@pytest.fixture(scope="module")
def token(server):
    return server.make_token("device-1", max_uses=100000)


def is_calm(answer):
    """A refusal that the client can mend, in one sentence, and nothing of our insides in it."""
    return (
        400 <= answer.status < 500
        and len(answer.text.splitlines()) <= 1
        and len(answer.body) < 500
        and "Traceback" not in answer.text
    )


@pytest.mark.parametrize("name", BODIES)
def test_a_malformed_body_is_refused_in_one_sentence(server, token, name):
    """RULES C2: 400 (or 403 for a name), never a 500; as it is, and as base64 where it is DER."""
    device = server.deployment.authority().issue_client("device-1")
    body = BODIES[name]
    bodies = [body, base64.b64encode(body)] if body[:1] in {b"\x30", b"\x02"} else [body]
    for content in bodies:
        with server.client(device).connect() as connection:
            by_token = server.client().enroll(content, token=token.value)
            by_certificate = server.client(device).enroll(content, connection=connection)
            again = server.client(device).enroll(content, operation="simplereenroll", connection=connection)
        for answer in (by_token, by_certificate, again):
            assert is_calm(answer), (answer.status, answer.text)


def test_a_certificate_is_no_request(server, token):
    """RULES C2."""
    authority = server.deployment.authority()
    for encoding in BODY_ENCODINGS:
        answer = server.client().enroll(encode_body(authority.der, encoding), token=token.value)
        assert answer.status == 400


def test_ten_mebibytes_are_refused(server, token):
    """RULES H2: drained with a bound, then 413."""
    for content in (b"A" * 10 * 1024 * 1024, b"\x30\x84\x00\xa0\x00\x00" + bytes(10 * 1024 * 1024)):
        answer = server.client().enroll(content, token=token.value)
        assert answer.status == 413


def test_no_cut_or_flipped_request_is_a_fault(server, token):
    """Hundreds of small damages to a good request: each is refused, or harmless."""
    dice = random.Random(7030)
    client = server.client()
    damaged = [GOOD[:end] for end in range(0, len(GOOD), 3)]
    for _ in range(300):
        content = bytearray(GOOD)
        for _ in range(dice.randint(1, 3)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        damaged.append(bytes(content))
    with client.connect() as connection:
        for content in damaged:
            answer = client.enroll(content, token=token.value, connection=connection)
            assert answer.status == 200 or is_calm(answer), (content.hex(), answer.status, answer.text)
    assert server.tracebacks() == []


def test_the_token_is_as_good_as_before(server, token):
    """RULES C2: nothing of all this has left a use held."""
    assert server.view_token(token)["held"] == 0
    assert server.client().enroll(make_csr(), token=token.value).status == 200


def test_nothing_in_the_log_looks_like_a_fault(server):
    """No traceback, no 500."""
    assert server.tracebacks() == []
    assert "status=500" not in server.stderr
    assert "internal_error" not in server.stderr
