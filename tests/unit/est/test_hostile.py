"""Requests made to do harm: each is refused in one sentence, cheaply, and with no exception but the expected ones.

Warnings are errors in this suite, so a request that makes a library warn on the server's standard error shows too.
"""

from __future__ import annotations

import base64
import time

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kipuka.api.errors import BadCSR, MalformedRequest, ProofOfPossessionFailed, RequestError
from kipuka.est.csr import MAX_REQUEST, CertificateRequest
from kipuka.est.wire import decode_request
from kipuka.testing import der
from kipuka.testing.hostile.damage import Edit, damaged, edits, mend_lengths
from kipuka.testing.hostile.requests import bodies, certification_requests, good_requests
from kipuka.testing.pki import Attribute, PrivateKey, make_csr, make_key, make_root

EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
MICROSOFT_EXTENSIONS = "1.3.6.1.4.1.311.2.1.14"
CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"
ALTERNATIVE_NAME = "2.5.29.17"
BASIC_CONSTRAINTS = "2.5.29.19"
COMMON_NAME, COUNTRY, UNIT, UNIQUE_IDENTIFIER = "2.5.4.3", "2.5.4.6", "2.5.4.11", "2.5.4.45"
RSA_KEY, EC_KEY = "1.2.840.113549.1.1.1", "1.2.840.10045.2.1"
P256_CURVE = "1.2.840.10045.3.1.7"

RSA = make_key("rsa2048")
P256 = make_key("p256")
ED25519 = make_key("ed25519")


# --- Building blocks


def info(
    *,
    version: bytes = der.integer(0),
    subject: bytes = der.sequence(),
    key: bytes | None = None,
    attributes: bytes | None = der.context(0, b""),
) -> bytes:
    if key is None:
        key = P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return der.sequence(version, subject, key, *([] if attributes is None else [attributes]))


def request(content: bytes, signer: PrivateKey = P256) -> bytes:
    """A request around any CertificationRequestInfo; its signature is of no weight here."""
    algorithm = (
        der.algorithm("1.2.840.10045.4.3.2") if signer is P256 else der.algorithm("1.2.840.113549.1.1.11", der.null())
    )
    return der.sequence(content, algorithm, der.bit_string(bytes(256)))


def subject(*parts: tuple[str, bytes]) -> bytes:
    names = (der.set_of(der.sequence(der.object_identifier(oid), value)) for oid, value in parts)
    return request(info(subject=der.sequence(*names)))


def extension(oid: str, value: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), der.octet_string(value))


def asking(*extensions: bytes, oid: str = EXTENSION_REQUEST) -> Attribute:
    return Attribute(oid=oid, values=(der.sequence(*extensions),))


def san(*names: bytes) -> bytes:
    return make_csr(key=P256, attributes=[asking(extension(ALTERNATIVE_NAME, der.sequence(*names)))]).der


def directory(oid: str, value: bytes) -> bytes:
    return san(der.context(4, der.sequence(der.set_of(der.sequence(der.object_identifier(oid), value)))))


def with_attributes(*attributes: Attribute, **more: str) -> bytes:
    return make_csr(key=P256, attributes=attributes, **more).der


def key(algorithm: bytes, content: bytes) -> bytes:
    return request(info(key=der.sequence(algorithm, der.bit_string(content))))


def rsa(modulus: int, exponent: int = 65537) -> bytes:
    content = der.sequence(der.integer(modulus), der.integer(exponent))
    spki = der.sequence(der.algorithm(RSA_KEY, der.null()), der.bit_string(content))
    return make_csr(key=RSA, public_key_der=spki).der


def point(*parameters: bytes, content: bytes = b"\x04" + b"1" * 64) -> bytes:
    return key(der.algorithm(EC_KEY, *parameters), content)


def nested(depth: int, tag: int = 0x30) -> bytes:
    content = b""
    for _ in range(depth):
        content = der.tlv(tag, content)
    return content


GOOD = make_csr(key=P256, dns=("d.example",), challenge_password="secret").der
NAMED_CURVE = der.object_identifier(P256_CURVE)
DNS = der.context(2, b"d.example", constructed=False)
LARGE = (1 << 16383) | (1 << 16000) | 1  # an odd number of 16384 bits

