"""Which principal may enrol, and under which names.

In the room: the decision, as a pure function of settings and principal. Not in the room: whether the client is that
principal (`kipuka_auth_gssapi.acceptor`), and what a profile makes of the names, which is the host's affair.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from cryptography import x509

from kipuka.api import SubjectTemplate
from kipuka_auth_gssapi.config import GSSAPISettings
from kipuka_auth_gssapi.names import SANForm, alternative_names, subject_of
from kipuka_auth_gssapi.principals import Principal

__all__ = ["Mapped", "PrincipalMapping", "Unmapped"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Mapped:
    """The names of a principal that may enrol. `host_name` may be followed by a domain of the profile."""

    subject: x509.Name
    names: tuple[x509.GeneralName, ...]
    host_name: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Unmapped:
    """The principal gets nothing: a word for audit, and a sentence for whoever administers the mapping."""

    reason: str
    explanation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PrincipalMapping:
    """Explicit mappings first, then the template."""

    explicit: Mapping[Principal, x509.Name]
    default: SubjectTemplate | None
    hosts: SubjectTemplate | None
    realms: frozenset[str]
    san: tuple[SANForm, ...]

    @classmethod
    def of(cls, settings: GSSAPISettings) -> Self:
        """The mapping that the settings describe."""
        return cls(
            explicit=settings.explicit_mapping,
            default=settings.user_template,
            hosts=settings.machine_template,
            realms=settings.allowed_realms,
            san=settings.san,
        )

    def find(self, principal: Principal) -> Mapped | Unmapped:
        """The names of a principal, or why it has none."""
        if principal.is_anonymous:
            return Unmapped(reason="anonymous_principal", explanation=f"{principal} is nobody in particular")
        if principal.realm not in self.realms:
            allowed = ", ".join(sorted(self.realms))
            return Unmapped(
                reason="foreign_realm", explanation=f"{principal} is not of a realm that is let in: {allowed}"
            )
        subject = self.explicit.get(principal)
        if subject is None:
            template = self.default if self.hosts is None or principal.host is None else self.hosts
            if template is None:
                return Unmapped(
                    reason="principal_not_mapped", explanation=f"{principal} has no mapping, and no template is for it"
                )
            try:
                subject = subject_of(principal, template)
            except ValueError as error:
                return Unmapped(
                    reason="principal_unsuitable", explanation=f"{principal} does not fit the template: {error}"
                )
        return Mapped(
            subject=subject,
            names=alternative_names(principal, self.san),
            host_name=principal.host if "dns" in self.san else None,
        )
