"""From raw sections and the plugins' kinds to `Settings`.

In the room: plugins' sections by the plugins' models, and what must hold between all sections. Not in the room: the
host's own sections (`kipuka.config.host`), loading plugins (`kipuka.plugins`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel

from kipuka.api.errors import ConfigError, ConfigProblem
from kipuka.api.kinds import AuditSinkKind, AuthenticatorKind, CABackendKind
from kipuka.config.document import Document, KeyPath, dotted
from kipuka.config.host import SECTION_OF, Host, at
from kipuka.config.sections import CAHead, DatabaseSection, ESTSection, LabelItem, SinkHead
from kipuka.config.settings import CAItem, Known, Label, Settings, SinkItem
from kipuka.config.validate import suggestion, validate
from kipuka.x509.patterns import CertificatePattern, parse_certificate_pattern
from kipuka.x509.profiles import Profile
from kipuka.x509.purposes import CMC_RA
from kipuka.x509.registration import parse_authority

__all__ = ["DEFAULT_ORDER", "Kinds", "Unsettled", "settle"]

DEFAULT_ORDER = ("mtls", "gssapi", "otp")

_CERTIFICATE = "mtls"  # the method that needs no Authorization field (RULES C1)


class Unsettled(ConfigError):
    """Everything that is wrong with the configuration, and what of it can be looked at all the same."""

    def __init__(self, problems: Sequence[ConfigProblem], known: Known) -> None:
        super().__init__(problems)
        self.known = known


@dataclass(frozen=True, kw_only=True, slots=True)
class Kinds:
    """What the plugins that could be loaded bring, and what is known of the others."""

    authenticators: Mapping[str, AuthenticatorKind[Any]]
    ca_backends: Mapping[str, CABackendKind[Any]]
    audit_sinks: Mapping[str, AuditSinkKind[Any]]
    installed: frozenset[str]  # all entry points, loaded or not
    silent: frozenset[str]  # already reported
    failed: Callable[[str, str], None] | None  # told of a model that raises what it may not


def settle(
    document: Document, host: Host, problems: Sequence[ConfigProblem], sections: Mapping[str, KeyPath], kinds: Kinds
) -> Settings:
    """Put everything together. `sections` are those of the methods that are on. Raises `Unsettled` with every problem."""
    return _Settling(document, host, problems, sections, kinds).settle()


class _Settling:
    """One settling of the whole; collects problems as it goes."""

    def __init__(
        self,
        document: Document,
        host: Host,
        problems: Sequence[ConfigProblem],
        sections: Mapping[str, KeyPath],
        kinds: Kinds,
    ) -> None:
        self.document = document
        self.host = host
        self.sections = sections
        self.kinds = kinds
        self.problems = list(problems)
        self.salvaged: list[BaseModel] = []  # plugins' models of which only the good keys are left
        self.methods_on: set[str] = set()  # installed, also where section or plugin is broken

    def settle(self) -> Settings:
        authenticators = self._order(self._authenticators())
        cas = self._cas()
        sinks = self._sinks()
        labels = self._labels(authenticators)
        host = self.host
        if (
            self.problems
            or host.server is None
            or host.tls is None
            or host.db is None
            or host.est is None
            or host.audit is None
            or host.log is None
            or host.plugins is None
        ):
            raise Unsettled(self.problems, self._known(authenticators, cas, sinks, labels))
        return Settings(
            file=self.document.file,
            sha256=self.document.sha256,
            server=host.server,
            tls=host.tls,
            db=self._database(host.db),
            cas=cas,
            est=host.est.model_copy(update={"label": tuple(item for _, item in host.labels)}),
            labels=labels,
            profiles=host.profiles,
            sinks=sinks,
            admin=host.admin,
            audit=host.audit.model_copy(update={"sink": tuple(head for _, head in host.sinks)}),
            log=host.log,
            plugins=host.plugins,
            authenticators=authenticators,
            disabled=self.host.disabled,
            overrides=self._overrides(),
        )

    def _known(
        self,
        authenticators: Mapping[str, BaseModel],
        cas: tuple[CAItem, ...],
        sinks: tuple[SinkItem, ...],
        labels: Mapping[str | None, Label],
    ) -> Known:
        """What has no mistake of its own. A model of which only the good keys are left says nothing of the file."""
        host = self.host
        return Known(
            file=self.document.file,
            tls=host.tls,
            db=None if host.db is None or not self._is_clean(("db",)) else self._database(host.db),
            cas=tuple(item for item in cas if self._is_whole(item.settings)),
            labels=labels,
            sinks=tuple(item for item in sinks if self._is_whole(item.settings)),
            admin=host.admin if self._is_clean(("admin",)) else None,
            authenticators={name: item for name, item in authenticators.items() if self._is_whole(item)},
            disabled=host.disabled,
            overrides=self._overrides(),
        )

    def _is_whole(self, settings: BaseModel) -> bool:
        return not any(settings is other for other in self.salvaged)

    def _is_clean(self, path: KeyPath) -> bool:
        """Whether no problem stands at this place or below it."""
        place = dotted(path, self.document.values)
        return not any(
            found.key == place or found.key.startswith((f"{place}.", f"{place}[")) for found in self.problems
        )

    def _database(self, section: DatabaseSection) -> DatabaseSection:
        return section.model_copy(update={"url": _absolute_url(section.url, self.document.file.parent)})

    def _overrides(self) -> dict[str, str]:
        values = self.document.values
        return {dotted(path, values): override.variable for path, override in self.document.overrides.items()}

    def _say(self, path: KeyPath, problem: str, remedy: str) -> None:
        self.problems.append(self.document.problem(path, problem, remedy))

    # --- what plugins validate ---

    def _authenticators(self) -> dict[str, BaseModel]:
        settled: dict[str, BaseModel] = {}
        for name, path in self.sections.items():
            kind = self.kinds.authenticators.get(name)
            if self._known_method(name):
                self.methods_on.add(name)
            if kind is None:
                self._not_a(name, path, "an authentication method", self.kinds.authenticators)
                continue
            values = dict(cast("dict[str, Any]", at(self.document.values, path)))
            if "enabled" not in kind.config.model_fields and not isinstance(values.pop("enabled", True), bool):
                self._say((*path, "enabled"), "true or false is needed", "write enabled = true or enabled = false")
            instance = self._theirs(name, kind.config, values, path, also=("enabled",))
            if instance is not None:
                settled[name] = instance
        return settled

    def _others(self) -> set[str]:
        return {*self.kinds.ca_backends, *self.kinds.audit_sinks}

    def _not_a(self, name: str, path: KeyPath, role: str, right: Collection[str]) -> None:
        """An installed plugin is named where another sort of plugin belongs."""
        if name in self.kinds.silent or name not in self.kinds.installed:
            return
        if name in self.kinds.ca_backends:
            self._say(path, f"{name} is a CA backend, not {role}", f'write backend = "{name}" in a [[ca]] item')
        elif name in self.kinds.audit_sinks:
            self._say(path, f"{name} is an audit sink, not {role}", f'write type = "{name}" in an [[audit.sink]] item')
        elif name in self.kinds.authenticators:
            section = dotted(SECTION_OF.get(name, (name,)), {})
            remedy = f"write a section [{section}]" if not right else f"write one of: {', '.join(sorted(right))}"
            self._say(path, f"{name} is an authentication method, not {role}", remedy)
        else:
            self._say(path, f"the plugin {name} has nothing to configure here", "take it out")

    def _cas(self) -> tuple[CAItem, ...]:
        items: list[CAItem] = []
        for index, head in self.host.cas:
            if head.backend in self.host.disabled:
                continue
            path: KeyPath = ("ca", index)
            kind = self.kinds.ca_backends.get(head.backend)
            if kind is None:
                self._not_a(head.backend, (*path, "backend"), "a CA backend", self.kinds.ca_backends)
                continue
            settings = self._item(head.backend, kind.config, CAHead, path)
            if settings is not None:
                validity = timedelta(days=head.validity_days)
                items.append(CAItem(id=head.id, backend=head.backend, settings=settings, validity=validity))
        return tuple(items)

    def _sinks(self) -> tuple[SinkItem, ...]:
        items: list[SinkItem] = []
        for index, head in self.host.sinks:
            if head.type in self.host.disabled:
                continue
            path: KeyPath = ("audit", "sink", index)
            kind = self.kinds.audit_sinks.get(head.type)
            if kind is None:
                self._not_a(head.type, (*path, "type"), "an audit sink", self.kinds.audit_sinks)
                continue
            settings = self._item(head.type, kind.config, SinkHead, path)
            if settings is not None:
                sink_id = head.id or head.type
                items.append(SinkItem(id=sink_id, type=head.type, settings=settings, on_failure=head.on_failure))
        return tuple(items)

    def _item(self, name: str, model: type[BaseModel], head: type[BaseModel], path: KeyPath) -> BaseModel | None:
        value: Any = self.document.values
        for part in path:
            value = value[part]
        # a kind that has a key of the host's in its own model is told it too
        theirs = {
            key: inner
            for key, inner in cast("dict[str, Any]", value).items()
            if key not in head.model_fields or key in model.model_fields
        }
        return self._theirs(name, model, theirs, path, also=tuple(head.model_fields))

    def _theirs(
        self, name: str, model: type[BaseModel], values: Any, path: KeyPath, *, also: Collection[str]
    ) -> BaseModel | None:
        """A plugin's own keys by its own model, whose validators are the plugin's code and may raise anything."""
        try:
            instance, problems = validate(model, values, path, self.document, also=also)
        except Exception as error:  # noqa: BLE001 - told below, as the plugin's fault
            problem = f"its model raised {type(error).__name__} on {dotted(path, self.document.values)}"
            if self.kinds.failed is not None:
                self.kinds.failed(name, problem)
            else:
                self._say(path, f"the plugin {name} cannot read it: {problem}", "tell the plugin's maintainers")
            return None
        self.problems.extend(problems)
        if problems and instance is not None:
            self.salvaged.append(instance)
        return instance

    # --- what holds between sections ---

    def _known_method(self, name: str) -> bool:
        return name in self.kinds.installed and name not in self._others()

    def _order(self, settled: Mapping[str, BaseModel]) -> dict[str, BaseModel]:
        """The methods that are on, in the order of `[auth] order` (RULES K4)."""
        order = self.host.auth.order if self.host.auth else None
        if order is None:
            unranked = sorted(self.methods_on.difference(DEFAULT_ORDER))
            if unranked and self.host.auth is not None:
                ranked = [name for name in DEFAULT_ORDER if name in self.methods_on]
                sample = ", ".join(f'"{name}"' for name in [*ranked, *unranked])
                problem = f"it is missing, and {' and '.join(unranked)} has no place in the default order"
                self._say(("auth", "order"), problem, f"write order = [{sample}] in the order you want")
            order = (*DEFAULT_ORDER, *unranked)
        else:
            self._explicit_order(order)
        return {name: settled[name] for name in order if name in settled}

    def _explicit_order(self, order: tuple[str, ...]) -> None:
        for index, name in enumerate(order):
            path: KeyPath = ("auth", "order", index)
            if name in order[:index]:
                self._say(path, f"{name} stands there twice", "name each method once")
            elif not self._known_method(name) and name not in self.host.disabled and name not in self.kinds.silent:
                near = suggestion(name, [known for known in self.kinds.installed if self._known_method(known)])
                remedy = f"did you mean {near}?" if near else "take it out, or install the plugin that brings it"
                self._say(path, f"no plugin provides the method {name}", remedy)
        missing = sorted(self.methods_on.difference(order))
        if missing:
            remedy = f"name every method that is on: add {', '.join(missing)}"
            self._say(("auth", "order"), f"{' and '.join(missing)} is on, but has no place in it", remedy)

    def _labels(self, authenticators: Mapping[str, BaseModel]) -> dict[str | None, Label]:
        est = self.host.est
        if est is None:
            return {}
        labels: dict[str | None, Label] = {}
        ca = self._default_ca(est)
        profile = self._profile(est.default_profile, ("est", "default_profile"))
        admission = self._admission(est.auth, est.require, ("est",), authenticators)
        if ca is not None and profile is not None:
            plain = Label(name=None, ca=ca, profile=profile, auth=admission.methods, require=admission.sets)
            where: KeyPath = ("est", "registration_authorities")
            authorities = self._authorities(est.registration_authorities, where, profile, admission.methods)
            labels[None] = replace(_with_defaults(plain, est, None), registration_authorities=authorities)
        for index, item in self.host.labels:
            path: KeyPath = ("est", "label", index)
            own = admission
            if item.auth is not None or item.require is not None:
                own = self._admission(item.auth, item.require or (), path, authenticators)
            label = self._label(item, path, ca, profile)
            if label is not None:
                where = (*path, "registration_authorities")
                labels[item.name] = replace(
                    _with_defaults(label, est, item),
                    auth=own.methods,
                    require=own.sets,
                    registration_authorities=self._authorities(
                        item.registration_authorities, where, label.profile, own.methods
                    ),
                )
        return labels

    def _label(
        self,
        item: LabelItem,
        path: KeyPath,
        default_ca: str | None,
        default_profile: Profile | None,
    ) -> Label | None:
        ca = default_ca if item.ca is None else self._ca(item.ca, (*path, "ca"))
        profile = default_profile if item.profile is None else self._profile(item.profile, (*path, "profile"))
        if item.client_anchors is not None and "mtls" not in self.methods_on and "mtls" not in self.host.disabled:
            remedy = "write [tls.client_auth], or take client_anchors out"
            self._say((*path, "client_anchors"), "client certificates are not asked for", remedy)
        if ca is None or profile is None:
            return None
        return Label(name=item.name, ca=ca, profile=profile, auth=(), client_anchors=item.client_anchors)

    def _authorities(
        self, given: tuple[str, ...], path: KeyPath, profile: Profile, auth: Collection[str]
    ) -> tuple[CertificatePattern, ...]:
        """RULES F4: whoever may ask for others can be recognised here, and can make nobody else such a one."""
        if given and "mtls" not in auth and "mtls" not in self.host.disabled:
            remedy = "let mtls in (auth, [tls.client_auth]), or take registration_authorities out"
            self._say(path, "client certificates are not taken here", remedy)
        if given and CMC_RA in profile.extended_key_usage:
            problem = f"the profile {profile.name} has the usage cmcRA: a registration authority could make others here"
            self._say(path, problem, "give their certificates a label of their own, without registration_authorities")
        return tuple(parse_authority(text) for text in given)

    def _admission(
        self,
        auth: tuple[str, ...] | None,
        require: tuple[tuple[str, ...], ...],
        path: KeyPath,
        authenticators: Mapping[str, BaseModel],
    ) -> _Admission:
        """What `auth` and `require` of one place say together."""
        if auth is not None:
            self._methods_are_on(auth, (*path, "auth"))
            if not auth:
                remedy = "name at least one, or take auth out"
                self._say((*path, "auth"), "with no method nobody can enrol here", remedy)
        if not require:
            return _Admission(tuple(name for name in authenticators if auth is None or name in auth))
        self._sets(auth, require, (*path, "require"))
        # A set that lost a method to [plugins] disabled is met by nobody: what is left of it would be less than was required.
        sets = tuple(members for members in require if members and set(members) <= authenticators.keys())
        wanted = {name for members in sets for name in members}
        return _Admission(tuple(name for name in authenticators if name in wanted), sets)

    def _sets(self, auth: tuple[str, ...] | None, require: tuple[tuple[str, ...], ...], path: KeyPath) -> None:
        for index, members in enumerate(require):
            where: KeyPath = (*path, index)
            self._methods_are_on(members, where)
            others = [name for name in dict.fromkeys(members) if name != _CERTIFICATE]
            if not members:
                self._say(where, "with an empty set everybody could enrol here", "name its methods, or take it out")
            elif len(set(members)) != len(members):
                self._say(where, "a method stands there twice", "name each method once")
            elif len(others) > 1:
                problem = f"a request has one Authorization field, so nobody can present {' and '.join(others)}"
                self._say(where, problem, f'write ["{_CERTIFICATE}", "{others[0]}"], or a set for each')
            elif any(set(members) >= set(other) for place, other in enumerate(require) if other and place != index):
                remedy = "take it out, or what it is more than"
                self._say(where, "whoever meets it meets another set too, which asks for less", remedy)
            for name in members:
                if auth is not None and name not in auth:
                    self._say(where, f"{name} is not in auth", "add it there, or take auth out")
        for index, name in enumerate(auth or ()):
            if not any(name in members for members in require):
                remedy = f'take it out, or add ["{name}"] to require'
                self._say((*path[:-1], "auth", index), f"no set of require has {name}, so it lets nobody in", remedy)

    def _methods_are_on(self, names: tuple[str, ...], path: KeyPath) -> None:
        for index, name in enumerate(names):
            if name in self.methods_on or name in self.host.disabled or name in self.kinds.silent:
                continue
            near = suggestion(name, self.methods_on)
            if near is not None and not self._known_method(name):
                remedy = f"did you mean {near}?"
            else:
                section = dotted(SECTION_OF.get(name, (name,)), {})
                remedy = f"take it out, or write the section [{section}]"
            self._say((*path, index), f"the method {name} is not on", remedy)

    def _default_ca(self, est: ESTSection) -> str | None:
        if est.default_ca is not None:
            return self._ca(est.default_ca, ("est", "default_ca"))
        usable = self._usable_cas()
        if len(usable) > 1:
            remedy = f"write default_ca = one of: {', '.join(usable)}"
            self._say(("est", "default_ca"), "it is missing, and there is more than one CA", remedy)
        if not usable and self.host.cas and not self._cas_are_suspect():
            remedy = "take its backend out of [plugins] disabled, or write another [[ca]]"
            self._say(("ca",), "every CA's backend is disabled", remedy)
        return usable[0] if len(usable) == 1 else None

    def _usable_cas(self) -> list[str]:
        """The ids of CAs that are not switched off, also of those whose item has a mistake."""
        return list(dict.fromkeys(head.id for _, head in self.host.cas if head.backend not in self.host.disabled))

    def _cas_are_suspect(self) -> bool:
        """Whether there are [[ca]] items that could not even be read, so that no more can be said about ids."""
        written = self.document.values.get("ca")
        return not isinstance(written, list) or len(cast("list[Any]", written)) != len(self.host.cas)

    def _ca(self, name: str, path: KeyPath) -> str | None:
        usable = self._usable_cas()
        if name in usable:
            return name
        if name in {head.id for _, head in self.host.cas}:
            remedy = "take it out of [plugins] disabled, or name another CA"
            self._say(path, f"the backend of the CA {name} is disabled", remedy)
        elif not self._cas_are_suspect():
            self._unknown(path, "CA", name, usable, "[[ca]]")
        return None

    def _profile(self, name: str, path: KeyPath) -> Profile | None:
        profile = self.host.profiles.get(name)
        written = self.document.values.get("profile", [])
        names = [at(item, ("name",)) for item in cast("list[Any]", written)] if isinstance(written, list) else [name]
        if profile is None and name not in names:
            self._unknown(path, "profile", name, self.host.profiles, "[[profile]]")
        return profile

    def _unknown(self, path: KeyPath, thing: str, name: str, known: Collection[str], section: str) -> None:
        near = suggestion(name, known)
        others = f"write one of: {', '.join(sorted(known))}" if known else f"write a {section} item of that name"
        self._say(path, f"there is no {thing} {name}", f"did you mean {near}?" if near else others)


@dataclass(frozen=True, slots=True)
class _Admission:
    """Which methods are on at a place, and which sets of them are required together."""

    methods: tuple[str, ...]
    sets: tuple[tuple[str, ...], ...] = ()


def _with_defaults(label: Label, est: ESTSection, item: LabelItem | None) -> Label:
    """The label with what it does not say itself: those of `[est]`."""
    window = est.replay_window if item is None or item.replay_window is None else item.replay_window
    operations = est.operations if item is None or item.operations is None else item.operations
    makes_keys = est.serverkeygen if item is None or item.serverkeygen is None else item.serverkeygen
    foreign = est.foreign_clients if item is None or item.foreign_clients is None else item.foreign_clients
    return replace(
        label,
        replay_window=window,
        serverkeygen=makes_keys,
        operations=None if operations is None else frozenset[str](operations),
        foreign_clients=tuple(parse_certificate_pattern(text) for text in foreign),
    )


def _absolute_url(url: str, base: Path) -> str:
    """RULES K6: a relative path is relative to the configuration file."""
    if not url.startswith("sqlite:"):
        return url
    return f"sqlite:///{base / Path(url.removeprefix('sqlite:///')).expanduser()}"
