"""Finding, loading, checking and listing plugins. No fault of one hides another, and each says whose it is.

In the room: entry points, pluggy, and the shape of what hooks return. Not in the room: which plugins the configuration uses
(`kipuka.config` says so), validating their sections, and opening them (`kipuka.runtime`).

A plugin is imported only when the configuration uses it. The stages, in order: find, version, import, register, collect;
`configure` and `open` come later and take their words from `Plugins.fault`.
"""

from __future__ import annotations

import difflib
import inspect
import re
import time
import types
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from importlib import metadata
from typing import Any, Literal, TypeVar, cast

import click
import pluggy
from pydantic import BaseModel

from kipuka.api.errors import PluginError, PluginFault
from kipuka.api.events import HOST_EVENTS, AuditEvent
from kipuka.api.hooks import ENTRY_POINT_GROUP, HookSpecs
from kipuka.api.kinds import AnyKind, AuditSinkKind, AuthenticatorKind, CABackendKind
from kipuka.api.routes import AdminRoute
from kipuka.api.storage import Storage
from kipuka.api_version import misfit, stated_by, stated_in_source
from kipuka.vigil import told_when_slow

__all__ = ["Candidate", "HookCall", "PluginRow", "Plugins", "Report", "discover", "examine", "list_plugins", "load"]

PROJECT = "kipuka"

_BUNDLED = {
    "gssapi": "kipuka-auth-gssapi",
    "ldap": "kipuka-auth-ldap",
    "local": "kipuka-ca-local",
    "otp": "kipuka-auth-otp",
    "pkcs11": "kipuka-ca-pkcs11",
}
"""Our own distributions. No other name is ever suggested to pip: a guessed one could be anybody's."""

