"""The host's own sections, read and checked.

In the room: what must hold within and between the host's sections as far as no plugin has a say in it. Not in the room:
plugins' sections and items, and the names of methods (`kipuka.config.settle`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from pydantic import BaseModel

from kipuka.api.errors import ConfigProblem
from kipuka.api.values import Operation
from kipuka.config.document import Document, KeyPath, dotted
from kipuka.config.profiles import build_profile
from kipuka.config.sections import (
    AdminSection,
    AuditSection,
    AuthSection,
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
from kipuka.config.validate import later_problem, suggestion, unknown_key, validate
from kipuka.x509.profiles import Profile

__all__ = ["HOST_SECTIONS", "SECTION_OF", "Host", "at", "read_host"]

ModelT = TypeVar("ModelT", bound=BaseModel)

SECTION_OF: Mapping[str, KeyPath] = {"mtls": ("tls", "client_auth")}
"""Authenticators whose section is not the top-level table of their name (RULES K2)."""

HOST_SECTIONS: Mapping[str, type[BaseModel]] = {
    "server": ServerSection,
    "tls": TLSSection,
    "db": DatabaseSection,
    "ca": CAHead,
    "est": ESTSection,
    "profile": ProfileItem,
    "auth": AuthSection,
    "plugins": PluginsSection,
    "admin": AdminSection,
    "audit": AuditSection,
    "log": LogSection,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """The host's sections, as far as they are good."""

    server: ServerSection | None
    tls: TLSSection | None
    db: DatabaseSection | None
    est: ESTSection | None
    labels: tuple[tuple[int, LabelItem], ...]
    profiles: Mapping[str, Profile]
    auth: AuthSection | None
    admin: AdminSection | None
    audit: AuditSection | None
    log: LogSection | None
    cas: tuple[tuple[int, CAHead], ...]  # with their positions in the file
    sinks: tuple[tuple[int, SinkHead], ...]
    plugins: PluginsSection | None
    disabled: frozenset[str]  # [plugins] disabled


def read_host(document: Document) -> tuple[Host, list[ConfigProblem]]:
    """The host's sections, with everything that is wrong with them and with the environment."""
    reading = _Reading(document)
    return reading.read(), reading.problems


def at(values: Any, path: KeyPath) -> Any:
    """The value at this place, through tables only; None where there is none."""
    for part in path:
        values = cast("dict[str | int, Any]", values).get(part) if isinstance(values, dict) else None
    return values


