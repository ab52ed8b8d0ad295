"""Pins what this checkout needs, with hashes: requirements/run.txt to run it, requirements/dev.txt to work on it.

In the room: collecting what the pyproject files of the host and its bundled plugins ask for, and handing it to
`uv pip compile`. Not in the room: installing (`environment.py`).

    python scripts/lock.py            write both files again (needs uv and a package index)
    python scripts/lock.py --upgrade  the same, with the newest versions allowed
    python scripts/lock.py --check    say which requirement the files no longer answer (needs neither)
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "requirements" / "run.txt"
DEV = ROOT / "requirements" / "dev.txt"

# An editable install without build isolation needs the build backend's helper in the environment.
EDITABLE = ["editables>=0.5"]
# Node comes with the wheel, so that a machine without it can run pyright.
NODE = ["pyright[nodejs]"]

PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def projects() -> list[dict[str, Any]]:
    """The pyproject files of the host and of each bundled plugin, parsed."""
    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    return [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]


def collect(*, dev: bool) -> list[str]:
    """Every requirement of this checkout that comes from outside it."""
    parsed = projects()
    own = {canonicalize_name(project["project"]["name"]) for project in parsed}
    wanted: list[str] = list(EDITABLE)
    for project in parsed:
        wanted += project["build-system"]["requires"]
        wanted += project["project"].get("dependencies", [])
        if dev:
            wanted += [line for line in project.get("dependency-groups", {}).get("dev", []) if isinstance(line, str)]
            for extra in project["project"].get("optional-dependencies", {}).values():
                wanted += extra
    if dev:
        wanted += NODE
    return sorted({line for line in wanted if canonicalize_name(Requirement(line).name) not in own})


def pins(file: Path) -> dict[str, set[Version]]:
    """The versions a requirements file pins; one name has several where they differ by Python version."""
    found: dict[str, set[Version]] = {}
    for name, version in PIN.findall(file.read_text(encoding="utf-8")):
        found.setdefault(canonicalize_name(name), set()).add(Version(version))
    return found


def problems() -> list[str]:
    """What is asked for and not pinned, pinned outside its range, or pinned twice in two ways."""
    found: list[str] = []
    pinned = {file: pins(file) for file in (RUN, DEV)}
    for file, dev in ((RUN, False), (DEV, True)):
        for line in collect(dev=dev):
            requirement = Requirement(line)
            versions = pinned[file].get(canonicalize_name(requirement.name), set())
            if not versions:
                found.append(f"{file.relative_to(ROOT)} does not pin {requirement.name}")
            found += [
                f"{file.relative_to(ROOT)} pins {requirement.name} {version}, but {line} is asked for"
                for version in versions
                if not requirement.specifier.contains(version, prereleases=True)
            ]
    found += [
        f"the two files pin {name} differently"
        for name, versions in pinned[RUN].items()
        if pinned[DEV].get(name) != versions
    ]
    return found


def compile_file(target: Path, wanted: list[str], *, upgrade: bool) -> None:
    """Write one requirements file."""
    command = [
        "uv",
        "pip",
        "compile",
        "-",
        "--quiet",
        "--no-annotate",
        "--generate-hashes",
        "--universal",
        "--python-version",
        "3.11",
    ]
    command += ["--custom-compile-command", "make lock", "--output-file", str(target)]
    if upgrade and target == RUN:
        command.append("--upgrade")
    if target == DEV:
        # The same versions in both: what is tested is what runs.
        command += ["--constraint", str(RUN)]
    subprocess.run(command, input="\n".join(wanted), text=True, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    text = target.read_text(encoding="utf-8").replace(f"-c {RUN}", f"-c {RUN.relative_to(ROOT)}")
    target.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description="Pin what this checkout needs.")
    parser.add_argument("--check", action="store_true", help="compare only")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions allowed")
    arguments = parser.parse_args()
    if arguments.check:
        found = problems()
        for line in found:
            print(f"{line}; run: make lock", file=sys.stderr)
        return 1 if found else 0
    if arguments.upgrade:
        DEV.unlink(missing_ok=True)
    compile_file(RUN, collect(dev=False), upgrade=arguments.upgrade)
    compile_file(DEV, collect(dev=True), upgrade=arguments.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
