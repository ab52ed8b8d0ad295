"""What a CA handed back is compared with what was ordered (RULES F6)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kipuka.api import Order
from kipuka.testing.pki import CLIENT_AUTH, SERVER_AUTH, common_name, make_key, make_root
from kipuka.x509.issued import mismatch

NOW = datetime.now(UTC)
KEY = make_key("p256")
ROOT = make_root("Ordering CA")
ORDER = Order(
    id="o",
    ca="main",
    subject=common_name("ws42"),
    public_key=KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    extensions=(
        x509.Extension(x509.ExtendedKeyUsage.oid, False, x509.ExtendedKeyUsage([CLIENT_AUTH])),
        x509.Extension(
            x509.SubjectAlternativeName.oid, False, x509.SubjectAlternativeName([x509.DNSName("ws42.example")])
        ),
    ),
    not_before=NOW - timedelta(minutes=5),
    not_after=NOW + timedelta(days=1),
    csr=b"",
)
GOOD = {
    "key": KEY,
    "extended_key_usage": (CLIENT_AUTH,),
    "dns": ("ws42.example",),
    "key_usage": None,
    "not_before": ORDER.not_before,
    "not_after": ORDER.not_after,
}


def returned(issuer=ROOT, subject="ws42", **changes):
    return issuer.issue(subject, **(GOOD | changes)).certificate


def test_what_was_ordered_is_accepted():
    assert mismatch(ORDER, returned(), ROOT.certificate) is None


def test_a_clipped_validity_is_accepted():
    clipped = returned(not_after=NOW + timedelta(hours=1))
    assert mismatch(ORDER, clipped, ROOT.certificate) is None


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        pytest.param(returned(issuer=make_root("Ordering CA")), "not signed by", id="another CA of the same name"),
        pytest.param(returned(break_signature=True), "not signed by", id="broken signature"),
        pytest.param(returned(key="p256"), "public key", id="another key"),
        pytest.param(returned(subject="dc01"), "subject", id="another subject"),
        pytest.param(returned(dns=("dc01.example",)), "2.5.29.17", id="another alternative name"),
        pytest.param(returned(dns=()), "2.5.29.17", id="a name lost"),
        pytest.param(returned(extended_key_usage=(CLIENT_AUTH, SERVER_AUTH)), "2.5.29.37", id="wider usage"),
        pytest.param(returned(key_usage=("key_cert_sign",)), "2.5.29.15", id="key usage not ordered"),
        pytest.param(returned(ca=True), "CA certificate", id="CA:TRUE"),
        pytest.param(returned(not_after=NOW + timedelta(days=2)), "longer", id="longer validity"),
        pytest.param(returned(not_before=NOW - timedelta(days=2)), "earlier", id="earlier validity"),
    ],
)
def test_anything_else_is_a_mismatch(certificate, said):
    """RULES F6: signature, SPKI, names, usages, CA:FALSE, validity."""
    problem = mismatch(ORDER, certificate, ROOT.certificate)
    assert problem is not None
    assert said in problem


def test_a_certificate_outside_the_issuers_name_constraints_is_a_mismatch():
    """RULES F6: the issuer's name constraints."""
    allowed = ROOT.issue_ca("Constrained CA", permitted_dns=("example",))
    narrow = ROOT.issue_ca("Narrow CA", permitted_dns=("other.example",))
    assert mismatch(ORDER, returned(issuer=allowed), allowed.certificate) is None
    problem = mismatch(ORDER, returned(issuer=narrow), narrow.certificate)
    assert problem is not None
    assert "constraints" in problem
