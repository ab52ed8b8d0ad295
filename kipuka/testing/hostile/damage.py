"""Damage to octets: what a bad line, a bad encoder or an attacker does to something that was good.

In the room: the strategy of edits, their application, and the mending of DER lengths, so that damage gets past the
outermost checks. Not in the room: what is damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from kipuka.testing import der

__all__ = ["Edit", "beginning", "damaged", "edits", "mend_lengths"]

MOST_LEVELS = 12


@dataclass(frozen=True, kw_only=True, slots=True)
class Edit:
    """One change: where, as a fraction of the length (from 0 up to, not including, 1), what is done, with which octets."""

    where: float
    action: Literal["set", "insert", "delete", "double"]
    octets: bytes

    def apply(self, content: bytes) -> bytes:
        """The content with this change; `delete` and `double` take the number of octets only."""
        at = int(self.where * len(content))
        count = len(self.octets)
        match self.action:
            case "set":
                return content[:at] + self.octets + content[at + count :]
            case "insert":
                return content[:at] + self.octets + content[at:]
            case "delete":
                return content[:at] + content[at + count :]
            case "double":
                return content[:at] + content[at : at + 8 * count] * 2 + content[at + 8 * count :]


def edits(*, most: int = 6) -> st.SearchStrategy[list[Edit]]:
    """One to `most` changes of up to four octets."""
    edit = st.builds(
        Edit,
        where=st.floats(0, 1, exclude_max=True),
        action=st.sampled_from(("set", "insert", "delete", "double")),
        octets=st.binary(min_size=1, max_size=4),
    )
    return st.lists(edit, min_size=1, max_size=most)


def damaged(content: bytes, changes: Sequence[Edit]) -> bytes:
    """The content after all changes, in their order."""
    for change in changes:
        content = change.apply(content)
    return content


def beginning(content: bytes, part: float) -> bytes:
    """The first part of the content, as a fraction of it."""
    return content[: int(part * len(content))]


def mend_lengths(content: bytes, *, level: int = 0) -> bytes:
    """Write the lengths of all constructed elements anew: what is left is well formed outside, and wrong inside."""
    out, at = b"", 0
    while at + 2 <= len(content):
        tag, length = content[at], content[at + 1]
        at += 2
        if length & 0x80:
            count = length & 0x7F
            length = int.from_bytes(content[at : at + count], "big")
            at += count
        inner = content[at : at + length]
        at += length
        deeper = tag & 0x20 and level < MOST_LEVELS
        out += der.tlv(tag, mend_lengths(inner, level=level + 1) if deeper else inner)
    return out
