"""A profile's own subject, put together from fixed parts and what is known of the client: `CN={CN},O=Example,C=DE`.

In the room: which fields such a template may have, and where their values come from. Not in the room: reading and filling it
(`kipuka.api.names`), and whose names may be filled in (`kipuka.x509.profiles`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from cryptography import x509

from kipuka.api import SubjectTemplate
from kipuka.distinguished_names import attribute_type, dn_values, short_name

__all__ = ["ProfileSubject"]

_NAME = "name"


@dataclass(frozen=True, slots=True)
class ProfileSubject:
    """A subject with fields in it, as it stands in a profile.

    `{name}` is the name of the identity; `{CN}`, `{OU}` and so on are the value of that attribute of the subject that would be granted
    without a template. Raises ValueError where a field is neither.
    """

    template: SubjectTemplate

    def __post_init__(self) -> None:
        _ = self.fields  # raises where one is no type of an attribute

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a template. Raises ValueError with a sentence for what is none."""
        return cls(SubjectTemplate(text))

    @property
    def fields(self) -> frozenset[str]:
        """What is filled in: `name`, and the short names of attributes."""
        return frozenset(
            field if field == _NAME else short_name(attribute_type(field)) for field in self.template.fields
        )

    @property
    def fixed(self) -> frozenset[tuple[x509.ObjectIdentifier, str]]:
        """The attributes that every subject of this template has: type and value."""
        return frozenset(
            (oid, value)
            for attributes in dn_values(self.template.text)
            for oid, value in attributes
            if "{" not in value
        )

    def fill(self, name: str, subject: x509.Name) -> x509.Name:
        """The subject for an identity of that name, from the subject granted to it.

        Raises ValueError where a field has no value or more than one, and where what comes out cannot stand in its attribute.
        """
        return self.template.fill(
            {field: name if field == _NAME else _only_value(subject, field) for field in self.template.fields}
        )


def _only_value(subject: x509.Name, field: str) -> str:
    kind = attribute_type(field)
    values = [attribute.value for attribute in subject.get_attributes_for_oid(kind)]
    if len(values) != 1 or not isinstance(values[0], str):
        raise ValueError(f"the subject has {'no' if not values else 'more than one'} {short_name(kind)}")
    return values[0]
