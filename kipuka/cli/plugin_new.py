"""`kipuka plugin new`: a distribution to begin a plugin with.

In the room: the names that follow from one, the files of each kind, and writing them. Not in the room: what is in them
(`kipuka/cli/templates/plugin`), and the plugins that are installed (`kipuka.cli.plugins`).

The templates are text with names in double braces. They end in `.txt`, since they are no Python before the names are in.
"""

from __future__ import annotations

import importlib.resources
import keyword
import os
import re
import shutil
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path

import click

import kipuka
from kipuka.cli.failures import Failure

__all__ = ["command", "files_of", "names_of"]

KINDS: Mapping[str, tuple[str, str, str]] = {
    "authenticator": ("authenticator", "A method of proving identity", "a section, and a word in [auth] order"),
    "ca": ("backend", "A certification authority", "the `backend` of a [[ca]] item"),
    "audit": ("sink", "An audit sink", "the `type` of an [[audit.sink]] item"),
}
"""Each kind: the module that does the work, what it is, and what the plugin's name stands for."""

PREFIX = "kipuka-"
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")  # a name of PEP 503, normalised, that makes an identifier
_LONGEST = 40
_PLACE = re.compile(r"\{\{(\w+)\}\}")  # not `${{ matrix.python }}`, which has spaces
_BUNDLED = frozenset({"mtls", "file", "stdout", "syslog", "otp", "gssapi", "ldap", "local", "pkcs11"})


@click.group("plugin")
def command() -> None:
    """Begin a plugin of your own."""


@command.command("new")
@click.argument("name", metavar="NAME")
@click.option("--kind", type=click.Choice(list(KINDS)), required=True, help="What the plugin is to be.")
@click.option(
    "--directory",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help=f"Where it is written: new, or empty. Default: {PREFIX}NAME in this directory.",
)
def new(*, name: str, kind: str, directory: Path | None) -> None:
    """Write a complete distribution: code, tests against a real server, and what a continuous integration runs.

    NAME is lower-case letters, digits and single hyphens, such as `badge` or `acme-hsm`. It works as it stands, and its tests pass: put your
    own proof, CA or collector in the place of the sample's.
    """
    names = names_of(name, kind)
    target = directory if directory is not None else Path(names["distribution"])
    made_here = not target.exists()
    if not made_here and (not target.is_dir() or any(target.iterdir())):
        raise Failure(f"{target} is there already and not empty; nothing was changed")
    files = files_of(names, kind)
    try:
        _write(target, files)
    except BaseException:
        if made_here:
            shutil.rmtree(target, ignore_errors=True)
        raise
    click.echo(f"{target} has the distribution {names['distribution']}. Next:")
    click.echo(f"  cd {target}")
    click.echo("  python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest")
    click.echo(f"Then put your own code into {names['package']}/{KINDS[kind][0]}.py, and choose a licence.")


def names_of(name: str, kind: str) -> Mapping[str, str]:
    """All names that follow from the one. Raises click.BadParameter."""
    short = name.removeprefix(PREFIX)
    if not _NAME.fullmatch(short) or len(short) > _LONGEST:
        hint = re.sub(r"[-_.\W]+", "-", name.lower()).strip("-0123456789")[:_LONGEST].strip("-")
        meant = f"; for instance {hint}" if _NAME.fullmatch(hint) and hint != short else ""
        problem = f"{name!r} is not lower-case letters, digits and single hyphens, beginning with a letter, {_LONGEST} at most{meant}"
        raise click.BadParameter(problem, param_hint="NAME")
    entry = short.replace("-", "_")
    if keyword.iskeyword(entry) or entry in _taken():
        raise click.BadParameter(f"{name!r} is the name of something else already", param_hint="NAME")
    module, summary, use = KINDS[kind]
    words = [word.capitalize() for word in short.split("-")]
    return {
        "entry": entry,
        "distribution": PREFIX + short,
        "package": f"kipuka_{entry}",
        "module": module,
        "scheme": "-".join(words),
        "scheme_lower": short,
        "summary": summary,
        "use": use,
        "version": kipuka.__version__,
    }


def files_of(names: Mapping[str, str], kind: str) -> Mapping[str, str]:
    """The distribution's files, by their paths in it."""
    templates = importlib.resources.files("kipuka.cli") / "templates" / "plugin"
    own, package = templates / kind, names["package"]
    return {
        ".github/workflows/tests.yml": _filled(templates / "tests.yml.txt", names),
        ".gitignore": _filled(templates / "gitignore.txt", names),
        "README.md": _filled(own / "README.md.txt", names),
        "pyproject.toml": _filled(templates / "pyproject.toml.txt", names),
        f"{package}/__init__.py": _filled(templates / "init.py.txt", names),
        f"{package}/{names['module']}.py": _filled(own / f"{names['module']}.py.txt", names),
        f"{package}/plugin.py": _filled(own / "plugin.py.txt", names),
        f"{package}/py.typed": "",
        "tests/conftest.py": _filled(templates / "conftest.py.txt", names),
        "tests/test_contract.py": _filled(own / "test_contract.py.txt", names),
        "tests/test_enrolment.py": _filled(own / "test_enrolment.py.txt", names),
    }


def _taken() -> frozenset[str]:
    """The host's sections and commands, and the plugins that come with it."""
    from kipuka.cli import COMMANDS
    from kipuka.config.host import HOST_SECTIONS

    return _BUNDLED | frozenset(COMMANDS) | frozenset(HOST_SECTIONS)


def _filled(template: Traversable, names: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda place: names[place[1]], template.read_text(encoding="utf-8"))


def _write(target: Path, files: Mapping[str, str]) -> None:
    for path, text in files.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
