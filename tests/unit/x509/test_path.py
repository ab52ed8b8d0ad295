"""Which client certificates are good: the table of RULES B1, the texts of B3, and whom an anchor set trusts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from kipuka.api import CertificateProblem, PresentedCertificate
from kipuka.testing.pki import CLIENT_AUTH, SERVER_AUTH, Credential, make_key, make_root
from kipuka.x509.path import DEEPEST, REASONS, AnchorSet, check_chain, check_path, check_validity, leads_to

UNKNOWN = CertificateProblem.UNKNOWN_AUTHORITY
UNFIT = CertificateProblem.NOT_FOR_CLIENT_AUTHENTICATION
EXPIRED = CertificateProblem.EXPIRED

NOW = datetime.now(UTC)
LONG_AGO = NOW - timedelta(days=30)
LATER = NOW + timedelta(days=30)


@dataclass(frozen=True)
class Row:
    leaf: Credential
    anchors: tuple[Credential, ...]
    sent: tuple[Credential, ...] = ()


def judge(row: Row, now: datetime = NOW):
    """Both halves of the check as the server makes them: the path once, the validity on every request."""
    verdict = check_path(presented(row.leaf, *row.sent), anchor_set(*row.anchors))
    if verdict.problem is not None:
        return verdict.problem, verdict.reason
    return check_validity(verdict.path, now)


def presented(leaf: Credential, *further: Credential) -> PresentedCertificate:
    return PresentedCertificate(leaf=leaf.certificate, chain=tuple(one.certificate for one in further))


def anchor_set(*anchors: Credential) -> AnchorSet:
    return AnchorSet(tuple(anchor.certificate for anchor in anchors))


@pytest.fixture(scope="module")
def rsa_root() -> Credential:
    return make_root("RSA Root", key="rsa2048")


@pytest.fixture(scope="module")
def root() -> Credential:
    return make_root("Root", not_before=LONG_AGO)


@pytest.fixture(scope="module")
def weak_key():
    return make_key("rsa1024")


def below(root: Credential, **kwargs) -> Row:
    return Row(root.issue("device", extended_key_usage=(CLIENT_AUTH,), **kwargs), (root,))


def through(root: Credential, **kwargs) -> Row:
    issuing = root.issue_ca("Issuing CA", **kwargs)
    return Row(issuing.issue_client(), (root,), (issuing,))


def deep(root: Credential, above: int) -> Row:
    """A leaf with so many certificates above it, the root included."""
    authorities = [root]
    for level in range(above - 1):
        authorities.insert(0, authorities[0].issue_ca(f"CA {level}"))
    return Row(authorities[0].issue_client(), (root,), tuple(authorities[:-1]))


def missing(root: Credential) -> Row:
    row = through(root)
    return Row(row.leaf, row.anchors)


def unknown(root: Credential) -> Row:
    foreign = make_root("Foreign Root")
    row = through(foreign)
    return Row(row.leaf, (root,), (*row.sent, foreign))


def self_signed(root: Credential) -> Row:
    leaf = make_root("device", ca=False, key_usage=("digital_signature",), extended_key_usage=(CLIENT_AUTH,))
    return Row(leaf, (root,))


def forged(root: Credential) -> Row:
    """Somebody who has the CA's name but not its key."""
    return Row(make_root("Root").issue_client(break_signature=True), (root,))


def name_constraints_broken(root: Credential) -> Row:
    issuing = root.issue_ca("Issuing CA", permitted_dns=("example.com",))
    return Row(issuing.issue_client(dns=("device.example.org",)), (root,), (issuing,))


def path_length_broken(root: Credential) -> Row:
    upper = root.issue_ca("Upper CA", path_length=0)
    lower = upper.issue_ca("Lower CA")
    return Row(lower.issue_client(), (root,), (lower, upper))


def not_a_ca(root: Credential) -> Row:
    """A client that issues certificates with its own."""
    device = root.issue_client("device")
    return Row(device.issue_client("second"), (root,), (device,))


def server_only(root: Credential) -> Row:
    return Row(root.issue("device", extended_key_usage=(SERVER_AUTH,)), (root,))


def any_usage(root: Credential) -> Row:
    return Row(root.issue("device", extended_key_usage=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)), (root,))


