"""Where the plugin is not installed, for want of a compiler or of OpenLDAP's headers, its tests are not there either."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("kipuka_auth_ldap") and find_spec("ldap") else ["tests"]
