"""A private key in a message that only its client can read: openssl opens and verifies what is made here (RFC 5652, RFC 5753, RFC 5958)."""

from __future__ import annotations

import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ObjectIdentifier

from kipuka.distinguished_names import subject_for
from kipuka.est.enveloped import KeySigner, choose, enveloped, key_identifier, unsuited
from kipuka.est.keygen import private_key_info
from kipuka.testing import der
from kipuka.testing.pki import Credential, make_key, make_root

ROOT = make_root()
AES256, AES192, AES128 = (ObjectIdentifier(f"2.16.840.1.101.3.4.1.{last}") for last in (42, 22, 2))
WRAP256, WRAP192, WRAP128 = (ObjectIdentifier(f"2.16.840.1.101.3.4.1.{last}") for last in (45, 25, 5))
PKCS1, OAEP = ObjectIdentifier("1.2.840.113549.1.1.1"), ObjectIdentifier("1.2.840.113549.1.1.7")
KDF512 = ObjectIdentifier("1.3.132.1.11.3")
TRIPLE_DES, AES256_GCM = ObjectIdentifier("1.2.840.113549.3.7"), ObjectIdentifier("2.16.840.1.101.3.4.1.46")
KEY_PACKAGE = "2.16.840.1.101.2.1.2.78.5"

USAGES = {"rsa": ("key_encipherment",), "p": ("key_agreement",)}


def a_recipient(kind, **more):
    usage = USAGES["rsa" if kind.startswith("rsa") else "p"]
    return ROOT.issue("device-1", key=kind, **{"key_usage": usage, **more})


def a_signer(kind="p256"):
    authority = ROOT.issue("authority", key=kind)
    return KeySigner(certificates=(authority.certificate, ROOT.certificate), key=authority.key)


def openssl(folder, *arguments, **files):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    done = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def pem_of(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def decrypted(folder, message, recipient):
    return openssl(
        folder,
        *("cms", "-decrypt", "-binary", "-inform", "DER", "-in", "message", "-inkey", "key", "-recip", "certificate"),
        message=message,
        key=pem_of(recipient.key),
        certificate=recipient.certificate.public_bytes(Encoding.PEM),
    )


def verified(folder, signed_data):
    """The content of a SignedData, whose signature openssl has followed up to the root."""
    message = der.sequence(der.object_identifier("1.2.840.113549.1.7.2"), der.context(0, signed_data))
    trust = ROOT.certificate.public_bytes(Encoding.PEM)
    arguments = ("cms", "-verify", "-binary", "-inform", "DER", "-in", "signed", "-CAfile", "root", "-purpose", "any")
    return openssl(folder, *arguments, signed=message, root=trust)


def issued(kind, identifier=None):
    """A certificate with no extension but the identifier, where one is given."""
    key = make_key(kind)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_for("device-1"))
        .issuer_name(ROOT.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(ROOT.certificate.not_valid_before_utc)
        .not_valid_after(ROOT.certificate.not_valid_after_utc)
    )
    if identifier is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(identifier), critical=False)
    return Credential(key=key, der=builder.sign(ROOT.key, hashes.SHA256()).public_bytes(Encoding.DER))


def shown(folder, message):
    """How openssl prints the message."""
    arguments = ("cms", "-cmsout", "-print", "-noout", "-inform", "DER", "-in", "message")
    return openssl(folder, *arguments, message=message).decode()


def encrypt(recipient, *capabilities, signer=None, sent=None):
    sent = sent or private_key_info(make_key("p256"))
    chosen = choose(recipient.certificate, capabilities)
    return enveloped(sent, signer=signer or a_signer(), recipient=recipient.certificate, chosen=chosen)


# -- openssl reads it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521"])
@pytest.mark.parametrize("named", [True, False], ids=["by its identifier", "by issuer and serial"])
def test_each_kind_of_recipient_reads_its_key(tmp_path, kind, named):
    """RFC 7030, 4.4.2: key transport and key agreement."""
    recipient = issued(kind, b"an identifier" if named else None)
    sent = private_key_info(make_key("ed25519"))
    message = encrypt(recipient, sent=sent)
    assert verified(tmp_path, decrypted(tmp_path, message, recipient)) == der.sequence(sent)
    printed = shown(tmp_path, message)
    assert ("subjectKeyIdentifier" in printed) is named
    assert ("issuerAndSerialNumber" in printed) is not named
    assert "contentType: pkcs7-signedData" in printed


@pytest.mark.parametrize("kind", ["rsa2048", "p256", "p384", "p521"])
@pytest.mark.parametrize("made", ["rsa2048", "p521", "ed25519"])
def test_the_signers_kind_and_that_of_the_sent_key_do_not_matter(tmp_path, kind, made):
    sent = private_key_info(make_key(made))
    recipient = a_recipient("p256")
    signed = decrypted(tmp_path, encrypt(recipient, signer=a_signer(kind), sent=sent), recipient)
    assert verified(tmp_path, signed) == der.sequence(sent)


def test_the_content_is_named_a_key_package(tmp_path):
    """RFC 5958, section 2; RFC 5652, 11.1: the signature covers that name."""
    recipient = a_recipient("p256")
    signed = decrypted(tmp_path, encrypt(recipient), recipient)
    named = der.object_identifier(KEY_PACKAGE)
    assert signed.count(named) == 2  # eContentType, and the signed attribute


def test_a_changed_package_is_not_verified(tmp_path):
    recipient = a_recipient("p256")
    sent = private_key_info(make_key("p256"))
    signed = decrypted(tmp_path, encrypt(recipient, sent=sent), recipient)
    assert sent in signed
    with pytest.raises(AssertionError, match="verification failure"):
        verified(tmp_path, signed.replace(sent[-8:], bytes(8)))