NOT_DER = {
    "nothing": b"",
    "one octet": b"\x30",
    "two octets": b"\x30\x02",
    "only a header": GOOD[:4],
    "cut in the middle": GOOD[: len(GOOD) // 2],
    "last octet missing": GOOD[:-1],
    "an octet too many": GOOD + b"\0",
    "two requests": GOOD + GOOD,
    "NUL octets": bytes(200),
    "indefinite length": b"\x30\x80" + GOOD[4:] + b"\0\0",
    "indefinite length inside": request(der.tlv(0x30, info()[2:] + b"\0\0", length=b"\x80")),
    "length of 4 GiB": b"\x30\x84\xff\xff\xff\xff" + GOOD,
    "length of 127 octets": b"\x30\xff" + b"\xff" * 127 + GOOD,
    "length of 16 MiB": b"\x30\x83\xff\xff\xff" + GOOD,
    "length octets cut short": b"\x30\x83\x01",
    "length longer than need be": b"\x30\x83\x00" + GOOD[2:],
    "short length in the long form": der.tlv(0x30, b"ab", length=b"\x81\x02"),
    "inner length beyond its parent": request(der.tlv(0x30, b"ab", length=b"\x7f")),
    "long tag": der.sequence(b"\x1f\x81\x01\x00"),
    "17 levels": nested(17),
    "10,000 levels": nested(10_000),
    "sets in sets": nested(3_000, 0x31),
    "5,000 elements": der.sequence(der.null() * 5_000),
    "64 KiB and one": der.sequence(der.octet_string(bytes(MAX_REQUEST - 7))),
}

NOT_A_REQUEST = {
    "NULL": der.null(),
    "empty SEQUENCE": der.sequence(),
    "SEQUENCE of INTEGERs": der.sequence(der.integer(1), der.integer(2), der.integer(3)),
    "a certificate": make_root().certificate.public_bytes(Encoding.DER),
    "a public key": P256.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    "no attributes field": request(info(attributes=None)),
    "attributes twice": request(info(attributes=der.context(0, b"") * 2)),
    "attributes as a primitive": request(info(attributes=der.context(0, b"", constructed=False))),
    "attributes out of order": request(
        info(
            attributes=der.context(
                0, b"".join(der.sequence(der.object_identifier(f"1.2.{n}"), der.set_of(der.null())) for n in (4, 3))
            )
        )
    ),
    "something in attributes that is none": request(info(attributes=der.context(0, der.null()))),
    "version 1": request(info(version=der.integer(1))),
    "negative version": request(info(version=der.integer(-1))),
    "version of 4,000 bits": request(info(version=der.integer(1 << 4000))),
    "version not in the shortest form": request(info(version=der.tlv(2, b"\0\0"))),
    "version without octets": request(info(version=der.tlv(2, b""))),
    "no signature": der.sequence(info(), der.algorithm("1.2.840.10045.4.3.2")),
    "signature with 9 unused bits": der.sequence(info(), der.algorithm("1.2.3"), der.tlv(3, b"\x09abc")),
    "signature without octets": der.sequence(info(), der.algorithm("1.2.3"), der.tlv(3, b"")),
}

BAD_SUBJECT = {
    "common name of 65": subject((COMMON_NAME, der.utf8("x" * 65))),
    "common name of 33 two-octet letters": subject((COMMON_NAME, der.utf8("ü" * 33))),
    "common name of 60,000": subject((COMMON_NAME, der.utf8("x" * 60_000))),
    "empty common name": subject((COMMON_NAME, der.utf8(""))),
    "country of 3": subject((COUNTRY, der.printable("DEU"))),
    "NUL in it": subject((COMMON_NAME, der.utf8("a\0b"))),
    "NUL in a BMPString": subject((UNIT, der.tlv(0x1E, b"\0a\0\0"))),
    "65 long digits": subject((COMMON_NAME, der.tlv(0x12, b"7" * 65))),
    "65 visible letters": subject((COMMON_NAME, der.tlv(0x1A, b"x" * 65))),
    "not UTF-8": subject((COMMON_NAME, der.tlv(0x0C, b"\xff\xfe"))),
    "surrogate in UTF-8": subject((COMMON_NAME, der.tlv(0x0C, b"\xed\xa0\x80"))),
    "PrintableString beyond ASCII": subject((COMMON_NAME, der.tlv(0x13, b"\xfc"))),
    "PrintableString with what it may not have": subject((COMMON_NAME, der.printable("a@b"))),
    "IA5String beyond ASCII": subject((COMMON_NAME, der.tlv(0x16, b"\xfc"))),
    "odd octets in a BMPString": subject((COMMON_NAME, der.tlv(0x1E, b"\0a\0"))),
    "half a pair in a BMPString": subject((COMMON_NAME, der.tlv(0x1E, b"\xd8\0"))),
    "too large in a UniversalString": subject((COMMON_NAME, der.tlv(0x1C, b"\x7f\xff\xff\xff"))),
    "INTEGER as a value": subject((COMMON_NAME, der.integer(7))),
    "SEQUENCE as a value": subject((COMMON_NAME, der.sequence())),
    "OCTET STRING as a value": subject((COMMON_NAME, der.octet_string(b"ab"))),
    "BIT STRING as a common name": subject((COMMON_NAME, der.bit_string(b"ab"))),
    "UTCTime as a value": subject((COMMON_NAME, der.tlv(0x17, b"250101000000Z"))),
    "BIT STRING without octets": subject((UNIQUE_IDENTIFIER, der.tlv(3, b""))),
    "65 parts": subject(*[(UNIT, der.utf8("x"))] * 65),
    "empty part": request(info(subject=der.sequence(der.set_of()))),
    "part with the same twice": request(
        info(subject=der.sequence(der.set_of(*[der.sequence(der.object_identifier(UNIT), der.utf8("x"))] * 2)))
    ),
    "part out of order": request(
        info(
            subject=der.sequence(
                der.tlv(0x31, b"".join(der.sequence(der.object_identifier(UNIT), der.utf8(x)) for x in "ba"))
            )
        )
    ),
    "not a SEQUENCE": request(info(subject=der.null())),
}

BAD_ATTRIBUTES = {
    "two extension requests": with_attributes(
        asking(extension("1.2.3", b"")), asking(extension(ALTERNATIVE_NAME, der.sequence(DNS)))
    ),
    "one extension request of each maker": with_attributes(
        asking(extension("1.2.3", b"")), asking(extension("1.2.3", b""), oid=MICROSOFT_EXTENSIONS)
    ),
    "the same attribute twice": with_attributes(*[Attribute(oid="1.2.3", values=(der.utf8(x),)) for x in "ab"]),
    "challengePassword twice": with_attributes(
        Attribute(oid=CHALLENGE_PASSWORD, values=(der.utf8("b"),)), challenge_password="a"
    ),
    "challengePassword with two values": with_attributes(
        Attribute(oid=CHALLENGE_PASSWORD, values=(der.utf8("a"), der.utf8("b")))
    ),
    "challengePassword without a value": with_attributes(Attribute(oid=CHALLENGE_PASSWORD, values=())),
    "challengePassword without a letter": with_attributes(challenge_password=""),
    "challengePassword of 256": with_attributes(challenge_password="a" * 256),
    "challengePassword of 60,000": with_attributes(challenge_password="a" * 60_000),
    "challengePassword as octets": with_attributes(
        Attribute(oid=CHALLENGE_PASSWORD, values=(der.octet_string(b"ab"),))
    ),
    "challengePassword not UTF-8": with_attributes(Attribute(oid=CHALLENGE_PASSWORD, values=(der.tlv(0x0C, b"\xff"),))),
    "an attribute without a value": with_attributes(Attribute(oid="1.2.3", values=())),
    "33 attributes": with_attributes(*[Attribute(oid=f"1.2.{n}", values=(der.null(),)) for n in range(3, 36)]),
    "an extension request with two values": with_attributes(
        Attribute(oid=EXTENSION_REQUEST, values=tuple(der.sequence(extension(f"1.2.{n}", b"")) for n in (3, 4)))
    ),
    "an extension request without a value": with_attributes(Attribute(oid=EXTENSION_REQUEST, values=())),
    "an empty extension request": with_attributes(asking()),
    "an extension request that is NULL": with_attributes(Attribute(oid=EXTENSION_REQUEST, values=(der.null(),))),
    "an extension that is NULL": with_attributes(asking(der.null())),
    "the same extension twice": with_attributes(asking(extension("1.2.3", b"a"), extension("1.2.3", b"b"))),
    "two alternative name extensions": with_attributes(
        asking(extension(ALTERNATIVE_NAME, der.sequence(DNS)), extension(ALTERNATIVE_NAME, der.sequence(DNS)))
    ),
    "critical FALSE written out": with_attributes(
        asking(der.sequence(der.object_identifier("1.2.3"), der.tlv(1, b"\0"), der.octet_string(b"")))
    ),
    "critical that is neither": with_attributes(
        asking(der.sequence(der.object_identifier("1.2.3"), der.tlv(1, b"\x01"), der.octet_string(b"")))
    ),
    "negative path length": with_attributes(
        asking(extension(BASIC_CONSTRAINTS, der.sequence(der.tlv(1, b"\xff"), der.integer(-1))))
    ),
    "path length of 200 bits": with_attributes(
        asking(extension(BASIC_CONSTRAINTS, der.sequence(der.tlv(1, b"\xff"), der.integer(1 << 200))))
    ),
}

BAD_NAMES = {
    "no name": san(),
    "257 names": san(*[DNS] * 257),
    "not a SEQUENCE": with_attributes(asking(extension(ALTERNATIVE_NAME, der.null()))),
    "no octets": with_attributes(asking(extension(ALTERNATIVE_NAME, b""))),
    "truncated": with_attributes(asking(extension(ALTERNATIVE_NAME, der.sequence(DNS)[:-1]))),
    "something after it": with_attributes(asking(extension(ALTERNATIVE_NAME, der.sequence(DNS) + b"\0\0"))),
    "indefinite length": with_attributes(asking(extension(ALTERNATIVE_NAME, b"\x30\x80" + DNS + b"\0\0"))),
    "nested": with_attributes(asking(extension(ALTERNATIVE_NAME, nested(200)))),
    "DNS beyond ASCII": san(der.context(2, "bücher.example".encode(), constructed=False)),
    "DNS not UTF-8": san(der.context(2, b"\xff\xfe", constructed=False)),
    "DNS with NUL": san(der.context(2, b"good.example\0.evil.example", constructed=False)),
    "email beyond ASCII": san(der.context(1, "ü@example.org".encode(), constructed=False)),
    "email with NUL": san(der.context(1, b"a\0@example.org", constructed=False)),
    "URI beyond ASCII": san(der.context(6, "https://ü.example".encode(), constructed=False)),
    "URI with NUL": san(der.context(6, b"https://a\0", constructed=False)),
    "IP of 5 octets": san(der.context(7, b"12345", constructed=False)),
    "IP without octets": san(der.context(7, b"", constructed=False)),
    "IPv4 with a mask": san(der.context(7, b"\x0a\0\0\0\xff\0\0\0", constructed=False)),
    "IPv4 with a torn mask": san(der.context(7, b"\x0a\0\0\0\xff\0\xff\0", constructed=False)),
    "IPv6 with a mask": san(der.context(7, bytes(32), constructed=False)),
    "x400Address": san(der.context(3, der.null())),
    "ediPartyName": san(der.context(5, der.context(1, der.utf8("x")))),
    "a kind that does not exist": san(der.context(9, b"x", constructed=False)),
    "a plain string": san(der.utf8("d.example")),
    "otherName without a value": san(der.context(0, der.object_identifier("1.2.3"))),
    "otherName that is a string": san(der.context(0, b"ab", constructed=False)),
    "registeredID without octets": san(der.context(8, b"", constructed=False)),
    "registeredID cut short": san(der.context(8, b"\x2a\x83", constructed=False)),
    "directory name of 65": directory(COMMON_NAME, der.utf8("x" * 65)),
    "directory name with NUL": directory(UNIT, der.utf8("a\0")),
    "directory name with a country of 3": directory(COUNTRY, der.printable("DEU")),
    "directory name with a BIT STRING": directory(COMMON_NAME, der.bit_string(b"ab")),
    "directory name that is NULL": san(der.context(4, der.null())),
    "directory name that is two": san(der.context(4, der.sequence() * 2)),
}

BAD_KEYS = {
    "NULL": request(info(key=der.null())),
    "no algorithm": key(der.sequence(), b"1"),
    "three parameters": key(der.algorithm(EC_KEY, NAMED_CURVE, der.null()), b"\x04" + b"1" * 64),
    "algorithm that is a number": key(der.sequence(der.integer(1)), b"1"),
    "EC without a curve": point(),
    "EC with NULL": point(der.null()),
    "EC with parameters of its own": point(der.sequence(der.integer(1))),
    "RSA that is garbage": key(der.algorithm(RSA_KEY, der.null()), b"garbage"),
    "RSA with three numbers": key(der.algorithm(RSA_KEY, der.null()), der.sequence(*[der.integer(3)] * 3)),
    "Ed25519 with a parameter": key(der.algorithm("1.3.101.112", der.null()), b"1" * 32),
}

BAD_POSSESSION = {
    "RSA of 16384 bits": rsa(LARGE),
    "RSA of 300,000 bits": rsa((1 << 299_999) | 1),
    "RSA of 64 bits": rsa((1 << 63) | 1),
    "RSA of 1 bit": rsa(1),
    "RSA modulus 0": rsa(0),
    "RSA modulus even": rsa(1 << 2047),
    "RSA exponent of 2000 bits": rsa((1 << 2047) | 1, (1 << 1999) | 1),
    "RSA exponent 0": rsa((1 << 2047) | 1, 0),
    "RSA exponent 1": rsa((1 << 2047) | 1, 1),
    "RSA exponent even": rsa((1 << 2047) | 1, 65536),
    "RSA exponent negative": rsa((1 << 2047) | 1, -3),
    "EC point off the curve": point(NAMED_CURVE),
    "EC point at infinity": point(NAMED_CURVE, content=b"\0"),
    "EC point without octets": point(NAMED_CURVE, content=b""),
    "EC point too long": point(NAMED_CURVE, content=b"\x04" + b"1" * 6000),
    "EC curve unknown": point(der.object_identifier("1.2.3.4")),
    "EC binary curve": point(der.object_identifier("1.3.132.0.39")),
    "Ed25519 of one octet": key(der.algorithm("1.3.101.112"), b"1"),
    "Ed25519 of nonsense": key(der.algorithm("1.3.101.112"), b"\xff" * 32),
    "ML-DSA of one octet": key(der.algorithm("2.16.840.1.101.3.4.3.17"), b"1"),
    "X25519": key(der.algorithm("1.3.101.110"), b"1" * 32),
    "DSA": key(der.algorithm("1.2.840.10040.4.1", der.sequence(*[der.integer(7)] * 3)), der.integer(5)),
    "DH": key(der.algorithm("1.2.840.113549.1.3.1", der.sequence(*[der.integer(7)] * 2)), der.integer(5)),
    "unknown kind": key(der.algorithm("1.2.3.4.5", der.utf8("x")), b"1"),
    "ECDSA signature that is none": request(info()),
    "signature algorithm unknown": der.sequence(info(), der.algorithm("1.2.3.4"), der.bit_string(b"x")),
    "signature algorithm that is a key's": der.sequence(
        info(), der.algorithm(EC_KEY, NAMED_CURVE), der.bit_string(b"x")
    ),
    "signature of 60,000 octets": der.sequence(
        info(), der.algorithm("1.2.840.10045.4.3.2"), der.bit_string(bytes(60_000))
    ),
    "signature with PSS and no parameters": der.sequence(
        info(), der.algorithm("1.2.840.113549.1.1.10", der.sequence()), der.bit_string(b"x")
    ),
    "signature with PSS and a salt of 2 GiB": der.sequence(
        info(),
        der.algorithm("1.2.840.113549.1.1.10", der.sequence(der.context(2, der.integer((1 << 31) - 1)))),
        der.bit_string(b"x"),
    ),
}


def corpus(*tables: dict[str, bytes]) -> list[object]:
    return [pytest.param(content, id=name) for table in tables for name, content in table.items()]


# --- The corpus


@pytest.mark.parametrize("content", corpus(NOT_DER, NOT_A_REQUEST, BAD_SUBJECT, BAD_ATTRIBUTES, BAD_NAMES, BAD_KEYS))
def test_a_hostile_request_is_refused_as_a_bad_csr_in_one_cheap_sentence(content: bytes):
    """RULES C2, C3: a bounded parse that answers 400, and whose text repeats nothing of the request."""
    begin = time.process_time()
    with pytest.raises(BadCSR) as refused:
        CertificateRequest.from_der(content)
    assert time.process_time() - begin < 0.2
    assert "\n" not in refused.value.detail
    assert len(refused.value.detail) < 120
    assert refused.value.reason.isidentifier()


@pytest.mark.parametrize("content", corpus(BAD_POSSESSION))
def test_a_hostile_key_or_signature_proves_no_possession_and_costs_little(content: bytes):
    """RFC 7030, section 3.4; RULES F5: no effort for keys that nobody would take."""
    begin = time.process_time()
    try:
        csr = CertificateRequest.from_der(content)
    except BadCSR:
        return  # the parser of this version of cryptography knows more than that of another
    with pytest.raises(ProofOfPossessionFailed) as refused:
        csr.verify_possession()
    assert time.process_time() - begin < 0.2
    assert len(refused.value.detail) < 120


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (rsa(LARGE), "key_too_large"),
        (rsa((1 << 2047) | 1, (1 << 1999) | 1), "key_too_large"),
        (BAD_POSSESSION["DSA"], "key_kind_unknown"),
        (BAD_POSSESSION["DH"], "key_kind_unknown"),
    ],
)
def test_costly_keys_are_refused_before_any_arithmetic(content: bytes, reason: str):
    """RULES F5: 8192 bits at most; one verification with 16384 bits would cost more than an enrolment."""
    with pytest.raises(ProofOfPossessionFailed) as refused:
        CertificateRequest.from_der(content).verify_possession()
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (NOT_DER["last octet missing"], "csr_truncated"),
        (NOT_DER["an octet too many"], "csr_trailing_bytes"),
        (NOT_DER["indefinite length"], "csr_not_der"),
        (NOT_DER["length of 4 GiB"], "csr_not_der"),
        (NOT_DER["10,000 levels"], "csr_too_deep"),
        (NOT_DER["5,000 elements"], "csr_too_large"),
        (NOT_DER["64 KiB and one"], "csr_too_large"),
        (NOT_A_REQUEST["negative version"], "csr_version"),
        (BAD_SUBJECT["common name of 65"], "csr_name"),
        (BAD_SUBJECT["NUL in it"], "csr_name"),
        (BAD_SUBJECT["not UTF-8"], "csr_string"),
        (BAD_SUBJECT["OCTET STRING as a value"], "csr_name"),
        (BAD_ATTRIBUTES["two extension requests"], "csr_attributes"),
        (BAD_ATTRIBUTES["one extension request of each maker"], "csr_attributes"),
        (BAD_ATTRIBUTES["challengePassword with two values"], "csr_attributes"),
        (BAD_ATTRIBUTES["33 attributes"], "csr_attributes"),
        (BAD_ATTRIBUTES["challengePassword of 256"], "csr_challenge"),
        (BAD_ATTRIBUTES["challengePassword as octets"], "csr_challenge"),
        (BAD_ATTRIBUTES["the same extension twice"], "csr_extensions"),
        (BAD_ATTRIBUTES["an empty extension request"], "csr_extensions"),
        (BAD_NAMES["no name"], "csr_names"),
        (BAD_NAMES["257 names"], "csr_names"),
        (BAD_NAMES["DNS with NUL"], "csr_names"),
        (BAD_NAMES["email beyond ASCII"], "csr_names"),
        (BAD_NAMES["IPv4 with a mask"], "csr_names"),
        (BAD_NAMES["directory name of 65"], "csr_name"),
        (BAD_KEYS["EC with parameters of its own"], "csr_curve"),
    ],
)
def test_the_audit_word_says_which_rule_was_broken(content: bytes, reason: str):
    """Each guard is the one that catches what it is for."""
    with pytest.raises(BadCSR) as refused:
        CertificateRequest.from_der(content)
    assert refused.value.reason == reason


