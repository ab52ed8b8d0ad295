"""What a CA handed back is compared with what was ordered (RULES F6)."""

from __future__ import annotations

from dataclasses import replace
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


def test_an_extension_is_as_critical_as_it_was_ordered():
    """RULES F6. One that became critical keeps verifiers away, one that is no longer lets them pass."""
    usage, san = ORDER.extensions
    for critical in (True, False):
        ordered = replace(ORDER, extensions=(x509.Extension(usage.oid, critical, usage.value), san))
        problem = mismatch(ordered, returned(), ROOT.certificate)
        assert problem == ("its extension 2.5.29.37 is not critical, unlike the ordered one" if critical else None)


@pytest.mark.parametrize("oid", ["1.3.6.1.5.5.7.1.14", "2.16.840.1.113730.1.1", "1.3.6.1.4.1.311.25.2"])
def test_an_extension_that_says_more_of_the_holder_is_a_mismatch(oid):
    """RULES F6: nothing that widens what was ordered, whatever it is called; what says where the CRL is, does not."""
    kind = x509.ObjectIdentifier(oid)
    extra = x509.Extension(kind, False, x509.UnrecognizedExtension(kind, b"\x05\x00"))
    problem = mismatch(ORDER, returned(extensions=(extra,)), ROOT.certificate)
    assert problem == f"it has an extension {oid} that was not ordered"
    points = x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier("http://pki.example/ca.crl")], None, None, None)]
    )
    harmless = x509.Extension(points.oid, False, points)
    assert mismatch(ORDER, returned(extensions=(harmless,)), ROOT.certificate) is None
    ordered = replace(ORDER, extensions=(*ORDER.extensions, extra))
    assert mismatch(ordered, returned(extensions=(extra,)), ROOT.certificate) is None


def test_a_certificate_outside_the_issuers_name_constraints_is_a_mismatch():
    """RULES F6: the issuer's name constraints."""
    allowed = ROOT.issue_ca("Constrained CA", permitted_dns=("example",))
    narrow = ROOT.issue_ca("Narrow CA", permitted_dns=("other.example",))
    assert mismatch(ORDER, returned(issuer=allowed), allowed.certificate) is None
    problem = mismatch(ORDER, returned(issuer=narrow), narrow.certificate)
    assert problem is not None
    assert "constraints" in problem
