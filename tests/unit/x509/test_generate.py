"""Which key is made for whom, and making it (RULES J1)."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kipuka.distinguished_names import subject_for
from kipuka.x509.generate import KeyKind, default_kind, generate, kind_for, request_for
from kipuka.x509.keys import KEY_NAMES, KeyPolicy, check_key, describe_key

EVERYTHING = KeyPolicy(allowed=frozenset(KEY_NAMES))
P256 = KeyKind(name="p256")


def rsa_of(bits):
    return KeyKind(name="rsa", bits=bits)


@pytest.mark.parametrize("text", ["p256", "p384", "p521", "ed25519", "ed448", "rsa-2048"])
def test_a_key_of_each_kind_is_made_and_would_be_taken_from_a_client(text):
    kind = KeyKind.parse(text)
    key = generate(kind)
    assert describe_key(key.public_key()) == kind.title
    request = x509.load_der_x509_csr(request_for(key, subject=subject_for("ws42"), alternative_names=None))
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert check_key(spki, EVERYTHING) == key.public_key()


@pytest.mark.parametrize("text", ["p256", "ed25519", "rsa-2048", "rsa-4096"])
def test_names_are_decided_by_a_specimen_before_a_key_is_made(text):
    kind = KeyKind.parse(text)
    assert describe_key(kind.specimen()) == kind.title


def test_rsa_keys_have_the_size_that_was_asked_for_and_the_usual_exponent():
    key = generate(rsa_of(3072))
    assert isinstance(key, rsa.RSAPrivateKey)
    assert (key.key_size, key.public_key().public_numbers().e) == (3072, 65537)


def test_the_request_for_the_ca_asks_for_the_granted_names():
    names = x509.Extension(
        x509.SubjectAlternativeName.oid, critical=True, value=x509.SubjectAlternativeName([x509.DNSName("a.example")])
    )
    key = generate(P256)
    request = x509.load_der_x509_csr(request_for(key, subject=subject_for("ws42"), alternative_names=names))
    assert request.subject == subject_for("ws42")
    assert list(request.extensions) == [names]


@pytest.mark.parametrize(
    ("asked", "made"),
    [
        ("P-256", P256),
        ("P-521", KeyKind(name="p521")),
        ("Ed25519", KeyKind(name="ed25519")),
        ("RSA-2048", rsa_of(2048)),
        ("RSA-4096", rsa_of(4096)),
        ("RSA-2049", rsa_of(3072)),
        ("RSA-1024", rsa_of(2048)),
        ("RSA-16384", rsa_of(4096)),
        ("RSA-PSS-2048", P256),
        ("Ed448", P256),
        ("ML-DSA-44", P256),
        ("EC 1.3.36.3.3.2.8.1.1.7", P256),
        ("1.2.840.10040.4.1", P256),
    ],
)
def test_the_kind_of_the_requests_own_key_is_made_where_the_profile_takes_it(asked, made):
    assert kind_for(asked, KeyPolicy(), None) == made


def test_otherwise_the_profiles_kind_is_made():
    policy = KeyPolicy(allowed=frozenset({"rsa"}), min_rsa_bits=3072)
    assert kind_for("P-256", policy, rsa_of(4096)) == rsa_of(4096)
    assert kind_for("P-256", policy, None) == rsa_of(3072)
    assert kind_for("RSA-2048", policy, None) == rsa_of(3072)


@pytest.mark.parametrize(
    ("allowed", "bits", "made"),
    [
        (KEY_NAMES, 2048, P256),
        (("ed448", "rsa", "ed25519"), 2048, KeyKind(name="ed25519")),
        (("ed448", "rsa"), 4096, rsa_of(4096)),
        (("ed448", "rsa"), 4097, KeyKind(name="ed448")),
        (("rsa",), 4097, None),
    ],
)
def test_a_profile_that_says_nothing_gets_the_best_that_it_takes(allowed, bits, made):
    policy = KeyPolicy(allowed=frozenset(allowed), min_rsa_bits=bits)
    assert default_kind(policy) == made
    assert kind_for("RSA-8192", policy, None) == (rsa_of(4096) if bits <= 4096 and "rsa" in allowed else made)


@pytest.mark.parametrize("text", ["rsa", "dsa", "rsa-", "RSA-2048", "p256 "])
def test_what_is_no_kind_is_none(text):
    with pytest.raises(ValueError, match=r"key"):
        KeyKind.parse(text)


@pytest.mark.parametrize("text", ["rsa-1024", "rsa-8192"])
def test_a_size_that_is_not_made_is_allowed_by_no_profile(text):
    assert not KeyKind.parse(text).allowed_by(EVERYTHING)
