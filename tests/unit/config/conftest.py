"""Configurations and kinds for the tests of this folder."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from kipuka import mtls
from kipuka.api import (
    AuditSinkKind,
    AuthenticatorKind,
    CABackendKind,
    ConfigError,
    ConfigPath,
    Seconds,
    Secret,
    Section,
)
from kipuka.config import load

SERVER = """
[tls]
cert = "server.pem"
key = "server.key"
"""

CA = """
[[ca]]
id = "one"
backend = "smithy"
cert = "ca.pem"
"""

GOOD = SERVER + CA


class Badge(Section):
    """A method that is not one of the three."""

    reader: str = "door"
    length: int = 20
    ratio: float = 1.5
    window: Seconds = timedelta(seconds=300)
    strict: bool = True
    pin: Secret | None = None


class Token(Section):
    """A method with its own switch."""

    enabled: bool = True


class Smithy(Section):
    """A CA backend."""

    cert: ConfigPath


class Jotter(Section):
    """A sink."""

    path: ConfigPath | None = None


@asynccontextmanager
async def never_opened(config, services):
    del config, services
    raise AssertionError
    yield


MTLS = mtls.kipuka_authenticators()[0]
KINDS = {
    "authenticators": {
        "mtls": MTLS,
        "otp": AuthenticatorKind(name="otp", config=Token, open=never_opened),
        "badge": AuthenticatorKind(name="badge", config=Badge, open=never_opened),
    },
    "ca_backends": {"smithy": CABackendKind(name="smithy", config=Smithy, open=never_opened)},
    "audit_sinks": {"jotter": AuditSinkKind(name="jotter", config=Jotter, open=never_opened)},
}
INSTALLED = frozenset(name for kinds in KINDS.values() for name in kinds)


def written(folder: Path, text: str, name: str = "kipuka.toml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def settled(folder: Path, text: str, environ=None, **changes):
    """The settings of a configuration whose plugins are those above."""
    arguments = {**KINDS, "installed": INSTALLED, **changes}
    return load(written(folder, text), environ or {}).settle(**arguments)


def problems(folder: Path, text: str, environ=None, **changes):
    """Everything that is wrong with it, by key."""
    with pytest.raises(ConfigError) as caught:
        settled(folder, text, environ, **changes)
    return {problem.key: problem for problem in caught.value.problems}
