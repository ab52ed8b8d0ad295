"""`kipuka init`."""

from __future__ import annotations

import hashlib
import re
import stat
import subprocess
import tomllib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kipuka.cli import init
from kipuka.x509.names import format_general_name


def init_at(kipuka, directory, *more, **options):
    return kipuka("init", directory, "--host", "localhost", "--listen", "127.0.0.1:8443", *more, **options)


def mode_of(file):
    return stat.S_IMODE(file.stat().st_mode)


def test_a_deployment_can_be_read_by_its_owner_alone(deployment):
    assert mode_of(deployment.directory) == 0o700
    open_to_all = {
        str(file.relative_to(deployment.directory))
        for file in deployment.directory.rglob("*")
        if file.is_file() and mode_of(file) & 0o077
    }
    assert open_to_all <= {
        "trust.pem",
        "client-anchors.pem",
        "audit.pub",
        "tls/server.pem",
        "ca/root.pem",
        "ca/issuing.pem",
    }
    assert mode_of(deployment.directory / "admin.token") == 0o600


def test_check_finds_nothing_wrong_with_a_new_deployment(deployment, kipuka_json):
    assert kipuka_json("check") == {"ok": True, "findings": []}


def test_trust_is_the_root_and_verifies_the_servers_certificate(deployment):
    """A client gives trust.pem to --cacert, and a chain must end in a root (RULES F7)."""
    root = x509.load_pem_x509_certificate(deployment.trust)
    assert root.subject == root.issuer
    done = subprocess.run(
        [
            "openssl",
            "verify",
            "-purpose",
            "sslserver",
            "-verify_hostname",
            "localhost",
            "-CAfile",
            "trust.pem",
            "-untrusted",
            "tls/server.pem",
            "tls/server.pem",
        ],
        cwd=deployment.directory,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_anchors_are_the_issuing_ca_and_nothing_else(deployment):
    """RULES A5: anchors are never implied, so init writes the issuing CA into the file."""
    (anchor,) = x509.load_pem_x509_certificates((deployment.directory / "client-anchors.pem").read_bytes())
    assert anchor == x509.load_pem_x509_certificate((deployment.directory / "ca" / "issuing.pem").read_bytes())
    assert deployment.settings["tls"]["client_auth"] == {"mode": "optional", "trust_anchors": "client-anchors.pem"}


def test_the_lookup_key_is_a_file_of_its_own(deployment):
    """RULES D1: the key under which tokens are found is in a secret file, made by init."""
    key = deployment.directory / deployment.settings["otp"]["lookup_key"]
    assert len(key.read_bytes()) >= 32
    assert mode_of(key) == 0o600
    assert key.read_bytes() not in deployment.database.read_bytes()


def test_the_administrators_token_is_stored_as_its_hash(deployment, kipuka_json):
    """RULES E3: 256 random bits, of which only the SHA-256 is kept."""
    token = deployment.admin_token
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    stored = b"".join(file.read_bytes() for file in deployment.directory.glob("kipuka.db*"))
    assert token.encode() not in stored
    assert hashlib.sha256(token.encode()).hexdigest().encode() in stored
    assert [item["description"] for item in kipuka_json("admin", "token", "list")] == ["made by kipuka init"]


def test_what_was_made_is_in_the_audit_log(deployment, kipuka):
    text = kipuka("audit", "tail").stdout
    for event in ("ca_created", "certificate_issued", "admin_token_created"):
        assert event in text
    assert "the audit log is intact" in kipuka("audit", "verify").stdout


def test_the_folder_can_be_moved(deployment, kipuka):
    """RULES K6: paths are relative to the configuration file."""
    assert str(deployment.directory.parent) not in deployment.config_file.read_text(encoding="utf-8")
    moved = deployment.directory.with_name("moved")
    deployment.directory.rename(moved)
    kipuka("check", "-c", moved / "kipuka.toml")


def test_names_and_addresses_come_into_the_servers_certificate(kipuka, tmp_path):
    more = ("--host", "EST.example.com", "--host", "192.0.2.1", "--host", "2001:db8::1", "--host", "localhost")
    init_at(kipuka, tmp_path / "d", *more, "--admin-listen", "[::1]:8444")
    certificate = x509.load_pem_x509_certificates((tmp_path / "d" / "tls" / "server.pem").read_bytes())[0]
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [format_general_name(name) for name in names] == [
        "DNS:localhost",
        "DNS:est.example.com",
        "IP:192.0.2.1",
        "IP:2001:db8::1",
    ]
    settings = tomllib.loads((tmp_path / "d" / "kipuka.toml").read_text(encoding="utf-8"))
    assert settings["server"]["listen"] == "127.0.0.1:8443"
    assert settings["server"]["admin_listen"] == "[::1]:8444"


def test_a_folder_with_something_in_it_is_left_as_it_is(kipuka, tmp_path):
    (tmp_path / "mine").write_text("keep", encoding="utf-8")
    result = init_at(kipuka, tmp_path, expect=1)
    assert result.stderr == f"error: {tmp_path} is there already and not empty; nothing was changed\n"
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_is_used(kipuka, tmp_path):
    init_at(kipuka, tmp_path)
    assert mode_of(tmp_path) == 0o700
    assert (tmp_path / "kipuka.toml").exists()


@pytest.mark.parametrize("there_before", [True, False])
def test_a_failure_leaves_nothing_behind(kipuka, tmp_path, monkeypatch, there_before):
    async def fail(*_arguments):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(init, "_fill", fail)
    directory = tmp_path / "d"
    if there_before:
        directory.mkdir()
    result = init_at(kipuka, directory, expect=1)
    assert result.stderr == "error: somewhere: No space left on device\n"
    assert list(directory.iterdir()) == [] if there_before else not directory.exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        pytest.param(["--host", "a b"], "a b", id="host name"),
        pytest.param(["--host", "*.example.com"], "*.example.com", id="wildcard"),
        pytest.param(["--listen", "8443"], "an address and a port are needed", id="listen"),
        pytest.param(["--admin-listen", "::1:8443"], "an IPv6 address stands in brackets", id="admin listen"),
    ],
)
def test_a_wrong_option_is_a_usage_error_and_makes_nothing(kipuka, tmp_path, words, text):
    result = kipuka("init", tmp_path / "d", *words, expect=2)
    assert text in result.stderr
    assert not (tmp_path / "d").exists()


def test_variables_of_the_environment_are_not_baked_in(kipuka, tmp_path):
    """They are for the server that runs later."""
    init_at(kipuka, tmp_path / "d", env={"KIPUKA_DB__URL": f"sqlite:///{tmp_path}/elsewhere.db"})
    assert (tmp_path / "d" / "kipuka.db").exists()
    assert not (tmp_path / "elsewhere.db").exists()


def test_keys_are_those_of_their_certificates(deployment):
    for key, certificate in (
        ("tls/server.key", "tls/server.pem"),
        ("ca/issuing.key", "ca/issuing.pem"),
        ("ca/root.key", "ca/root.pem"),
    ):
        private = load_pem_private_key((deployment.directory / key).read_bytes(), None)
        public = x509.load_pem_x509_certificates((deployment.directory / certificate).read_bytes())[0].public_key()
        assert private.public_key() == public
