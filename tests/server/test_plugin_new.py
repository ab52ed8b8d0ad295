"""`kipuka plugin new` as a stranger meets it: kipuka from its wheels in an environment of its own, a plugin of each kind written by the
command, built, installed and tested there, up to an enrolment through it at a real server."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from ..wheels import build_wheel  # noqa: TID252 - tests are no package that is installed

ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = {"badge": "authenticator", "acme-hsm": "ca", "spool": "audit"}

pytestmark = [pytest.mark.server, pytest.mark.slow]


def run(*command, cwd, expect=0, **environ):
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == expect, done.stdout
    return done.stdout


class Site:
    """An environment with kipuka as it would come from an index. Its other requirements are those of this environment."""

    def __init__(self, directory):
        self.work, self.wheels = directory / "work", directory / "wheels"
        self.work.mkdir()
        venv.create(directory / "venv", with_pip=False, symlinks=True)
        self.bin = directory / "venv" / "bin"
        (folder,) = (directory / "venv" / "lib").glob("python*/site-packages")
        # Not the finders of editable installations, which Python reads in its own folder only.
        (folder / "requirements.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
        self.install(ROOT, ROOT / "plugins" / "kipuka_auth_otp", ROOT / "plugins" / "kipuka_ca_local")

    def install(self, *projects):
        made = []
        for project in projects:
            into = self.wheels / project.name
            build_wheel(project, into)
            made += into.glob("*.whl")
        here = ["--no-deps", "--no-index", *made]
        if (uv := shutil.which("uv")) is not None:
            run(uv, "pip", "install", "--quiet", "--python", self.bin / "python", *here, cwd=self.work)
        else:
            pip = [sys.executable, "-m", "pip", "--python", self.bin / "python", "install", "--quiet"]
            run(*pip, "--disable-pip-version-check", "--root-user-action=ignore", *here, cwd=self.work)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"))
    for name, kind in KINDS.items():
        run(made.bin / "kipuka", "plugin", "new", name, "--kind", kind, cwd=made.work)
    made.install(*(made.work / f"kipuka-{name}" for name in KINDS))
    return made


def test_kipuka_is_the_installed_one_and_finds_all_three(site):
    listed = json.loads(
        run(site.bin / "kipuka", "plugins", "--json", "-c", "none.toml", cwd=site.work).split("\n", 1)[1]
    )
    rows = {row["name"]: row["distribution"] for row in listed}
    assert {"badge": "kipuka-badge", "acme_hsm": "kipuka-acme-hsm", "spool": "kipuka-spool"}.items() <= rows.items()
    where = run(site.bin / "python", "-c", "import kipuka; print(kipuka.__file__)", cwd=site.work)
    assert Path(where.strip()).is_relative_to(site.bin.parent)


@pytest.mark.parametrize("name", KINDS)
def test_its_tests_pass_up_to_an_enrolment(site, name):
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # pytest itself, as the extra `test` asks for it
    pytest_of = [site.bin / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    said = run(*pytest_of, cwd=site.work / f"kipuka-{name}", **alone)
    assert " passed" in said
    assert "failed" not in said


def test_it_is_neat(site):
    for name in KINDS:
        project = site.work / f"kipuka-{name}"
        run(sys.executable, "-m", "ruff", "check", "--no-cache", ".", cwd=project)
        run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".", cwd=project)
    packages = [f"kipuka-{name}/kipuka_{name.replace('-', '_')}" for name in KINDS]
    strict = {"include": packages, "typeCheckingMode": "strict", "pythonVersion": "3.11"}
    (site.work / "pyrightconfig.json").write_text(json.dumps(strict))
    said = run(Path(sys.executable).with_name("pyright"), "--pythonpath", site.bin / "python", "--stats", cwd=site.work)
    assert "Total files checked: 9\n" in said


def test_little_of_it_is_code(site):
    """An author reads it all before they change any of it."""
    for name in KINDS:
        package = site.work / f"kipuka-{name}" / f"kipuka_{name.replace('-', '_')}"
        lines = [line for file in package.glob("*.py") for line in file.read_text().splitlines()]
        assert len([line for line in lines if line.strip() and not line.lstrip().startswith("#")]) < 130
