"""`kipuka plugins --why`: all that is known of each plugin, and why it is used or not.

In the room: putting together what the configuration, the loader and the plugins' records say, and showing it. Not in the room: finding
and loading (`kipuka.plugins`). It works with whatever is broken: a configuration that cannot be read, or has mistakes, and plugins that
cannot be loaded. What is not used is not imported for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from kipuka import plugins
from kipuka.api import API_VERSION, StartupError
from kipuka.api_version import origin, stated_in_source
from kipuka.cli.output import printable
from kipuka.config import RawConfig, Unsettled, load

__all__ = ["Explained", "Trouble", "as_json", "explain", "show"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trouble:
    """One thing that is wrong with a plugin, or with its settings."""

    stage: str
    problem: str
    remedy: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Explained:
    """One installed plugin, or one that the configuration names and nobody brings."""

    name: str
    state: str  # used, unused, disabled or broken
    why: str
    distribution: str | None = None
    version: str | None = None
    module: str | None = None
    file: str | None = None
    api: str | None = None  # the version it states, as far as it can be told
    order: tuple[int, int] | None = None  # its place in `[auth] order`, and how many methods are on
    hooks: tuple[plugins.HookCall, ...] = ()
    deprecated: tuple[str, ...] = ()
    troubles: tuple[Trouble, ...] = ()


def explain(config: Path, environ: Mapping[str, str]) -> Sequence[Explained]:
    """Every plugin. Tells on stderr where there is no configuration to speak of."""
    raw: RawConfig | None = None
    try:
        raw = load(config, environ)
    except StartupError as error:
        click.echo(f"warning: no configuration is read, so no plugin counts as used: {error}", err=True)
    used = {} if raw is None else dict(raw.uses())
    disabled: frozenset[str] = frozenset() if raw is None else raw.disabled
    found = plugins.examine(plugins.discover(), used, disabled=disabled)
    troubles: Mapping[str, Sequence[Trouble]] = {} if raw is None else _of_the_configuration(raw, found)
    return [_explained(row, found, raw, config, troubles) for row in found.rows()]


def _explained(
    row: plugins.PluginRow,
    found: plugins.Plugins,
    raw: RawConfig | None,
    config: Path,
    of_the_configuration: Mapping[str, Sequence[Trouble]],
) -> Explained:
    faults = [
        Trouble(stage=fault.stage, problem=fault.problem, remedy=fault.remedy)
        for fault in found.faults
        if (fault.plugin, fault.distribution) == (row.name, row.distribution)
    ]
    if not faults and row.state == "broken" and row.problem is not None:
        # two of one name, of which none is used
        faults.append(
            Trouble(stage="find", problem=row.problem, remedy="uninstall one of them before the name is used")
        )
    about = Explained(
        name=row.name,
        state=row.state,
        why=_why(row.name, raw, config),
        order=_place(row.name, raw, found),
        troubles=(*faults, *of_the_configuration.get(row.name, ())),
    )
    candidate = next(
        (one for one in found.candidates if (one.name, one.distribution) == (row.name, row.distribution)), None
    )
    if candidate is None:
        return about
    report = next((one for one in found.reports if one.candidate is candidate), None)
    stated = stated_in_source(candidate.value) if report is None else report.stated
    return replace(
        about,
        distribution=candidate.distribution,
        version=candidate.version,
        module=candidate.value,
        file=origin(candidate.value),
        api=stated if isinstance(stated, str) else None,
        hooks=() if report is None else tuple(report.calls),
        deprecated=() if report is None else tuple(report.deprecated),
    )


def _why(name: str, raw: RawConfig | None, config: Path) -> str:
    if raw is None:
        return f"{config} cannot be read"
    places = raw.places(name)
    if name in raw.disabled:
        by = raw.written_by(("plugins", "disabled"))
        return f"switched off by {by}" + (f", although {' and '.join(places)} would use it" if places else "")
    if raw.is_switched_off(name):
        return f"switched off by enabled = false in {places[0]}"
    if places:
        return f"used by {' and '.join(places)}"
    return (
        f"nothing in {raw.file} names it: as a method it would need the section [{name}], as a CA backend a [[ca]] with "
        f'backend = "{name}", as an audit sink an [[audit.sink]] with type = "{name}"'
    )


def _place(name: str, raw: RawConfig | None, found: plugins.Plugins) -> tuple[int, int] | None:
    if raw is None or name not in found.authenticators:
        return None
    order = [method for method in raw.order() if method in found.authenticators]
    return (order.index(name) + 1, len(order)) if name in order else None


def _of_the_configuration(raw: RawConfig, found: plugins.Plugins) -> Mapping[str, Sequence[Trouble]]:
    """What is wrong with the settings of each plugin, by its own model."""
    troubles: dict[str, list[Trouble]] = {}

    def failed(name: str, what: str) -> None:
        trouble = Trouble(stage="configure", problem=what, remedy="tell its maintainers")
        troubles.setdefault(name, []).append(trouble)

    try:
        raw.settle(
            authenticators=found.authenticators,
            ca_backends=found.ca_backends,
            audit_sinks=found.audit_sinks,
            installed=found.installed,
            broken=found.broken,
            failed=failed,
        )
    except Unsettled as error:
        for name in found.installed:
            keys = raw.keys(name)
            for one in error.problems:
                if any(one.key == key or one.key.startswith((f"{key}.", f"{key}[")) for key in keys):
                    trouble = Trouble(stage="configure", problem=f"{one.key}: {one.problem}", remedy=one.remedy)
                    troubles.setdefault(name, []).append(trouble)
    return troubles


def show(explained: Sequence[Explained]) -> None:
    """For people: a paragraph for each."""
    for number, one in enumerate(explained):
        if number:
            click.echo()
        click.echo(printable(f"{one.name}: {one.state}"))
        for name, value in _lines(one):
            click.echo(f"  {name.ljust(12)}  {printable(value)}")


def _lines(one: Explained) -> list[tuple[str, str]]:
    lines = [("why", one.why)]
    if one.module is not None:
        lines.append(("installed by", f"{one.distribution} {one.version}"))
        lines.append(("module", f"{one.module}, {one.file or 'whose file is not found'}"))
        lines.append(("states", "no API version" if one.api is None else f"API {one.api}; kipuka has {API_VERSION}"))
    if one.order is not None:
        lines.append(("order", f"asked as number {one.order[0]} of {one.order[1]} methods"))
    for call in one.hooks:
        brings = ", ".join(call.returned) or "nothing"
        lines.append(("hook", f"{call.hook} returned {brings} ({call.seconds * 1000:.1f} ms)"))
    if one.module is not None and not one.hooks:
        lines.append(("hook", "none was called"))
    lines += [("deprecated", text) for text in one.deprecated]
    lines += [("problem", f"{trouble.stage}: {trouble.problem}; {trouble.remedy}") for trouble in one.troubles]
    return lines


def as_json(explained: Sequence[Explained]) -> list[dict[str, Any]]:
    """The same for scripts."""
    return [
        {
            "name": one.name,
            "state": one.state,
            "why": one.why,
            "distribution": one.distribution,
            "version": one.version,
            "module": one.module,
            "file": one.file,
            "api": one.api,
            "order": None if one.order is None else one.order[0],
            "hooks": [
                {
                    "hook": call.hook,
                    "returned": list(call.returned),
                    "milliseconds": round(call.seconds * 1000, 3),
                }
                for call in one.hooks
            ],
            "deprecated": list(one.deprecated),
            "problems": [
                {"stage": trouble.stage, "problem": trouble.problem, "remedy": trouble.remedy}
                for trouble in one.troubles
            ],
        }
        for one in explained
    ]
