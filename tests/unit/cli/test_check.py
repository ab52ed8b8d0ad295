"""What `kipuka check` finds, over a deployment that `kipuka init` made."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kipuka.api import BackendUnavailable, CertificateChain, Finding, Needs, PluginError
from kipuka.cli.check import (
    CheckFinding,
    check_file,
    exit_code,
    findings_of,
    permissive,
    render,
    render_json,
    run_check,
)
from kipuka.cli.failures import ExitCode
from kipuka.runtime import compose, open_foundation, open_runtime
from kipuka.testing.pki import make_root

YEARS = timedelta(days=700)
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.fixture
def check(deployment):
    """What is found after the configuration was changed: severities and problems by key."""

    def look(changes=None, environ=None):
        deployment.configure({"server": {"listen": "127.0.0.1:0"}, **(changes or {})})
        found = check_file(deployment.config_file, environ or {})
        assert all(finding.remedy for finding in found)
        return {(finding.severity, finding.key): finding.problem for finding in found}

    return look


@pytest.fixture
def server_certificate(deployment):
    """Puts another server certificate in place."""

    def put(**changes):
        now = datetime.now(UTC)
        arguments = {
            "dns": ["localhost"],
            "not_before": now - timedelta(days=1),
            "not_after": now + YEARS,
            "extended_key_usage": None,
            **changes,
        }
        credential = make_root(not_after=now + YEARS).issue("server", **arguments)
        directory = deployment.directory / "tls"
        (directory / "server.pem").write_bytes(credential.pem)
        (directory / "server.key").write_bytes(credential.key_pem())
        return credential

    return put


def test_a_fresh_deployment_is_clean(check):
    assert check() == {}


def test_what_stops_the_reading_is_found_too(deployment):
    deployment.configure({"server": {"listn": 1}, "nobody": {}})
    found = check_file(deployment.config_file, {})
    assert [(finding.severity, finding.key) for finding in found] == [("error", "server.listn"), ("error", "")]
    assert found[1].problem.startswith("plugin nobody, find: no installed plugin has this name")


BROKEN = {
    "est": {"base64_lines": "sometimes"},
    "audit": {"sink": [{"type": "fiel", "path": "audit.jsonl"}]},
    "tls": {"cert": "none.pem", "client_auth": {"trust_anchors": "nobody.pem"}},
    "ca": [{"id": "main", "backend": "local", "cert": "none.pem", "key": "ca/issuing.key", "chain": "ca/root.pem"}],
}
"""A wrong value, a plugin that is none, and files that are not there: the host's own and a plugin's."""

BROKEN_KEYS = ["est.base64_lines", "", "tls.client_auth.trust_anchors", "ca[main].cert", "tls.cert"]


def test_wrong_values_plugins_that_are_none_and_missing_files_are_found_at_once(deployment, kipuka, kipuka_json):
    deployment.configure(BROKEN)
    found = kipuka_json("check", "-c", "kipuka.toml", expect=3)["findings"]
    assert [row["key"] for row in found if row["severity"] == "error"] == BROKEN_KEYS
    assert {row["file"] for row in found} == {str(deployment.config_file)}
    assert "type of audit.sink[fiel]" in found[1]["problem"]
    for row, name in zip(found[2:5], ("nobody.pem", "none.pem", "none.pem"), strict=True):
        assert str(deployment.directory / name) in row["problem"]
    lines = kipuka("check", "-c", "kipuka.toml", expect=3).stdout.splitlines()
    assert len(lines) == len(found) + 1
    assert all(
        line.startswith(f"{row['severity']}: {row['file']}: {row['key']}")
        for line, row in zip(lines, found, strict=False)
    )


def test_a_start_tells_all_that_is_wrong_at_once(deployment, kipuka, kipuka_json):
    deployment.configure(BROKEN)
    found = kipuka_json("check", "-c", "kipuka.toml", expect=3)["findings"]
    told = kipuka("serve", "-c", "kipuka.toml", expect=3).stderr.splitlines()
    assert told == [
        ": ".join(word for word in ("error", row["file"], row["key"], f"{row['problem']}; {row['remedy']}") if word)
        for row in found
        if row["severity"] == "error"
    ]


def test_the_files_of_tls_are_looked_at_beside_a_wrong_version(check):
    assert check({"tls": {"min_version": "1.1", "cert": "none.pem"}}).keys() == {
        ("error", "tls.min_version"),
        ("error", "tls.cert"),
    }


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        pytest.param({"db": {"url": None, "ulr": "sqlite:///other.db"}}, "db.ulr", id="the database"),
        pytest.param({"otp": {"max_uses": 10, "max_usse": 1}}, "otp.max_usse", id="a method"),
        pytest.param(
            {"audit": {"sink": [{"type": "syslog", "transprt": "tls"}]}}, "audit.sink[syslog].transprt", id="a sink"
        ),
        pytest.param({"server": {"lisetn": "127.0.0.1:0", "max_connections": 1}}, "server.lisetn", id="the server"),
    ],
)
def test_a_section_with_a_mistake_is_not_judged_by_what_it_does_not_say(check, deployment, changes, key):
    """A default may stand where a mistyped key was meant."""
    deployment.database.unlink()
    found = check({**changes, "log": {"level": "debug"}})
    section = key.partition(".")[0].partition("[")[0]
    assert [at for severity, at in found if at.startswith(section)] == [key]
    assert ("warning", "log.level") not in found  # whoever mends the rest hears of it


def test_a_plugin_that_is_missing_is_not_told_as_a_method_that_is_missing(check):
    assert check({"tls": {"client_auth": None}, "otp": None, "kerberos": {}}).keys() == {("error", "")}


def test_a_missing_configuration_is_one_finding(tmp_path):
    (found,) = check_file(tmp_path / "none.toml", {})
    assert (found.severity, found.file, found.problem) == (
        "error",
        str(tmp_path / "none.toml"),
        "there is no such file",
    )


# --- the server's certificate


def test_a_certificate_that_is_not_there_is_an_error(check):
    assert check({"tls": {"cert": "none.pem", "key": "none.key"}}).keys() == {
        ("error", "tls.cert"),
        ("error", "tls.key"),
    }


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_a_certificate_is_an_error(check, deployment, content):
    (deployment.directory / "tls" / "server.pem").write_bytes(content)
    assert "has no readable PEM certificate" in check()["error", "tls.cert"]


def test_a_key_of_another_certificate_is_an_error(check, deployment):
    (deployment.directory / "tls" / "server.key").write_bytes(make_root().key_pem())
    assert "it is not the key of the certificate" in check()["error", "tls.key"]


def test_a_key_that_is_none_is_an_error(check, deployment):
    (deployment.directory / "tls" / "server.key").write_bytes(b"nonsense")
    assert "cannot be read as a private key" in check()["error", "tls.key"]


def test_passwords_of_the_key_are_tried(check, deployment, server_certificate):
    """Guarantee 8: the password is never shown."""
    credential = server_certificate()
    assert "is not encrypted" in check({"tls": {"key_password": "hunter2"}})["error", "tls.key_password"]
    (deployment.directory / "tls" / "server.key").write_bytes(credential.key_pem(b"other"))
    found = check({"tls": {"key_password": "hunter2"}})
    assert "cannot be read as a private key" in found["error", "tls.key"]
    assert "hunter2" not in str(found)
    (deployment.directory / "tls" / "server.key").write_bytes(credential.key_pem(b"hunter2"))
    assert check({"tls": {"key_password": "hunter2"}}) == {}


def test_an_encrypted_key_needs_a_password(check, deployment, server_certificate):
    credential = server_certificate()
    (deployment.directory / "tls" / "server.key").write_bytes(credential.key_pem(b"hunter2"))
    assert "is encrypted" in check()["error", "tls.key_password"]


@pytest.mark.parametrize(
    ("changes", "severity", "words"),
    [
        pytest.param({"not_after": datetime(2020, 1, 1, tzinfo=UTC)}, "error", "expired on 2020-01-01", id="expired"),
        pytest.param(
            {"not_before": datetime(2090, 1, 1, tzinfo=UTC), "not_after": datetime(2091, 1, 1, tzinfo=UTC)},
            "error",
            "is not valid before 2090-01-01",
            id="not yet valid",
        ),
        pytest.param({"not_after": datetime.now(UTC) + timedelta(days=9)}, "warning", "expires on", id="expires soon"),
        pytest.param({"dns": []}, "warning", "no subject alternative name", id="no names"),
        pytest.param({"key": "rsa1024"}, "error", "the server's key is weak: RSA-1024", id="weak key"),
        pytest.param({"signature": "sha1"}, "error", "signed with SHA1", id="SHA-1"),
        pytest.param(
            {"extended_key_usage": ["1.3.6.1.5.5.7.3.2"]}, "error", "leaves out server authentication", id="usage"
        ),
    ],
)
def test_a_certificate_that_clients_refuse_is_found(check, server_certificate, changes, severity, words):
    if "extended_key_usage" in changes:
        from cryptography.x509 import ObjectIdentifier

        changes = {"extended_key_usage": [ObjectIdentifier(oid) for oid in changes["extended_key_usage"]]}
    server_certificate(**changes)
    assert words in check()[severity, "tls.cert"]


def test_a_chain_out_of_order_is_an_error(check, deployment, server_certificate):
    credential = server_certificate()
    other = make_root("Somebody Else", not_after=datetime.now(UTC) + YEARS)
    (deployment.directory / "tls" / "server.pem").write_bytes(credential.pem + other.pem)
    assert "CN=Somebody Else does not follow from CN=server" in check()["error", "tls.cert"]


# --- permissions


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o601])
def test_secret_files_that_others_can_read_are_warned_about(check, deployment, mode):
    secrets = {
        "tls.key": deployment.directory / "tls" / "server.key",
        "db.url": deployment.database,
        "otp.lookup_key": deployment.directory / "otp.key",
    }
    for path in secrets.values():
        path.chmod(mode)
    found = check()
    assert {("warning", key) for key in secrets} <= found.keys()
    assert f"has mode {mode:04o}" in found["warning", "tls.key"]


def test_a_group_that_may_read_a_key_is_usual(check, deployment):
    (deployment.directory / "tls" / "server.key").chmod(0o640)
    assert check() == {}


def test_a_configuration_that_others_can_change_is_warned_about(check, deployment):
    check()
    deployment.config_file.chmod(0o620)
    assert "others than its owner can change it" in check_file(deployment.config_file, {})[0].problem


def test_a_secret_in_a_configuration_that_others_can_read_is_warned_about(
    check, deployment, server_certificate, monkeypatch
):
    credential = server_certificate()
    (deployment.directory / "tls" / "server.key").write_bytes(credential.key_pem(b"hunter2"))
    check({"tls": {"key_password": "hunter2"}})
    deployment.config_file.chmod(0o644)
    (found,) = check_file(deployment.config_file, {})
    assert (found.severity, found.problem) == (
        "warning",
        "it holds a secret and has mode 0644: others than the server can read it",
    )
    monkeypatch.setenv("KEY_PASSWORD", "hunter2")
    check({"tls": {"key_password": "env:KEY_PASSWORD"}})
    deployment.config_file.chmod(0o644)
    assert check_file(deployment.config_file, {}) == []


# --- client certificates, methods


@pytest.mark.parametrize("client_auth", [None, {"enabled": False}])
def test_without_client_certificates_nobody_can_renew(check, client_auth):
    """RULES A5."""
    found = check({"tls": {"client_auth": client_auth}})
    assert found == {("warning", "tls.client_auth"): "client certificates are not asked for: nobody can re-enrol"}


def test_required_says_what_it_closes(check, deployment):
    """RULES A2: cacerts to newcomers, and bearer-only administrators on the same listener: both are said."""
    check({"tls": {"client_auth": {"mode": "required"}}})

    def problems():
        return [
            found.problem for found in check_file(deployment.config_file, {}) if found.key == "tls.client_auth.mode"
        ]

    assert problems() == [
        "cacerts and every other path are closed to newcomers, who have no certificate yet",
        "administrators with a bearer token and no client certificate cannot connect",
    ]
    check({"server": {"listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0"}})
    assert problems() == ["cacerts and every other path are closed to newcomers, who have no certificate yet"]


def test_mode_none_is_warned_about(check):
    assert ("warning", "tls.client_auth.mode") in check({"tls": {"client_auth": {"mode": "none"}}})


def test_anchors_are_ca_certificates(check, deployment):
    leaf = make_root().issue_client("device-1")
    (deployment.directory / "client-anchors.pem").write_bytes(leaf.pem)
    assert check()["error", "tls.client_auth.trust_anchors"] == "CN=device-1 is not a CA certificate"


def test_anchors_of_a_label_are_looked_at_too(check, deployment):
    (deployment.directory / "partner.pem").write_bytes(b"nonsense")
    found = check({"est": {"label": [{"name": "partner", "client_anchors": "partner.pem"}]}})
    assert found.keys() == {("error", "est.label[partner].client_anchors")}


def test_an_expired_anchor_is_a_warning(check, deployment):
    root = make_root(not_before=datetime(2019, 1, 1, tzinfo=UTC), not_after=datetime(2020, 1, 1, tzinfo=UTC))
    (deployment.directory / "client-anchors.pem").write_bytes(root.pem)
    assert "expired on 2020-01-01" in check()["warning", "tls.client_auth.trust_anchors"]


def test_no_method_at_all_is_a_warning(check):
    found = check({"plugins": {"disabled": ["mtls", "otp"]}})
    assert ("warning", "auth") in found
    assert found["warning", "otp"] == "the plugin otp is disabled: this section has no effect"


def test_a_mistyped_disabled_plugin_is_a_warning(check):
    """It would stay on."""
    assert (
        check({"plugins": {"disabled": ["opt"]}})["warning", "plugins.disabled"] == "no installed plugin is called opt"
    )


# --- plugins' own findings


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"otp": {"hash_algorithm": "sha256-hmac"}}, "otp.hash_algorithm"),
        ({"otp": {"token_length": 16}}, "otp.token_length"),
    ],
)
def test_weak_one_time_passwords_are_warned_about(check, changes, key):
    """The kind's own findings, under its section's name (RULES K2)."""
    assert ("warning", key) in check(changes)


def composed(deployment, **kind_changes):
    """The deployment's composition with another CA kind in place of the local one."""
    composition = compose(deployment.config_file, {})
    kind = replace(composition.plugins.ca_backends["local"], **kind_changes)
    loaded = dict(composition.plugins.loaded)
    loaded["local"] = replace(loaded["local"], ca_backends=(kind,))
    return composition.settings, replace(composition.plugins, loaded=loaded)


