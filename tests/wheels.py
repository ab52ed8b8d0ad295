"""Projects of this checkout as an index would have them.

In the room: building a wheel. Not in the room: installing it.
"""

from __future__ import annotations

import subprocess
import sys


def build_wheel(project, into):
    """Build the project's wheel into that folder, with the tools of this environment."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)]
    done = subprocess.run(build, cwd=project, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
