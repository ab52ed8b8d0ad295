"""The plugin as the host finds it: RULES K2, K3."""

from __future__ import annotations

import importlib.metadata

import pluggy
from kipuka_ca_local import plugin
from kipuka_ca_local.config import LocalCASettings

from kipuka.api import ENTRY_POINT_GROUP, HookSpecs


def test_the_entry_point_is_named_like_the_kind_and_loads_the_hooks():
    (entry,) = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name="local")
    assert entry.dist is not None
    assert entry.dist.name == "kipuka-ca-local"
    assert entry.load() is plugin


def test_the_hooks_are_those_that_are_specified():
    manager = pluggy.PluginManager("kipuka")
    manager.add_hookspecs(HookSpecs)
    manager.register(plugin)
    manager.check_pending()
    ((kind,),) = manager.hook.kipuka_ca_backends()
    assert (kind.name, kind.config, kind.remote) == ("local", LocalCASettings, False)
    assert kind.creator is not None
    assert kind.check is not None
