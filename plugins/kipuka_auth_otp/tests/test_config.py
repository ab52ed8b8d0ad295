"""The section `[otp]` and what `kipuka check` says of it: RULES D1, D2 and the authentication chapter."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from kipuka_auth_otp.config import OTPSettings
from kipuka_auth_otp.findings import check_settings
from pydantic import ValidationError

from kipuka.api import LockoutPolicy

CHAPTER = {
    "enabled": True,
    "hash_algorithm": "argon2id",
    "token_length": 20,
    "max_uses": 1,
    "max_failures": 5,
    "failure_window": 300,
    "lockout_duration": 900,
}


def test_the_defaults_are_the_chapters_values():
    assert OTPSettings.model_validate(CHAPTER) == OTPSettings()
    settings = OTPSettings()
    assert settings.lockout_policy == LockoutPolicy(
        max_failures=5, window=timedelta(minutes=5), duration=timedelta(minutes=15)
    )
    assert (settings.default_ttl, settings.max_ttl) == (timedelta(hours=24), timedelta(days=30))


def test_the_look_up_key_stands_beside_the_configuration_file(tmp_path):
    """RULES K6."""
    context = {"base": tmp_path}
    assert OTPSettings.model_validate({}, context=context).lookup_key == tmp_path / "otp.key"
    assert OTPSettings.model_validate({"lookup_key": "/x/k"}, context=context).lookup_key == Path("/x/k")


@pytest.mark.parametrize(
    "values",
    [
        pytest.param({"token_length": 15}, id="NIAP wants 16"),
        pytest.param({"token_length": 129}, id="strongSwan sends at most 174"),
        pytest.param({"token_length": 20.0}, id="not a whole number"),
        pytest.param({"token_length": 73, "hash_algorithm": "bcrypt"}, id="bcrypt takes 72 bytes"),
        pytest.param({"hash_algorithm": "md5"}, id="hash"),
        pytest.param({"max_uses": 0}, id="uses"),
        pytest.param({"max_uses": True}, id="boolean"),
        pytest.param({"max_failures": 0}, id="failures"),
        pytest.param({"failure_window": 0}, id="window"),
        pytest.param({"failure_window": True}, id="window boolean"),
        pytest.param({"lockout_duration": -1}, id="duration"),
        pytest.param({"lockout_duration": float("inf")}, id="infinity"),
        pytest.param({"lockout_duration": float("nan")}, id="not a number"),
        pytest.param({"default_ttl": 7200, "max_ttl": 3600}, id="default longer than max"),
        pytest.param({"lookup_key": ""}, id="no path"),
        pytest.param({"lookup_key": "a\0b"}, id="NUL in path"),
        pytest.param({"lookup_key": "~nobody-of-this-name/k"}, id="no such home"),
        pytest.param({"tokenlength": 20}, id="unknown key"),
    ],
)
def test_values_out_of_bounds_are_refused(values):
    with pytest.raises(ValidationError):
        OTPSettings.model_validate(values)


def test_bcrypt_takes_tokens_up_to_its_72_bytes():
    assert OTPSettings.model_validate({"token_length": 72, "hash_algorithm": "bcrypt"}).token_length == 72


def test_every_key_is_described():
    assert all(field.description for field in OTPSettings.model_fields.values())


def test_a_hardened_section_has_no_findings(key_file):
    assert list(check_settings(OTPSettings.model_validate({"lookup_key": str(key_file)}))) == []


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"hash_algorithm": "sha256-hmac"}, "hash_algorithm"),
        ({"token_length": 19}, "token_length"),
        ({"max_uses": 2}, "max_uses"),
        ({"max_ttl": 90 * 86400}, "max_ttl"),
        ({"default_ttl": 8 * 86400}, "default_ttl"),
    ],
)
def test_weak_settings_are_warned_about(key_file, values, key):
    (finding,) = check_settings(OTPSettings.model_validate({"lookup_key": str(key_file), **values}))
    assert (finding.severity, finding.key) == ("warning", key)


def test_a_look_up_key_that_others_can_read_is_warned_about(key_file):
    key_file.chmod(0o644)
    (finding,) = check_settings(OTPSettings.model_validate({"lookup_key": str(key_file)}))
    assert (finding.severity, finding.key) == ("warning", "lookup_key")
    assert "0644" in finding.problem


def test_a_missing_look_up_key_is_an_error_with_the_command_that_makes_one(tmp_path):
    path = tmp_path / "gone.key"
    (finding,) = check_settings(OTPSettings.model_validate({"lookup_key": str(path)}))
    assert (finding.severity, finding.key) == ("error", "lookup_key")
    assert f"head -c 32 /dev/urandom > '{path}'" in finding.remedy
