"""The version of `kipuka.api` that a plugin states: what fits, what is said of the rest, and reading it without an import."""

from __future__ import annotations

import re
import types

import pytest

from kipuka.api import API_VERSION
from kipuka.api_version import misfit, stated_by, stated_in_source


def test_the_api_has_a_major_and_a_minor_version():
    assert re.fullmatch(r"[1-9][0-9]*\.[0-9]+", API_VERSION)
    assert misfit(API_VERSION, "m") is None


@pytest.mark.parametrize(
    ("stated", "has"),
    [("1.0", "1.0"), ("1.0", "1.2"), ("1.2", "1.2"), ("1.9", "1.10"), ("2.3", "2.11")],
)
def test_the_same_major_and_no_later_minor_version_fits(stated, has):
    assert misfit(stated, "m", has=has) is None


@pytest.mark.parametrize(
    ("stated", "has", "remedy"),
    [
        pytest.param("1.3", "1.0", "upgrade kipuka", id="a later minor"),
        pytest.param("1.10", "1.9", "upgrade kipuka", id="numbers, not letters"),
        pytest.param("2.0", "1.7", "upgrade kipuka", id="a later major"),
        pytest.param("1.7", "2.0", "upgrade the plugin", id="an earlier major"),
    ],
)
def test_any_other_version_is_refused_with_who_must_be_upgraded(stated, has, remedy):
    found = misfit(stated, "m", has=has)
    assert found.problem == f"it needs API {stated}, this kipuka has {has}"
    assert found.remedy == remedy


@pytest.mark.parametrize(
    ("stated", "shown"),
    [
        pytest.param("1", "'1'", id="one number"),
        pytest.param("1.0.0", "'1.0.0'", id="three numbers"),
        pytest.param(">=1.0", "'>=1.0'", id="a range"),
        pytest.param("1.0 ", "'1.0 '", id="a blank"),
        pytest.param("01.0", "'01.0'", id="a leading zero"),
        pytest.param("\u0661.\u0660", "'\u0661.\u0660'", id="other digits"),
        pytest.param("", "''", id="empty"),
        pytest.param("x" * 99, repr("x" * 40), id="long"),
        pytest.param(1.0, "a value of type float", id="a number"),
        pytest.param((1, 0), "a value of type tuple", id="a pair"),
        pytest.param(True, "a value of type bool", id="a truth"),
    ],
)
def test_what_is_no_version_is_refused_with_what_to_write(stated, shown):
    found = misfit(stated, "stranger.badge")
    assert found.problem == f"its KIPUKA_API is {shown}, not a text of two numbers, major and minor"
    assert found.remedy == f'have its author write KIPUKA_API = "{API_VERSION}" in the module stranger.badge'


def test_a_module_states_what_is_its_own():
    made = types.ModuleType("m")
    assert stated_by(made) is None
    made.KIPUKA_API = "1.0"
    assert stated_by(made) == "1.0"


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Writes a package that must not be imported, and gives the name of a module in it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(text, package):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (tmp_path / package / "plugin.py").write_bytes(text.encode() if isinstance(text, str) else text)
        return f"{package}.plugin"

    return write


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param('KIPUKA_API = "1.4"\n', "1.4", id="plain"),
        pytest.param('import nothing_there\nKIPUKA_API: str = "1.4"\n', "1.4", id="annotated"),
        pytest.param('KIPUKA_API = "1.4"\nKIPUKA_API = "1.5"\n', "1.5", id="twice"),
        pytest.param('KIPUKA_API = "1." + "4"\n', None, id="computed"),
        pytest.param('def f():\n    KIPUKA_API = "1.4"\n', None, id="not at the top"),
        pytest.param("KIPUKA_API = 1.4\n", None, id="no text"),
        pytest.param("KIPUKA_API = (\n", None, id="no Python"),
        pytest.param(b"\xff\xfe\x00", None, id="no text at all"),
        pytest.param("", None, id="empty"),
    ],
)
def test_the_source_is_read_without_an_import(source, request, text, expected):
    package = "source_" + re.sub(r"\W", "_", request.node.callspec.id)
    assert stated_in_source(source(text, package)) == expected


@pytest.mark.parametrize("name", ["nowhere_to_be_found.plugin", "re.nothing", "sys.plugin", "sys", "a:b [c]", ""])
def test_what_has_no_source_states_nothing_before_its_import(name):
    assert stated_in_source(name) is None
