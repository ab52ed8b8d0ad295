"""Where the plugin is not installed its tests are not there either."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("kipuka_ca_pkcs11") and find_spec("pkcs11") else ["tests"]
