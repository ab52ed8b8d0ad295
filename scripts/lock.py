"""Pins what this checkout needs, with hashes: requirements/run.txt to run it, requirements/dev.txt to work on it, and
requirements/headers.txt for the plugins that are compiled against libraries of the machine (see `environment.py`).

In the room: collecting what the pyproject files of the host and its bundled plugins ask for, and handing it to
`uv pip compile`. Not in the room: installing (`environment.py`).

    python scripts/lock.py            write the files again (needs uv and a package index)
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
HEADERS = ROOT / "requirements" / "headers.txt"

# An editable install without build isolation needs the build backend's helper in the environment.
EDITABLE = ["editables>=0.5"]
# Node comes with the wheel, so that a machine without it can run pyright.
NODE = ["pyright[nodejs]"]

PIN = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", re.MULTILINE)


def projects() -> list[dict[str, Any]]:
    """The pyproject files of the host and of each bundled plugin, parsed."""
    files = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
    return [tomllib.loads(file.read_text(encoding="utf-8")) for file in files]


def needs_headers(project: dict[str, Any]) -> bool:
    """Whether its requirements are compiled."""
    return bool(project.get("tool", {}).get("kipuka", {}).get("needs-headers"))


def is_run(project: dict[str, Any]) -> bool:
    """Whether the environment of `make run` has it (see `environment.py`)."""
    return bool(project.get("tool", {}).get("kipuka", {}).get("in-run", True))


def collect(file: Path) -> list[str]:
    """Every requirement of this checkout that comes from outside it and that the file pins."""
    parsed = projects()
    own = {canonicalize_name(project["project"]["name"]) for project in parsed}
    wanted: list[str] = [] if file == HEADERS else list(EDITABLE)
    dev = file == DEV
    for project in parsed:
        if needs_headers(project) != (file == HEADERS) or (file == RUN and not is_run(project)):
            continue
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
    pinned = {file: pins(file) for file in (RUN, DEV, HEADERS)}
    for file, known in pinned.items():
        for line in collect(file):
            requirement = Requirement(line)
            versions = known.get(canonicalize_name(requirement.name), set())
            if not versions:
                found.append(f"{file.relative_to(ROOT)} does not pin {requirement.name}")
            found += [
                f"{file.relative_to(ROOT)} pins {requirement.name} {version}, but {line} is asked for"
                for version in versions
                if not requirement.specifier.contains(version, prereleases=True)
            ]
    found += [
        f"{other.relative_to(ROOT)} pins {name} otherwise than requirements/run.txt"
        for name, versions in pinned[RUN].items()
        for other in (DEV, HEADERS)
        if pinned[other].get(name, versions if other == HEADERS else None) != versions
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
    if target != RUN:
        # The same versions everywhere: what is tested is what runs.
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
        for file in (DEV, HEADERS):
            file.unlink(missing_ok=True)
    for file in (RUN, DEV, HEADERS):
        compile_file(file, collect(file), upgrade=arguments.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
