"""Makes the environment in .venv that `make` works with, or leaves it alone when it is what it should be.

In the room: finding a usable Python, the virtual environment, and installing the pinned, hashed requirements and this
checkout itself into it. Not in the room: choosing the pins (`lock.py`).

    python3 scripts/environment.py run      what the server and its bundled plugins need
    python3 scripts/environment.py dev      that, and the tools that check and test
    python3 scripts/environment.py headers  installs what the plugins with `needs-headers` are compiled with

A plugin whose requirements are compiled against a library of the machine names what that takes in its pyproject file
(`[tool.kipuka] needs-headers`). A server runs without it, and the rest can be worked on without it: it is part of `dev`
only where all of that is there. One that a first look at the server does not take says `in-run = false` there.

Two of them at once in one checkout take turns, by a lock on `.venv.lock`.

It runs before anything is installed, so it uses the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools import is_there, provide

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STATE = VENV / "kipuka-environment.json"
LOCK = ROOT / ".venv.lock"  # beside it: the folder itself is made anew
OLDEST, NEWEST = (3, 11), (3, 13)


def fail(sentence: str) -> None:
    print(f"error: {sentence}", file=sys.stderr)
    sys.exit(1)


def quiet(command: list[str], **extra: str) -> None:
    """Run a command; its output is shown only when it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **extra},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout, end="", file=sys.stderr)
        fail(f"this command failed with status {done.returncode}: {' '.join(command)}")


def settings_of(pyproject: Path) -> dict[str, Any]:
    """What the pyproject file of a plugin says for these scripts."""
    import tomllib  # an older Python has none, and is told so before it comes here

    settings: dict[str, Any] = tomllib.loads(pyproject.read_text(encoding="utf-8")).get("tool", {}).get("kipuka", {})
    return settings


def needed_headers(pyproject: Path) -> list[str]:
    """The programs and header files that a plugin's requirements are compiled with."""
    return list(settings_of(pyproject).get("needs-headers", []))


def all_headers() -> list[str]:
    found = [name for file in ROOT.glob("plugins/*/pyproject.toml") for name in needed_headers(file)]
    return list(dict.fromkeys(found))


def have_headers() -> bool:
    return all(is_there(name) for name in all_headers())


def own_projects(flavour: str) -> list[Path]:
    """The host's folder and those of the bundled plugins that are installed."""
    plugins = sorted(ROOT.glob("plugins/*/pyproject.toml"))
    if flavour == "run":
        plugins = [file for file in plugins if settings_of(file).get("in-run", True)]
    compiled = flavour == "dev" and have_headers()
    return [ROOT, *(file.parent for file in plugins if compiled or not needed_headers(file))]


def requirements(flavour: str) -> list[str]:
    """The files of pins, in the order in which they are installed."""
    files = [f"requirements/{flavour}.txt"]
    if flavour == "dev" and have_headers():
        files.append("requirements/headers.txt")
    return files


def wanted_state(flavour: str) -> dict[str, str]:
    """All that the environment depends on: a change of any of it makes a new one."""
    inputs = [
        *(ROOT / file for file in requirements(flavour)),
        *(folder / "pyproject.toml" for folder in own_projects(flavour)),
    ]
    digest = hashlib.sha256()
    for file in inputs:
        digest.update(str(file.relative_to(ROOT)).encode())
        digest.update(file.read_bytes())
    return {
        "folder": str(ROOT),
        "python": f"{sys.executable} {sys.version}",
        flavour: digest.hexdigest(),
    }


def present_state() -> dict[str, str]:
    with contextlib.suppress(OSError, ValueError):
        state: dict[str, str] = json.loads(STATE.read_text(encoding="utf-8"))
        return state if isinstance(state, dict) else {}
    return {}


def have_ensurepip() -> bool:
    """Debian's python3 has the module ensurepip only with the package python3-venv."""
    probe = "import ensurepip, venv; ensurepip.version()"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0


def need_ensurepip() -> None:
    if have_ensurepip():
        return
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"{sys.executable} cannot make environments yet: installing {package}", flush=True)
        noninteractive = {"DEBIAN_FRONTEND": "noninteractive"}
        quiet(["apt-get", "update", "-q"], **noninteractive)
        quiet(["apt-get", "install", "-q", "-y", "--no-install-recommends", package], **noninteractive)
        if have_ensurepip():
            return
    fail(f"{sys.executable} cannot make virtual environments; as root run: apt install {package}")


def is_same_base(state: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(state.get(key) == wanted[key] for key in ("folder", "python"))


def is_as_wanted(flavour: str) -> bool:
    state, wanted = present_state(), wanted_state(flavour)
    return is_same_base(state, wanted) and state.get(flavour) == wanted[flavour]


@contextlib.contextmanager
def my_turn() -> Iterator[None]:
    """Nobody else works on the environment meanwhile. The kernel lets go of the lock with the process, however that ends."""
    with LOCK.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another make, which works on .venv", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(flavour: str) -> None:
    """Make the environment, or bring it up to date. It is nobody else's turn."""
    state, wanted = present_state(), wanted_state(flavour)
    if not is_same_base(state, wanted):
        need_ensurepip()
        print("making the environment in .venv", flush=True)
        if VENV.exists():
            shutil.rmtree(VENV)
        quiet([sys.executable, "-m", "venv", str(VENV)])
        state = {}
    python = str(VENV / "bin" / "python")
    # What is half installed is not taken for the real thing: the state is written when all is done.
    STATE.unlink(missing_ok=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    if flavour == "dev" and not have_headers():
        missing = ", ".join(name for name in all_headers() if not is_there(name))
        print(f"leaving out the plugins that are compiled: no {missing} (make headers installs it)", flush=True)
    for file in requirements(flavour):
        print(f"installing {file}", flush=True)
        quiet([*pip, "--require-hashes", "--no-deps", "-r", file])
    editable = [argument for folder in own_projects(flavour) for argument in ("-e", str(folder))]
    quiet([*pip, "--no-deps", "--no-build-isolation", *editable])
    both = {**wanted, **({"run": wanted_state("run")["run"]} if flavour == "dev" else {})}
    STATE.write_text(json.dumps(both, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    flavour = sys.argv[1] if len(sys.argv) == 2 else ""
    if flavour not in {"run", "dev", "headers"}:
        fail("usage: environment.py run|dev|headers")
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        version = ".".join(str(part) for part in sys.version_info[:3])
        fail(
            f"{sys.executable} is Python {version}, kipuka needs 3.11 to 3.13; name another one: make PYTHON=python3.11"
        )
    if flavour == "headers":
        sys.exit(provide(all_headers()))
    if is_as_wanted(flavour):
        return
    with my_turn():
        if not is_as_wanted(flavour):  # whoever was before may have made it
            make(flavour)


if __name__ == "__main__":
    main()
