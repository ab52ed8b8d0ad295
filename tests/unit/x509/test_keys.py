"""Which public keys are taken (RULES F5), and what keys are called."""

from __future__ import annotations

import hashlib
from math import prod

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kipuka.api.errors import KeyRefused
from kipuka.testing.pki import make_key
from kipuka.x509.keys import KEY_NAMES, KeyPolicy, check_key, describe_key, has_roca_fingerprint, spki_sha256

ANY = KeyPolicy(allowed=frozenset(KEY_NAMES))


def spki(key) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    return spki(rsa.RSAPublicNumbers(exponent, modulus).public_key())


def odd_modulus(bits: int) -> int:
    """Not a product of two primes, but no one can tell."""
    return int.from_bytes(hashlib.shake_256(b"modulus").digest(bits // 8)) | 1 << (bits - 1) | 1


@pytest.fixture(scope="module")
def rsa_key():
    return make_key("rsa2048").public_key()


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519"])
def test_sound_keys_are_taken_by_default(kind):
    """RULES F5: the three curves and Ed25519."""
    key = make_key(kind).public_key()
    assert spki(check_key(spki(key), KeyPolicy())) == spki(key)


@pytest.mark.parametrize("bits", [2048, 3072, 4096, 8192])
def test_rsa_keys_from_2048_to_8192_bits_are_taken(bits):
    """RULES F5: RSA 2048 to 8192."""
    assert describe_key(check_key(rsa_spki(odd_modulus(bits)), KeyPolicy())) == f"RSA-{bits}"


@pytest.mark.parametrize("bits", [1024, 2040, 8200, 16384])
def test_rsa_keys_of_other_sizes_are_refused(bits):
    """RULES F5: RSA 2048 to 8192."""
    with pytest.raises(KeyRefused, match=r"bits|cannot be read"):
        check_key(rsa_spki(odd_modulus(bits)), KeyPolicy())


@pytest.mark.parametrize(
    "exponent",
    [
        pytest.param(3, id="small"),
        pytest.param(65535, id="just too small"),
        pytest.param(65538, id="even"),
        pytest.param(2**256 + 1, id="too large"),
    ],
)
def test_rsa_exponents_outside_the_rule_are_refused(exponent):
    """RULES F5: an odd exponent from 65537 to 2^256."""
    der = _replace_exponent(rsa_spki(odd_modulus(2048)), exponent)
    with pytest.raises(KeyRefused, match=r"exponent|cannot be read"):
        check_key(der, KeyPolicy())


def _replace_exponent(der: bytes, exponent: int) -> bytes:
    """The SPKI of an RSA key with an exponent that the library would not write."""
    from kipuka.testing import der as write

    modulus = odd_modulus(2048)
    assert der.count(modulus.to_bytes(256)) == 1
    key = write.sequence(write.integer(modulus), write.integer(exponent))
    return write.sequence(write.algorithm("1.2.840.113549.1.1.1", write.null()), write.bit_string(key))


def test_an_exponent_at_the_upper_end_is_taken():
    """RULES F5: up to 2^256."""
    check_key(_replace_exponent(rsa_spki(odd_modulus(2048)), 2**256 - 1), KeyPolicy())


def test_an_even_modulus_is_refused():
    """RULES F5: half of such a key is known."""
    with pytest.raises(KeyRefused):
        check_key(rsa_spki(odd_modulus(2048) + 1), KeyPolicy())


def roca_modulus() -> int:
    """A modulus with the structure of the broken library: a power of 65537 modulo the product of the first primes."""
    product = prod(p for p in range(2, 702) if all(p % d for d in range(2, p)))
    modulus = pow(65537, 1234567, product) + product * (odd_modulus(2048) // product)
    return modulus if modulus % 2 else modulus + product


def test_a_key_with_the_roca_fingerprint_is_refused():
    """RULES F5: CVE-2017-15361."""
    assert roca_modulus().bit_length() == 2048
    with pytest.raises(KeyRefused, match="ROCA") as refused:
        check_key(rsa_spki(roca_modulus()), KeyPolicy())
    assert refused.value.reason == "key_roca"


def test_sound_moduli_do_not_show_the_roca_fingerprint(rsa_key):
    """RULES F5: one in 2^27 would, by chance."""
    assert not has_roca_fingerprint(rsa_key.public_numbers().n)
    assert not any(has_roca_fingerprint(odd_modulus(2048) + 2 * step) for step in range(5000))


def test_a_point_off_the_curve_is_refused():
    """RULES F5: the point is on the curve."""
    der = bytearray(spki(make_key("p256").public_key()))
    der[-1] ^= 1
    with pytest.raises(KeyRefused):
        check_key(bytes(der), KeyPolicy())


def test_the_point_at_infinity_is_refused():
    """RULES F5: the point at infinity is nobody's key."""
    from kipuka.testing import der as write

    algorithm = write.algorithm("1.2.840.10045.2.1", write.object_identifier("1.2.840.10045.3.1.7"))
    with pytest.raises(KeyRefused):
        check_key(write.sequence(algorithm, write.bit_string(b"\x00")), KeyPolicy())


def test_a_second_spelling_of_a_key_is_refused():
    """RULES F5: else a compressed point would make a revoked key look new."""
    from kipuka.testing import der as write

    key = make_key("p256").public_key()
    compressed = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = write.algorithm("1.2.840.10045.2.1", write.object_identifier("1.2.840.10045.3.1.7"))
    with pytest.raises(KeyRefused, match="usual encoding") as refused:
        check_key(write.sequence(algorithm, write.bit_string(compressed)), KeyPolicy())
    assert refused.value.reason == "key_encoding"


def test_an_rsa_key_without_its_null_parameter_is_refused(rsa_key):
    """RULES F5: RFC 4055 wants the NULL, and one key has one fingerprint."""
    from kipuka.testing import der as write

    numbers = rsa_key.public_numbers()
    key = write.sequence(write.integer(numbers.n), write.integer(numbers.e))
    bare = write.sequence(write.algorithm("1.2.840.113549.1.1.1"), write.bit_string(key))
    with pytest.raises(KeyRefused):
        check_key(bare, KeyPolicy())


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP256K1()), id="secp256k1"),
        pytest.param(lambda: ec.generate_private_key(ec.SECP224R1()), id="P-224"),
        pytest.param(x25519.X25519PrivateKey.generate, id="X25519"),
        pytest.param(ed448.Ed448PrivateKey.generate, id="Ed448, which only a profile allows"),
    ],
)
def test_other_kinds_of_keys_are_refused(key):
    """RULES F5: what is not named there is not taken."""
    with pytest.raises(KeyRefused, match="not taken here; allowed: RSA, P-256") as refused:
        check_key(spki(key().public_key()), KeyPolicy())
    assert refused.value.reason == "key_type_not_allowed"


