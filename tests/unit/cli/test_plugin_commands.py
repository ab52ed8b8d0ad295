"""Commands that plugins bring: found by name, given the host, told apart from the host's own."""

from __future__ import annotations

import json
from importlib import metadata

import click
import pytest

from kipuka import plugins
from kipuka.api import CommandHost, pass_host
from kipuka.cli import host

CREATE = ("otp", "create", "--client-id", "device-1")


def test_a_plugins_command_works_on_the_store_under_the_operators_name(deployment, kipuka):
    """RULES K7: through the same writer and chain as the server."""
    made = json.loads(kipuka(*CREATE, "--json").stdout)
    assert len(made["token"]) == 20
    lines = kipuka("audit", "tail", "--event", "otp_created", "--json").stdout.splitlines()
    (event,) = [json.loads(line) for line in lines]
    assert event["identity"] == host.operator()
    assert event["request_id"] is None
    assert made["token"] not in kipuka("audit", "tail").stdout
    assert "the audit log is intact" in kipuka("audit", "verify").stdout


def test_a_plugins_command_takes_the_configuration_file_where_every_command_does(
    deployment, kipuka, tmp_path, monkeypatch
):
    """RULES K6."""
    monkeypatch.chdir(tmp_path)
    assert "there is no such file" in kipuka(*CREATE, expect=3).stderr
    kipuka(*CREATE, "-c", deployment.config_file)
    kipuka("otp", "-c", deployment.config_file, "list")
    kipuka("otp", "list", env={"KIPUKA_CONFIG": str(deployment.config_file)})
    assert "-c, --config FILE" in kipuka("otp", "create", "--help").stdout


def test_a_method_that_is_off_has_no_commands_to_give(deployment, kipuka):
    deployment.configure({"otp": {"enabled": False}})
    assert "[otp]" in kipuka(*CREATE, expect=3).stderr


def test_a_plugin_without_commands_says_so(kipuka):
    assert "the plugin local brings no commands" in kipuka("local", expect=2).stderr


def test_an_unknown_name_is_a_usage_error(kipuka):
    assert "No such command" in kipuka("nobody", expect=2).stderr


def entry_point(name):
    return metadata.EntryPoint(name=name, value="nowhere", group="kipuka.plugins")


@pytest.fixture
def stranger(monkeypatch):
    """A plugin with a nested command, found by name as an installed one is."""
    seen = []

    @click.group()
    def deep():
        pass

    @deep.command()
    @click.option("-c", "count", type=int, default=0)
    @pass_host
    def own_option(given, count):
        seen.append((given, count))

    @deep.command()
    @pass_host
    def leaf(given):
        seen.append((given, given.config))

    loaded = type("Loaded", (), {"commands": staticmethod(lambda _name: [deep])})
    monkeypatch.setattr(host, "_entry_points", lambda: [entry_point("stranger")])
    monkeypatch.setattr(plugins, "load", lambda *_arguments, **_named: loaded)
    return seen


def test_a_nested_command_is_given_the_host_and_the_option(kipuka, stranger, tmp_path):
    kipuka("stranger", "deep", "leaf", "-c", tmp_path / "k.toml")
    ((given, config),) = stranger
    assert isinstance(given, CommandHost)
    assert config == tmp_path / "k.toml"


def test_an_option_of_the_plugins_own_is_not_taken_from_it(kipuka, stranger):
    kipuka("stranger", "deep", "own-option", "-c", "3")
    ((_given, count),) = stranger
    assert count == 3


def test_a_plugin_never_replaces_a_command_of_the_host(kipuka, monkeypatch):
    monkeypatch.setattr(host, "_entry_points", lambda: [entry_point("cert")])
    assert "Look at the certificates" in kipuka("cert", "--help").stdout