def test_a_certificate_sent_by_mistake_is_named():
    """The commonest mistake deserves its own sentence."""
    with pytest.raises(BadCSR, match="is a certificate, not a certification request"):
        CertificateRequest.from_der(NOT_A_REQUEST["a certificate"])


def test_a_refusal_does_not_carry_the_password():
    """Secrets stay secret: neither the sentence nor any cause has the octets of the challenge."""
    content = with_attributes(Attribute(oid=CHALLENGE_PASSWORD, values=(der.tlv(0x0C, b"hunter2\xff"),)))
    with pytest.raises(BadCSR) as refused:
        CertificateRequest.from_der(content)
    error: BaseException | None = refused.value
    while error is not None:
        assert "hunter2" not in str(error)
        assert not isinstance(error, UnicodeError)
        error = error.__cause__


# --- Fuzz


def read_whole(body: bytes) -> None:
    """Everything that happens to a request before names and keys are judged; only refusals may come of it."""
    try:
        csr = CertificateRequest.from_der(decode_request(body))
    except (BadCSR, MalformedRequest) as refused:
        assert len(refused.detail) < 120
        return
    kept = CertificateRequest.from_der(csr.stripped_der)
    assert kept.challenge_password is None
    assert kept.info_sha256 == csr.info_sha256
    assert "\0" not in repr(csr)
    try:
        csr.verify_possession()
    except ProofOfPossessionFailed as refused:
        assert len(refused.detail) < 120


