"""docs/reference/config.md is what the models say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from kipuka.config.host import HOST_SECTIONS

pytestmark = pytest.mark.kerberos  # the page describes the plugin for Kerberos too, which is compiled

ROOT = Path(__file__).parents[3]


def generator():
    spec = importlib.util.spec_from_file_location("config_reference", ROOT / "scripts" / "config_reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date():
    module = generator()
    assert module.PAGE.read_text(encoding="utf-8") == module.render(), "run: python scripts/config_reference.py"


def test_every_section_of_the_host_has_a_heading():
    page = generator().render()
    for name in HOST_SECTIONS:
        assert f"[{name}" in page


def test_every_key_has_a_meaning():
    rows = [line for line in generator().render().splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        assert row.rstrip(" |").rsplit(" | ", 1)[1].strip(), row
