"""Which files make an authority, and what is said of those that do not: RULES F7."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from kipuka_ca_local.config import LocalCASettings, check_settings

from kipuka.api import CABackend, StartupError
from kipuka.testing.pki import Credential, make_key, make_root

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
LATER = NOW + 365 * DAY


def findings(values):
    return list(check_settings(LocalCASettings.model_validate(values)))


def three_tiers():
    return make_root().issue_ca("Policy CA", path_length=1).issue_ca("Issuing CA", path_length=0)


@pytest.mark.parametrize("key", ["rsa2048", "p256", "p384", "p521", "ed25519"])
async def test_a_good_authority_shows_its_chain_with_the_issuing_certificate_first(open_ca, key):
    issuing = make_root(key=key).issue_ca("Issuing CA", key=key)
    ca: CABackend = await open_ca(issuing)
    chain = await ca.ca_certificates()
    assert chain.certificates == (issuing.certificate, issuing.root.certificate)


async def test_a_root_alone_is_an_authority(open_ca):
    root = make_root()
    assert (await (await open_ca(root)).ca_certificates()).certificates == (root.certificate,)


async def test_an_old_root_may_keep_its_old_signature(open_ca):
    """Nobody trusts a root for its own signature."""
    root = make_root(signature="sha1")
    assert (await (await open_ca(root.issue_ca("Issuing CA"))).ca_certificates()).root == root.certificate


async def test_three_tiers_are_read_in_order(open_ca):
    issuing = three_tiers()
    chain = await (await open_ca(issuing)).ca_certificates()
    assert [one.subject for one in chain.certificates] == [
        one.certificate.subject for one in (issuing, issuing.issuer, issuing.root)
    ]


async def test_the_chain_may_stand_behind_the_certificate_or_begin_with_it(open_ca, write_authority, tmp_path):
    issuing = three_tiers()
    values = write_authority(issuing, chain=[issuing, issuing.issuer, issuing.root])
    expected = (await (await open_ca(values)).ca_certificates()).certificates
    assert len(expected) == 3
    (tmp_path / "ca.pem").write_bytes(issuing.pem + issuing.issuer.pem + issuing.root.pem)
    del values["chain"]
    assert (await (await open_ca(values)).ca_certificates()).certificates == expected


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
async def test_an_encrypted_key_opens_with_its_password(open_ca, write_authority, tmp_path, form):
    issuing = make_root().issue_ca("Issuing CA")
    values = write_authority(issuing)
    (tmp_path / "ca.key").write_bytes(
        issuing.key.private_bytes(Encoding.PEM, form, BestAvailableEncryption("pässword".encode()))
    )
    (tmp_path / "password").write_text("pässword\n", encoding="utf-8")
    await open_ca({**values, "key_password": f"file:{tmp_path / 'password'}"})
    for wrong, complaint in (({}, "is encrypted"), ({"key_password": "other"}, "cannot be decrypted")):
        (finding,) = findings({**values, **wrong})
        assert (finding.severity, finding.key) == ("error", "key_password")
        assert complaint in finding.problem
        with pytest.raises(StartupError, match="key_password: ") as caught:
            await open_ca({**values, **wrong})
        assert "pässword" not in str(caught.value)
        assert "other" not in str(caught.value)


def test_a_password_for_a_key_that_is_not_encrypted_is_refused(write_authority):
    (finding,) = findings({**write_authority(make_root()), "key_password": "x"})
    assert (finding.key, finding.remedy) == ("key_password", "leave key_password out")


def test_the_password_is_not_shown():
    """DESIGN guarantee 8."""
    settings = LocalCASettings.model_validate({"cert": "a", "key": "b", "key_password": "tell-nobody"})
    assert "tell-nobody" not in repr(settings) + str(settings.model_dump()) + settings.model_dump_json()


def expired():
    return make_root().issue_ca("Issuing CA", not_before=NOW - 2 * DAY, not_after=NOW - DAY)


def bad_order():
    issuing = three_tiers()
    return issuing, [issuing.root, issuing.issuer]


def foreign_root():
    issuing = make_root().issue_ca("Issuing CA")
    return issuing, [make_root()]


def no_root():
    issuing = three_tiers()
    return issuing, [issuing.issuer]


def no_root_but_an_old_signature():
    issuing = make_root().issue_ca("Policy CA", signature="sha1").issue_ca("Issuing CA")
    return issuing, [issuing.issuer]


def alone():
    return make_root().issue_ca("Issuing CA"), []


@pytest.mark.parametrize(
    ("make", "key", "complaint"),
    [
        pytest.param(expired, "cert", "expired at", id="expired"),
        pytest.param(
            lambda: make_root().issue_ca("Issuing CA", not_before=NOW + DAY, not_after=NOW + 2 * DAY),
            "cert",
            "is not valid before",
            id="not yet valid",
        ),
        pytest.param(lambda: make_root().issue("Not a CA", ca=False), "cert", "is not a CA certificate", id="CA:FALSE"),
        pytest.param(
            lambda: make_root().issue("Not a CA", ca=None), "cert", "is not a CA certificate", id="no constraints"
        ),
        pytest.param(
            lambda: make_root().issue("Odd CA", ca=True, key_usage=("digital_signature",)),
            "cert",
            "lacks keyCertSign",
            id="keyUsage",
        ),
        pytest.param(
            lambda: make_root(not_after=NOW - DAY, not_before=NOW - 9 * DAY), "cert", "expired at", id="root expired"
        ),
        pytest.param(
            lambda: make_root(not_after=NOW - DAY, not_before=NOW - 9 * DAY).issue_ca("Issuing CA"),
            "chain",
            "expired at",
            id="root above expired",
        ),
        pytest.param(
            lambda: make_root(ca=False).issue_ca("Issuing CA"), "chain", "is not a CA certificate", id="root is no CA"
        ),
        pytest.param(
            lambda: make_root().issue_ca("A", path_length=0).issue_ca("B"),
            "chain",
            "allows 0 CA certificates",
            id="pathlen",
        ),
        pytest.param(
            lambda: make_root().issue_ca("Issuing CA", signature="sha1"), "cert", "is signed with SHA1", id="SHA-1"
        ),
        pytest.param(lambda: make_root().issue_ca("Issuing CA", key="rsa1024"), "key", "1024 bits", id="RSA-1024"),
        pytest.param(lambda: make_root().issue_ca("Issuing CA", key="p224"), "key", "secp224r1", id="P-224"),
        pytest.param(lambda: make_root().issue_ca("Issuing CA", key="k256"), "key", "secp256k1", id="secp256k1"),
        pytest.param(lambda: make_root().issue_ca("Issuing CA", key="ed448"), "key", "neither RSA", id="Ed448"),
        pytest.param(bad_order, "chain", "is not signed by", id="chain out of order"),
        pytest.param(foreign_root, "chain", "is not signed by", id="another root of the same name"),
        pytest.param(no_root, "chain", "which is not a root", id="chain without a root"),
        pytest.param(
            no_root_but_an_old_signature, "chain", "which is not a root", id="chain ends in a SHA-1 signature"
        ),
        pytest.param(alone, "chain", "which is not a root", id="no chain"),
    ],
)
async def test_what_is_no_authority_is_refused_at_start(write_authority, open_ca, make, key, complaint):
    """RULES F7: a chain must end in a root. The same is found by `kipuka check`."""
    made = make()
    issuing, chain = made if isinstance(made, tuple) else (made, None)
    assert isinstance(issuing, Credential)
    values = write_authority(issuing, chain=chain)
    (finding,) = findings(values)
    assert (finding.severity, finding.key) == ("error", key)
    assert complaint in finding.problem
    with pytest.raises(StartupError, match=f"^{key}: .*{complaint}"):
        await open_ca(values)


def test_a_key_that_is_not_the_certificates_is_refused(write_authority, tmp_path):
    values = write_authority(make_root())
    other = make_key()
    (tmp_path / "ca.key").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (finding,) = findings(values)
    assert (finding.severity, finding.key) == ("error", "key")
    assert "is not the key of the certificate" in finding.problem


@pytest.mark.parametrize(
    ("name", "content", "key", "complaint"),
    [
        ("ca.pem", None, "cert", "cannot read"),
        ("ca.pem", b"", "cert", "no PEM certificate"),
        ("ca.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "cert", "cannot be read"),
        ("ca.key", None, "key", "cannot read"),
        ("ca.key", b"", "key", "no private key in PEM"),
        ("ca.key", b"\xff\x00", "key", "no private key in PEM"),
        ("ca.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "key", "no private key in PEM"),
        ("chain.pem", None, "chain", "cannot read"),
        ("chain.pem", b"nothing", "chain", "no PEM certificate"),
    ],
)
def test_files_that_are_none_are_named(write_authority, tmp_path, *, name, content, key, complaint):
    values = write_authority(make_root().issue_ca("Issuing CA"))
    path = tmp_path / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    (finding,) = findings(values)
    assert (finding.severity, finding.key) == ("error", key)
    assert complaint in finding.problem
    assert str(path) in finding.problem


def test_a_key_of_another_kind_is_refused(write_authority, tmp_path):
    values = write_authority(make_root())
    key = dsa.generate_private_key(1024)
    (tmp_path / "ca.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (finding,) = findings(values)
    assert "neither RSA" in finding.problem


def test_a_good_authority_has_no_findings(write_authority):
    assert findings(write_authority(make_root().issue_ca("Issuing CA", not_after=NOW + 60 * DAY))) == []


@pytest.mark.parametrize(
    ("mode", "warned"), [(0o600, False), (0o640, False), (0o644, True), (0o660, True), (0o604, True)]
)
def test_a_key_that_others_can_read_is_warned_about(write_authority, tmp_path, mode, warned):
    values = write_authority(make_root(not_after=LATER))
    (tmp_path / "ca.key").chmod(mode)
    found = findings(values)
    assert [(one.severity, one.key) for one in found] == ([("warning", "key")] if warned else [])


def test_an_authority_that_ends_soon_is_warned_about(write_authority):
    (finding,) = findings(write_authority(make_root().issue_ca("Issuing CA", not_after=NOW + 29 * DAY)))
    assert (finding.severity, finding.key) == ("warning", "cert")
    assert "expires on" in finding.problem


@pytest.mark.parametrize(
    ("usages", "warned"),
    [
        ([ExtendedKeyUsageOID.SERVER_AUTH], True),
        ([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH], False),
    ],
)
def test_an_issuer_under_which_no_client_is_good_is_warned_about(write_authority, usages, warned):
    """RULES B1: an intermediate that has an extended key usage must have clientAuth in it."""
    found = findings(write_authority(make_root().issue_ca("Issuing CA", extended_key_usage=usages, not_after=LATER)))
    assert bool(found) is warned


def test_every_key_is_described():
    assert all(field.description for field in LocalCASettings.model_fields.values())


def test_relative_paths_are_relative_to_the_configuration_file(tmp_path):
    """RULES K6."""
    settings = LocalCASettings.model_validate({"cert": "ca/i.pem", "key": "ca/i.key"}, context={"base": tmp_path})
    assert settings.cert == tmp_path / "ca/i.pem"
