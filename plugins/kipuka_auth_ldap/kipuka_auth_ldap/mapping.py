"""Which names the holder of a directory entry has.

In the room: the decision, as a pure function of the settings and the entry's attributes. Not in the room: whether the client is that
person (`kipuka_auth_ldap.sign_in`), and what a profile makes of the names, which is the host's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from cryptography import x509

from kipuka.api import SubjectTemplate
from kipuka_auth_ldap.config import LDAPSettings
from kipuka_auth_ldap.names import dns_name, email_name, read_template, upn_name

__all__ = ["Mapped", "NameMapping", "Unmapped"]

USER = "user"
"""The field that stands for the name the directory knows the entry by."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped:
    """The names of an entry's holder. `unfit` has the attributes whose values are no such name, so that nobody gets them."""

    name: str
    subject: x509.Name
    permitted: tuple[x509.GeneralName, ...]
    unfit: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmapped:
    """The entry gives no name to enrol under: a word for audit, and a sentence for whoever keeps the directory."""

    reason: str
    explanation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NameMapping:
    """Which attribute is for what."""

    name_attribute: str
    subject: SubjectTemplate
    san: Mapping[str, Callable[[str], x509.GeneralName]]  # the attribute, and how its values are read

    @classmethod
    def of(cls, settings: LDAPSettings) -> Self:
        """The mapping that the settings describe."""
        readers: tuple[tuple[str | None, Callable[[str], x509.GeneralName]], ...] = (
            (settings.email_attribute, email_name),
            (settings.dns_attribute, dns_name),
            (settings.upn_attribute, upn_name),
        )
        return cls(
            name_attribute=settings.name_attribute,
            subject=read_template(settings.subject),
            san={attribute: reader for attribute, reader in readers if attribute is not None},
        )

    @property
    def attributes(self) -> tuple[str, ...]:
        """The attributes to ask for."""
        wanted = [self.name_attribute, *(self.subject.fields - {USER}), *self.san]
        return tuple(sorted({name.lower() for name in wanted}))

    def find(self, attributes: Mapping[str, tuple[bytes, ...]]) -> Mapped | Unmapped:
        """The names that follow from these attributes (lower-case names, raw values)."""
        name = _single(attributes, self.name_attribute)
        if isinstance(name, Unmapped):
            return name
        values = {USER: name}
        for field in sorted(self.subject.fields - {USER}):
            value = _single(attributes, field)
            if isinstance(value, Unmapped):
                return value
            values[field] = value
        try:
            subject = self.subject.fill(values)
        except ValueError as error:
            return Unmapped(reason="subject_impossible", explanation=f"the subject of {name}: {error}")
        permitted: list[x509.GeneralName] = []
        unfit: list[str] = []
        for attribute, read in self.san.items():
            for raw in attributes.get(attribute.lower(), ()):
                text = _text(raw)
                try:
                    permitted.append(read(text or ""))
                except ValueError:
                    unfit.append(attribute)
        return Mapped(name=name, subject=subject, permitted=tuple(permitted), unfit=tuple(dict.fromkeys(unfit)))


def _single(attributes: Mapping[str, tuple[bytes, ...]], attribute: str) -> str | Unmapped:
    """The one value. Of several none is taken: a directory gives them in no order, and each enrolment would have its own."""
    values = attributes.get(attribute.lower(), ())
    if len(values) != 1:
        many = f"has {len(values)} values of" if values else "has no"
        return Unmapped(
            reason="ambiguous_attribute" if values else "missing_attribute",
            explanation=f"the entry {many} {attribute}",
        )
    text = _text(values[0])
    if text is None:
        return Unmapped(reason="unfit_attribute", explanation=f"{attribute} is not printable text")
    return text


def _text(raw: bytes) -> str | None:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return text if text.strip() == text and text and text.isprintable() else None
