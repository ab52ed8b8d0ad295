"""The plugin as the host finds it: RULES K2, K3."""

from __future__ import annotations

import importlib.metadata

import pluggy
from kipuka_auth_gssapi import plugin
from kipuka_auth_gssapi.config import GSSAPISettings

from kipuka.api import ENTRY_POINT_GROUP, HookSpecs, Needs

SECTION = {"keytab": "k", "service_principal": "HTTP/a@X"}


def test_the_entry_point_is_named_like_the_kind_and_loads_the_hooks():
    (entry,) = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name="gssapi")
    assert entry.dist is not None
    assert entry.dist.name == "kipuka-auth-gssapi"
    assert entry.load() is plugin


def test_the_hooks_are_those_that_are_specified():
    manager = pluggy.PluginManager("kipuka")
    manager.add_hookspecs(HookSpecs)
    manager.register(plugin)
    manager.check_pending()
    ((kind,),) = manager.hook.kipuka_authenticators()
    assert (kind.name, kind.config) == ("gssapi", GSSAPISettings)
    ((*commands,),) = manager.hook.kipuka_commands()
    assert [command.name for command in commands] == ["test"]


def test_it_needs_a_large_header_and_a_binding_where_one_is_required():
    """RULES H1."""
    (kind,) = plugin.kipuka_authenticators()
    assert kind.needs(GSSAPISettings.model_validate(SECTION)) == Needs(header_size=73728)
    strict = GSSAPISettings.model_validate({**SECTION, "channel_binding": "required"})
    assert kind.needs(strict) == Needs(header_size=73728, server_end_point="channel_binding")
