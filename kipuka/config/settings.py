"""What the rest of the host knows of the configuration: one frozen value, everything resolved.

In the room: `Settings`, the values in it, and what is known of it while there are mistakes. Not in the room: how they came to be (`kipuka.config.load`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from kipuka.config.sections import (
    AdminSection,
    AuditSection,
    DatabaseSection,
    ESTSection,
    LogSection,
    OnFailure,
    PluginsSection,
    ServerSection,
    TLSSection,
)
from kipuka.x509.patterns import CertificatePattern
from kipuka.x509.profiles import Profile

__all__ = ["CAItem", "Known", "Label", "Settings", "SinkItem"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CAItem:
    """One `[[ca]]`: `settings` is an instance of the backend kind's own model."""

    id: str
    backend: str
    settings: BaseModel
    validity: timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class SinkItem:
    """One `[[audit.sink]]`: `settings` is an instance of the sink kind's own model; `id` is unique and names its cursor."""

    id: str
    type: str
    settings: BaseModel
    on_failure: OnFailure = "continue"


@dataclass(frozen=True, kw_only=True, slots=True)
class Label:
    """One EST label, or the path without one (`name` None: RULES K5), with every default filled in.

    `auth` are the methods that are on here, in the order of `[auth] order`; where `require` has sets, those in a set that can be met.
    `operations` None means all. `client_anchors` None means those of `[tls.client_auth]`.
    """

    name: str | None
    ca: str
    profile: Profile
    auth: tuple[str, ...]
    require: tuple[tuple[str, ...], ...] = ()
    operations: frozenset[str] | None = None
    foreign_clients: tuple[CertificatePattern, ...] = ()
    client_anchors: Path | None = None
    replay_window: timedelta = timedelta(0)
    serverkeygen: bool = True
    registration_authorities: tuple[CertificatePattern, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What of a configuration can be looked at, whatever mistakes stand elsewhere in it: sections and items without a mistake
    of their own. Nothing is started with it.
    """

    file: Path
    tls: TLSSection | None  # also where min_version alone is wrong
    db: DatabaseSection | None
    cas: tuple[CAItem, ...]
    labels: Mapping[str | None, Label]
    sinks: tuple[SinkItem, ...]
    admin: AdminSection | None
    authenticators: Mapping[str, BaseModel]
    disabled: frozenset[str] = frozenset()
    overrides: Mapping[str, str] = field(
        default_factory=dict[str, str]
    )  # dotted key -> environment variable, no values


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings(Known):
    """The whole configuration. `db.url` is absolute; `authenticators` has the enabled methods only, in the order in
    which they are asked; `labels` always has the key None, the path without a label; `admin` None: there is no admin API.
    """

    sha256: str  # of the file's bytes, hexadecimal
    server: ServerSection
    tls: TLSSection
    db: DatabaseSection
    est: ESTSection
    profiles: Mapping[str, Profile]
    audit: AuditSection
    log: LogSection
    plugins: PluginsSection

    @property
    def auth(self) -> tuple[str, ...]:
        """The methods that are on, in the order in which they are asked (RULES K4)."""
        return tuple(self.authenticators)

    def in_part(self) -> Known:
        """The same as something to look at only: where plugins are missing, whose sections and items are not here."""
        return Known(
            file=self.file,
            tls=self.tls,
            db=self.db,
            cas=self.cas,
            labels=self.labels,
            sinks=self.sinks,
            admin=self.admin,
            authenticators=self.authenticators,
            disabled=self.disabled,
            overrides=self.overrides,
        )

    def ca(self, id: str) -> CAItem:  # noqa: A002 - the key is called id in the file
        """The CA of that id. Raises KeyError."""
        for item in self.cas:
            if item.id == id:
                return item
        raise KeyError(id)
