"""A subject put together from fixed parts and what is known of the client: `CN={CN},O=Example,C=DE`.

In the room: reading such a template, and filling it in. Not in the room: whose names may be filled in (`kipuka.x509.profiles`).

A template is read into its components before anything is filled in, so that no value can become a component (DESIGN.md,
guarantee 5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography import x509

from kipuka.x509.names import attribute_type, dn_values, short_name, text_attribute

__all__ = ["SubjectTemplate"]

_FIELD = re.compile(r"\{([^{}]*)\}")
_NAME = "name"


@dataclass(frozen=True, slots=True)
class SubjectTemplate:
    """A subject with fields in it, as it stands in the configuration.

    It is written as RFC 4514 says. `{name}` is the name of the identity; `{CN}`, `{OU}` and so on are the value of that attribute of the
    subject that would be granted without a template. Raises ValueError with one sentence for what is no template.
    """

    text: str

    def __post_init__(self) -> None:
        components = dn_values(self.text)
        if not components:
            raise ValueError("a subject such as CN={CN},O=Example is expected")
        for attributes in components:
            if len({oid for oid, _ in attributes}) != len(attributes):
                raise ValueError("a component has two attributes of one type")
            for oid, value in attributes:
                for field in _FIELD.findall(value):
                    if field != _NAME:
                        attribute_type(field)
                fixed = _FIELD.sub("", value)
                if "{" in fixed or "}" in fixed:
                    raise ValueError("a brace is not part of a field such as {CN}")
                if _FIELD.search(value) is None:
                    text_attribute(oid, value)

    @property
    def fields(self) -> frozenset[str]:
        """What is filled in: `name`, and the short names of attributes."""
        return frozenset(
            field if field == _NAME else short_name(attribute_type(field))
            for attributes in dn_values(self.text)
            for _, value in attributes
            for field in _FIELD.findall(value)
        )

    @property
    def fixed(self) -> frozenset[tuple[x509.ObjectIdentifier, str]]:
        """The attributes that every subject of this template has: type and value."""
        return frozenset(
            (oid, value)
            for attributes in dn_values(self.text)
            for oid, value in attributes
            if _FIELD.search(value) is None
        )

    @property
    def attributes(self) -> frozenset[x509.ObjectIdentifier]:
        """The types of all attributes that a subject of this template has."""
        return frozenset(oid for attributes in dn_values(self.text) for oid, _ in attributes)

    def fill(self, name: str, subject: x509.Name) -> x509.Name:
        """The subject for an identity of that name, from the subject granted to it.

        Raises ValueError where a field has no value or more than one, and where what comes out cannot stand in its attribute.
        """

        def value_of(field: re.Match[str]) -> str:
            return name if field[1] == _NAME else _only_value(subject, field[1])

        return x509.Name(
            [
                x509.RelativeDistinguishedName([text_attribute(oid, _FIELD.sub(value_of, text)) for oid, text in parts])
                for parts in dn_values(self.text)
            ]
        )


def _only_value(subject: x509.Name, field: str) -> str:
    values = [attribute.value for attribute in subject.get_attributes_for_oid(attribute_type(field))]
    if len(values) != 1 or not isinstance(values[0], str):
        raise ValueError(f"the subject has {'no' if not values else 'more than one'} {field}")
    return values[0]
