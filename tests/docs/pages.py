"""The pages of the documentation, and the code blocks in them.

In the room: finding them. Not in the room: running them (`test_commands`), and what they must agree with.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]

_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One fenced block: what stands behind the fence, in words, and its text."""

    info: tuple[str, ...]
    text: str

    @property
    def language(self):
        return self.info[0] if self.info else ""

    def marked(self, word):
        return word in self.info[1:]


def blocks(page):
    """The fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [Block(info=tuple(found[1].split()), text=found[2]) for found in _FENCE.finditer(text)]


def name_of(page):
    """The page as test ids show it."""
    return str(page.relative_to(ROOT))