BAD = [
    pytest.param("leaf_signature_md5", UNFIT, lambda f: below(f.rsa_root, signature="md5"), id="leaf MD5"),
    pytest.param("leaf_signature_sha1", UNFIT, lambda f: below(f.rsa_root, signature="sha1"), id="leaf SHA-1"),
    pytest.param("leaf_signature_sha1", UNFIT, lambda f: below(f.root, signature="sha1"), id="leaf ECDSA with SHA-1"),
    pytest.param("leaf_key_too_small", UNFIT, lambda f: below(f.root, key=f.weak_key), id="leaf RSA-1024"),
    pytest.param("leaf_key_type", UNFIT, lambda f: below(f.root, key="k256"), id="leaf of a curve that is not taken"),
    pytest.param("leaf_is_ca", UNFIT, lambda f: below(f.root, ca=True), id="leaf CA:TRUE"),
    pytest.param(
        "leaf_key_usage", UNFIT, lambda f: below(f.root, key_usage=("key_encipherment",)), id="no digitalSignature"
    ),
    pytest.param("leaf_extended_key_usage", UNFIT, lambda f: server_only(f.root), id="EKU serverAuth only"),
    pytest.param("leaf_extended_key_usage", UNFIT, lambda f: any_usage(f.root), id="EKU anyExtendedKeyUsage only"),
    pytest.param("expired", EXPIRED, lambda f: below(f.root, not_after=NOW - timedelta(hours=1)), id="expired"),
    pytest.param("not_yet_valid", UNFIT, lambda f: below(f.root, not_before=LATER), id="not yet valid"),
    pytest.param("bad_signature", UNKNOWN, lambda f: below(f.root, break_signature=True), id="bad signature"),
    pytest.param("self_signed", UNKNOWN, lambda f: self_signed(f.root), id="self-signed"),
    pytest.param(
        "intermediate_key_too_small", UNFIT, lambda f: through(f.root, key=f.weak_key), id="intermediate RSA-1024"
    ),
    pytest.param(
        "intermediate_extended_key_usage",
        UNFIT,
        lambda f: through(f.root, extended_key_usage=(SERVER_AUTH,)),
        id="intermediate serverAuth only",
    ),
    pytest.param(
        "intermediate_signature_md5", UNFIT, lambda f: through(f.rsa_root, signature="md5"), id="intermediate MD5"
    ),
    pytest.param(
        "intermediate_expired",
        UNKNOWN,
        lambda f: through(f.root, not_before=LONG_AGO, not_after=NOW - timedelta(days=1)),
        id="intermediate expired",
    ),
    pytest.param(
        "intermediate_not_yet_valid", UNKNOWN, lambda f: through(f.root, not_before=LATER), id="intermediate too early"
    ),
    pytest.param("intermediate_missing", UNKNOWN, lambda f: missing(f.root), id="intermediate missing"),
    pytest.param("intermediate_not_ca", UNKNOWN, lambda f: not_a_ca(f.root), id="intermediate CA:FALSE"),
    pytest.param("path_length", UNKNOWN, lambda f: path_length_broken(f.root), id="pathLen broken"),
    pytest.param("name_constraints", UNKNOWN, lambda f: name_constraints_broken(f.root), id="name constraint broken"),
    pytest.param("too_deep", UNKNOWN, lambda f: deep(f.root, 9), id="depth 9"),
    pytest.param("unknown_authority", UNKNOWN, lambda f: unknown(f.root), id="unknown anchor"),
]

GOOD = [
    pytest.param(lambda f: below(f.root), id="ECDSA P-256"),
    pytest.param(lambda f: below(f.root, key="p384"), id="P-384 leaf"),
    pytest.param(lambda f: below(f.root, key="p521"), id="P-521 leaf"),
    pytest.param(lambda f: below(make_root(key="p384"), signature="sha384"), id="signed with P-384"),
    pytest.param(lambda f: below(make_root(key="p521"), signature="sha512"), id="signed with P-521"),
    pytest.param(lambda f: below(make_root(key="ed25519"), key="ed25519"), id="Ed25519"),
    pytest.param(lambda f: below(f.rsa_root, signature="pss"), id="RSA-PSS"),
    pytest.param(lambda f: below(f.rsa_root), id="RSA PKCS#1"),
    pytest.param(lambda f: below(f.root, key_usage=None), id="no keyUsage"),
    pytest.param(lambda f: Row(f.root.issue("device", extended_key_usage=None), (f.root,)), id="no EKU"),
    pytest.param(lambda f: Row(f.root.issue("device", ca=None), (f.root,)), id="no basic constraints"),
    pytest.param(lambda f: through(f.root), id="one intermediate"),
    pytest.param(lambda f: through(f.root, extended_key_usage=(SERVER_AUTH, CLIENT_AUTH)), id="intermediate for both"),
    pytest.param(lambda f: Row((row := through(f.root)).leaf, row.sent), id="issuing CA alone as anchor"),
    pytest.param(lambda f: deep(f.root, 8), id="depth 8"),
]