@settings(max_examples=600)
@given(certification_requests())
def test_damaged_and_deceitful_requests_raise_nothing_but_refusals(content: bytes):
    """Fuzz: octets set, inserted, deleted and doubled, also with all lengths put right afterwards; odd keys, names, counts."""
    read_whole(content)


@settings(max_examples=300)
@given(bodies())
def test_damaged_bodies_raise_nothing_but_refusals(body: bytes):
    """Fuzz: the same in every encoding, with any white space, and damaged after it."""
    read_whole(body)


@settings(max_examples=200)
@given(st.binary(max_size=400))
@example(b"\x30\x00")
def test_random_octets_raise_nothing_but_refusals(content: bytes):
    """Fuzz: as they are, as the content of a SEQUENCE, and as base64."""
    for body in (content, der.sequence(content), base64.b64encode(der.sequence(content))):
        read_whole(body)


@settings(max_examples=300)
@given(st.sampled_from([0x81, 0x82, 0x86, 0x87, 0x88, 0xA0, 0xA3, 0xA4, 0xA5]), st.binary(max_size=40))
def test_random_alternative_names_raise_nothing_but_refusals(tag: int, content: bytes):
    """Fuzz: names of every kind with any content; and a damaged element within one."""
    read_whole(san(der.tlv(tag, content)))
    read_whole(san(DNS, der.tlv(tag, der.sequence(content))))


