"""What the documents say, held against the code."""

from __future__ import annotations

import ast
import re
import tomllib

import pytest
from kipuka_auth_otp.config import OTPSettings

from kipuka import api
from kipuka.api import CertificateProblem, HookSpecs
from kipuka.authentication import CERTIFICATE_REQUIRED
from kipuka.config.sections import ProfileItem
from kipuka.store.lockouts import LOCKED_OUT
from kipuka.testing.disobedient import rules_of_the_code

from .pages import PAGES, ROOT, blocks, name_of

REFERENCE = ROOT / "docs" / "reference"
RULES = (REFERENCE / "rules.md").read_text(encoding="utf-8")


def anchors(text):
    """The link targets of a page's headings."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith(("http:", "https:")):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{target} does not exist"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_configuration_example_is_toml(page):
    for block in blocks(page):
        if block.language == "toml":
            tomllib.loads(block.text)


def test_every_page_is_in_the_map_of_the_readme_or_linked_from_a_page_that_is():
    linked = set()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            linked.add((page.parent / target).resolve())
    assert {page.resolve() for page in PAGES if page.name != "README.md" or page.parent != ROOT} <= linked


def test_the_cycle_has_the_steps_of_the_code_in_their_order():
    """docs/explanation/enrolment-cycle.md promises the same names."""
    page = (ROOT / "docs" / "explanation" / "enrolment-cycle.md").read_text(encoding="utf-8")
    told = [heading for heading in re.findall(r"^## (.+)$", page, re.MULTILINE) if heading.isidentifier()]
    found = []
    for module in ("kipuka/http/est.py", "kipuka/enrolment/use_case.py"):
        tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
        found += [
            call.args[0].value
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "_step"
            and isinstance(call.args[0], ast.Constant)
        ]
    assert set(told) == set(found)
    assert told == [
        "receive",
        "read_csr",
        "authenticate",
        "reserve",
        "authorise",
        "prove_possession",
        "make_key",
        "sign",
        "check_certificate",
        "record",
        "answer",
    ]


def test_every_rule_that_a_test_names_is_told_to_users():
    told = set(re.findall(r"^- \*\*([A-K]\d)\*\*", RULES, re.MULTILINE))
    named = set()
    for folder in (ROOT / "tests", *ROOT.glob("plugins/*/tests")):
        for file in folder.rglob("test_*.py"):
            for words in re.findall(r"RULES ([A-K]\d(?:(?:, | and | to )[A-K]\d)*)", file.read_text(encoding="utf-8")):
                named.update(re.findall(r"[A-K]\d", words))
    assert named <= told


def test_the_texts_of_refusals_are_in_the_authentication_chapter():
    page = (REFERENCE / "authentication.md").read_text(encoding="utf-8")
    plugins = ["invalid OTP token", "GSSAPI authentication failed", "principal not mapped"]
    texts = [*(problem.value for problem in CertificateProblem), CERTIFICATE_REQUIRED, LOCKED_OUT, *plugins]
    assert [text for text in texts if f"| `{text}` |" not in page] == []


def test_the_table_of_otp_keys_has_every_key_with_its_default():
    page = (REFERENCE / "authentication.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", page.partition("## One-time passwords")[2], re.MULTILINE))
    defaults = OTPSettings.model_construct().model_dump(mode="json")
    told = {key: value.strip("`").strip('"') for key, value in rows.items() if key in defaults}
    assert told == {key: plain(value) for key, value in defaults.items()}


def plain(value):
    """A default as the table writes it: durations are whole seconds."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) else str(value)


def test_the_plugin_page_lists_every_hook():
    page = (ROOT / "docs" / "plugins" / "README.md").read_text(encoding="utf-8")
    hooks = {name for name in vars(HookSpecs) if name.startswith("kipuka_")}
    assert set(re.findall(r"^\| `(kipuka_\w+)` \|", page, re.MULTILINE)) == hooks


def test_every_name_of_the_api_that_the_plugin_pages_import_exists():
    for page in (ROOT / "docs" / "plugins").glob("*.md"):
        for block in blocks(page):
            if block.language != "python":
                continue
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom) and node.module == "kipuka.api":
                    assert {alias.name for alias in node.names} <= set(api.__all__)


def test_no_page_speaks_of_what_belongs_to_nobody_but_its_makers():
    """A document is for users: no folder of a maker's machine, no place that only a maker can reach."""
    for page in PAGES:
        assert not re.findall(r"(?<![\w.])/(?:work|root|tmp|home)/", page.read_text(encoding="utf-8")), name_of(page)


def test_every_rule_that_a_refusal_names_is_a_key_of_the_profile_and_in_the_reference():
    """docs/reference/errors.md lists them; whoever reads one can look it up, and change it."""
    table = (
        (REFERENCE / "errors.md")
        .read_text(encoding="utf-8")
        .partition("## Rules of a profile")[2]
        .partition("\n## ")[0]
    )
    listed = {word for row in re.findall(r"^\| (`.+?) \|", table, re.MULTILINE) for word in re.findall(r"`(\w+)`", row)}
    assert listed == rules_of_the_code()
    assert listed <= set(ProfileItem.model_fields)