@pytest.fixture
def f(root: Credential, rsa_root: Credential, weak_key):
    class Fixtures:
        pass

    Fixtures.root, Fixtures.rsa_root, Fixtures.weak_key = root, rsa_root, weak_key
    return Fixtures


@pytest.mark.parametrize(("reason", "problem", "make"), BAD)
def test_a_bad_certificate_is_refused_with_its_own_reason(f, reason, problem, make):
    """RULES B1, B3: each bad row of the table has its audit reason and its text."""
    assert judge(make(f)) == (problem, reason)


@pytest.mark.parametrize("make", GOOD)
def test_a_good_certificate_is_accepted(f, make):
    """RULES B1: the good rows of the table."""
    row = make(f)
    verdict = check_path(presented(row.leaf, *row.sent), anchor_set(*row.anchors))
    assert (verdict.problem, verdict.reason) == (None, None)
    assert verdict.path[0] == row.leaf.certificate
    assert verdict.path[-1] in {anchor.certificate for anchor in row.anchors}
    assert check_validity(verdict.path, NOW) is None


def test_openssl_alone_would_accept_the_weak_rows(f):
    """RULES B1: why the chain is looked at again; where this fails OpenSSL has learnt it, and the check may move."""
    rows = [
        below(f.rsa_root, signature="md5"),
        below(f.root, key=f.weak_key),
        below(f.root, ca=True),
        through(f.root, extended_key_usage=(SERVER_AUTH,)),
    ]
    for row in rows:
        chain = anchor_set(*row.anchors).search(
            crypto.X509.from_cryptography(row.leaf.certificate),
            [crypto.X509.from_cryptography(one.certificate) for one in row.sent],
        )
        assert len(chain) == 2 + len(row.sent)


def test_a_certificate_that_cannot_be_parsed_has_no_path(root):
    """RULES B3: what cannot be read is signed by nobody known."""
    verdict = check_path(PresentedCertificate(leaf=None, error="no"), anchor_set(root))
    assert (verdict.problem, verdict.reason, verdict.path) == (UNKNOWN, "unparsable", ())


@pytest.mark.parametrize("oid", ["2.5.29.19", "2.5.29.15", "2.5.29.37", "2.5.29.17"])
def test_extensions_that_cannot_be_read_are_unparsable_and_no_exception(root, oid):
    """RULES B1: whatever a peer sends ends in a verdict, and the reason is the true one."""
    garbage = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x30\x03garbage")
    extension = x509.Extension(garbage.oid, critical=False, value=garbage)
    leaf = root.issue("odd", ca=None, key_usage=None, extensions=(extension,))
    assert judge(Row(leaf, (root,))) == (UNKNOWN, "unparsable")


def test_a_repeated_extension_is_unparsable(root):
    """RFC 5280, 4.2: no extension twice; which of the two would be believed?"""
    usage = x509.ExtendedKeyUsage((CLIENT_AUTH,))
    extension = x509.Extension(usage.oid, critical=False, value=usage)
    leaf = root.issue("odd", extended_key_usage=(SERVER_AUTH,), extensions=(extension,))
    assert judge(Row(leaf, (root,))) == (UNKNOWN, "unparsable")


def test_an_authority_with_names_that_only_openssl_can_read_makes_no_path(root):
    """RULES B1: an X.400 address in an intermediate is a refusal, and not an exception."""
    x400 = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x30\x04\xa3\x02\x30\x00")
    extension = x509.Extension(x400.oid, critical=False, value=x400)
    issuing = root.issue("Issuing CA", ca=True, key_usage=("key_cert_sign",), extensions=(extension,))
    assert judge(Row(issuing.issue_client(), (root,), (issuing,))) == (UNKNOWN, "unparsable")