def test_somebody_else_reads_nothing(tmp_path):
    message = encrypt(a_recipient("p256"))
    with pytest.raises(AssertionError):
        decrypted(tmp_path, message, a_recipient("p256"))


def test_no_two_messages_are_alike():
    """Key, IV and ephemeral key are new each time."""
    recipient, sent = a_recipient("p256"), private_key_info(make_key("ed25519"))
    first, second = (encrypt(recipient, sent=sent) for _ in range(2))
    blocks = [
        {message[at : at + 16] for at in range(len(message) - 200, len(message) - 16)} for message in (first, second)
    ]
    assert not blocks[0] & blocks[1]
    assert sent not in first


# -- the client's wishes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "capabilities", "used"),
    [
        pytest.param("rsa2048", [], ["aes-256-cbc", "rsaEncryption"], id="nothing said"),
        pytest.param("rsa2048", [AES128, AES256], ["aes-128-cbc", "rsaEncryption"], id="the first cipher wins"),
        pytest.param("rsa2048", [TRIPLE_DES, AES192], ["aes-192-cbc"], id="one that is known here"),
        pytest.param("rsa2048", [OAEP, PKCS1], ["aes-256-cbc", "rsaesOaep", "sha256", "mgf1"], id="OAEP first"),
        pytest.param(
            "rsa2048", [PKCS1, OAEP, WRAP128], ["aes-128-cbc", "rsaEncryption"], id="PKCS 1 first, and a wrap"
        ),
        pytest.param("p256", [], ["aes-256-cbc", "dhSinglePass-stdDH-sha256kdf-scheme", "id-aes256-wrap"], id="P-256"),
        pytest.param("p384", [], ["dhSinglePass-stdDH-sha384kdf-scheme", "id-aes256-wrap"], id="P-384"),
        pytest.param("p521", [], ["dhSinglePass-stdDH-sha512kdf-scheme", "id-aes256-wrap"], id="P-521"),
        pytest.param("p256", [KDF512, AES128], ["sha512kdf", "id-aes128-wrap", "aes-128-cbc"], id="another hash"),
        pytest.param("p256", [WRAP192], ["id-aes192-wrap", "aes-192-cbc"], id="a wrap decides the cipher"),
        pytest.param("p384", [WRAP256, AES128], ["id-aes256-wrap", "aes-128-cbc"], id="each as it is said"),
    ],
)
def test_the_clients_capabilities_choose_in_its_own_order(tmp_path, kind, capabilities, used):
    """RFC 7030, 4.4.1 and 4.4.2; RULES J1; and openssl reads each of them."""
    recipient = a_recipient(kind)
    sent = private_key_info(make_key("p256"))
    message = encrypt(recipient, *capabilities, sent=sent)
    printed = shown(tmp_path, message)
    assert [name for name in used if name not in printed] == []
    assert verified(tmp_path, decrypted(tmp_path, message, recipient)) == der.sequence(sent)


@pytest.mark.parametrize("capabilities", [[TRIPLE_DES], [AES256_GCM], [PKCS1, TRIPLE_DES]], ids=str)
def test_a_client_that_can_read_nothing_that_is_written_here_is_told_so(capabilities):
    """AES-GCM is not for EnvelopedData (RFC 5084), which RFC 7030 demands."""
    with pytest.raises(ValueError, match="CBC"):
        choose(a_recipient("p256").certificate, capabilities)


# -- whose key it may be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "usage", "why"),
    [
        ("rsa2048", ("digital_signature", "key_encipherment"), None),
        ("rsa2048", None, None),
        ("p256", ("key_agreement",), None),
        ("p521", None, None),
        ("rsa2048", ("digital_signature",), "keyEncipherment"),
        ("p384", ("digital_signature",), "keyAgreement"),
        ("p256", ("key_encipherment",), "keyAgreement"),
        ("k256", None, "P-256"),
        ("ed25519", None, "only sign"),
        ("mldsa44", None, "only sign"),
    ],
)
def test_the_key_must_be_meant_for_it(kind, usage, why):
    """RFC 7030, 4.4.1.2: keyTransport or keyAgreement, or unrestricted."""
    found = unsuited(ROOT.issue("device-1", key=kind, key_usage=usage).certificate)
    assert found is None if why is None else why in found


def test_a_key_is_named_by_its_certificates_identifier_or_the_usual_hash():
    """RFC 5280, 4.2.1.2."""
    assert key_identifier(issued("p256", b"chosen by its CA").certificate) == b"chosen by its CA"
    unnamed = issued("p256")
    digest = x509.SubjectKeyIdentifier.from_public_key(unnamed.key.public_key()).digest
    assert key_identifier(unnamed.certificate) == digest


def test_a_certificate_whose_extensions_cannot_be_read_is_nobodys_recipient():
    own = x509.SubjectKeyIdentifier(b"twice")
    twice = ROOT.issue("a", key="rsa2048", extensions=[x509.Extension(own.oid, critical=False, value=own)]).certificate
    assert "cannot be read" in unsuited(twice)
    assert key_identifier(twice) != b"twice"


@pytest.mark.parametrize("kind", ["ed448", "mldsa44"])
def test_a_signer_whose_signature_is_not_made_here_is_refused_at_once(kind):
    with pytest.raises(ValueError, match="RSA, ECDSA or Ed25519"):
        a_signer(kind)


def test_a_signer_shows_no_key():
    signer = a_signer()
    assert "PrivateKey" not in repr(signer)
