"""Bodies on the wire: every form of a request that clients send, and answers that every client can read."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kipuka.api.errors import MalformedRequest
from kipuka.est.wire import MAX_BODY, Base64Lines, decode_request, encode_response, one_line
from kipuka.testing.pki import make_csr, make_key

CSR = make_csr(common_name="device-1", dns=("device-1.example",))
TEXT = base64.b64encode(CSR.der)
EXPLANATION = b"Certificate Request:\n    Data:\n        Version: 1 (0x0)\n        Subject: CN = device-1\n"


def lines(width: int, ending: bytes) -> bytes:
    return b"".join(TEXT[start : start + width] + ending for start in range(0, len(TEXT), width))


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(TEXT, id="one line"),
        pytest.param(TEXT + b"\n", id="one line and a line break"),
        pytest.param(TEXT + b"\r\n\r\n", id="one line and two CRLF"),
        pytest.param(lines(64, b"\n"), id="64 columns LF"),
        pytest.param(lines(64, b"\r\n"), id="64 columns CRLF"),
        pytest.param(lines(76, b"\n"), id="76 columns LF"),
        pytest.param(lines(76, b"\r\n"), id="76 columns CRLF"),
        pytest.param(lines(64, b"\r"), id="64 columns CR"),
        pytest.param(lines(1, b" \t\r\n"), id="all white space everywhere"),
        pytest.param(b" \t\r\n" + TEXT, id="white space before"),
        pytest.param(b"\xef\xbb\xbf" + TEXT, id="byte order mark"),
        pytest.param(CSR.der, id="DER"),
        pytest.param(CSR.pem, id="PEM"),
        pytest.param(CSR.pem.replace(b"\n", b"\r\n"), id="PEM with CRLF"),
        pytest.param(CSR.pem.rstrip(b"\n"), id="PEM without a line break at its end"),
        pytest.param(
            CSR.pem.replace(b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST"), id="PEM as Windows labels it"
        ),
        pytest.param(EXPLANATION + CSR.pem, id="PEM after a text"),
        pytest.param((EXPLANATION + CSR.pem).replace(b"\n", b"\r\n"), id="PEM after a text with CRLF"),
        pytest.param(b"0 is the version\n" + CSR.pem, id="PEM after a text that begins like DER"),
        pytest.param(CSR.pem + b"\nthe end\n", id="PEM before a text"),
        pytest.param(b"\xef\xbb\xbf" + CSR.pem, id="PEM with a byte order mark"),
        pytest.param(CSR.pem.replace(b"\n", b" \t\n"), id="PEM with blanks at the ends of its lines"),
    ],
)
def test_every_form_in_which_clients_send_a_request_gives_its_der(body: bytes):
    """RFC 8951, section 3.1: white space is tolerated wherever it stands; DER and PEM are what people have in files."""
    assert decode_request(body) == CSR.der


def test_a_request_whose_length_has_the_short_form_is_told_from_base64():
    """The smallest Ed25519 request has 127 octets, so that its first two, 0 and DEL, are ASCII."""
    smallest = make_csr(common_name=None, key="ed25519").der
    assert smallest[:2] == b"\x30\x7f"
    assert decode_request(smallest) == smallest


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        pytest.param(b"", "body_empty", id="empty"),
        pytest.param(b" \r\n\t", "body_empty", id="white space only"),
        pytest.param(b"\xef\xbb\xbf", "body_not_der", id="byte order mark only"),
        pytest.param(b"hello, world", "body_not_base64", id="prose"),
        pytest.param(b"\0" * 64, "body_not_base64", id="NUL octets"),
        pytest.param(TEXT[:40] + b"\0" + TEXT[40:], "body_not_base64", id="NUL inside"),
        pytest.param(TEXT[:40] + b"\x0b" + TEXT[40:], "body_not_base64", id="vertical tab inside"),
        pytest.param(b"=" + TEXT, "body_not_base64", id="padding first"),
        pytest.param(b"MII", "body_not_base64", id="padding missing"),
        pytest.param(base64.b64encode(b"\x30\x03") + TEXT, "body_not_base64", id="two base64 texts"),
        pytest.param(TEXT.replace(b"M", b"-", 1), "body_not_base64", id="other alphabet"),
        pytest.param(b"csr=" + TEXT, "body_not_base64", id="a form"),
        pytest.param(b'{"csr": "' + TEXT + b'"}', "body_not_base64", id="JSON"),
        pytest.param(base64.b64encode(b"not der"), "body_not_der", id="base64 of something else"),
        pytest.param(base64.b64encode(CSR.pem), "body_not_der", id="base64 of PEM"),
        pytest.param(CSR.pem[:200], "body_not_one_pem_block", id="PEM cut short"),
        pytest.param(CSR.pem * 2, "body_not_one_pem_block", id="two PEM blocks"),
        pytest.param(b"x" + CSR.pem, "body_not_one_pem_block", id="PEM boundary within a line"),
        pytest.param(CSR.pem[28:] + CSR.pem[:28], "body_not_one_pem_block", id="END before BEGIN"),
        pytest.param(CSR.pem.replace(b"REQUEST", b"RECKUEST"), "body_wrong_pem_label", id="unknown label"),
        pytest.param(CSR.pem.replace(b"CERTIFICATE REQUEST", b"CERTIFICATE"), "body_wrong_pem_label", id="certificate"),
        pytest.param(CSR.pem.replace(b"CERTIFICATE REQUEST", b"PRIVATE KEY"), "body_wrong_pem_label", id="private key"),
        pytest.param(CSR.pem.replace(b"BEGIN CERT", b"BEGIN NEW CERT"), "body_wrong_pem_label", id="labels differ"),
        pytest.param(CSR.pem.replace(b"CERTIFICATE REQUEST", b""), "body_wrong_pem_label", id="no label"),
        pytest.param(
            CSR.pem.replace(b"-----\n", b"-----\nProc-Type: 4,ENCRYPTED\n\n", 1), "body_not_base64", id="PEM headers"
        ),
        pytest.param(b"\xff\xfe" + CSR.pem.decode().encode("utf-16-le"), "body_not_base64", id="UTF-16"),
        pytest.param(b"A" * (10 << 20), "body_too_long", id="10 MiB of base64"),
        pytest.param(b" " * (10 << 20), "body_too_long", id="10 MiB of blanks"),
        pytest.param(b"-----BEGIN CERTIFICATE REQUEST-----\n" * 7000, "body_not_one_pem_block", id="only BEGIN lines"),
        pytest.param(b"-----BEGIN " * 23000, "body_not_one_pem_block", id="half boundaries"),
        pytest.param(b"-----BEGIN \n" + b" " * 200_000 + b"-----", "body_not_one_pem_block", id="a long indent"),
    ],
)
def test_what_is_neither_base64_nor_pem_nor_der_is_refused_in_one_sentence(body: bytes, reason: str):
    """RULES C2: a bounded parse. No body makes it slow, and the text repeats nothing of it."""
    begin = time.process_time()
    with pytest.raises(MalformedRequest) as refused:
        decode_request(body)
    assert time.process_time() - begin < 0.5
    assert refused.value.reason == reason
    assert "\n" not in refused.value.detail
    assert len(refused.value.detail) < 120


def test_a_body_as_long_as_the_limit_is_still_read():
    """The limit is on the body, so that white space has room too."""
    assert decode_request(TEXT + b" " * (MAX_BODY - len(TEXT))) == CSR.der


@given(st.binary(max_size=300))
def test_no_body_raises_anything_but_malformed_request(body: bytes):
    """Fuzz: decode_request gives something that begins as a SEQUENCE, or raises MalformedRequest."""
    for candidate in (body, TEXT[:60] + body, b"-----BEGIN " + body, CSR.pem[:90] + body + CSR.pem[90:]):
        try:
            assert decode_request(candidate)[:1] == b"\x30"
        except MalformedRequest:
            continue


@given(st.binary(max_size=500), st.booleans())
def test_an_answer_reads_back_as_what_was_encoded(der: bytes, one: bool):
    """RFC 8951, section 3: base64, with white space or without."""
    assert base64.b64decode(encode_response(der, one_line=one)) == der


def test_one_line_has_no_line_break_even_at_its_end():
    """strongSwan cannot parse base64 with a line break in it."""
    assert encode_response(bytes(500), one_line=True) == base64.b64encode(bytes(500))


def test_lines_have_64_characters_and_each_ends_with_a_line_feed():
    """OpenSSL's base64 decoder refuses long lines, and a last line without its end."""
    answer = encode_response(bytes(100), one_line=False)
    assert [len(line) for line in answer.split(b"\n")] == [64, 64, 8, 0]
    assert b"\r" not in answer
    assert encode_response(b"", one_line=False) == b""


@pytest.mark.parametrize(
    ("policy", "user_agent", "expected"),
    [
        (Base64Lines.AUTO, None, True),
        (Base64Lines.AUTO, "", True),
        (Base64Lines.AUTO, "curl/8.5.0", False),
        (Base64Lines.ALWAYS, None, False),
        (Base64Lines.ALWAYS, "curl/8.5.0", False),
        (Base64Lines.NEVER, None, True),
        (Base64Lines.NEVER, "curl/8.5.0", True),
    ],
)
def test_auto_gives_one_line_to_clients_that_do_not_name_themselves(
    policy: Base64Lines, user_agent: str | None, expected: bool
):
    """CLIENTS: strongSwan sends no User-Agent; clients that decode with OpenSSL do."""
    assert one_line(policy, user_agent) is expected


def test_the_names_of_the_policy_are_those_of_the_configuration():
    """`[est] base64_lines`."""
    assert [str(policy) for policy in Base64Lines] == ["auto", "always", "never"]


def test_a_large_signature_fits_into_the_limit():
    """An RSA-4096 request is far below every limit."""
    der = make_csr(key=make_key("rsa4096")).der
    assert decode_request(base64.b64encode(der)) == der