def test_an_unknown_critical_extension_is_refused(root):
    """RFC 5280, 4.2: a certificate with a critical extension that is not understood must be rejected."""
    odd = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
    leaf = root.issue("odd", extensions=(x509.Extension(odd.oid, critical=True, value=odd),))
    assert judge(Row(leaf, (root,))) == (UNFIT, "critical_extension")


def test_a_root_that_the_peer_sends_along_is_not_trusted(root):
    """DESIGN.md, guarantee 4: only anchors are trusted, whatever else is presented."""
    foreign = make_root("Foreign Root")
    assert judge(Row(foreign.issue_client(), (root,), (foreign,))) == (UNKNOWN, "unknown_authority")
    assert judge(Row(foreign.issue_client(), (), (foreign,))) == (UNKNOWN, "unknown_authority")


def test_an_anchor_of_one_purpose_says_nothing_for_another(root):
    """RULES A1; DESIGN.md, guarantee 4: sets are never united, in either order of asking."""
    admin_root = make_root("Admin Root")
    est, admin = anchor_set(root), anchor_set(admin_root)
    device, administrator = root.issue_client(), admin_root.issue_client()
    for _ in range(2):
        assert check_path(presented(device), est).problem is None
        assert check_path(presented(administrator), admin).problem is None
        assert check_path(presented(device), admin).problem is UNKNOWN
        assert check_path(presented(administrator), est).problem is UNKNOWN


def test_an_issuing_ca_of_another_set_is_no_intermediate_here(root):
    """DESIGN.md, guarantee 4: an anchor elsewhere does not even help to build a path."""
    issuing = root.issue_ca()
    anchor_set(issuing)
    assert judge(Row(issuing.issue_client(), (root,))) == (UNKNOWN, "intermediate_missing")


def test_an_anchor_is_no_client(root):
    """RULES B1: with PARTIAL_CHAIN an anchor is a path by itself; it is still not a client certificate."""
    assert judge(Row(root, (root,))) == (UNFIT, "leaf_is_ca")
    lonely = make_root("device", ca=False, key_usage=("digital_signature",))
    assert judge(Row(lonely, (lonely,))) == (UNKNOWN, "self_signed")
    foreign = make_root("Foreign Root").issue_client()
    assert judge(Row(foreign, (foreign,))) == (UNKNOWN, "leaf_is_anchor")


def test_a_weak_anchor_vouches_for_nobody(weak_key):
    """RULES B1: key sizes are checked on the whole path."""
    weak = make_root("Weak Root", key=weak_key)
    assert judge(Row(weak.issue_client(), (weak,))) == (UNFIT, "anchor_key_too_small")


def test_an_anchor_for_servers_only_vouches_for_no_client():
    """RULES B1: the usages of an authority are checked on the whole path, an issuing CA alone as anchor included."""
    issuing = make_root().issue_ca("Issuing CA", extended_key_usage=(SERVER_AUTH,))
    assert judge(Row(issuing.issue_client(), (issuing,))) == (UNFIT, "anchor_extended_key_usage")


def test_the_signature_on_an_anchor_does_not_matter():
    """RULES B1: an old root that signed itself with SHA-1 is trusted for its key, not for that signature."""
    old = make_root("Old Root", key="rsa2048", signature="sha1")
    assert judge(below(old)) is None


def test_an_expired_certificate_still_has_its_path(root):
    """RULES B2, B4: validity is no part of the cached verdict, so that a late renewal can be recognised."""
    leaf = root.issue_client(not_after=NOW - timedelta(hours=1))
    verdict = check_path(presented(leaf), anchor_set(root))
    assert verdict.problem is None
    assert check_validity(verdict.path, NOW) == (EXPIRED, "expired")
    assert check_validity(verdict.path, leaf.certificate.not_valid_after_utc) is None


def test_validity_is_looked_at_anew_on_every_request(root):
    """RULES B2: a kept connection does not outlive its certificate."""
    leaf = root.issue_client(not_before=NOW - timedelta(hours=2), not_after=NOW + timedelta(hours=2))
    path = check_path(presented(leaf), anchor_set(root)).path
    assert check_validity(path, NOW) is None
    assert check_validity(path, NOW + timedelta(hours=3)) == (EXPIRED, "expired")
    assert check_validity(path, NOW - timedelta(hours=3)) is not None