@settings(max_examples=300)
@given(
    st.sampled_from([0x03, 0x0C, 0x12, 0x13, 0x14, 0x16, 0x1A, 0x1C, 0x1E]),
    st.binary(max_size=70),
    st.sampled_from([COMMON_NAME, COUNTRY, UNIT, UNIQUE_IDENTIFIER, CHALLENGE_PASSWORD]),
)
def test_random_strings_raise_nothing_but_refusals(tag: int, content: bytes, where: str):
    """Fuzz: strings of every type, in the subject, in a directory name and in the challenge."""
    value = der.tlv(tag, content)
    if where == CHALLENGE_PASSWORD:
        read_whole(with_attributes(Attribute(oid=where, values=(value,))))
    else:
        read_whole(subject((where, value)))
        read_whole(directory(where, value))


@settings(max_examples=200)
@given(
    st.sampled_from([RSA_KEY, "1.2.840.113549.1.1.10", EC_KEY, "1.3.101.112", "2.16.840.1.101.3.4.3.17"]),
    st.sampled_from([b"", der.null(), NAMED_CURVE, der.sequence()]),
    st.binary(max_size=70),
)
def test_random_keys_raise_nothing_but_refusals(kind: str, parameter: bytes, content: bytes):
    """Fuzz: keys of every kind with any parameter and content."""
    read_whole(key(der.sequence(der.object_identifier(kind), parameter), content))
    read_whole(
        key(der.sequence(der.object_identifier(kind), parameter), der.sequence(der.tlv(2, content), der.integer(3)))
    )


@pytest.mark.slow
@settings(max_examples=2_000)
@given(st.sampled_from(good_requests()), edits())
def test_many_damaged_requests_with_mended_lengths_raise_nothing_but_refusals(seed: bytes, changes: list[Edit]):
    """Fuzz, for longer: what is well-formed on the outside and wrong inside."""
    read_whole(mend_lengths(damaged(seed, changes)))


def test_every_refusal_is_one_that_a_client_can_mend():
    """RULES C3: 400 for all of them; none is a fault of the server."""
    assert all(issubclass(kind, RequestError) for kind in (BadCSR, MalformedRequest, ProofOfPossessionFailed))
