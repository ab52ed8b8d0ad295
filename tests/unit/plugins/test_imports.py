"""DESIGN, the plugin contract: of kipuka a plugin imports `kipuka.api` and `kipuka.testing` only. Also its tests, the plugins of the
tests and the examples in the documents."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PUBLIC = re.compile(r"kipuka\.(api|testing)(\.|$)")
FENCE = re.compile(r"^```python[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BUILT_IN = [
    ROOT / "kipuka" / "mtls.py",
    ROOT / "kipuka" / "audit" / "file.py",
    ROOT / "kipuka" / "audit" / "stdout.py",
]
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists())
STRANGERS = sorted(path.parent.name for path in (ROOT / "tests" / "stranger").glob("*/pyproject.toml"))


def strays(source):
    """What of kipuka this text imports and may not, also in functions and where only the type checker looks."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] == "kipuka"]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            if node.module == "kipuka":
                found += [f"kipuka.{alias.name}" for alias in node.names]
            elif node.module.startswith("kipuka."):
                found.append(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.args[0].value
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in {"import_module", "__import__"} and str(name).split(".")[0] == "kipuka":
                found.append(name)
    return [name for name in found if not PUBLIC.match(name)]


def files(folder):
    return [path for path in sorted(folder.rglob("*.py")) if "build" not in path.relative_to(folder).parts]


@pytest.mark.parametrize(
    "text",
    [
        "import kipuka",
        "import kipuka.store.tables",
        "from kipuka import plugins",
        "from kipuka.x509.names import parse_dn",
        "from kipuka.apiary import honey",
        "def f():\n    from kipuka.http import app",
        "import importlib\nimportlib.import_module('kipuka.config')",
    ],
)
def test_an_import_of_anything_else_is_seen(text):
    assert strays(text)


@pytest.mark.parametrize(
    "text",
    [
        "import kipuka.api",
        "from kipuka import api, testing",
        "from kipuka.api.storage import Tx",
        "from kipuka.testing.pki import make_csr",
        "import kipuka_auth_otp.plugin",
        "from . import names",
    ],
)
def test_an_import_of_the_public_part_is_none(text):
    assert strays(text) == []


@pytest.mark.parametrize("name", PLUGINS)
def test_a_bundled_plugin_and_its_tests_import_the_public_part_only(name):
    paths = files(ROOT / "plugins" / name)
    assert any("tests" in path.parts for path in paths)
    assert {str(path): found for path in paths if (found := strays(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize("name", STRANGERS)
def test_a_strangers_plugin_imports_the_public_part_only(name):
    paths = files(ROOT / "tests" / "stranger" / name)
    assert paths
    assert {str(path): found for path in paths if (found := strays(path.read_text(encoding="utf-8")))} == {}


@pytest.mark.parametrize("path", BUILT_IN, ids=lambda path: path.stem)
def test_a_built_in_kind_imports_the_public_part_only(path):
    assert strays(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "plugins").glob("*.md")), ids=lambda page: page.stem)
def test_an_example_on_a_page_imports_the_public_part_only(page):
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        assert strays(block) == []


def test_every_plugin_that_is_looked_at_states_its_version():
    """What the host asks of a stranger, ours do: the module of every entry point, read as the host reads it."""
    for project in sorted(ROOT.glob("plugins/*/pyproject.toml")):
        (module,) = re.findall(
            r'entry-points\."kipuka\.plugins"\]\n\w+ = "([\w.]+)"', project.read_text(encoding="utf-8")
        )
        source = project.parent.joinpath(*module.split(".")).with_suffix(".py").read_text(encoding="utf-8")
        assert re.search(r'^KIPUKA_API = "\d+\.\d+"$', source, re.MULTILINE), module