def test_a_check_that_raises_is_its_plugins_fault(deployment):
    def check(settings):
        raise RuntimeError("hunter2")

    (found,) = run_check(*composed(deployment, check=check), ports=False)
    assert (found.severity, found.key) == ("error", "ca[main]")
    assert "plugin local (kipuka-ca-local" in found.problem
    assert "its check raised RuntimeError" in found.problem
    assert "hunter2" not in str(found)


def test_findings_of_an_item_stand_under_its_id(deployment):
    def check(settings):
        yield Finding(severity="warning", key="cert", problem="p", remedy="r")

    settings, plugins = composed(deployment, check=check)
    (found,) = run_check(settings, plugins, ports=False)
    assert found.key == f"ca[{settings.cas[0].id}].cert"


# --- what methods need of the server


def needing(deployment, needs):
    """The deployment's composition with one-time passwords that need something."""
    composition = compose(deployment.config_file, {})
    kind = replace(composition.plugins.authenticators["otp"], needs=needs)
    loaded = dict(composition.plugins.loaded)
    loaded["otp"] = replace(loaded["otp"], authenticators=(kind,))
    return replace(composition, plugins=replace(composition.plugins, loaded=loaded))


def found_of(composition):
    return [
        (finding.severity, finding.key) for finding in run_check(composition.settings, composition.plugins, ports=False)
    ]


