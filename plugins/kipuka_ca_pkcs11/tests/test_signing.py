"""What a token signs is the certificate that was ordered, with every type of key."""

from __future__ import annotations

import asyncio
import copy

import pytest
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from kipuka_ca_local.backend import build
from kipuka_ca_pkcs11 import tokens
from kipuka_ca_pkcs11.config import PKCS11CASettings, chain_of, signing_key
from kipuka_ca_pkcs11.keys import token_key
from kipuka_ca_pkcs11.mechanisms import Scheme, rsa_call
from kipuka_ca_pkcs11.tokens import TokenError
from pkcs11 import Mechanism

from kipuka.testing.pki import make_root

ALGORITHMS = [
    pytest.param("p256", {}, "sha256", id="P-256"),
    pytest.param("p384", {}, "sha384", id="P-384"),
    pytest.param("p521", {}, "sha512", id="P-521"),
    pytest.param("rsa2048", {}, "sha256", id="RSA-2048"),
    pytest.param("rsa4096", {}, "sha384", id="RSA-4096"),
    pytest.param("rsa2048", {"rsa_padding": "pss"}, "sha256", id="RSA-2048-PSS"),
    pytest.param("rsa4096", {"rsa_padding": "pss"}, "sha384", id="RSA-4096-PSS"),
]


@pytest.mark.parametrize(("kind", "changes", "algorithm"), ALGORITHMS)
async def test_a_certificate_is_what_was_ordered_signed_by_the_key_on_the_token(
    *, item, open_ca, make_order, kind, changes, algorithm
):
    issuing = make_root().issue_ca("Issuing CA", key=kind)
    authority = await open_ca(item(issuing, **changes))
    order = make_order()
    certificate = (await authority.issue(order)).certificate
    certificate.verify_directly_issued_by(issuing.certificate)
    assert certificate.signature_hash_algorithm.name == algorithm
    expected = padding.PSS if changes else padding.PKCS1v15
    if kind.startswith("rsa"):
        assert isinstance(certificate.signature_algorithm_parameters, expected)
    assert certificate.subject == order.subject
    assert (
        certificate.public_key() == x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER)).public_key()
    )
    reference = build(order, issuing.certificate).sign(make_root(key="p256").key, hashes.SHA256())
    assert [(one.oid, one.critical, one.value) for one in certificate.extensions] == [
        (one.oid, one.critical, one.value) for one in reference.extensions
    ]
    assert certificate.not_valid_before_utc == reference.not_valid_before_utc
    assert certificate.not_valid_after_utc == reference.not_valid_after_utc
    assert await authority.health() is None


async def test_many_orders_at_once_are_all_signed_over_a_bounded_number_of_sessions(
    item, open_ca, make_order, issuing, monkeypatch
):
    taken, most = [], []
    take, put = tokens._Connection.take, tokens._Connection.put

    def counting_take(self, place):
        pair = take(self, place)
        taken.append(pair[0].handle)
        assert len(taken) == len(set(taken)), "a session is in the hands of two threads"
        most.append(len(taken))
        return pair

    def counting_put(self, pair):
        taken.remove(pair[0].handle)
        put(self, pair)

    monkeypatch.setattr(tokens._Connection, "take", counting_take)
    monkeypatch.setattr(tokens._Connection, "put", counting_put)
    authority = await open_ca(item(issuing, sessions=3))
    taken.clear()
    answers = await asyncio.gather(*(authority.issue(make_order()) for _ in range(60)))
    for one in answers:
        one.certificate.verify_directly_issued_by(issuing.certificate)
    assert len({one.certificate.serial_number for one in answers}) == 60
    assert max(most) <= 3


async def test_a_token_without_mechanisms_that_hash_is_given_the_hash(item, open_ca, make_order, monkeypatch):
    issuing = make_root().issue_ca("Issuing CA", key="rsa2048")
    bare = frozenset({Mechanism.RSA_PKCS, Mechanism.RSA_PKCS_PSS})
    asked = []

    def without(data, algorithm, scheme, offered):
        call = rsa_call(data, algorithm, scheme, offered & bare)
        asked.append(call[1])
        return call

    monkeypatch.setattr(tokens, "rsa_call", without)
    for name in ("pkcs1v15", "pss"):
        values = {"rsa_padding": name, **({} if name == "pkcs1v15" else {"key_id": "0001"})}
        authority = await open_ca(item(issuing, **values))
        (await authority.issue(make_order())).certificate.verify_directly_issued_by(issuing.certificate)
    assert set(asked) == bare


async def test_a_wrong_signature_does_not_leave(item, open_ca, make_order, issuing, monkeypatch):
    from kipuka.api import BackendUnavailable

    authority = await open_ca(item(issuing))
    right = tokens.ecdsa_signature
    monkeypatch.setattr(tokens, "ecdsa_signature", lambda raw: right(raw[:-1] + bytes([raw[-1] ^ 1])))
    with pytest.raises(BackendUnavailable) as caught:
        await authority.issue(make_order())
    assert caught.value.reason == "hsm_unavailable"


def test_the_key_signs_and_does_nothing_else(item, issuing):
    settings = PKCS11CASettings.model_validate(item(issuing))
    chain = chain_of(settings, issuing.certificate.not_valid_before_utc)
    signer = signing_key(settings, chain)
    try:
        key = token_key(signer)
        assert key.public_key() == issuing.certificate.public_key()
        assert (key.key_size, key.curve.name) == (256, "secp256r1")
        assert copy.copy(key) is key
        assert copy.deepcopy(key) is key
        for forbidden in (
            key.private_numbers,
            lambda: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            lambda: key.exchange(None, None),
        ):
            with pytest.raises(UnsupportedAlgorithm):
                forbidden()
    finally:
        signer.close()


def test_an_rsa_key_refuses_a_padding_that_it_was_not_opened_for(item):
    issuing = make_root().issue_ca("Issuing CA", key="rsa2048")
    settings = PKCS11CASettings.model_validate(item(issuing))
    signer = signing_key(settings, chain_of(settings, issuing.certificate.not_valid_before_utc))
    try:
        key = token_key(signer)
        assert key.key_size == 2048
        with pytest.raises(UnsupportedAlgorithm):
            key.sign(b"", Scheme.PSS.padding(hashes.SHA256()), hashes.SHA256())
        with pytest.raises(UnsupportedAlgorithm):
            key.decrypt(b"", padding.PKCS1v15())
        signature = key.sign(b"text", padding.PKCS1v15(), hashes.SHA512())
        key.public_key().verify(signature, b"text", padding.PKCS1v15(), hashes.SHA512())
        signer.close()
        with pytest.raises(TokenError, match="closed"):
            key.sign(b"text", padding.PKCS1v15(), hashes.SHA512())
    finally:
        pass
