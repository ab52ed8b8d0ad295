"""`kipuka plugin new`: names, and what is never overwritten. That what it writes works is for tests/server/test_plugin_new.py."""

from __future__ import annotations

import os
import tomllib

import pytest
from click.testing import CliRunner

from kipuka.cli import main
from kipuka.cli.plugin_new import files_of, names_of


def new(*arguments):
    return CliRunner().invoke(main, ["plugin", "new", *map(str, arguments)])


@pytest.mark.parametrize(
    ("name", "distribution", "package", "entry"),
    [
        ("badge", "kipuka-badge", "kipuka_badge", "badge"),
        ("acme-hsm", "kipuka-acme-hsm", "kipuka_acme_hsm", "acme_hsm"),
        ("kipuka-badge", "kipuka-badge", "kipuka_badge", "badge"),
        ("b2", "kipuka-b2", "kipuka_b2", "b2"),
    ],
)
def test_every_name_follows_from_the_one(name, distribution, package, entry):
    names = names_of(name, "ca")
    assert (names["distribution"], names["package"], names["entry"]) == (distribution, package, entry)
    project = tomllib.loads(files_of(names, "ca")["pyproject.toml"])["project"]
    assert project["name"] == distribution
    assert project["entry-points"]["kipuka.plugins"] == {entry: f"{package}.plugin"}


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Badge",
        "my_badge",
        "9lives",
        "-a",
        "a-",
        "a--b",
        "a b",
        "a.b",
        "../a",
        "a/b",
        "é",
        "a" * 41,
        "kipuka-",
        "a\n",
        "{{entry}}",
    ],
)
def test_a_name_that_is_none_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = new("--kind", "ca", "--", name)
    assert done.exit_code == 2, done.output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name", ["otp", "local", "file", "server", "audit", "serve", "plugin", "class", "est", "profile"]
)
def test_a_name_that_means_something_else_is_refused(name, tmp_path, monkeypatch):
    """RULES K2: the name is a section, a word of the command line and part of a module's name."""
    monkeypatch.chdir(tmp_path)
    done = new(name, "--kind", "ca")
    assert done.exit_code == 2
    assert "already" in done.output
    assert not list(tmp_path.iterdir())


def test_a_better_name_is_suggested():
    assert "for instance my-badge" in " ".join(new("My_Badge", "--kind", "ca").output.split())


def test_nothing_is_overwritten(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    (there / "README.md").write_text("mine")
    done = new("badge", "--kind", "ca", "--directory", there)
    assert done.exit_code == 1
    assert "nothing was changed" in done.output
    assert {file.name: file.read_text() for file in there.iterdir()} == {"README.md": "mine"}


def test_an_empty_folder_is_taken_and_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    assert new("badge", "--kind", "audit", "--directory", tmp_path / "empty").exit_code == 0
    (tmp_path / "file").write_text("mine")
    assert new("badge", "--kind", "audit", "--directory", tmp_path / "file").exit_code == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_half_of_it_does_not_stay(tmp_path, monkeypatch):
    """The disk is full after three files: the next attempt finds nothing in its way."""
    real, count = os.open, iter(range(100))

    def full(path, flags, *mode, **named):
        if flags & os.O_EXCL and next(count) >= 3:
            raise OSError(28, "No space left on device", str(path))
        return real(path, flags, *mode, **named)

    monkeypatch.setattr(os, "open", full)
    done = new("badge", "--kind", "ca", "--directory", tmp_path / "new")
    assert done.exit_code == 1
    assert "No space left on device" in done.output
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("kind", ["authenticator", "ca", "audit"])
def test_every_place_in_a_template_is_filled(kind):
    for path, text in files_of(names_of("badge", kind), kind).items():
        assert "{{" not in text.replace("${{ matrix.python }}", ""), path
        assert "KIPUKA_API" in text or not path.endswith("/plugin.py")