@pytest.mark.parametrize("kind", ["ed25519", "ed448", "mldsa44", "mldsa65", "mldsa87"])
def test_a_channel_binding_that_is_undefined_for_the_certificate_cannot_be_required(
    deployment, server_certificate, kind
):
    """RFC 5929, 4.1: a signature without one hash function has no tls-server-end-point."""
    composition = needing(deployment, lambda _: Needs(server_end_point="channel_binding"))
    assert found_of(composition) == []
    authority = make_root(key=kind, not_after=datetime.now(UTC) + YEARS)
    credential = authority.issue(
        "server",
        dns=["localhost"],
        not_before=datetime.now(UTC) - timedelta(days=1),
        not_after=datetime.now(UTC) + YEARS,
        extended_key_usage=None,
    )
    (deployment.directory / "tls" / "server.pem").write_bytes(credential.pem)
    (deployment.directory / "tls" / "server.key").write_bytes(credential.key_pem())
    assert found_of(composition) == [("error", "otp.channel_binding")]


def test_the_header_limit_is_what_the_methods_need_or_what_is_written(deployment):
    """RULES H1."""

    async def opened(composition):
        async with open_foundation(composition) as foundation, open_runtime(composition, foundation) as runtime:
            return runtime.max_header_size

    def limit(size):
        return asyncio.run(opened(needing(deployment, lambda _: Needs(header_size=size))))

    assert limit(0) == 16384
    assert limit(73728) == 73728
    deployment.configure({"server": {"max_header_size": 20000}})
    assert limit(73728) == 20000
    assert ("warning", "server.max_header_size") in found_of(needing(deployment, lambda _: Needs(header_size=73728)))


