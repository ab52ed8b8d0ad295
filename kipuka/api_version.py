"""Which version of `kipuka.api` a plugin says it was written for, and whether this kipuka has it.

In the room: the statement `KIPUKA_API = "1.0"` of a plugin's module, read from its source before it is imported and from the
module afterwards. Not in the room: loading plugins (`kipuka.plugins`), and the API's own number (`kipuka.api.API_VERSION`).

The source is read first because a plugin for a later API may fail already while it is imported, at the first name that this
version does not have; "upgrade kipuka" then says more than the ImportError. Nothing of the plugin's runs for it. What the
imported module says is what counts: a module without readable source is asked then.
"""

from __future__ import annotations

import ast
import re
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec

from kipuka.api.hooks import API_VERSION

__all__ = ["STATEMENT", "Misfit", "misfit", "origin", "stated_by", "stated_in_source"]

STATEMENT = "KIPUKA_API"
"""The name that a plugin's module gives to the version."""

_VERSION = re.compile(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")


@dataclass(frozen=True, kw_only=True, slots=True)
class Misfit:
    """Why this kipuka cannot use a plugin that says so, and what to do."""

    problem: str
    remedy: str


def misfit(stated: object, module: str, *, has: str = API_VERSION) -> Misfit | None:
    """None when a plugin for API `stated` runs on API `has`: the same major version, and no later minor one.

    `stated` is whatever the module has under `KIPUKA_API`, None where it has nothing.
    """
    wanted = f'{STATEMENT} = "{has}"'
    if stated is None:
        return Misfit(
            problem=f"it does not say which version of kipuka.api it is written for; this kipuka has {has}",
            remedy=f"look for a release of it that does, or have its author write {wanted} in the module {module}",
        )
    parsed = _VERSION.fullmatch(stated) if isinstance(stated, str) else None
    if parsed is None:
        return Misfit(
            problem=f"its {STATEMENT} is {_shown(stated)}, not a text of two numbers, major and minor",
            remedy=f"have its author write {wanted} in the module {module}",
        )
    needs, ours = (int(parsed[1]), int(parsed[2])), _parsed(has)
    if needs[0] == ours[0] and needs[1] <= ours[1]:
        return None
    return Misfit(
        problem=f"it needs API {stated}, this kipuka has {has}",
        remedy="upgrade kipuka" if needs > ours else "upgrade the plugin",
    )


def stated_by(module: types.ModuleType) -> object:
    """What the imported module states; None where it states nothing."""
    return vars(module).get(STATEMENT)


def stated_in_source(module: str) -> str | None:
    """What the module's source states as a literal at its top level; None where that cannot be told. Imports nothing."""
    try:
        source = _source(module)
        tree = None if source is None else ast.parse(source)
    except Exception:  # noqa: BLE001 - finders and loaders are anybody's; the import that follows says what is wrong
        return None
    found = None
    for statement in () if tree is None else tree.body:
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(value)))
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=str(value)))
            ) if name == STATEMENT:
                found = value
            case _:
                pass
    return found


def origin(module: str) -> str | None:
    """The file of the module, found without importing anything; None where that cannot be told."""
    try:
        spec = _spec(module)
    except Exception:  # noqa: BLE001 - finders are anybody's
        return None
    return None if spec is None else spec.origin


def _source(module: str) -> str | None:
    spec = _spec(module)
    loader = None if spec is None else spec.loader
    return loader.get_source(module) if isinstance(loader, InspectLoader) else None


def _spec(module: str) -> ModuleSpec | None:
    # importlib.util.find_spec would import the packages above
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    name = ""
    for part in module.split("."):
        if spec is not None and path is None:
            return None
        name = f"{name}.{part}" if name else part
        spec = _find(name, path)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec


def _find(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    specs = (finder.find_spec(name, path) for finder in sys.meta_path)
    return next((spec for spec in specs if spec is not None), None)


def _parsed(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def _shown(value: object) -> str:
    # a text that somebody wrote is shown as far as it can be the version; anything else by its type
    return repr(value[:40]) if isinstance(value, str) else f"a value of type {type(value).__name__}"
