"""The plugin as the host finds it: RULES K2, K3."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pluggy
from kipuka_ca_pkcs11 import plugin
from kipuka_ca_pkcs11.config import PKCS11CASettings

from kipuka.api import ENTRY_POINT_GROUP, HookSpecs


def test_the_entry_point_is_named_like_the_kind_and_loads_the_hooks():
    (entry,) = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name="pkcs11")
    assert entry.dist is not None
    assert entry.dist.name == "kipuka-ca-pkcs11"
    assert entry.load() is plugin


def test_the_hooks_are_those_that_are_specified():
    manager = pluggy.PluginManager("kipuka")
    manager.add_hookspecs(HookSpecs)
    manager.register(plugin)
    manager.check_pending()
    ((kind,),) = manager.hook.kipuka_ca_backends()
    assert (kind.name, kind.config, kind.remote) == ("pkcs11", PKCS11CASettings, False)
    assert kind.creator is not None
    assert kind.check is not None


def test_importing_the_plugin_loads_no_library_of_an_hsm():
    """The supervisor imports it and forks: a library that was initialised before could not be used afterwards."""
    lines = "import kipuka_ca_pkcs11.plugin; print('softhsm' in open('/proc/self/maps').read(), 'pkcs11._pkcs11' in __import__('sys').modules)"
    done = subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
