"""What a client calls itself, made safe to stand in a search filter or a distinguished name.

In the room: two pure functions. Not in the room: who uses them (`kipuka_auth_ldap.sign_in`).
"""

from __future__ import annotations

__all__ = ["escape_dn_value", "escape_filter_value"]

_IN_FILTER = "\\*()\0"
_IN_DN = '\\"+,;<>=\x7f' + "".join(map(chr, range(0x20)))


def escape_filter_value(text: str) -> str:
    """The text as an assertion value of a filter (RFC 4515, 3): whatever it has, it matches itself and nothing else."""
    return "".join(f"\\{ord(character):02x}" if character in _IN_FILTER else character for character in text)


def escape_dn_value(text: str) -> str:
    """The text as an attribute value of a distinguished name (RFC 4514, 2.4): it can neither add a component nor end one.

    Spaces and number signs at the ends are escaped too, and control characters, which OpenLDAP's library takes for spaces.
    """
    last = len(text) - 1
    return "".join(
        f"\\{ord(character):02x}"
        if character in _IN_DN or (character == " " and place in {0, last}) or (character == "#" and place == 0)
        else character
        for place, character in enumerate(text)
    )
