"""Commands of the pages in a shell of their own.

In the room: `run`. Not in the room: which blocks are run, and after what.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def run(text, folder, environment, *, timeout=230):
    """The lines in a shell of their own, with the commands of this environment."""
    # The plugin for LDAP tells its library, by LDAPNOINIT, to listen to no environment; a reader's shell has no such variable.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("KIPUKA_", "LDAP"))}
    inherited["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{inherited['PATH']}"
    return subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=inherited | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
