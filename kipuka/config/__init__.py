"""From a TOML file and the environment to typed settings.

In the room: the models of the host's sections, the settings the rest of the host works with, and the way from one to
the other, with every mistake found on it. Not in the room: plugins; their kinds come as arguments (`kipuka.runtime` puts
the two together).
"""

from __future__ import annotations

from kipuka.config.load import RawConfig, load
from kipuka.config.sections import (
    Address,
    AdminMode,
    AdminSection,
    AdminTLSSection,
    AuditSection,
    AuthSection,
    BearerTokenItem,
    BearerTokenSection,
    CAHead,
    DatabaseSection,
    ESTSection,
    LabelItem,
    LogSection,
    PluginsSection,
    ProfileItem,
    ServerSection,
    SinkHead,
    TLSSection,
)
from kipuka.config.settings import CAItem, Known, Label, Settings, SinkItem
from kipuka.config.settle import Unsettled

__all__ = [
    "Address",
    "AdminMode",
    "AdminSection",
    "AdminTLSSection",
    "AuditSection",
    "AuthSection",
    "BearerTokenItem",
    "BearerTokenSection",
    "CAHead",
    "CAItem",
    "DatabaseSection",
    "ESTSection",
    "Known",
    "Label",
    "LabelItem",
    "LogSection",
    "PluginsSection",
    "ProfileItem",
    "RawConfig",
    "ServerSection",
    "Settings",
    "SinkHead",
    "SinkItem",
    "TLSSection",
    "Unsettled",
    "load",
]
