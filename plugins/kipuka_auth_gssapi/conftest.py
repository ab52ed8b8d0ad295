"""Where the plugin is not installed, for want of a compiler or of Kerberos' headers, its tests are not there either."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("kipuka_auth_gssapi") and find_spec("gssapi") else ["tests"]
