"""The page for administrators knows every word that the audit log may have."""

from __future__ import annotations

import re
from pathlib import Path

import kipuka_auth_gssapi

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "how-to" / "kerberos.md").read_text(encoding="utf-8")


def test_every_reason_for_a_refusal_is_explained():
    folder = Path(kipuka_auth_gssapi.__file__).parent
    words = set()
    for name in ("acceptor", "authenticator", "mapping", "statuses"):
        text = (folder / f"{name}.py").read_text(encoding="utf-8")
        words.update(re.findall(r'reason="(\w+)"', text))
        words.update(re.findall(r'^    \(\S.*, "(\w+)"\),$', text, re.MULTILINE))
    assert len(words) > 15
    assert [word for word in sorted(words) if f"`{word}`" not in PAGE] == []
    told = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) - {"reason"}
    assert told - words == {"gss_failure"} - words