def test_needs_that_raise_are_their_plugins_fault(deployment):
    def needs(settings):
        raise RuntimeError("hunter2")

    async def opened(composition):
        async with open_foundation(composition) as foundation, open_runtime(composition, foundation):
            pass

    composition = needing(deployment, needs)
    (found,) = run_check(composition.settings, composition.plugins, ports=False)
    assert (found.severity, found.key) == ("error", "otp")
    assert "its needs raised RuntimeError" in found.problem
    assert "hunter2" not in str(found)
    with pytest.raises(PluginError, match="its needs raised RuntimeError"):
        asyncio.run(opened(composition))


# --- authorities and profiles


class Backend:
    """A CA that shows a chain, and signs nothing."""

    def __init__(self, *credentials):
        self.chain = CertificateChain(tuple(credential.certificate for credential in credentials))

    async def ca_certificates(self):
        return self.chain


def opener(make):
    @asynccontextmanager
    async def open_backend(settings, services):
        del settings
        yield make(services)

    return open_backend


def test_a_chain_that_does_not_end_in_a_root_is_an_error(deployment):
    """RULES F7."""
    root = make_root(not_after=datetime.now(UTC) + 3 * YEARS)
    issuing = root.issue_ca(not_after=datetime.now(UTC) + 2 * YEARS)
    (found,) = run_check(*composed(deployment, check=None, open=opener(lambda _: Backend(issuing))), ports=False)
    assert found.severity == "error"
    assert "which is not a root" in found.problem
    assert (
        run_check(*composed(deployment, check=None, open=opener(lambda _: Backend(issuing, root))), ports=False) == []
    )


