"""Reading a configuration: `load` for the host's part, `RawConfig.settle` once the plugins' kinds are known.

In the room: the two steps, and which plugins the configuration uses. Not in the room: TOML and the environment
(`kipuka.config.document`), the sections (`kipuka.config.host`, `kipuka.config.settle`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kipuka.api.errors import ConfigError, ConfigProblem
from kipuka.api.kinds import AuditSinkKind, AuthenticatorKind, CABackendKind
from kipuka.config.document import Document, KeyPath, dotted, read_document
from kipuka.config.host import HOST_SECTIONS, SECTION_OF, Host, at, read_host
from kipuka.config.settings import Settings
from kipuka.config.settle import DEFAULT_ORDER, Kinds, settle
from kipuka.config.validate import later_problem, suggestion

__all__ = ["RawConfig", "load"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RawConfig:
    """The file with the environment laid over it: host sections checked, plugins' sections still raw."""

    document: Document = field(repr=False)  # may hold secrets
    problems: tuple[ConfigProblem, ...]  # the host's; `settle` raises them together with those of the plugins' sections
    host: Host = field(repr=False)

    @property
    def file(self) -> Path:
        """The configuration file, absolute."""
        return self.document.file

    @property
    def disabled(self) -> frozenset[str]:
        """The names in `[plugins] disabled`."""
        return self.host.disabled

    def uses(self) -> Mapping[str, str]:
        """The entry points that the configuration needs, without disabled ones, each with the place that needs it, in words:
        sections that are on (RULES K4), backends of `[[ca]]` and types of `[[audit.sink]]`.
        """
        used: dict[str, str] = {}
        for name, path in self._sections().items():
            near = suggestion(name, HOST_SECTIONS)
            hint = f" (did you mean [{near}]?)" if near and path == (name,) else ""
            used[name] = f"section [{dotted(path, self.document.values)}]{hint}"
        for index, head in self.host.cas:
            used.setdefault(head.backend, f"backend of {dotted(('ca', index), self.document.values)}")
        for index, head in self.host.sinks:
            used.setdefault(head.type, f"type of {dotted(('audit', 'sink', index), self.document.values)}")
        return {name: where for name, where in used.items() if name not in self.host.disabled}

    def keys(self, name: str) -> tuple[str, ...]:
        """The dotted keys of this plugin's section and items, in use or not."""
        values = self.document.values
        path = SECTION_OF.get(name, (name,))
        found = [dotted(path, values)] if isinstance(at(values, path), dict) and name not in HOST_SECTIONS else []
        found += [dotted(("ca", index), values) for index, head in self.host.cas if head.backend == name]
        found += [dotted(("audit", "sink", index), values) for index, head in self.host.sinks if head.type == name]
        return tuple(found)

    def places(self, name: str) -> tuple[str, ...]:
        """The same in words."""
        section = dotted(SECTION_OF.get(name, (name,)), self.document.values)
        return tuple(f"section [{key}]" if key == section else key for key in self.keys(name))

    def is_switched_off(self, name: str) -> bool:
        """Whether its section says `enabled = false` (RULES K4)."""
        path = SECTION_OF.get(name, (name,))
        return at(self.document.values, (*path, "enabled")) is False

    def written_by(self, path: KeyPath) -> str:
        """The key, or the environment variable that has overridden it."""
        override = self.document.overrides.get(path)
        return f"[{path[0]}] {dotted(path[1:], {})}" if override is None else override.variable

    def order(self) -> tuple[str, ...]:
        """`[auth] order` as it is written, or the default (RULES K4)."""
        auth = self.host.auth
        return DEFAULT_ORDER if auth is None or auth.order is None else auth.order

    def settle(
        self,
        *,
        authenticators: Mapping[str, AuthenticatorKind[Any]],
        ca_backends: Mapping[str, CABackendKind[Any]],
        audit_sinks: Mapping[str, AuditSinkKind[Any]],
        installed: Collection[str],
        broken: Collection[str] = (),
        failed: Callable[[str, str], None] | None = None,
    ) -> Settings:
        """Validate the plugins' sections by their kinds and put everything together.

        `installed` are the names of all entry points, loaded or not; `broken` those whose fault is already reported. About those
        and about names that are not installed nothing is said here: `kipuka.plugins` has said it. `failed` is told the name of a
        plugin whose model raises what a model may not, and what it raised; without it that is a problem like any other.
        Raises `Unsettled` with every problem, the host's and the plugins', and what is known all the same. Settings are whole only where no plugin has a fault.
        """
        kinds = Kinds(
            authenticators=authenticators,
            ca_backends=ca_backends,
            audit_sinks=audit_sinks,
            installed=frozenset(installed),
            silent=frozenset(broken),
            failed=failed,
        )
        return settle(self.document, self.host, self.problems, self._sections(), kinds)

    def _sections(self) -> dict[str, KeyPath]:
        """The sections of methods that are on (RULES K4) and not disabled: the entry point's name and where it stands."""
        values = self.document.values
        places: dict[str, KeyPath] = {
            name: (name,) for name in values if name not in HOST_SECTIONS and name not in SECTION_OF
        }
        return {
            name: path
            for name, path in {**places, **SECTION_OF}.items()
            if isinstance(at(values, path), dict)
            and at(values, (*path, "enabled")) is not False
            and name not in self.host.disabled
            and later_problem(path, self.document) is None
        }


def load(path: Path, environ: Mapping[str, str]) -> RawConfig:
    """Read the file. Raises `ConfigError` only when there is no TOML to speak of; every other mistake is in `problems`."""
    try:
        file = path.expanduser().absolute()
    except RuntimeError as error:  # there is no such user, or no home directory
        remedy = "write the path without ~"
        problem = ConfigProblem(file=str(path), key="", problem="its ~ stands for no directory", remedy=remedy)
        raise ConfigError([problem]) from error
    document = read_document(file, environ)
    host, problems = read_host(document)
    return RawConfig(document=document, problems=tuple(problems), host=host)
