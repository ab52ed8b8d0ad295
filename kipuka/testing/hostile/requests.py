"""Certification requests that are damaged, deceitful or random, and the bodies that carry them.

In the room: strategies of DER and of bodies. Not in the room: the table of known evils, which is the unit tests' own, and
the HTTP around a body (`kipuka.testing.hostile.http`).
"""

from __future__ import annotations

import base64
from functools import cache

from hypothesis import strategies as st

from kipuka.testing import der
from kipuka.testing.client import BODY_ENCODINGS, encode_body
from kipuka.testing.hostile.damage import beginning, damaged, edits, mend_lengths
from kipuka.testing.pki import Attribute, PrivateKey, make_csr, make_key

__all__ = ["bodies", "certification_requests", "good_requests"]

EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
MICROSOFT_EXTENSIONS = "1.3.6.1.4.1.311.2.1.14"
CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"  # noqa: S105 - an object identifier
ALTERNATIVE_NAME, BASIC_CONSTRAINTS = "2.5.29.17", "2.5.29.19"
COMMON_NAME, COUNTRY, UNIT, UNIQUE_IDENTIFIER = "2.5.4.3", "2.5.4.6", "2.5.4.11", "2.5.4.45"
KEY_KINDS = (
    "1.2.840.113549.1.1.1",
    "1.2.840.113549.1.1.10",
    "1.2.840.10045.2.1",
    "1.3.101.112",
    "2.16.840.1.101.3.4.3.17",
)
CHALLENGE = "a shared secret"
STRING_TAGS = (0x03, 0x0C, 0x12, 0x13, 0x14, 0x16, 0x1A, 0x1C, 0x1E)
NAME_TAGS = (0x81, 0x82, 0x86, 0x87, 0x88, 0xA0, 0xA3, 0xA4, 0xA5)
SPACES = (b" ", b"\t", b"\r", b"\n", b"\r\n", b"\n\n", b"\f", b"\0", b"=", b"-")


@cache
def _key() -> PrivateKey:
    return make_key("p256")


def _asking(*extensions: bytes, oid: str = EXTENSION_REQUEST) -> Attribute:
    return Attribute(oid=oid, values=(der.sequence(*extensions),))


def _extension(oid: str, value: bytes) -> bytes:
    return der.sequence(der.object_identifier(oid), der.octet_string(value))


@cache
def good_requests() -> tuple[bytes, ...]:
    """Requests of several kinds that are as they should be, to be damaged; their keys differ."""
    directory = der.context(
        4, der.sequence(der.set_of(der.sequence(der.object_identifier(COMMON_NAME), der.utf8("x"))))
    )
    constraints = _extension(BASIC_CONSTRAINTS, der.sequence(der.tlv(1, b"\xff")))
    return (
        make_csr(dns=("d.example",), ip=("192.0.2.1",), challenge_password=CHALLENGE).der,
        make_csr(key="ed25519", email=("a@example.org",), uri=("urn:x:y",)).der,
        make_csr(key="rsa2048", signature="pss", challenge_password=CHALLENGE).der,
        make_csr(common_name=None).der,
        make_csr(attributes=[_asking(_extension(ALTERNATIVE_NAME, der.sequence(directory)))]).der,
        make_csr(attributes=[_asking(constraints, oid=MICROSOFT_EXTENSIONS)]).der,
    )


def _signed(info: bytes) -> bytes:
    """A request around any CertificationRequestInfo; the signature is a sham."""
    return der.sequence(info, der.algorithm("1.2.840.10045.4.3.2"), der.bit_string(bytes(70)))


@st.composite
def _odd_strings(draw: st.DrawFn) -> bytes:
    """A value of any string type with any octets: as a name, or as the challenge."""
    value = der.tlv(draw(st.sampled_from(STRING_TAGS)), draw(st.binary(max_size=70)))
    where = draw(st.sampled_from((COMMON_NAME, COUNTRY, UNIT, UNIQUE_IDENTIFIER, CHALLENGE_PASSWORD)))
    if where == CHALLENGE_PASSWORD:
        return make_csr(key=_key(), attributes=[Attribute(oid=where, values=(value,))]).der
    name = der.sequence(der.set_of(der.sequence(der.object_identifier(where), value)))
    if draw(st.booleans()):
        san = _extension(ALTERNATIVE_NAME, der.sequence(der.context(4, name)))
        return make_csr(key=_key(), attributes=[_asking(san)]).der
    return _signed(der.sequence(der.integer(0), name, der.sequence(), der.context(0, b"")))