def test_certificates_that_would_outlive_the_ca_are_warned_about(check, deployment):
    (problem,) = check({"profile": [{"name": "default", "validity_days": 36500}]}).items()
    assert problem[0] == ("warning", "profile[default].validity_days")
    assert "for 36500 days would outlive the CA" in problem[1]
    name = deployment.settings["ca"][0]["id"]
    ca = {**deployment.settings["ca"][0], "validity_days": 36500}
    found = check({"profile": [{"name": "default"}], "ca": [ca]})
    assert found.keys() == {("warning", f"ca[{name}].validity_days")}


def test_a_ca_that_cannot_be_opened_is_an_error(deployment):
    def fail(services):
        del services
        raise RuntimeError("the token is not plugged in")

    (found,) = run_check(*composed(deployment, check=None, open=opener(fail)), ports=False)
    assert found.problem == "the CA cannot be opened: RuntimeError: the token is not plugged in"


def test_a_ca_that_needs_the_store_is_left_alone(deployment):
    class NeedsStore(Backend):
        def __init__(self, services):
            self.services = services

        async def ca_certificates(self):
            await self.services.read(lambda tx: tx)
            raise AssertionError

    assert run_check(*composed(deployment, check=None, open=opener(NeedsStore)), ports=False) == []


def test_a_remote_ca_is_not_asked(deployment):
    def fail(services):
        raise AssertionError(services)

    assert run_check(*composed(deployment, remote=True, check=None, open=opener(fail)), ports=False) == []


