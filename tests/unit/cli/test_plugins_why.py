"""`kipuka plugins --why`: each plugin, and why it is used or not."""

from __future__ import annotations

import json

import pytest


def explained(kipuka, *arguments, expect=0, **more):
    answer = kipuka("plugins", "--why", "--json", *arguments, expect=expect, **more)
    return {one["name"]: one for one in json.loads(answer.stdout)}


def test_a_plugin_that_is_used_is_told_with_all_it_brings(deployment, kipuka):
    found = explained(kipuka)
    otp = found["otp"]
    assert (otp["state"], otp["why"], otp["problems"]) == ("used", "used by section [otp]", [])
    assert (otp["distribution"], otp["module"], otp["api"]) == ("kipuka-auth-otp", "kipuka_auth_otp.plugin", "1.0")
    assert otp["file"].endswith("kipuka_auth_otp/plugin.py")
    returned = {call["hook"]: call["returned"] for call in otp["hooks"]}
    assert returned["kipuka_authenticators"] == ["the method otp"]
    assert "the route POST /admin/otp" in returned["kipuka_admin_routes"]
    assert "the command create" in returned["kipuka_commands"]
    assert returned["kipuka_storage"][0].startswith("the table prefix otp with the tables otp_")
    assert all(call["milliseconds"] >= 0 for call in otp["hooks"])
    assert (found["mtls"]["order"], otp["order"]) == (1, 2)
    assert found["mtls"]["why"] == "used by section [tls.client_auth]"
    assert found["local"]["why"].startswith("used by ca")


def test_a_plugin_that_nothing_names_is_told_what_would(deployment, kipuka):
    syslog = explained(kipuka)["syslog"]
    assert syslog["state"] == "unused"
    assert syslog["why"].startswith(f"nothing in {deployment.config_file} names it")
    assert '[[audit.sink]] with type = "syslog"' in syslog["why"]
    assert syslog["hooks"] == []
    assert syslog["api"] == "1.0"


@pytest.mark.parametrize(
    ("changes", "env", "expected"),
    [
        ({"otp": {"enabled": False}}, {}, ("unused", "switched off by enabled = false in section [otp]")),
        (
            {"plugins": {"disabled": ["otp"]}},
            {},
            ("disabled", "switched off by [plugins] disabled, although section [otp] would use it"),
        ),
        (
            {},
            {"KIPUKA_PLUGINS__DISABLED": '["otp"]'},
            ("disabled", "switched off by KIPUKA_PLUGINS__DISABLED, although section [otp] would use it"),
        ),
    ],
)
def test_a_plugin_that_is_off_is_told_by_what(deployment, kipuka, changes, env, expected):
    deployment.configure(changes)
    otp = explained(kipuka, env=env)["otp"]
    assert (otp["state"], otp["why"]) == expected


def test_a_mistake_in_its_section_is_told_with_its_key(deployment, kipuka):
    deployment.configure({"otp": {"token_length": 3}})
    (trouble,) = explained(kipuka, expect=3)["otp"]["problems"]
    assert trouble["stage"] == "configure"
    assert trouble["problem"].startswith("otp.token_length: ")
    assert trouble["remedy"]


def test_without_a_readable_configuration_every_plugin_is_told_all_the_same(tmp_path, kipuka):
    file = tmp_path / "kipuka.toml"
    file.write_text("[[[")
    found = explained(kipuka, "-c", str(file))
    assert {one["state"] for one in found.values()} == {"unused"}
    assert found["otp"]["why"] == f"{file} cannot be read"
    assert found["otp"]["api"] == "1.0"


def test_people_get_a_paragraph_for_each(deployment, kipuka):
    text = kipuka("plugins", "--why").stdout
    paragraph = next(part for part in text.split("\n\n") if part.startswith("otp: used"))
    for words in (
        "section [otp]",
        "kipuka-auth-otp",
        "API 1.0; kipuka has 1.0",
        "number 2 of 2 methods",
        "the method otp",
    ):
        assert words in paragraph
