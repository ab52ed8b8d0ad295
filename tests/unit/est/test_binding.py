"""Linking a request to its TLS connection (RFC 7030, section 3.5; RFC 7894; RFC 9266)."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kipuka.api.errors import ProofOfPossessionFailed
from kipuka.api.values import Connection
from kipuka.est.binding import Binding, check_binding
from kipuka.est.csr import CertificateRequest
from kipuka.testing import der
from kipuka.testing.pki import Attribute, make_csr

UNIQUE = bytes(range(12))
EXPORTER = bytes(range(100, 132))


def connection(version: str, **bindings: bytes | None) -> Connection:
    return Connection(
        id="c1",
        listener="est",
        client_address="192.0.2.1",
        client_port=40000,
        tls_version=version,
        cipher="TLS_AES_128_GCM_SHA256",
        **bindings,
    )


TLS12 = connection("TLSv1.2", tls_unique=UNIQUE)
TLS13 = connection("TLSv1.3", tls_exporter=EXPORTER)
UNLINKABLE = connection("TLSv1.2")  # without extended master secret


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


@pytest.mark.parametrize(
    ("own", "value", "binding"),
    [
        (TLS12, UNIQUE, Binding.TLS_UNIQUE),
        (TLS13, EXPORTER, Binding.TLS_EXPORTER),
        (connection("TLSv1.2", tls_unique=bytes(20)), bytes(20), Binding.TLS_UNIQUE),  # of a length yet unseen
    ],
)
def test_this_connections_binding_is_verified_in_either_attribute(own: Connection, value: bytes, binding: Binding):
    """RULES G1: tls-unique on TLS 1.2, tls-exporter on TLS 1.3, in challengePassword or estIdentityLinking."""
    text = b64(value)
    assert check_binding(text, own) is binding
    assert check_binding(text.encode(), own, required=True) is binding
    assert check_binding(None, own, identity_linking=text, required=True) is binding
    assert check_binding(text, own, identity_linking=text) is binding


@pytest.mark.parametrize(
    "text", [b64(EXPORTER).rstrip("="), b64(EXPORTER) + "\n", b64(EXPORTER)[:20] + "\r\n" + b64(EXPORTER)[20:]]
)
def test_missing_padding_and_line_breaks_do_not_matter(text: str):
    """The octets count, and they are the same."""
    assert check_binding(text, TLS13) is Binding.TLS_EXPORTER


@pytest.mark.parametrize("own", [TLS12, TLS13], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("length", [12, 32, 36, 48])
def test_what_has_the_form_of_a_binding_but_is_not_this_connections_is_refused(own: Connection, length: int):
    """RULES G1, RFC 7030 3.5: a binding that is there MUST be verified; one of another connection is a relayed request."""
    with pytest.raises(ProofOfPossessionFailed) as refused:
        check_binding(b64(b"\xaa" * length), own)
    assert refused.value.reason == "binding_mismatch"


def test_the_binding_of_another_tls_version_is_refused():
    """RFC 9266, section 3: tls-unique is not defined for TLS 1.3, whatever a connection says it has."""
    confused12 = connection("TLSv1.2", tls_exporter=EXPORTER, tls_unique=UNIQUE)
    confused13 = connection("TLSv1.3", tls_exporter=EXPORTER, tls_unique=UNIQUE)
    for own, value in ((confused12, EXPORTER), (confused13, UNIQUE)):
        with pytest.raises(ProofOfPossessionFailed):
            check_binding(b64(value), own)


def test_a_connection_without_a_binding_links_nothing():
    """RULES A6: TLS 1.2 without extended master secret works, but a request that claims a link is refused, not believed."""
    assert check_binding(None, UNLINKABLE) is None
    assert check_binding("a password", UNLINKABLE) is None
    for arguments in ({"challenge": b64(UNIQUE)}, {"challenge": None, "identity_linking": b64(UNIQUE)}):
        with pytest.raises(ProofOfPossessionFailed) as refused:
            check_binding(connection=UNLINKABLE, **arguments)
        assert refused.value.reason == "binding_unavailable"


def test_an_empty_binding_matches_nothing():
    """A connection that says it has a binding of no octets has none."""
    for own in (connection("TLSv1.2", tls_unique=b""), connection("TLSv1.3", tls_exporter=b"")):
        assert check_binding("", own) is None
        with pytest.raises(ProofOfPossessionFailed):
            check_binding(None, own, identity_linking="")


@pytest.mark.parametrize(
    "password", ["secret", "correct horse battery staple", "pässword", "xK9mP2vL8qR5wN3jT7fY", "====", "", b"\xff\xfe"]
)
def test_an_ordinary_password_is_no_binding_and_links_nothing(password: str | bytes):
    """RULES G1, RFC 7894 section 1: challengePassword has other uses; they are told by their form."""
    assert check_binding(password, TLS12) is None
    assert check_binding(password, TLS13) is None


@pytest.mark.parametrize("challenge", [None, "secret"])
def test_where_linking_is_required_its_absence_is_refused_with_a_text_that_says_so(challenge: str | None):
    """RULES G1, RFC 7030 3.5: the text should say that the linking of identity and proof of possession is required."""
    with pytest.raises(
        ProofOfPossessionFailed, match="linking of identity and proof of possession is required"
    ) as refused:
        check_binding(challenge, TLS13, required=True)
    assert refused.value.reason == "binding_missing"


def test_where_linking_is_required_and_the_connection_has_no_binding_the_refusal_says_so():
    """RULES A6, G1: to put a binding into the request would not help."""
    with pytest.raises(
        ProofOfPossessionFailed, match="required, but this connection has no channel binding"
    ) as refused:
        check_binding(None, UNLINKABLE, required=True)
    assert refused.value.reason == "binding_unavailable"


@pytest.mark.parametrize("linking", ["secret", "", b64(b"\xaa" * 32), b"\xff"])
def test_est_identity_linking_is_always_verified(linking: str | bytes):
    """RFC 7894, section 3.3: this attribute has no other use."""
    with pytest.raises(ProofOfPossessionFailed) as refused:
        check_binding(None, TLS13, identity_linking=linking)
    assert refused.value.reason == "binding_mismatch"


def test_each_attribute_is_verified_on_its_own():
    """RFC 7894, section 4: all challenge attributes must be processed with success; one good one does not excuse another."""
    with pytest.raises(ProofOfPossessionFailed):
        check_binding(b64(b"\xaa" * 32), TLS13, identity_linking=b64(EXPORTER))
    with pytest.raises(ProofOfPossessionFailed):
        check_binding(b64(EXPORTER), TLS13, identity_linking=b64(b"\xaa" * 32))
    assert check_binding("secret", TLS13, identity_linking=b64(EXPORTER)) is Binding.TLS_EXPORTER


@pytest.mark.parametrize("write", [der.printable, der.utf8], ids=["PrintableString", "UTF8String"])
def test_a_binding_is_found_in_the_request_of_either_string_type(write):
    """BouncyCastle writes a PrintableString, other clients a UTF8String; RFC 7894, section 3 demands both."""
    request = CertificateRequest.from_der(
        make_csr(
            attributes=[
                Attribute(oid="1.2.840.113549.1.9.7", values=(write(b64(UNIQUE)),)),
                Attribute(oid="1.2.840.113549.1.9.16.2.58", values=(write(b64(UNIQUE)),)),
            ]
        ).der
    )
    request.verify_possession()
    assert request.identity_linking == b64(UNIQUE)
    assert check_binding(request.challenge_password, TLS12, identity_linking=request.identity_linking) == "tls-unique"


@given(st.one_of(st.text(), st.binary()), st.sampled_from([TLS12, TLS13, UNLINKABLE]), st.booleans())
def test_nothing_but_the_right_binding_ever_links(challenge: str | bytes, own: Connection, required: bool):
    """Fuzz: any challenge gives None or ProofOfPossessionFailed, never a link and never another exception."""
    if required:
        with pytest.raises(ProofOfPossessionFailed):
            check_binding(challenge, own, required=True)
        return
    with contextlib.suppress(ProofOfPossessionFailed):
        assert check_binding(challenge, own) is None
