"""The plugin of docs/plugins/tutorial.md: begun as the page begins, with the page's files laid over; its own tests hold its contract and
enrol through a real server."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kipuka.cli.plugin_new import files_of, names_of

from .installed import install
from .pages import ROOT, blocks

PAGE = ROOT / "docs" / "plugins" / "tutorial.md"
FILES = {
    word.removeprefix("file="): block.text
    for block in blocks(PAGE)
    for word in block.info[1:]
    if word.startswith("file=")
}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    install(folder, "rest_ca", files_of(names_of("rest-ca", "ca"), "ca") | FILES)
    return folder


def run(project, *command):
    environ = {**os.environ, "PYTHONPATH": str(project), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_page_says_which_files_it_has():
    assert set(FILES) == {
        "kipuka_rest_ca/backend.py",
        "kipuka_rest_ca/plugin.py",
        "kipuka_rest_ca/wire.py",
        "tests/stand_in.py",
        "tests/test_contract.py",
        "tests/test_enrolment.py",
    }


@pytest.mark.server
@pytest.mark.timeout(300)
def test_its_tests_pass_and_none_of_the_promises_about_a_wire_is_skipped(project):
    said = run(project, sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider")
    skipped = {line.partition(": ")[2] for line in said.splitlines() if line.startswith("SKIPPED")}
    assert skipped == {"it makes no CA", "it decides at once"}


def test_its_code_is_neat(project):
    run(project, sys.executable, "-m", "ruff", "check", "--no-cache", ".")
    run(project, sys.executable, "-m", "ruff", "format", "--no-cache", "--check", ".")