def test_a_profile_may_allow_ed448_and_forbid_rsa(rsa_key):
    """RULES F5: Ed448 by profile."""
    check_key(spki(make_key("ed448").public_key()), ANY)
    with pytest.raises(KeyRefused, match="RSA-2048 keys are not taken"):
        check_key(spki(rsa_key), KeyPolicy(allowed=frozenset({"p256"})))


def test_a_profile_may_want_longer_rsa_keys(rsa_key):
    """RULES F5: the smallest size is the profile's to raise, not to lower."""
    with pytest.raises(KeyRefused, match="from 3072 to 8192"):
        check_key(spki(rsa_key), KeyPolicy(min_rsa_bits=3072))
    for bits in (1024, 16384):
        with pytest.raises(ValueError, match="2048 to 8192"):
            KeyPolicy(min_rsa_bits=bits)


def test_a_policy_names_known_kinds_of_keys():
    """A misspelt kind is a mistake at start, not a refusal later."""
    with pytest.raises(ValueError, match="p255"):
        KeyPolicy(allowed=frozenset({"p255"}))
    with pytest.raises(ValueError, match="at least one"):
        KeyPolicy(allowed=frozenset())


@pytest.mark.parametrize("garbage", [b"", b"\x00", b"\x30\x80", b"\x30\x03\x02\x01\x00", b"\x30\x84\xff\xff\xff\xff"])
def test_garbage_is_refused_and_not_an_exception(garbage):
    """RULES F5: whatever stands where the key should be."""
    with pytest.raises(KeyRefused):
        check_key(garbage, KeyPolicy())


def test_a_cut_or_continued_key_is_refused():
    """RULES F5: at every length."""
    der = spki(make_key("p256").public_key())
    for wrong in [*(der[:end] for end in range(len(der))), der + b"\x00", der + der]:
        with pytest.raises(KeyRefused):
            check_key(wrong, KeyPolicy())


def test_a_huge_key_is_refused_before_it_is_parsed():
    """RULES F5: no parser's time for what would be refused anyway."""
    with pytest.raises(KeyRefused) as refused:
        check_key(b"\x30" * 100_000, KeyPolicy())
    assert refused.value.reason == "key_too_large"


def test_keys_are_called_what_people_call_them(rsa_key):
    assert describe_key(rsa_key) == "RSA-2048"
    assert describe_key(make_key("p521").public_key()) == "P-521"
    assert describe_key(ed25519.Ed25519PrivateKey.generate().public_key()) == "Ed25519"
    assert describe_key(x25519.X25519PrivateKey.generate().public_key()) == "X25519"
    assert describe_key(ec.generate_private_key(ec.SECP256K1()).public_key()) == "secp256k1"
    numbers = dsa.DSAPublicNumbers(4, dsa.DSAParameterNumbers(odd_modulus(2048), odd_modulus(256), 2))
    assert describe_key(numbers.public_key()) == "DSA-2048"


def test_a_key_is_known_by_the_digest_of_its_spki():
    assert spki_sha256(b"") == hashlib.sha256(b"").hexdigest()
