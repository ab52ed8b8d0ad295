"""Sees to it that the programs named on the command line are there: installs them as root, or says what to install.

python3 scripts/tools.py curl openssl
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

# Debian's package of a program, where the two differ.
PACKAGES = {"pki": "strongswan-pki", "rsyslogd": "rsyslog"}


def install(packages: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-q"], ["install", "-q", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(
            ["apt-get", *command],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            print(done.stdout, end="", file=sys.stderr)


def main() -> int:
    missing = [program for program in sys.argv[1:] if shutil.which(program) is None]
    if not missing:
        return 0
    packages = [PACKAGES.get(program, program) for program in missing]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {', '.join(packages)}", flush=True)
        install(packages)
    missing = [program for program in missing if shutil.which(program) is None]
    if missing:
        names = " ".join(PACKAGES.get(program, program) for program in missing)
        print(f"error: {', '.join(missing)} not found; as root run: apt install {names}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
