"""The reference of `kipuka.api`, made from its docstrings and signatures.

In the room: how names become Markdown. Not in the room: which part of which page it is (`documents.py`).
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import kipuka.api
from kipuka.api import HookSpecs

CHAPTERS = {
    "hooks": "Hooks",
    "kinds": "Kinds and services",
    "protocols": "Protocols",
    "values": "Values",
    "names": "Distinguished names",
    "settings": "Settings",
    "routes": "Admin routes",
    "commands": "Commands",
    "storage": "Storage",
    "errors": "Errors",
    "events": "Audit events",
}
"""The submodules of `kipuka.api`, in the order in which an author meets them."""


def modules() -> Mapping[str, Any]:
    """Every submodule, by its name."""
    found = {
        one.name: importlib.import_module(f"kipuka.api.{one.name}") for one in pkgutil.iter_modules(kipuka.api.__path__)
    }
    assert set(found) == set(CHAPTERS), "a submodule of kipuka.api has no chapter"
    return found


def documentation(module: Any) -> Mapping[str, str]:
    """The docstring of each name in the module's `__all__` that is kipuka's own; a constant's is the text below it."""
    body = ast.parse(Path(module.__file__).read_text(encoding="utf-8")).body
    found: dict[str, str] = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        match node, after:
            case ((ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef()), _):
                found[node.name] = ast.get_docstring(node) or ""
            case (
                ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
            case _:
                pass
    for name in module.__all__:
        offered = getattr(module, name)
        if name not in found and str(getattr(offered, "__module__", "")).startswith("kipuka."):
            found[name] = inspect.getdoc(offered) or ""  # of a module below, which the host has in use as well
    return {name: found[name] for name in module.__all__ if name in found}


def borrowed(module: Any) -> list[str]:
    """The names in `__all__` that come from another distribution."""
    known = documentation(module)
    return [name for name in module.__all__ if name not in known]


def paragraphs(docstring: str | None) -> str:
    """A docstring as Markdown: each paragraph one line."""
    parts = re.split(r"\n\s*\n", inspect.cleandoc(docstring or ""))
    return "\n\n".join(" ".join(part.split()) for part in parts)


def signature(function: Any) -> str:
    """`(name: type = default, ...) -> type`, as it is written; without self."""
    given = inspect.signature(function)
    parts: list[str] = []
    for parameter in given.parameters.values():
        if parameter.name == "self":
            continue
        text = parameter.name
        if parameter.kind is parameter.VAR_POSITIONAL:
            text = f"*{text}"
        elif parameter.kind is parameter.VAR_KEYWORD:
            text = f"**{text}"
        if parameter.annotation is not parameter.empty:
            text += f": {parameter.annotation}"
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        parts.append(text)
    result = "" if given.return_annotation is given.empty else f" -> {given.return_annotation}"
    return f"({', '.join(parts)}){result}"


def members(kind: type) -> Iterator[str]:
    """What a class has of its own: one item of a list for each method, property, field and member."""
    if issubclass(kind, Enum):
        yield from (f"- `{member.name}` = `{member.value}`" for member in kind)
        return
    if dataclasses.is_dataclass(kind):
        for field in dataclasses.fields(kind):
            yield f"- `{field.name}: {field.type}`{default_of(field)}"
    elif annotations := getattr(kind, "model_fields", None):
        own = inspect.get_annotations(kind)
        yield from (f"- `{name}: {own[name]}`" for name in annotations if name in own)
    for name, member in vars(kind).items():
        if name.startswith("_") or (
            dataclasses.is_dataclass(kind) and name in {one.name for one in dataclasses.fields(kind)}
        ):
            continue
        if isinstance(member, property):
            result = inspect.get_annotations(member.fget).get("return") if member.fget else None
            yield f"- property `{name}: {result}` {said(member)}"
        elif inspect.isfunction(member):
            word = "async " if inspect.iscoroutinefunction(member) else ""
            yield f"- {word}`{name}{signature(member)}` {said(member)}"


def default_of(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return f", default `{field.default!r}`"
    if field.default_factory is not dataclasses.MISSING:
        return ", default empty"
    return ""


def said(member: Any) -> str:
    return " ".join((inspect.getdoc(member) or "").split())


def render() -> str:
    """The whole reference, chapter by chapter."""
    found = modules()
    return "\n".join(line for name, title in CHAPTERS.items() for line in chapter(name, title, found[name]))


def chapter(name: str, title: str, module: Any) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"`kipuka.api.{name}`\n"
    known = documentation(module)
    for public in module.__all__:
        if public in known:
            yield from entry(public, getattr(module, public), known[public])
    others = borrowed(module)
    if others:
        yield f"Of SQLAlchemy, as they are there: {', '.join(f'`{other}`' for other in others)}.\n"


def entry(name: str, value: Any, docstring: str) -> Iterator[str]:
    yield f"### {name}\n"
    yield f"{paragraphs(docstring)}\n"
    if value is HookSpecs:
        for hook, function in vars(HookSpecs).items():
            if hook.startswith("kipuka_"):
                yield f"### {hook}{signature(function)}\n"
                yield f"{paragraphs(function.__doc__)}\n"
    elif inspect.isclass(value):
        if Protocol not in value.__bases__ and (base := value.__bases__[0]).__name__ in kipuka.api.__all__:
            yield f"A `{base.__name__}`.\n"
        lines = list(members(value))
        if lines:
            yield "\n".join(lines) + "\n"
    elif inspect.isfunction(value):
        yield f"`{name}{signature(value)}`\n"
    elif isinstance(value, str | int):
        yield f"`{value!r}`\n"
