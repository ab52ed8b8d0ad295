"""What a request for a server-side key says, and the answer's two parts (RFC 7030, 4.4)."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key

from kipuka.api.errors import BadCSR
from kipuka.est.cms import certs_only, read_certs_only
from kipuka.est.csr import CertificateRequest
from kipuka.est.keygen import KEY_AND_CERTIFICATE, encrypt_to, key_and_certificate, plain_key
from kipuka.testing import der
from kipuka.testing.pki import Attribute, make_csr, make_key, make_root

SYMMETRIC = "1.2.840.113549.1.9.16.2.37"
ASYMMETRIC = "1.2.840.113549.1.9.16.2.54"
CAPABILITIES = "1.2.840.113549.1.9.15"
AES256 = "2.16.840.1.101.3.4.1.42"
AES128 = "2.16.840.1.101.3.4.1.2"


def asking(*attributes):
    written = [Attribute(oid=oid, values=tuple(values)) for oid, *values in attributes]
    return CertificateRequest.from_der(make_csr(attributes=written).der)


def capabilities(*oids, parameters=b""):
    return der.sequence(*(der.sequence(der.object_identifier(oid), parameters) for oid in oids))


def test_a_request_that_names_no_key_wants_none():
    assert encrypt_to(asking()) is None
    assert encrypt_to(asking((CAPABILITIES, capabilities(AES256)))) is None


@pytest.mark.parametrize(("oid", "symmetric"), [(SYMMETRIC, True), (ASYMMETRIC, False)])
def test_the_key_to_encrypt_to_is_read_with_what_the_client_can_do(oid, symmetric):
    """RFC 7030, 4.4.1.1 and 4.4.1.2."""
    wish = encrypt_to(asking((oid, der.octet_string(b"id")), (CAPABILITIES, capabilities(AES256, AES128))))
    assert wish is not None
    assert (wish.identifier, wish.symmetric) == (b"id", symmetric)
    assert [found.dotted_string for found in wish.capabilities] == [AES256, AES128]


def test_capabilities_may_have_parameters_or_be_missing():
    """RFC 7030 says that a client must send them; older ones do not."""
    key = (ASYMMETRIC, der.octet_string(b"id"))
    with_parameters = encrypt_to(asking(key, (CAPABILITIES, capabilities(AES256, parameters=der.null()))))
    assert [found.dotted_string for found in with_parameters.capabilities] == [AES256]
    assert encrypt_to(asking(key)).capabilities == ()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        pytest.param(
            [(SYMMETRIC, der.octet_string(b"a")), (ASYMMETRIC, der.octet_string(b"b"))], "two_decrypt_keys", id="both"
        ),
        pytest.param([(ASYMMETRIC, der.printable("a"))], "csr_decrypt_key", id="text"),
        pytest.param(
            [(ASYMMETRIC, der.octet_string(b"a"), der.octet_string(b"b"))], "csr_decrypt_key", id="two values"
        ),
        pytest.param([(ASYMMETRIC, der.octet_string(b""))], "csr_decrypt_key", id="empty"),
        pytest.param([(ASYMMETRIC, der.octet_string(b"a" * 65))], "csr_decrypt_key", id="too long"),
        pytest.param(
            [(ASYMMETRIC, der.octet_string(b"a")), (CAPABILITIES, der.octet_string(b"a"))],
            "csr_capabilities",
            id="no list",
        ),
        pytest.param(
            [(ASYMMETRIC, der.octet_string(b"a")), (CAPABILITIES, der.sequence(der.sequence()))],
            "csr_capabilities",
            id="an empty capability",
        ),
        pytest.param(
            [(ASYMMETRIC, der.octet_string(b"a")), (CAPABILITIES, capabilities(*[AES256] * 65))],
            "csr_capabilities",
            id="too many",
        ),
    ],
)
def test_attributes_that_cannot_be_read_are_refused(attributes, reason):
    with pytest.raises(BadCSR) as refused:
        encrypt_to(asking(*attributes))
    assert refused.value.reason == reason


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
def test_both_parts_come_back_from_a_reader_of_mime(kind):
    """RFC 7030, 4.4.2; RFC 2046, 5.1.1: the parts' boundary has CRLF before and after, and no line is longer than 76."""
    key, root = make_key(kind), make_root()
    body = key_and_certificate(plain_key(key), certs_only([root.certificate]))
    assert b"\n" not in body.replace(b"\r\n", b"")
    assert max(len(line) for line in body.split(b"\r\n")) <= 76
    message = message_from_bytes(f"Content-Type: {KEY_AND_CERTIFICATE}\r\n\r\n".encode() + body)
    assert message.defects == []
    private, certificate = message.get_payload()
    assert private["Content-Type"] == "application/pkcs8"
    assert certificate["Content-Type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert {part["Content-Transfer-Encoding"] for part in (private, certificate)} == {"base64"}
    assert load_der_private_key(private.get_payload(decode=True), None).public_key() == key.public_key()
    assert read_certs_only(certificate.get_payload(decode=True)) == [root.certificate]


def test_a_private_key_is_shown_by_no_repr():
    part = plain_key(make_key("p256"))
    assert part.der.hex() not in repr(part)
    assert repr(part.der) not in repr(part)