Stage = Literal["find", "version", "import", "register", "collect", "configure", "open"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """An entry point of the group `kipuka.plugins`, not imported."""

    name: str
    value: str  # the module
    distribution: str
    version: str
    load: Callable[[], object] = field(repr=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Loaded:
    """What one plugin brings."""

    candidate: Candidate
    authenticators: tuple[AuthenticatorKind[Any], ...] = ()
    ca_backends: tuple[CABackendKind[Any], ...] = ()
    audit_sinks: tuple[AuditSinkKind[Any], ...] = ()
    storages: tuple[Storage, ...] = ()
    admin_routes: tuple[AdminRoute, ...] = ()
    commands: tuple[click.Command, ...] = ()

    def events(self) -> tuple[type[AuditEvent], ...]:
        """The audit events of its kind."""
        return tuple(event for kind in (*self.authenticators, *self.ca_backends) for event in kind.events)

    def kinds(self) -> tuple[str, ...]:
        """What it is, in words for `kipuka plugins`."""
        words = (
            ("authenticator", self.authenticators),
            ("ca backend", self.ca_backends),
            ("audit sink", self.audit_sinks),
            ("storage", self.storages),
            ("admin routes", self.admin_routes),
            ("commands", self.commands),
        )
        return tuple(word for word, records in words if records)


@dataclass(frozen=True, kw_only=True, slots=True)
class HookCall:
    """One hook that a plugin implements, called."""

    hook: str
    seconds: float
    returned: tuple[str, ...]  # what its records are, in words, as far as they are of the right type


@dataclass(kw_only=True, slots=True)
class Report:
    """How far the loading of one plugin came."""

    candidate: Candidate
    stated: object = None  # KIPUKA_API, from the source or the imported module; None: not known, or not there
    imported: bool = False
    calls: list[HookCall] = field(default_factory=list[HookCall])
    deprecated: list[str] = field(default_factory=list[str])  # hooks and arguments that go with the next major version


@dataclass(frozen=True, kw_only=True, slots=True)
class PluginRow:
    """One line of `kipuka plugins`."""

    name: str
    distribution: str
    version: str
    kinds: tuple[str, ...]  # empty for a plugin that is not imported
    state: Literal["used", "unused", "disabled", "broken"]
    problem: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plugins:
    """The plugins that the configuration uses, with everything that is wrong with them in `faults`."""

    candidates: tuple[Candidate, ...]
    disabled: frozenset[str]
    faults: tuple[PluginFault, ...]
    loaded: Mapping[str, _Loaded] = field(repr=False)
    reports: tuple[Report, ...] = field(default=(), repr=False)  # of those that were to be loaded

    @property
    def authenticators(self) -> Mapping[str, AuthenticatorKind[Any]]:
        """Methods of proving identity, by name."""
        return {kind.name: kind for plugin in self.loaded.values() for kind in plugin.authenticators}

    @property
    def ca_backends(self) -> Mapping[str, CABackendKind[Any]]:
        """Ways to sign, by name."""
        return {kind.name: kind for plugin in self.loaded.values() for kind in plugin.ca_backends}

    @property
    def audit_sinks(self) -> Mapping[str, AuditSinkKind[Any]]:
        """Places audit records go to, by name."""
        return {kind.name: kind for plugin in self.loaded.values() for kind in plugin.audit_sinks}

    @property
    def storages(self) -> Sequence[Storage]:
        """The tables of plugins, by plugin name."""
        return [storage for plugin in self.loaded.values() for storage in plugin.storages]

    @property
    def admin_routes(self) -> Sequence[tuple[str, AdminRoute]]:
        """Admin routes, each with the name of its plugin."""
        return [(name, route) for name, plugin in self.loaded.items() for route in plugin.admin_routes]

    @property
    def events(self) -> Sequence[type[AuditEvent]]:
        """The audit events that plugins bring."""
        return [event for plugin in self.loaded.values() for event in plugin.events()]

    @property
    def installed(self) -> frozenset[str]:
        """The names of all entry points, loaded or not."""
        return frozenset(candidate.name for candidate in self.candidates)

    @property
    def broken(self) -> frozenset[str]:
        """The names about which a fault was reported."""
        return frozenset(fault.plugin for fault in self.faults)

    def commands(self, name: str) -> Sequence[click.Command]:
        """The commands under `kipuka <name>`; empty for a plugin that is not loaded."""
        plugin = self.loaded.get(name)
        return plugin.commands if plugin else ()

    def owner(self, name: str) -> str:
        """The distribution and version that the plugin of that name comes from, in words."""
        found = next((one for one in self.candidates if one.name == name), None)
        return "not installed" if found is None else f"{found.distribution} {found.version}"

    def fault(self, name: str, *, stage: Stage, problem: str, remedy: str | None = None) -> PluginFault:
        """A fault that shows after loading: its section cannot be read (configure), or it cannot be opened (open)."""
        candidate = next((candidate for candidate in self.candidates if candidate.name == name), None)
        return PluginFault(
            plugin=name,
            distribution=candidate.distribution if candidate else "",
            version=candidate.version if candidate else "",
            stage=stage,
            problem=problem,
            remedy=remedy or _REPORT,
        )

    def rows(self) -> Sequence[PluginRow]:
        """Every installed plugin, and every one that is used but not installed."""
        problems: dict[tuple[str, str], str] = {}
        for fault in self.faults:
            problems.setdefault((fault.plugin, fault.distribution), f"{fault.stage}: {fault.problem}; {fault.remedy}")
        rows = [self._row(candidate, problems) for candidate in self.candidates]
        known = self.installed
        rows.extend(
            PluginRow(name=name, distribution="", version="", kinds=(), state="broken", problem=problem)
            for (name, _), problem in problems.items()
            if name not in known
        )
        return sorted(rows, key=lambda row: (row.name, row.distribution))

    def _row(self, candidate: Candidate, problems: Mapping[tuple[str, str], str]) -> PluginRow:
        problem = problems.get((candidate.name, candidate.distribution))
        twins = _twins(candidate.name, self.candidates)
        plugin = self.loaded.get(candidate.name)
        state: Literal["used", "unused", "disabled", "broken"]
        if candidate.name in self.disabled:
            state, problem = "disabled", None
        elif problem is None and len(twins) > 1:
            # unused, so it stops nothing; but whoever looks for the reason finds it here
            state, problem = "broken", _twin_problem(twins)
        else:
            state = "broken" if problem else "used" if plugin else "unused"
        return PluginRow(
            name=candidate.name,
            distribution=candidate.distribution,
            version=candidate.version,
            kinds=plugin.kinds() if plugin else (),
            state=state,
            problem=problem,
        )


def discover() -> Sequence[Candidate]:
    """Every installed plugin, by name. Imports none of them."""
    found = [
        Candidate(
            name=entry.name,
            value=entry.value,
            distribution=_metadata(entry, "Name"),
            version=_metadata(entry, "Version"),
            load=entry.load,
        )
        for entry in metadata.entry_points(group=ENTRY_POINT_GROUP)
    ]
    return sorted(found, key=lambda candidate: (candidate.name, candidate.distribution, candidate.value))


def load(
    candidates: Sequence[Candidate], used: Mapping[str, str] | AbstractSet[str], *, disabled: Collection[str] = ()
) -> Plugins:
    """As `examine`, but raises `PluginError` with every fault."""
    plugins = examine(candidates, used, disabled=disabled)
    if plugins.faults:
        raise PluginError(plugins.faults)
    return plugins


def examine(
    candidates: Sequence[Candidate], used: Mapping[str, str] | AbstractSet[str], *, disabled: Collection[str] = ()
) -> Plugins:
    """Load the plugins that are used, and say everything that is wrong with any of them.

    `used` are the names of plugins, where possible each with the place in the configuration that needs it, in words. A
    disabled plugin is not loaded whatever `used` says.
    """
    places: Mapping[str, str] = used if isinstance(used, Mapping) else {}
    faults: list[PluginFault] = []
    loaded: dict[str, _Loaded] = {}
    reports: list[Report] = []
    for name in sorted(set(used).difference(disabled)):
        twins = _twins(name, candidates)
        if not twins:
            faults.append(_not_found(name, places.get(name), candidates))
        elif len(twins) > 1:
            remedy = f'uninstall one of them, or write disabled = ["{name}"] below [plugins]'
            faults.extend(_fault(twin, "find", _twin_problem(twins), remedy) for twin in twins)
        else:
            reports.append(Report(candidate=twins[0]))
            try:
                loaded[name] = _load(twins[0], reports[-1])
            except _FaultyError as error:
                faults.extend(error.faults)
    faults.extend(_clashes(loaded))
    return Plugins(
        candidates=tuple(candidates),
        disabled=frozenset(disabled),
        faults=tuple(faults),
        loaded=loaded,
        reports=tuple(reports),
    )


def list_plugins(
    candidates: Sequence[Candidate],
    used: Mapping[str, str] | AbstractSet[str] = frozenset(),
    *,
    disabled: Collection[str] = (),
) -> Sequence[PluginRow]:
    """What `kipuka plugins` shows. Without a readable configuration nothing is used, and nothing is imported."""
    return examine(candidates, used, disabled=disabled).rows()


# --- find ---


def _metadata(entry: metadata.EntryPoint, key: str) -> str:
    # a distribution with broken metadata still has its entry points: it must be listed, not hide all others
    if entry.dist is None:
        return "unknown"
    fields = entry.dist.metadata
    return fields[key] if key in fields else "unknown"  # noqa: SIM401 - PackageMetadata has no get


def _twins(name: str, candidates: Iterable[Candidate]) -> list[Candidate]:
    return [candidate for candidate in candidates if candidate.name == name]


def _twin_problem(twins: Sequence[Candidate]) -> str:
    owners = " and ".join(f"{twin.distribution} {twin.version}" for twin in twins)
    return f"{owners} both bring a plugin of this name"


def _not_found(name: str, where: str | None, candidates: Sequence[Candidate]) -> PluginFault:
    near = difflib.get_close_matches(name, sorted({candidate.name for candidate in candidates}), n=1)
    if name in _BUNDLED:
        remedy = f"install it: pip install {_BUNDLED[name]}"
    elif near:
        remedy = f"did you mean {near[0]}? If not, install the distribution that brings {name} with pip"
    else:
        remedy = f"install the distribution that brings {name} with pip, or take it out"
    need = "the configuration needs it" if where is None else f"the configuration needs it: {where}"
    problem = f"no installed plugin has this name, but {need}"
    return PluginFault(plugin=name, distribution="", version="", stage="find", problem=problem, remedy=remedy)


# --- version, import, register, collect: one plugin ---

_REPORT = "tell its maintainers, or switch it off in [plugins] disabled"
_NEWER = "it may be written for another version of kipuka: look for a release that fits, or " + _REPORT


class _FaultyError(Exception):
    def __init__(self, faults: Sequence[PluginFault]) -> None:
        super().__init__(faults)
        self.faults = faults


def _fault(candidate: Candidate, stage: Stage, problem: str, remedy: str = _REPORT) -> PluginFault:
    return PluginFault(
        plugin=candidate.name,
        distribution=candidate.distribution,
        version=candidate.version,
        stage=stage,
        problem=problem,
        remedy=remedy,
    )


def _said(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    name = type(error).__name__
    return f"it raised {name}: {text}" if text else f"it raised {name}"


def _attempt(candidate: Candidate, stage: Stage, act: Callable[[], T]) -> T:
    """Run a plugin's own code. Whatever it raises is its fault, also what does not derive from Exception (sys.exit())."""
    doing = "being imported" if stage == "import" else "answering a hook"
    try:
        with told_when_slow(candidate.name, f"{candidate.distribution} {candidate.version}", doing):
            return act()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        remedy = _NEWER if isinstance(error, ImportError | AttributeError) and stage == "import" else _REPORT
        raise _FaultyError([_fault(candidate, stage, _said(error), remedy)]) from error


def _load(candidate: Candidate, report: Report) -> _Loaded:
    report.stated = early = stated_in_source(candidate.value)
    if early is not None:
        _check_version(candidate, early)
    module = _attempt(candidate, "import", candidate.load)
    report.imported = True
    if not isinstance(module, types.ModuleType):
        problem = f"its entry point names {candidate.value}, which is not a module"
        raise _FaultyError([_fault(candidate, "import", problem)])
    report.stated = stated_by(module)
    _check_version(candidate, report.stated)
    _check_functions(candidate, module)
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            manager.register(module, candidate.name)
        report.deprecated += [" ".join(str(one.message).split()) for one in told]
    except pluggy.PluginValidationError as error:
        problem = " ".join(str(error).split("\n", 1)[-1].split()) or str(error)
        raise _FaultyError([_fault(candidate, "register", problem, _NEWER)]) from error
    return _Collector(candidate=candidate, manager=manager, faults=[], calls=report.calls).collect()


def _check_version(candidate: Candidate, stated: object) -> None:
    """The first thing that is read of a plugin: was it written for an API that this kipuka has?"""
    wrong = misfit(stated, candidate.value)
    if wrong is not None:
        raise _FaultyError([_fault(candidate, "version", wrong.problem, wrong.remedy)])


_HOOKS = tuple(name for name in vars(HookSpecs) if name.startswith("kipuka_"))


def _check_functions(candidate: Candidate, module: types.ModuleType) -> None:
    """What pluggy does not look at: coroutines, wrappers, unknown hooks, and hooks without their mark."""
    faults: list[PluginFault] = []
    marked = 0
    for name, function in sorted(vars(module).items()):
        if not inspect.isroutine(function):
            continue
        options: dict[str, Any] | None = getattr(function, f"{PROJECT}_impl", None)
        if options is None:
            if name in _HOOKS:
                faults.append(_fault(candidate, "register", f"{name} is not marked with @hookimpl"))
            continue
        marked += 1
        faults.extend(_check_function(candidate, options.get("specname") or name, function, options))
    if not marked and not faults:
        faults.append(
            _fault(candidate, "register", f"the module {module.__name__} has no function marked with @hookimpl")
        )
    if faults:
        raise _FaultyError(faults)


def _check_function(
    candidate: Candidate, name: str, function: Callable[..., Any], options: Mapping[str, Any]
) -> Iterator[PluginFault]:
    if name not in _HOOKS:
        near = difflib.get_close_matches(name, _HOOKS, n=1)
        meant = f" (did its author mean {near[0]}?)" if near else ""
        yield _fault(candidate, "register", f"{name} is not a hook of this version of kipuka{meant}", _NEWER)
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        yield _fault(candidate, "register", f"{name} is an async function: hooks are plain functions")
    if options.get("wrapper") or options.get("hookwrapper"):
        yield _fault(candidate, "register", f"{name} is a hook wrapper: hooks of kipuka cannot be wrapped")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Collector:
    """Calls one plugin's hooks and holds what they return against the contract; faults pile up."""

    candidate: Candidate
    manager: pluggy.PluginManager
    faults: list[PluginFault]
    calls: list[HookCall]

    def records(self, hook: str, kind: type[T], check: Callable[[T], Iterable[str]]) -> tuple[T, ...]:
        """What the hook returns, as far as it is of the right type."""
        caller: pluggy.HookCaller = getattr(self.manager.hook, hook)
        if not caller.get_hookimpls():
            return ()
        began = time.perf_counter()
        try:
            # pluggy leaves None out of the results
            answers: list[object] = _attempt(self.candidate, "collect", caller) or [None]
        except _FaultyError as error:
            self.faults.extend(replace(fault, problem=f"{hook}: {fault.problem}") for fault in error.faults)
            return ()
        seconds = time.perf_counter() - began
        good: list[T] = []
        for answer in answers:
            if not isinstance(answer, list):
                self._say(f"{hook} returned {_a(answer)}, not a list")
                continue
            for record in cast("list[object]", answer):
                if isinstance(record, kind):
                    good.append(record)
                    for problem in check(record):
                        self._say(f"{hook}: {problem}")
                else:
                    self._say(f"{hook} returned a list with {_a(record)}, where only {kind.__name__} is possible")
        self.calls.append(HookCall(hook=hook, seconds=seconds, returned=tuple(map(_in_words, good))))
        return tuple(good)

    def collect(self) -> _Loaded:
        """Everything the plugin brings. Raises `_FaultyError`."""
        plugin = _Loaded(
            candidate=self.candidate,
            authenticators=self.records("kipuka_authenticators", _AUTHENTICATOR, self._kind),
            ca_backends=self.records("kipuka_ca_backends", _CA_BACKEND, self._kind),
            audit_sinks=self.records("kipuka_audit_sinks", _AUDIT_SINK, self._kind),
            storages=self.records("kipuka_storage", Storage, _check_storage),
            admin_routes=self.records("kipuka_admin_routes", AdminRoute, _check_route),
            commands=self.records("kipuka_commands", click.Command, _check_command),
        )
        kinds = [*plugin.authenticators, *plugin.ca_backends, *plugin.audit_sinks]
        if len(kinds) > 1:
            # RULES K2: the entry point's name is the kind's name, so two could not be told apart
            self._say(f"it brings {len(kinds)} kinds under one entry point; one is possible")
        if self.faults:
            raise _FaultyError(self.faults)
        return plugin

    def _say(self, problem: str) -> None:
        self.faults.append(_fault(self.candidate, "collect", problem))

    def _kind(self, kind: AnyKind) -> Iterator[str]:
        return _check_kind(self.candidate, kind)


# isinstance knows the class, the type checker its parameter
_AUTHENTICATOR: type[AuthenticatorKind[Any]] = AuthenticatorKind
_CA_BACKEND: type[CABackendKind[Any]] = CABackendKind
_AUDIT_SINK: type[AuditSinkKind[Any]] = AuditSinkKind


def _in_words(record: object) -> str:
    """One record that a hook returned, as the operator knows it."""
    match record:
        case AuthenticatorKind() | CABackendKind() | AuditSinkKind():
            return f"{_ROLES[type(record)]} {record.name!s}"
        case Storage():
            tables = ", ".join(sorted(record.metadata.tables)) or "none"
            return f"the table prefix {record.prefix} with the tables {tables}"
        case AdminRoute():
            return f"the route {record.method} {record.path}"
        case click.Command():
            return f"the command {record.name}"
        case _:
            return _a(record)


_ROLES: Mapping[type, str] = {
    AuthenticatorKind: "the method",
    CABackendKind: "the CA backend",
    AuditSinkKind: "the audit sink",
}


def _a(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


# --- the shape of records ---


def _check_kind(candidate: Candidate, kind: AnyKind) -> Iterator[str]:
    # the record's fields are declared, but a plugin without a type checker may put anything into them
    name: object = kind.name
    config: object = kind.config
    events: object = () if isinstance(kind, AuditSinkKind) else kind.events
    if name != candidate.name:
        yield f"the kind is called {name!r}, but its entry point {candidate.name!r}; they must be the same"
    if not (isinstance(config, type) and issubclass(config, BaseModel)):
        yield "config is not a pydantic model"
    if not callable(kind.open):
        yield "open cannot be called"
    if kind.check is not None and not callable(kind.check):
        yield "check cannot be called"
    if not isinstance(events, tuple) or not all(
        isinstance(event, type) and issubclass(event, AuditEvent) for event in cast("tuple[object, ...]", events)
    ):
        yield "events is not a tuple of AuditEvent classes"
        return
    for event in cast("tuple[type[AuditEvent], ...]", events):
        name = getattr(event, "name", None)
        if not isinstance(name, str) or not _EVENT_NAME.fullmatch(name):
            yield f"the audit event {event.__name__} has no name in snake_case"
        elif name in _HOST_EVENT_NAMES:
            yield f"the audit event {name} is one of the host's own"


_EVENT_NAME = re.compile(r"[a-z][a-z0-9_]*")
_HOST_EVENT_NAMES = frozenset(event.name for event in HOST_EVENTS)
_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,30}")
_HOST_TABLES = "kipuka"


def _check_storage(storage: Storage) -> Iterator[str]:
    if not _PREFIX.fullmatch(storage.prefix):
        yield f"the prefix {storage.prefix!r} is not made of lower-case letters, digits and _"
    if storage.prefix == _HOST_TABLES:
        yield f"the prefix {storage.prefix!r} is the host's own"
    strays = sorted(name for name in storage.metadata.tables if not name.startswith(f"{storage.prefix}_"))
    if strays:
        yield f"the tables {', '.join(strays)} do not start with {storage.prefix}_"


_ROUTE_PATH = re.compile(r"/admin(/((?!\.{1,2}(/|$))[A-Za-z0-9._~-]+|\{[a-z][a-z0-9_]*\}))+")


def _check_route(route: AdminRoute) -> Iterator[str]:
    if not _ROUTE_PATH.fullmatch(route.path):
        yield f"the path {route.path!r} is not /admin/ and segments, each a word or {{name}}"
    if not callable(route.handler):
        yield f"the handler of {route.method} {route.path} cannot be called"
    if route.role != "admin":
        # RULES K8
        yield f"{route.method} {route.path} asks for the role {route.role!r}; the one role of this version is 'admin'"


def _check_command(command: click.Command) -> Iterator[str]:
    if not command.name:
        yield "a command has no name"


def _clashes(loaded: Mapping[str, _Loaded]) -> Iterator[PluginFault]:
    """What two plugins cannot both have: a table prefix, an admin route, an audit event's name."""
    owners: dict[str, _Loaded] = {}
    for plugin in loaded.values():
        things = [
            *(f"the table prefix {storage.prefix}" for storage in plugin.storages),
            *(f"the admin route {route.method} {_anonymous(route.path)}" for route in plugin.admin_routes),
            *(f"the audit event {event.name}" for event in plugin.events()),
        ]
        for thing in things:
            first = owners.setdefault(thing, plugin)
            if first is not plugin:
                other = first.candidate
                problem = f"{thing} is that of plugin {other.name} ({other.distribution} {other.version}) too"
                yield _fault(plugin.candidate, "collect", problem)
    for plugin in loaded.values():
        for hook, names in (
            ("kipuka_admin_routes", [f"{route.method} {_anonymous(route.path)}" for route in plugin.admin_routes]),
            ("kipuka_commands", [command.name or "" for command in plugin.commands]),
        ):
            for name in sorted({name for name in names if names.count(name) > 1}):
                yield _fault(plugin.candidate, "collect", f"{hook}: {name} is there twice")


def _anonymous(path: str) -> str:
    return re.sub(r"\{[^}]*\}", "{}", path)
