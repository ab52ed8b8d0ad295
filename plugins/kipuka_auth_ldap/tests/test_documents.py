"""The page for administrators knows every word that the audit log may have."""

from __future__ import annotations

import re
from pathlib import Path

import kipuka_auth_ldap

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "how-to" / "ldap.md").read_text(encoding="utf-8")
# The host's own words for what no plugin said, and for a lock-out.
TROUBLES = re.compile(r'Trouble\(\s*"(\w+)"')


def test_every_reason_for_a_refusal_is_explained():
    folder = Path(kipuka_auth_ldap.__file__).parent
    words: set[str] = set()
    for file in folder.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        words.update(re.findall(r'(?:reason=|_busy\(sign_in, |else )"(\w+)"', text))
        words.update(re.findall(r'^    (?:\d+|"\w+"): \("(\w+)", (?:True|False)\),', text, re.MULTILINE))
        words.update(re.findall(r'^        return "(\w+)"$', text, re.MULTILINE) if file.name == "basic.py" else [])
        words.update(f"directory_{word}" for word in re.findall(r'[Tt]rouble\(\s*"(\w+)"', text))
    words -= {"server_down", "search_failed", "none", "several"}
    assert len(words) > 25
    assert [word for word in sorted(words) if f"`{word}`" not in PAGE] == []
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", PAGE, re.MULTILINE)
    told = {word.strip("`") for row in rows for word in row.split(", ")} - {"reason", "ldap", "otp"}
    assert told - words <= {"directory_search_failed"}
