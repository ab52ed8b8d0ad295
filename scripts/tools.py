"""Sees to it that the programs named on the command line are there: installs them as root, or says what to install.

python3 scripts/tools.py curl openssl

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
from pathlib import Path

# Debian's packages of a program, where the names differ.
PACKAGES = {
    "Python.h": ["python3-dev"],
    "gcc": ["gcc", "libc6-dev"],
    "kadmin.local": ["krb5-admin-server"],
    "kinit": ["krb5-user"],
    "krb5-config": ["libkrb5-dev"],
    "krb5kdc": ["krb5-kdc"],
    "pki": ["strongswan-pki"],
}

# What asks it before it starts a service is refused (invoke-rc.d(8)).
POLICY = Path("/usr/sbin/policy-rc.d")


def is_there(program: str) -> bool:
    if program == "Python.h":
        return (Path(sysconfig.get_path("include")) / program).exists()
    # A user's PATH may lack the folders of the programs that serve.
    return shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])) is not None


def packages_of(programs: list[str]) -> list[str]:
    return [package for program in programs for package in PACKAGES.get(program, [program])]


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


def provide(programs: list[str]) -> int:
    """Exit code 0 when all are there in the end."""
    missing = [program for program in programs if not is_there(program)]
    if not missing:
        return 0
    packages = packages_of(missing)
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing {', '.join(packages)}", flush=True)
        with no_service_starts():
            install(packages)
    missing = [program for program in missing if not is_there(program)]
    if missing:
        names = " ".join(packages_of(missing))
        print(f"error: {', '.join(missing)} not found; as root run: apt install {names}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(provide(sys.argv[1:]))
