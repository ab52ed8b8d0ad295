"""The plugin as the host finds it: RULES K2, K3."""

from __future__ import annotations

import importlib.metadata
import inspect

import pluggy
from kipuka_auth_otp import plugin
from kipuka_auth_otp.config import OTPSettings

from kipuka.api import ENTRY_POINT_GROUP, AuditEvent, HookSpecs


def test_the_entry_point_is_named_like_the_kind_and_loads_the_hooks():
    (entry,) = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name="otp")
    assert entry.dist is not None
    assert entry.dist.name == "kipuka-auth-otp"
    assert entry.load() is plugin


def test_the_hooks_are_those_that_are_specified():
    manager = pluggy.PluginManager("kipuka")
    manager.add_hookspecs(HookSpecs)
    manager.register(plugin)
    manager.check_pending()
    ((kind,),) = manager.hook.kipuka_authenticators()
    assert (kind.name, kind.config) == ("otp", OTPSettings)
    ((storage,),) = manager.hook.kipuka_storage()
    assert storage.prefix == "otp"
    ((*routes,),) = manager.hook.kipuka_admin_routes()
    assert [(route.method, route.path) for route in routes] == [
        ("POST", "/admin/otp"),
        ("GET", "/admin/otp"),
        ("GET", "/admin/otp/{id}"),
        ("DELETE", "/admin/otp/{id}"),
    ]
    assert {route.role for route in routes} == {"admin"}  # RULES K8
    ((*commands,),) = manager.hook.kipuka_commands()
    assert [command.name for command in commands] == ["create", "list", "revoke"]


def test_every_event_is_listed_on_the_kind():
    from kipuka_auth_otp import events

    defined = {
        value
        for _, value in inspect.getmembers(events, inspect.isclass)
        if issubclass(value, AuditEvent) and value is not AuditEvent
    }
    (kind,) = plugin.kipuka_authenticators()
    assert set(kind.events) == defined
    assert len({event.name for event in defined}) == len(defined)
