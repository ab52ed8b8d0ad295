"""What `kipuka check` says of the section and its keytab."""

from __future__ import annotations

import pytest
from kipuka_auth_gssapi.config import GSSAPISettings
from kipuka_auth_gssapi.findings import check_settings

from .test_keytab import entry

SERVICE = "HTTP/est.example.com@EXAMPLE.COM"
KEYS = entry(b"HTTP", b"est.example.com") + entry(b"host", b"est.example.com") + entry(b"HTTP", b"old", kind=23)


@pytest.fixture(name="look")
def _look(tmp_path):
    keytab = tmp_path / "kipuka.keytab"
    keytab.write_bytes(b"\x05\x02" + KEYS)
    keytab.chmod(0o600)

    def look(**changes):
        section = {
            "keytab": str(keytab),
            "service_principal": SERVICE,
            "default_template": "CN={principal}",
            **changes,
        }
        found = list(check_settings(GSSAPISettings.model_validate(section)))
        assert all(finding.remedy for finding in found)
        return {(finding.severity, finding.key): finding for finding in found}

    look.keytab = keytab
    return look


def test_a_good_section_is_clean(look):
    assert look() == {}


@pytest.mark.parametrize(
    ("changes", "severity", "key"),
    [
        ({"keytab": "/no/such/keytab"}, "error", "keytab"),
        ({"service_principal": "HTTP/other@EXAMPLE.COM"}, "error", "service_principal"),
        ({"service_principal": [SERVICE, "HTTP/other@EXAMPLE.COM"]}, "error", "service_principal"),
        ({"service_principal": "host/est.example.com@EXAMPLE.COM"}, "warning", "service_principal"),
        ({"service_principal": "HTTP/old@EXAMPLE.COM"}, "warning", "keytab"),
        ({"default_template": None}, "warning", "principal_mapping"),
        ({"principal_mapping": {"a@PARTNER.COM": "CN=a"}}, "error", "principal_mapping"),
        ({"default_template": "CN={user}", "realms": ["EXAMPLE.COM", "PARTNER.COM"]}, "warning", "default_template"),
        ({"replay_cache": "/no/such/folder/replays"}, "error", "replay_cache"),
    ],
)
def test_what_is_wrong_or_weak_is_found(look, changes, severity, key):
    assert set(look(**changes)) == {(severity, key)}


def test_a_key_that_is_not_there_is_told_with_those_that_are(look):
    finding = look(service_principal="HTTP/other@EXAMPLE.COM")["error", "service_principal"]
    assert SERVICE in finding.problem


def test_a_foreign_principal_is_told_how_to_let_its_realm_in(look):
    finding = look(principal_mapping={"a@PARTNER.COM": "CN=a"})["error", "principal_mapping"]
    assert finding.remedy == 'write realms = ["EXAMPLE.COM", "PARTNER.COM"]'


def test_a_keytab_that_others_can_read_is_warned_about(look):
    look.keytab.chmod(0o644)
    finding = look()["warning", "keytab"]
    assert "0644" in finding.problem
    assert finding.remedy == f"chmod 600 '{look.keytab}'"


def test_a_file_that_is_no_keytab_is_an_error(look):
    look.keytab.write_bytes(b"junk")
    assert "is not a keytab" in look()["error", "keytab"].problem