@pytest.mark.parametrize(
    ("profile", "key"),
    [
        ({"names": "csr"}, ""),
        ({"names": "csr", "subject_patterns": {"CN": ["*"]}}, ".subject_patterns.CN"),
        ({"names": "csr", "san_patterns": {"ip": ["0.0.0.0/0"]}}, ".san_patterns.ip"),
        ({"unique_keys": False}, ".unique_keys"),
        ({"allow_expired_for": 1}, ".allow_expired_for"),
        ({"extended_key_usage": []}, ".extended_key_usage"),
        (
            {"names": "csr", "san_patterns": {"dns": ["*.a.example"]}, "extended_key_usage": ["serverAuth"]},
            ".extended_key_usage",
        ),
        ({"key_usage": ["contentCommitment"]}, ".key_usage"),
        ({"copy_extensions": ["1.2.3.4"]}, ".copy_extensions"),
        ({"crl_distribution_points": ["https://pki.example/ca.crl"]}, ".crl_distribution_points"),
        ({"max_validity_days": 30}, None),
    ],
)
def test_permissive_profiles_are_warned_about(check, profile, key):
    expected = set() if key is None else {("warning", f"profile[default]{key}")}
    assert check({"profile": [{"name": "default", **profile}]}).keys() == expected


def test_a_profile_that_names_one_cas_crl_and_is_anothers_too_is_a_warning(check, deployment):
    ca = deployment.settings["ca"][0]
    changes = {
        "ca": [ca, {**ca, "id": "other"}],
        "est": {"default_ca": ca["id"], "label": [{"name": "other", "ca": "other"}]},
        "profile": [{"name": "default", "crl_distribution_points": ["http://pki.example/ca.crl"]}],
    }
    found = check(changes)
    assert found.keys() == {("warning", "profile[default]")}
    assert f"{ca['id']} and other issue by it" in found["warning", "profile[default]"]


def test_the_longest_validity_of_a_profile_bounds_that_of_the_ca(check, deployment):
    ca = {**deployment.settings["ca"][0], "validity_days": 1000}
    key = ("warning", f"ca[{ca['id']}].validity_days")
    assert check({"ca": [ca]}).keys() == {key}
    assert check({"profile": [{"name": "default", "max_validity_days": 30}]}).keys() == set()