@st.composite
def _odd_names(draw: st.DrawFn) -> bytes:
    """Alternative names of every kind with any content, now and then very many."""
    name = der.tlv(draw(st.sampled_from(NAME_TAGS)), draw(st.binary(max_size=40)))
    names = der.sequence(*[name] * draw(st.sampled_from((1, 1, 2, 300))))
    return make_csr(key=_key(), attributes=[_asking(_extension(ALTERNATIVE_NAME, names))]).der


def _rsa_key(bits: int) -> bytes:
    return der.sequence(der.integer((1 << bits - 1) | 1), der.integer(65537))


@st.composite
def _odd_keys(draw: st.DrawFn) -> bytes:
    """Keys of every kind with any parameter and content, among them very large RSA and points off the curve."""
    kind = der.object_identifier(draw(st.sampled_from(KEY_KINDS)))
    curve = der.object_identifier("1.2.840.10045.3.1.7")
    parameter = draw(st.sampled_from((b"", der.null(), curve, der.sequence())))
    octets = draw(st.one_of(st.binary(max_size=70), st.binary(min_size=64, max_size=64)))
    content = draw(
        st.sampled_from((octets, b"\x04" + octets, *(_rsa_key(bits) for bits in (1, 64, 8192, 16384, 300_000))))
    )
    return make_csr(key=_key(), public_key_der=der.sequence(der.sequence(kind, parameter), der.bit_string(content))).der


@st.composite
def _repeated(draw: st.DrawFn) -> bytes:
    """Attributes and extensions that are there twice, or by the hundred."""
    count = draw(st.sampled_from((2, 33, 500)))
    extension = _extension(draw(st.sampled_from((ALTERNATIVE_NAME, "1.2.3"))), draw(st.binary(max_size=10)))
    if draw(st.booleans()):
        return make_csr(key=_key(), attributes=[_asking(*[extension] * count)]).der
    return make_csr(key=_key(), attributes=[_asking(extension)] * count).der


def _nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = der.sequence(content)
    return content


def _lying(content: bytes, length: bytes) -> bytes:
    """A SEQUENCE whose length octets are made up."""
    return der.tlv(0x30, content, length=length)


def certification_requests() -> st.SearchStrategy[bytes]:
    """DER that claims to be a PKCS#10 request."""
    seeds = st.sampled_from(good_requests())
    broken = st.builds(damaged, seeds, edits())
    return st.one_of(
        broken,
        broken.map(mend_lengths),
        _odd_strings(),
        _odd_names(),
        _odd_keys(),
        _repeated(),
        st.builds(beginning, seeds, st.floats(0, 1)),
        st.builds(_lying, seeds, st.binary(max_size=5)),
        st.sampled_from((17, 300, 10_000)).map(_nested),
        st.binary(max_size=400).map(der.sequence),
    )


def _spaced(content: bytes, width: int, space: bytes) -> bytes:
    text = base64.b64encode(content)
    return space.join(text[at : at + width] for at in range(0, len(text), width))


def bodies() -> st.SearchStrategy[bytes]:
    """Bodies of an enrolment: those requests in every encoding, damaged after it, with odd white space, or anything."""
    content = st.one_of(certification_requests(), st.sampled_from(good_requests()))
    encoded = st.builds(encode_body, content, st.sampled_from(BODY_ENCODINGS))
    spaced = st.builds(_spaced, content, st.integers(1, 100), st.sampled_from(SPACES))
    return st.one_of(
        encoded,
        st.builds(damaged, encoded, edits(most=3)),
        spaced,
        st.binary(max_size=300),
        st.sampled_from((b"", b"A" * 60_000, b"-----BEGIN " * 5_000, b"=" * 1_000)),
    )
