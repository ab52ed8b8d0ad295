"""Distinguished names for plugins: read, written, and put together from a template.

In the room: the template. Reading and writing are those of the host (`kipuka.distinguished_names`). Not in the room: whose names may be
filled in, which a plugin knows, and which names are issued, which the profile decides.

A template is read into its components before anything is filled in, so that no value can become a component (DESIGN.md,
guarantee 5).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import InitVar, dataclass
from functools import lru_cache

from cryptography import x509

from kipuka.distinguished_names import control_character, dn_values, format_dn, parse_dn, text_attribute

__all__ = ["SubjectTemplate", "format_dn", "parse_dn"]

_FIELD = re.compile(r"\{([A-Za-z0-9][A-Za-z0-9._-]*)\}", re.ASCII)
_BRACE = re.compile(r"[{}]")


@dataclass(frozen=True, slots=True)
class SubjectTemplate:
    """A distinguished name with fields in its values: `CN={user},OU={department} team,O=Example`.

    It is written as RFC 4514 says; case makes no difference in the names of fields. With `known`, a field that is not among them is
    refused: `SubjectTemplate(text, known=("user",))`. Raises ValueError with a sentence that says what is wrong with the text, for
    whoever wrote it: also where a component has two attributes of one type, or nothing that is filled in could ever make a name of it.

    Since API 1.0.
    """

    text: str
    known: InitVar[Collection[str] | None] = None

    def __post_init__(self, known: Collection[str] | None) -> None:
        components = _components(self.text)
        if not components:
            raise ValueError("it is empty")
        for attributes in components:
            if len({oid for oid, _ in attributes}) != len(attributes):
                raise ValueError("a component has two attributes of one type")
            for oid, value in attributes:
                if _BRACE.search(_FIELD.sub("", value)):
                    raise ValueError("a brace is not part of a field such as {name}")
                _check_possible(oid, value)
        if known is not None and (strange := sorted(self.fields.difference(map(str.lower, known)))):
            there_are = ", ".join(f"{{{name}}}" for name in known)
            raise ValueError(f"there is no field {{{strange[0]}}}, only {there_are}" if known else "it has a field")

    @property
    def fields(self) -> frozenset[str]:
        """What is filled in, in lower case. Empty where every subject is the same one."""
        values = (value for attributes in _components(self.text) for _, value in attributes)
        return frozenset(name.lower() for value in values for name in _FIELD.findall(value))

    def fill(self, values: Mapping[str, str]) -> x509.Name:
        """The subject with these values, by the lower-case names of the fields. Values of no field are passed over.

        A value stands where its field stood and nowhere else: whatever characters it has, separators, quotes, backslashes, braces and
        spaces at its ends among them, it is that attribute's value or a part of it. Raises ValueError where a field has no value or an
        empty one, where a value has control characters (or others that reorder or break lines), and where what comes out is too long
        for its attribute or not of its string type (RFC 5280, appendix A). The sentence names no value, so it can be logged.
        """
        chosen = {name: values.get(name, "") for name in self.fields}
        for name, value in sorted(chosen.items()):
            if not value:
                raise ValueError(f"there is no {name}")
            if control_character(value) is not None:
                raise ValueError(f"{name} has control characters")
        return x509.Name(
            [
                x509.RelativeDistinguishedName([text_attribute(oid, _filled(text, chosen)) for oid, text in attributes])
                for attributes in _components(self.text)
            ]
        )


@lru_cache(maxsize=256)
def _components(text: str) -> Sequence[Sequence[tuple[x509.ObjectIdentifier, str]]]:
    """A template is filled in for each request, and read once."""
    return dn_values(text)


def _filled(text: str, values: Mapping[str, str]) -> str:
    # One pass: a brace in a value that is put in stands for itself.
    return _FIELD.sub(lambda found: values[found[1].lower()], text)


def _check_possible(oid: x509.ObjectIdentifier, value: str) -> None:
    """Raise ValueError where the fixed part of a value leaves no room. Two characters are the most any type demands (a country)."""
    if len(_FIELD.findall(value)) == 1:
        try:
            text_attribute(oid, _FIELD.sub("x", value))
        except ValueError:
            text_attribute(oid, _FIELD.sub("xx", value))
    else:
        text_attribute(oid, _FIELD.sub("x", value))