class _Reading:
    """One reading of the host's sections; collects problems as it goes."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems = list(document.problems)

    def read(self) -> Host:
        self._top_level()
        plugins = self._section(PluginsSection, "plugins", salvage=("disabled",))
        auth = self._section(AuthSection, "auth")
        server = self._section(ServerSection, "server")
        admin = self._section(AdminSection, "admin") if "admin" in self.document.values else None
        self._admin(server, admin)
        return Host(
            server=server,
            tls=self._section(TLSSection, "tls", without=("client_auth",), salvage=("min_version",)),
            db=self._section(DatabaseSection, "db"),
            est=self._section(
                ESTSection,
                "est",
                without=("label",),
                salvage=("base_path", "base64_lines", "ca_timeout", "replay_window", *_OF_A_PATH),
            ),
            labels=self._labels(),
            profiles=self._profiles(),
            auth=auth,
            admin=admin,
            audit=self._section(AuditSection, "audit", without=("sink",)),
            log=self._section(LogSection, "log"),
            cas=self._cas(),
            sinks=self._sinks(),
            plugins=plugins,
            disabled=frozenset(plugins.disabled if plugins else ()),
        )

    def _say(self, path: KeyPath, problem: str, remedy: str) -> None:
        self.problems.append(self.document.problem(path, problem, remedy))

    def _top_level(self) -> None:
        for name, value in self.document.values.items():
            later = later_problem((name,), self.document)
            if later is not None:
                self.problems.append(later)
            elif name in SECTION_OF:
                section = dotted(SECTION_OF[name], {})
                self._say((name,), "unknown section", f"write it as [{section}]")
            elif name not in HOST_SECTIONS and not isinstance(value, dict):
                self._stray(name, value)
        client_auth = at(self.document.values, ("tls", "client_auth"))
        if client_auth is not None and not isinstance(client_auth, dict):
            self._say(("tls", "client_auth"), "a table is needed", "write [tls.client_auth] with its keys below")

    def _stray(self, name: str, value: object) -> None:
        """A key, or an array of tables, that stands above the first section."""
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in cast("list[Any]", value)):
            near = suggestion(name, HOST_SECTIONS)
            self._say((name,), "unknown section", f"did you mean [[{near}]]?" if near else "take it out")
            return
        homes = [section for section, model in HOST_SECTIONS.items() if name in model.model_fields]
        if homes:
            where = " or ".join(f"[{home}]" for home in homes)
            self._say((name,), "it stands outside of any section", f"write it below {where}")
        else:
            self.problems.append(unknown_key((name,), tuple(HOST_SECTIONS), self.document))

    def _section(
        self, model: type[ModelT], name: str, *, without: Collection[str] = (), salvage: Collection[str] = ()
    ) -> ModelT | None:
        value = self.document.values.get(name, {})
        if isinstance(value, list):
            self._say((name,), "a table is needed, not an array", f"write [{name}] in single brackets")
            return None
        if without and isinstance(value, dict):
            table = cast("dict[str, Any]", value)
            value = {key: inner for key, inner in table.items() if key not in without}
        instance, problems = validate(model, value, (name,), self.document, also=without, salvage=salvage)
        self.problems.extend(problems)
        return instance

    def _items(self, path: KeyPath) -> list[Any]:
        value = at(self.document.values, path)
        if value is None:
            return []
        if not isinstance(value, list):
            name = dotted(path, {})
            self._say(path, "an array of tables is needed", f"write [[{name}]] in double brackets")
            return []
        return cast("list[Any]", value)

    def _profiles(self) -> dict[str, Profile]:
        profiles: dict[str, Profile] = {}
        free = set(ProfileItem.model_fields).difference(("name", "names"))
        for index, item in self._each(ProfileItem, ("profile",), self._items(("profile",)), salvage=free):
            path: KeyPath = ("profile", index)
            if item.name in profiles:
                self._say((*path, "name"), "two profiles have this name", "give one of them another name")
                continue
            profile, mistakes = build_profile(item)
            for mistake in mistakes:
                self._say((*path, *mistake.path), mistake.problem, mistake.remedy)
            profiles[item.name] = profile
        if "default" not in profiles:
            profiles["default"] = build_profile(ProfileItem(name="default"))[0]
        return profiles

    def _cas(self) -> tuple[tuple[int, CAHead], ...]:
        items = self._items(("ca",))
        if self.document.values.get("ca", []) == []:
            self._say(("ca",), "it is missing", "write [[ca]] with id, backend and the backend's keys")
        heads = self._each(CAHead, ("ca",), items, salvage=("validity_days",), shared=True)
        self._unique(("ca",), [(index, head.id) for index, head in heads], "id", "CAs")
        return heads

    def _sinks(self) -> tuple[tuple[int, SinkHead], ...]:
        value = self.document.values.get("audit", {})
        if not isinstance(value, dict):
            return ()  # told already
        path: KeyPath = ("audit", "sink")
        items = self._items(path)
        heads = self._each(SinkHead, path, items, shared=True)
        self._unique(path, [(index, head.id or head.type) for index, head in heads], "id", "sinks")
        return heads

    def _each(
        self,
        model: type[ModelT],
        path: KeyPath,
        items: list[Any],
        *,
        salvage: Collection[str] = (),
        shared: bool = False,
    ) -> tuple[tuple[int, ModelT], ...]:
        """The items with their positions; `shared`: their other keys are a plugin's."""
        good: list[tuple[int, ModelT]] = []
        for index, value in enumerate(items):
            mine = _host_keys(model, value) if shared else value
            item, problems = validate(model, mine, (*path, index), self.document, salvage=salvage)
            self.problems.extend(problems)
            if item is not None:
                good.append((index, item))
        return tuple(good)

    def _unique(self, path: KeyPath, names: Iterable[tuple[int, str]], key: str, things: str) -> None:
        seen: set[str] = set()
        for index, name in names:
            if name in seen:
                self._say((*path, index, key), f"two {things} are called {name}", f"give one of them another {key}")
            seen.add(name)

    def _labels(self) -> tuple[tuple[int, LabelItem], ...]:
        path: KeyPath = ("est", "label")
        est = self.document.values.get("est")
        items = self._items(path) if isinstance(est, dict) else []
        labels = self._each(
            LabelItem, path, items, salvage=("ca", "profile", "client_anchors", "replay_window", *_OF_A_PATH)
        )
        operations = {operation.value for operation in Operation}
        for index, label in labels:
            where: KeyPath = (*path, index, "name")
            if label.name in operations:  # RULES F7
                self._say(where, f"{label.name} is an EST operation", "give the label another name")
            elif not label.name or label.name in {".", ".."} or not set(label.name) <= _SEGMENT:
                self._say(where, "it cannot stand in a path", "use letters, digits, . _ ~ and -")
        self._unique(path, [(index, label.name) for index, label in labels], "name", "labels")
        return labels

    def _admin(self, server: ServerSection | None, admin: AdminSection | None) -> None:
        written = "admin" in self.document.values
        if server is not None and server.admin_listen is not None:
            if not written:
                remedy = "write [admin.bearer_token] or [admin.tls], or take admin_listen out"
                self._say(("server", "admin_listen"), "there is no [admin] section", remedy)
            if server.admin_listen == server.listen and server.listen.port:
                remedy = "take admin_listen out: /admin is on the EST listener then"
                self._say(("server", "admin_listen"), "it is the address of listen", remedy)
        if admin is not None and not admin.takes_bearer_tokens and admin.certificates == "none":
            # RULES E2: the start is refused when admin is on with no method
            remedy = (
                "write [admin.bearer_token] with enabled = true, or [admin.tls] with trust_anchors and "
                'mode = "required", or take [admin] out'
            )
            self._say(("admin",), "the admin API is on, but nobody could sign in", remedy)


_OF_A_PATH = ("auth", "require", "operations", "foreign_clients", "serverkeygen")
"""Keys of `[est]` that a label may have too."""

_SEGMENT = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-")


def _host_keys(model: type[BaseModel], value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    table = cast("dict[str, Any]", value)
    return {key: inner for key, inner in table.items() if key in model.model_fields}
