"""The plugins in docs/plugins, loaded, opened and used as they stand on the page."""

from __future__ import annotations

import asyncio
import linecache
import sys
import types

import pytest

from kipuka import plugins
from kipuka.api import Authenticated, Authorization, Denied, NotPresented
from kipuka.testing.harness import credentials

from .pages import ROOT, blocks


def _marked(mark):
    """The blocks of the pages that are marked so, by what stands behind the mark."""
    return {
        word.removeprefix(mark): block.text
        for page in sorted((ROOT / "docs" / "plugins").glob("*.md"))
        for block in blocks(page)
        for word in block.info[1:]
        if word.startswith(mark)
    }


EXAMPLES, CONTRACTS = _marked("plugin="), _marked("contract=")


class PlainServices:
    """The one service that the examples use."""

    async def run_blocking(self, fn, /, *arguments, **named):
        return await asyncio.to_thread(fn, *arguments, **named)


def loaded(name):
    """The plugin of the page, through kipuka's own loader."""
    module = types.ModuleType(name)
    exec(compile(EXAMPLES[name], f"docs/plugins ({name})", "exec", dont_inherit=True), module.__dict__)
    candidate = plugins.Candidate(name=name, value=name, distribution="docs", version="1", load=lambda: module)
    return plugins.load([candidate], {name: "the document"})


def test_every_kind_of_plugin_has_an_example_and_a_test_of_it():
    assert set(EXAMPLES) == set(CONTRACTS) == {"badge", "vault", "receipts"}


@pytest.mark.parametrize(
    ("presented", "expected"),
    [
        pytest.param(Authorization(scheme="badge", parameters="b-17"), Authenticated, id="known"),
        pytest.param(Authorization(scheme="badge", parameters="b-18"), Denied, id="unknown"),
        pytest.param(Authorization(scheme="badge", parameters="\udc80"), Denied, id="garbage"),
        pytest.param(Authorization(scheme="basic", parameters="b-17"), NotPresented, id="another scheme"),
        pytest.param(None, NotPresented, id="nothing"),
    ],
)
async def test_the_authenticator_of_the_page_recognises_badges(tmp_path, presented, expected):
    (tmp_path / "badges.txt").write_text("b-17 device-1\n", encoding="utf-8")
    kind = loaded("badge").authenticators["badge"]
    settings = kind.config.model_validate({"file": "badges.txt"}, context={"base": tmp_path})
    async with kind.open(settings, PlainServices()) as opened:
        assert isinstance(await opened.authenticate(credentials(authorization=presented)), expected)


def contract_of(name):
    """The contract as the page tests it, over the plugin of the page."""
    package, plugin = types.ModuleType(f"kipuka_{name}"), types.ModuleType(f"kipuka_{name}.plugin")
    sys.modules |= {package.__name__: package, plugin.__name__: plugin}
    tests = types.ModuleType(f"contract_of_{name}")
    for module, text in ((plugin, EXAMPLES[name]), (tests, CONTRACTS[name])):
        module.__file__ = f"<docs/plugins: {module.__name__}>"
        # pydantic reads the docstrings of keys from the source
        linecache.cache[module.__file__] = len(text), None, text.splitlines(keepends=True), module.__file__
        exec(compile(text, module.__file__, "exec", dont_inherit=True), module.__dict__)
    return tests.TestContract


TestBadgeOfThePage = contract_of("badge")
TestVaultOfThePage = contract_of("vault")
TestReceiptsOfThePage = contract_of("receipts")
