"""`kipuka ca create`, behind it."""

from __future__ import annotations

import os
import stat
import subprocess
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from kipuka_ca_local.config import LocalCASettings, check_settings
from kipuka_ca_local.creation import LocalCACreator

from kipuka.api import CAPlan, StartupError

NAMES = ["root.pem", "root.key", "issuing.pem", "issuing.key"]


def plan(directory, **changes):
    values = {
        "id": "issuing",
        "directory": directory,
        "common_name": "Example CA",
        "key_type": "p256",
        "root_days": 7300,
        "issuing_days": 3650,
    }
    return CAPlan(**{**values, **changes})


@pytest.fixture(autouse=True)
def _open_umask():
    """Modes must not depend on the umask."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.parametrize("key_type", ["rsa2048", "rsa3072", "p256", "p384", "p521", "ed25519"])
async def test_what_is_made_opens_and_issues_and_openssl_verifies_it(tmp_path, open_ca, make_order, key_type):
    created = LocalCACreator().create(plan(tmp_path / "ca", key_type=key_type))
    assert list(check_settings(LocalCASettings.model_validate(created.settings))) == []
    ca = await open_ca(dict(created.settings))
    assert await ca.ca_certificates() == created.chain
    leaf = (await ca.issue(make_order())).certificate
    openssl_verify(tmp_path, leaf)


def openssl_verify(directory, leaf):
    (directory / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    root, issuing = directory / "ca/root.pem", directory / "ca/issuing.pem"
    subprocess.run(
        ["openssl", "verify", "-x509_strict", "-CAfile", root, "-untrusted", issuing, directory / "leaf.pem"],
        check=True,
        capture_output=True,
    )


def test_the_root_and_the_issuing_ca_are_two(tmp_path):
    created = LocalCACreator().create(plan(tmp_path / "ca"))
    issuing, root = created.chain.certificates
    assert root.subject.rfc4514_string() == "CN=Example CA Root"
    assert issuing.subject.rfc4514_string() == "CN=Example CA"
    issuing.verify_directly_issued_by(root)
    for certificate, path_length in ((root, None), (issuing, 0)):
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value) == (
            True,
            x509.BasicConstraints(ca=True, path_length=path_length),
        )
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert (usage.value.key_cert_sign, usage.value.crl_sign, usage.value.digital_signature) == (True, True, False)
        identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert identifier == x509.SubjectKeyIdentifier.from_public_key(certificate.public_key())
    assert root.public_key() != issuing.public_key()
    assert root.serial_number != issuing.serial_number


def test_lifetimes_are_those_of_the_plan_and_the_issuing_ca_ends_with_its_root(tmp_path):
    now = datetime.now(UTC)
    short = LocalCACreator().create(plan(tmp_path / "a", root_days=100, issuing_days=10)).chain
    assert abs(short.issuer.not_valid_after_utc - now - timedelta(days=10)) < timedelta(minutes=1)
    assert abs(short.root.not_valid_after_utc - now - timedelta(days=100)) < timedelta(minutes=1)
    assert short.issuer.not_valid_before_utc <= now - timedelta(minutes=59)
    clipped = LocalCACreator().create(plan(tmp_path / "b", root_days=10, issuing_days=100)).chain
    assert clipped.issuer.not_valid_after_utc == clipped.root.not_valid_after_utc


def test_keys_are_readable_by_their_owner_alone(tmp_path):
    created = LocalCACreator().create(plan(tmp_path / "ca"))
    assert [path.name for path in created.files] == NAMES
    assert stat.S_IMODE((tmp_path / "ca").stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in created.files}
    assert modes == {"root.pem": 0o644, "root.key": 0o600, "issuing.pem": 0o644, "issuing.key": 0o600}
    assert set(created.settings) == {"cert", "key", "chain"}
    assert "root.key" not in " ".join(created.settings.values())


def test_a_key_file_has_its_mode_from_the_first_byte(tmp_path, monkeypatch):
    modes = {}
    really = os.fsync

    def look(descriptor):
        for path in (tmp_path / "ca").iterdir():
            modes.setdefault(path.name, stat.S_IMODE(path.stat().st_mode))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    LocalCACreator().create(plan(tmp_path / "ca"))
    assert (modes["root.key"], modes["issuing.key"]) == (0o600, 0o600)


def test_a_passphrase_encrypts_both_keys(tmp_path):
    created = LocalCACreator().create(plan(tmp_path / "ca", passphrase=b"correct horse"))
    for name in ("root.key", "issuing.key"):
        content = (tmp_path / "ca" / name).read_bytes()
        assert content.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
        load_pem_private_key(content, b"correct horse")
        with pytest.raises(ValueError, match=r"password|decrypt"):
            load_pem_private_key(content, b"wrong")
    assert "correct horse" not in repr(created)


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_ever_overwritten(tmp_path, name):
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o700)
    (directory / name).write_text("precious")
    with pytest.raises(FileExistsError, match=name):
        LocalCACreator().create(plan(directory))
    assert [path.name for path in directory.iterdir()] == [name]
    assert (directory / name).read_text() == "precious"


def test_a_symbolic_link_is_not_followed(tmp_path):
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o700)
    (directory / "issuing.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        LocalCACreator().create(plan(directory))
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_that_appears_meanwhile_is_kept_and_nothing_is_left_behind(tmp_path, monkeypatch):
    directory = tmp_path / "ca"
    directory.mkdir(mode=0o700)
    (directory / "issuing.key").write_text("precious")
    monkeypatch.setattr(os.path, "lexists", lambda _path: False)
    with pytest.raises(FileExistsError):
        LocalCACreator().create(plan(directory))
    assert [path.name for path in directory.iterdir()] == ["issuing.key"]
    assert (directory / "issuing.key").read_text() == "precious"


def test_a_directory_that_others_can_write_is_refused(tmp_path):
    directory = tmp_path / "ca"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(StartupError, match="has mode 0777"):
        LocalCACreator().create(plan(directory))
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"common_name": ""}, "the CA's name"),
        ({"common_name": "a\0b"}, "the CA's name"),
        ({"common_name": " a"}, "the CA's name"),
        ({"common_name": "x" * 60}, "longer than 59"),
        ({"common_name": "ü" * 30}, "longer than 59"),
        ({"key_type": "rsa1024"}, "no key type"),
        ({"root_days": 0}, "1 to 36500 days"),
        ({"issuing_days": 10**9}, "1 to 36500 days"),
        ({"passphrase": b""}, "the passphrase is empty"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused_before_anything_is_made(tmp_path, changes, complaint):
    with pytest.raises(StartupError, match=complaint):
        LocalCACreator().create(plan(tmp_path / "ca", **changes))
    assert not (tmp_path / "ca").exists()