@pytest.mark.parametrize(
    ("lines", "more", "key"),
    [
        ({"operations": ["simpleenroll"]}, {}, "operations"),
        ({"foreign_clients": ["CN=*,O=*"]}, {}, "foreign_clients"),
        ({"require": [["mtls", "otp"]]}, {"mode": "none"}, "require"),
    ],
)
def test_a_path_that_is_odd_in_what_it_takes_is_a_warning(check, lines, more, key):
    """Also where a label takes it from the path without one."""
    client_auth = {"tls": {"client_auth": more}}
    found = check({"est": {**lines, "label": [{"name": "x"}]}, **client_auth})
    assert {("warning", f"est.{key}"), ("warning", f"est.label[x].{key}")} <= found.keys()
    assert ("warning", f"est.{key}") not in check({"est": {key: None}, **client_auth})


def test_a_path_whose_methods_are_all_disabled_is_a_warning(check):
    changes = {"est": {"require": [["otp"]]}, "plugins": {"disabled": ["otp"]}}
    assert ("warning", "est.auth") in check(changes)


def test_a_profile_that_no_label_uses_is_a_warning(check):
    assert check({"profile": [{"name": "default"}, {"name": "vpn"}]}).keys() == {("warning", "profile[vpn]")}


# --- the rest


def test_a_missing_database_is_an_error(check):
    assert "there is no database" in check({"db": {"url": "sqlite:///none.db"}})["error", "db.url"]


def test_a_directory_is_no_database(check):
    assert "is a directory" in check({"db": {"url": "sqlite:///tls"}})["error", "db.url"]


def test_no_audit_sink_is_a_warning(check):
    assert check({"audit": {"sink": []}}).keys() == {("warning", "audit.sink")}


def test_a_log_that_nothing_signs_is_a_warning(check):
    found = check({"audit": {"node_key": None}})
    assert found.keys() == {("warning", "audit.node_key")}
    assert "anew unnoticed" in found["warning", "audit.node_key"]


def test_a_node_key_that_others_can_read_is_a_warning(check, deployment):
    (deployment.directory / "audit.key").chmod(0o644)
    assert check({}).keys() == {("warning", "audit.node_key")}


@pytest.mark.parametrize("key", ["node_key", "trusted_keys"])
@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("missing.key", "cannot be read"),
        ("otp.key", "key"),
        ("tls/server.key", "not an Ed25519 key"),
    ],
)
def test_a_key_of_the_audit_log_that_is_none_is_an_error(check, key, file, problem):
    value = file if key == "node_key" else [file]
    found = check({"audit": {key: value}})
    assert found.keys() == {("error", f"audit.{key}")}
    assert problem in found["error", f"audit.{key}"]


def _settings(deployment):
    composition = compose(deployment.config_file, {})
    return composition.settings, composition.plugins


