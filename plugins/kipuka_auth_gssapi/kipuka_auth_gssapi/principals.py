"""Kerberos principals: their text form, and what can be read off them.

In the room: a pure value. Not in the room: whether a principal may enrol, and as whom (`kipuka_auth_gssapi.mapping`).

The text form is that of MIT Kerberos: components parted by slashes, the realm behind an at sign, and a backslash before a
character that stands for itself. Two principals never have the same text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

__all__ = ["Principal"]

_ESCAPED = {"\\": "\\\\", "/": "\\/", "@": "\\@", "\n": "\\n", "\t": "\\t", "\b": "\\b", "\0": "\\0"}
_UNESCAPED = {"n": "\n", "t": "\t", "b": "\b", "0": "\0"}
_HOST = re.compile(
    r"(?!.*\.[0-9]+$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*"
)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a ticket is for: one component for users and machine accounts, two for services, and a realm."""

    components: tuple[str, ...]
    realm: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text form, with its realm. Raises ValueError with the rest of the sentence "a principal ...".

        The realm must be there: a default would depend on the machine.
        """
        parts: list[str] = [""]
        realm_at: int | None = None
        characters = iter(text)
        for character in characters:
            if character == "\\":
                following = next(characters, None)
                if following is None:
                    msg = "has a character behind its last backslash"
                    raise ValueError(msg)
                parts[-1] += _UNESCAPED.get(following, following)
            elif character == "@":
                if realm_at is not None:
                    msg = "has one realm; write \\@ for an at sign in a name"
                    raise ValueError(msg)
                parts.append("")
                realm_at = len(parts) - 1
            elif character == "/" and realm_at is None:
                parts.append("")
            else:
                parts[-1] += character
        if realm_at is None:
            msg = "is written with its realm, as in alice@EXAMPLE.COM"
            raise ValueError(msg)
        *components, realm = parts
        if not realm or not all(components):
            msg = "has no empty parts"
            raise ValueError(msg)
        return cls(tuple(components), realm)

    def __str__(self) -> str:
        return f"{self.user}@{_escape(self.realm)}"

    @property
    def user(self) -> str:
        """The text form without the realm: "alice", "alice/admin", "WS42$", "host/web.example.com"."""
        return "/".join(_escape(component) for component in self.components)

    @property
    def is_machine(self) -> bool:
        """Whether it is a machine account of Active Directory: NAME$."""
        return len(self.components) == 1 and self.components[0].endswith("$")

    @property
    def host(self) -> str | None:
        """The machine's name in lower case: that of host/NAME or of NAME$, where it can be a host name."""
        match self.components:
            case ("host", name):
                found = name.lower()
            case (account,) if self.is_machine:
                found = account.removesuffix("$").lower()
            case _:
                return None
        return found if len(found) <= 253 and _HOST.fullmatch(found) and not found.isdigit() else None

    @property
    def is_anonymous(self) -> bool:
        """Whether it stands for nobody in particular (RFC 8062): WELLKNOWN/ANONYMOUS and its like, and their realm."""
        return self.components[0] == "WELLKNOWN" or self.realm.startswith("WELLKNOWN:")


def _escape(text: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in text)
