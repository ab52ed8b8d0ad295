"""Sees to it that the tools named on the command line are there: installs them as root, or says what to install.

python3 scripts/tools.py curl openssl pki jdk bouncycastle

`Python.h` stands for the header files of the Python that runs this. Services that come with a package are not started.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# A user's PATH may lack the folders of the programs that serve, and has never that of Debian's PostgreSQL.
POSTGRESQL = map(str, Path("/usr/lib/postgresql").glob("*/bin"))
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin", *POSTGRESQL])

# What asks it before it starts a service is refused (invoke-rc.d(8)).
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Tool:
    """What shows that a tool is there (programs, and files), and the Debian packages that bring it."""

    packages: tuple[str, ...]
    programs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def is_there(self) -> bool:
        found = all(shutil.which(program, path=PATH) is not None for program in self.programs)
        return found and all(Path(file).exists() for file in self.files)


JARS = tuple(f"/usr/share/java/{name}.jar" for name in ("bcprov", "bcutil", "bcpkix", "bctls"))

TOOLS = {
    # Without its OpenSSL plugin strongSwan knows no elliptic curves.
    "pki": Tool(("strongswan-pki", "libstrongswan-standard-plugins"), ("pki",), ("/usr/lib/ipsec/plugins/libstrongswan-openssl.so",)),
    "rsyslogd": Tool(("rsyslog",), ("rsyslogd",)),
    "jdk": Tool(("default-jdk-headless",), ("java", "javac")),
    "bouncycastle": Tool(("libbcprov-java", "libbcpkix-java", "libbctls-java"), files=JARS),
    "Python.h": Tool(("python3-dev",), files=(str(Path(sysconfig.get_path("include")) / "Python.h"),)),
    "gcc": Tool(("gcc", "libc6-dev"), ("gcc",)),
    "kadmin.local": Tool(("krb5-admin-server",), ("kadmin.local",)),
    "kinit": Tool(("krb5-user",), ("kinit",)),
    "krb5-config": Tool(("libkrb5-dev",), ("krb5-config",)),
    "krb5kdc": Tool(("krb5-kdc",), ("krb5kdc",)),
    "postgres": Tool(("postgresql",), ("initdb", "postgres")),
    "softhsm2-util": Tool(("softhsm2",), ("softhsm2-util",), ("/usr/lib/softhsm/libsofthsm2.so",)),
    "ldap.h": Tool(("libldap-dev",), files=("/usr/include/ldap.h",)),
    "sasl.h": Tool(("libsasl2-dev",), files=("/usr/include/sasl/sasl.h",)),
    "ldapwhoami": Tool(("ldap-utils",), ("ldapwhoami",)),
    "systemd-analyze": Tool(("systemd",), ("systemd-analyze",)),
}  # fmt: skip
"""Any other name is a program, in the Debian package of the same name."""


def tool(name: str) -> Tool:
    return TOOLS.get(name) or Tool((name,), (name,))


def is_there(name: str) -> bool:
    return tool(name).is_there()


def missing(names: list[str]) -> list[str]:
    return [name for name in names if not is_there(name)]


@contextlib.contextmanager
def no_service_starts() -> Iterator[None]:
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()


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


def provide(names: list[str]) -> int:
    """Exit code 0 when all are there in the end."""
    absent = missing(names)
    if not absent:
        return 0
    packages = [package for name in absent for package in tool(name).packages]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {', '.join(packages)}", flush=True)
        with no_service_starts():
            install(packages)
    absent = missing(absent)
    if absent:
        packages = [package for name in absent for package in tool(name).packages]
        print(f"error: {', '.join(absent)} not found; as root run: apt install {' '.join(packages)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(provide(sys.argv[1:]))
