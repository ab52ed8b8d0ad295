"""Sees to it that the tools named on the command line are there: installs them as root, or says what to install.

python3 scripts/tools.py curl openssl pki jdk bouncycastle
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Tool:
    """What shows that a tool is there (programs on the path, and files), and the Debian packages that bring it."""

    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def is_there(self) -> bool:
        found = all(shutil.which(program) is not None for program in self.programs)
        return found and all(Path(file).exists() for file in self.files)


JARS = tuple(f"/usr/share/java/{name}.jar" for name in ("bcprov", "bcutil", "bcpkix", "bctls"))

TOOLS = {
    # Without its OpenSSL plugin strongSwan knows no elliptic curves.
    "pki": Tool(("strongswan-pki", "libstrongswan-standard-plugins"), ("pki",), ("/usr/lib/ipsec/plugins/libstrongswan-openssl.so",)),
    "rsyslogd": Tool(("rsyslog",), ("rsyslogd",)),
    "jdk": Tool(("default-jdk-headless",), ("java", "javac")),
    "bouncycastle": Tool(("libbcprov-java", "libbcpkix-java", "libbctls-java"), files=JARS),
}  # fmt: skip
"""Any other name is a program, in the Debian package of the same name."""


def tool(name: str) -> Tool:
    return TOOLS.get(name) or Tool((name,), (name,))


def missing(names: list[str]) -> list[str]:
    return [name for name in names if not tool(name).is_there()]


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
    absent = missing(sys.argv[1:])
    if not absent:
        return 0
    packages = [package for name in absent for package in tool(name).packages]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {', '.join(packages)}", flush=True)
        install(packages)
    absent = missing(absent)
    if absent:
        names = " ".join(package for name in absent for package in tool(name).packages)
        print(f"error: {', '.join(absent)} not found; as root run: apt install {names}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
