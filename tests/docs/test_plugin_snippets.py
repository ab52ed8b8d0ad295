"""The short blocks of docs/plugins, used as they stand: the configuration of a plugin that is installed, and what an author writes.

Not in the room: whole plugins and their tests (`test_plugin_examples`, `test_plugin_tutorial`), and the commands (`test_plugin_commands`).
"""

from __future__ import annotations

import json
import shutil
import tomllib

import pytest

from kipuka import api
from kipuka.api_version import misfit, stated_in_source
from kipuka.cli.plugin_new import files_of, names_of
from kipuka.testing.server import Deployment

from .installed import install
from .pages import ROOT, blocks

PAGES = sorted((ROOT / "docs" / "plugins").glob("*.md"))
BEGUN = files_of(names_of("badge", "authenticator"), "authenticator")


def of_page(page, language):
    """The blocks of that language that no other test takes."""
    return [b for b in blocks(ROOT / "docs" / "plugins" / page) if b.language == language and len(b.info) == 1]


def files(page, package):
    """The modules of the page's plugin, by path: the block `plugin=`, or the blocks `file=` that belong to the package."""
    found = {}
    for block in blocks(ROOT / "docs" / "plugins" / page):
        for word in block.info[1:]:
            if word.startswith("plugin="):
                found[f"{package}/plugin.py"] = block.text
            if word.startswith(f"file={package}/"):
                found[word.removeprefix("file=")] = block.text
    return found


def test_every_short_block_is_used_here():
    short = {(page.name, b.language) for page in PAGES for b in blocks(page) if len(b.info) == 1}
    assert short == {
        ("README.md", "console"),  # see test_plugin_commands
        ("README.md", "toml"),
        ("README.md", "python"),
        ("audit-sink.md", "toml"),
        ("authenticator.md", "toml"),
        ("authenticator.md", "python"),
        ("ca-backend.md", "toml"),
        ("failures.md", "toml"),
        ("stability.md", "python"),
        ("tutorial.md", "console"),  # see test_plugin_commands
        ("tutorial.md", "toml"),
    }


# -- configurations ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return Deployment.create(tmp_path_factory.mktemp("plain") / "made")


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("authenticator.md", "badge"),
        ("ca-backend.md", "vault"),
        ("audit-sink.md", "receipts"),
        ("tutorial.md", "rest_ca"),
    ],
)
def test_the_configuration_of_a_page_puts_its_plugin_to_use(plain, tmp_path, page, name):
    """`kipuka check` finds nothing wrong with it, and the plugin is used."""
    deployment = plain.copy(tmp_path / "deployment")
    folder, main = deployment.directory, plain.settings["ca"][0]
    [block] = of_page(page, "toml")
    changes = tomllib.loads(block.text)
    deployment.configure(changes)
    if "ca" in changes:  # the page has the line in its text
        deployment.configure({"est": {"default_ca": changes["ca"][0]["id"]}})
    (folder / "badges.txt").write_text("b-17 device-1\n")
    (folder / "rest-ca.token").write_text("secret\n")
    (folder / "rest-ca.token").chmod(0o600)
    chain = [(folder / main[key]).read_text() for key in ("cert", "chain") if key in main]
    (folder / "chain.pem").write_text("".join(chain))
    shutil.copy(folder / main["key"], folder / "issuing.key")
    install(tmp_path / "site", name, files(page, f"kipuka_{name}"))
    environ = {"PYTHONPATH": str(tmp_path / "site")}
    findings = json.loads(deployment.kipuka("check", "--json", environ=environ).stdout)["findings"]
    assert [one for one in findings if one["severity"] == "error"] == []
    rows = json.loads(deployment.kipuka("plugins", "--json", environ=environ).stdout)
    assert {row["name"]: row["state"] for row in rows}[name] == "used"


def test_the_line_for_tracing_is_taken(plain, tmp_path):
    deployment = plain.copy(tmp_path / "deployment")
    [block] = of_page("failures.md", "toml")
    deployment.configure(tomllib.loads(block.text))
    deployment.kipuka("check")
    with deployment.serve() as server:
        server.enrol()
        assert "plugin_call" in server.stderr


def test_the_entry_point_is_the_one_that_plugin_new_writes():
    [block] = of_page("README.md", "toml")
    written = tomllib.loads(BEGUN["pyproject.toml"])["project"]["entry-points"]
    assert tomllib.loads(block.text)["project"]["entry-points"] == written


# -- lines of Python ---------------------------------------------------------------------------------------------------


def test_the_stated_version_is_read_from_the_line_of_the_pages(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for page in ("README.md", "stability.md"):
        (tmp_path / "kipuka_of_the_page.py").write_text(of_page(page, "python")[0].text)
        stated = stated_in_source("kipuka_of_the_page")
        assert misfit(stated, "kipuka_of_the_page") is None


def test_the_line_for_the_conftest_is_the_one_that_plugin_new_writes():
    line = of_page("README.md", "python")[1].text
    assert line in BEGUN["tests/conftest.py"]


def test_the_denial_of_the_page_can_be_made():
    [block] = of_page("authenticator.md", "python")
    denied = eval(block.text.replace("...", "'17'"), {"Denied": api.Denied, "Claim": api.Claim})
    assert denied.spent == api.Claim(plugin="badge", ref="17")