def test_a_port_that_is_taken_is_a_warning(check):
    """Whoever changes the configuration of a running server checks it before the restart."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        found = check({"server": {"listen": f"127.0.0.1:{port}"}})
    assert found == {("warning", "server.listen"): f"another process listens on 127.0.0.1:{port}"}


def test_an_address_of_another_machine_is_an_error(check):
    found = check({"server": {"listen": "192.0.2.1:8443"}})
    assert "192.0.2.1:8443 cannot be listened on" in found["error", "server.listen"]


def test_ports_are_left_alone_where_the_server_is_about_to_bind_them(deployment):
    deployment.configure({"server": {"listen": "192.0.2.1:8443"}})
    assert run_check(*_settings(deployment), ports=False) == []


def test_a_setting_of_the_environment_is_found_there(deployment):
    environ = {"KIPUKA_SERVER__LISTEN": "192.0.2.1:8443"}
    (found,) = check_file(deployment.config_file, environ)
    assert found.file == "environment variable KIPUKA_SERVER__LISTEN"


def test_nothing_is_written(deployment):
    def listing():
        return {
            path: (path.stat().st_mtime_ns, path.stat().st_size)
            for path in deployment.directory.rglob("*")
            if path.is_file()
        }

    before = listing()
    check_file(deployment.config_file, os.environ)
    assert listing() == before


# --- rendering


def finding(severity, key="server.listen"):
    return CheckFinding(severity=severity, file="/k.toml", key=key, problem="it is wrong", remedy="mend it")


def test_errors_come_first_and_are_counted(deployment):
    text = render([finding("error"), finding("warning", "")])
    assert text.splitlines() == [
        "error: /k.toml: server.listen: it is wrong; mend it",
        "warning: /k.toml: it is wrong; mend it",
        "1 error, 1 warning",
    ]


def test_scripts_get_a_document():
    document = json.loads(render_json([finding("warning")]))
    assert document == {
        "ok": True,
        "findings": [
            {
                "severity": "warning",
                "file": "/k.toml",
                "key": "server.listen",
                "problem": "it is wrong",
                "remedy": "mend it",
            }
        ],
    }
    assert json.loads(render_json([finding("error")]))["ok"] is False


@pytest.mark.parametrize(
    ("severities", "strict", "code"),
    [
        ([], False, ExitCode.DONE),
        (["warning"], False, ExitCode.DONE),
        (["warning"], True, ExitCode.FAILED),
        ([], True, ExitCode.DONE),
        (["error", "warning"], False, ExitCode.CONFIGURATION),
        (["error"], True, ExitCode.CONFIGURATION),
    ],
)
def test_the_exit_code_says_whether_a_start_would_work(severities, strict, code):
    assert exit_code([finding(severity) for severity in severities], strict=strict) is code


def test_the_audit_event_names_what_is_permissive():
    findings = [finding("warning", "a"), finding("error", "b"), finding("warning", "a"), finding("warning", "")]
    assert permissive(findings) == ("a",)


def test_any_other_refusal_to_start_is_a_finding(tmp_path):
    from kipuka.api import SchemaError

    (found,) = findings_of(SchemaError("the schema is old"), tmp_path)
    assert (found.severity, found.problem) == ("error", "the schema is old")


def test_the_services_of_a_look_have_no_store():
    """A backend that is only looked at can neither read nor write."""
    import asyncio

    from kipuka.cli.no_store import NoStore

    services = NoStore(now=datetime.now(UTC), plugin="x")
    assert asyncio.run(services.run_blocking(lambda: 7)) == 7
    assert services.clock() == services.now
    assert services.log is not None
    for call in (services.read, services.write, services.audit):
        with pytest.raises(BackendUnavailable):
            asyncio.run(call(None))
    with pytest.raises(BackendUnavailable):
        services.lockouts(None)


# --- traffic


@pytest.mark.parametrize(
    ("settings", "key", "text"),
    [
        pytest.param(
            {"max_connections": 1_000_000, "workers": 1},
            "server.max_connections",
            f"it needs {1_000_000 + 1024 + 256} open files, and this account may have {HARD}",
            id="more than files",
        ),
        pytest.param(
            {"max_connections": 100},
            "server.max_connections_per_address",
            "one address may take all connections",
            id="one address takes all",
        ),
        pytest.param(
            {"max_requests_per_minute_per_address": 0},
            "server.max_requests_per_minute_per_address",
            "one address may send any number of requests",
            id="no rate",
        ),
    ],
)
def test_limits_that_do_not_limit_are_warned_about(check, settings, key, text):
    if key == "server.max_connections" and not 0 <= HARD < 1_000_000:
        pytest.skip("this account may have as many files")
    found = check({"server": {"listen": "127.0.0.1:0", **settings}})
    assert found["warning", key] == text