def test_expired_means_that_nothing_but_the_leaf_is(root):
    """RULES B4: leniency for an expired leaf must not reach an expired authority."""
    issuing = root.issue_ca(not_before=LONG_AGO, not_after=NOW - timedelta(days=1))
    leaf = issuing.issue_client(not_before=LONG_AGO, not_after=NOW - timedelta(days=2))
    assert judge(Row(leaf, (root,), (issuing,))) == (UNKNOWN, "intermediate_expired")


def test_an_expired_anchor_is_refused():
    """RULES B2: what stands in the anchors file is not good for ever."""
    root = make_root(not_before=LONG_AGO, not_after=NOW - timedelta(days=1))
    assert judge(Row(root.issue_client(), (root,))) == (UNKNOWN, "anchor_expired")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_renewed_authority_serves_beside_its_expired_certificate(order):
    """RULES B1: with both in the bundle, the one that is valid today makes the path, whatever their order."""
    key = make_key()
    old = make_root("Root", key=key, not_before=LONG_AGO, not_after=NOW - timedelta(days=1))
    new = make_root("Root", key=key)
    anchors = tuple((old, new)[place] for place in order)
    assert judge(Row(new.issue_client(), anchors)) is None


def test_an_anchor_set_is_known_by_its_certificates(root, rsa_root):
    """RULES B2: the generation changes when the certificates do, and not with their order."""
    assert anchor_set(root, rsa_root).id == anchor_set(rsa_root, root, root).id
    assert anchor_set(root).id != anchor_set(root, rsa_root).id
    assert anchor_set().id != anchor_set(root).id


def test_a_flood_of_certificates_is_not_searched(root):
    """RULES B1: a path is short, and so is the work for one peer."""
    issuing = root.issue_ca()
    assert judge(Row(issuing.issue_client(), (root,), (issuing,) * 40)) == (UNKNOWN, "too_deep")


def test_every_reason_has_one_of_the_texts():
    """RULES B3: three of the four texts; revocation is the store's to say."""
    assert set(REASONS.values()) == {UNKNOWN, UNFIT, EXPIRED}
    assert [reason for reason, problem in REASONS.items() if problem is EXPIRED] == ["expired"]
    assert DEEPEST == 8


def test_a_chain_that_ends_in_a_root_is_taken(root):
    """RULES F7: issuing CA first, root last."""
    issuing = root.issue_ca()
    check_chain([issuing.certificate, root.certificate])
    check_chain([root.certificate])


def test_a_chain_that_does_not_end_in_a_root_or_is_not_linked_is_refused(root, rsa_root):
    """RULES F7: a chain must end in a root."""
    issuing = root.issue_ca("Issuing CA")
    for chain, sentence in [
        ([], "at least one"),
        ([issuing], "CN=Issuing CA, which is not a root"),
        ([root, issuing], "not followed by its issuer"),
        ([issuing, rsa_root], "CN=Issuing CA is not followed by its issuer"),
        ([issuing, make_root("Root")], "not signed by CN=Root"),
        ([root.issue_client("device"), root], "CN=device is not a CA certificate"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            check_chain([one.certificate for one in chain])


# --- whether a CA's certificates would lead to an anchor (RULES E2)


def test_a_chain_leads_to_an_anchor_that_is_in_it_or_above_it(root):
    issuing = root.issue_ca("Issuing CA")
    chain = [issuing.certificate, root.certificate]
    assert leads_to(chain, anchor_set(make_root("Other"), root)) == root.certificate
    assert leads_to(chain, anchor_set(issuing)) == issuing.certificate
    assert leads_to(chain[:1], anchor_set(root)) == root.certificate
    assert leads_to(chain, anchor_set(make_root("Other"))) is None


def test_an_anchor_stands_for_its_name_and_key(root):
    """A renewed or cross-signed certificate of the same CA is as good an anchor; another key of that name is not."""
    issuing = root.issue_ca("Issuing CA")
    cross = make_root("Other").issue_ca("Issuing CA", key=issuing.key)
    chain = [issuing.certificate, root.certificate]
    assert leads_to(chain, anchor_set(cross)) == cross.certificate
    assert leads_to(chain, anchor_set(make_root("Issuing CA"))) is None
    assert leads_to(chain, anchor_set(make_root("Other").issue_ca("Another name", key=issuing.key))) is None
