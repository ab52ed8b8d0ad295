"""One section against its model, with every mistake in words that say what to write instead.

In the room: the way from pydantic's errors to `ConfigProblem`, suggestions for mistyped keys, and the keys of later
versions. Not in the room: which sections there are.

A validator's ValueError may hold problem and remedy in one text, parted by "; ". No problem ever shows a value that was
given: it could be a secret.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from typing import Any, TypeVar, Union, cast, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from kipuka.api.errors import ConfigProblem
from kipuka.config.document import Document, KeyPath

__all__ = ["LATER", "later_problem", "suggestion", "unknown_key", "validate"]

ModelT = TypeVar("ModelT", bound=BaseModel)

NOT_YET = "not available in this version"

LATER: Mapping[tuple[str, ...], str] = {
    ("server", "public_listen"): "take the key out",
    ("server", "proxy_protocol"): "take the key out",
    ("est", "csrattrs"): "take the key out; csrattrs is answered 204",
    ("est", "label", "csrattrs"): "take the key out",
}
"""Keys and sections that a later version brings (RULES K1), without positions, and what to do now."""


def later_problem(path: KeyPath, document: Document) -> ConfigProblem | None:
    """The refusal of a key that a later version brings, or None when this is not one."""
    remedy = LATER.get(tuple(part for part in path if isinstance(part, str)))
    return None if remedy is None else document.problem(path, NOT_YET, remedy)


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    return next(iter(difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.6)), None)


def validate(
    model: type[ModelT],
    values: Any,
    path: KeyPath,
    document: Document,
    *,
    also: Iterable[str] = (),
    salvage: Collection[str] = (),
) -> tuple[ModelT | None, list[ConfigProblem]]:
    """The section's model, or None with everything that is wrong with it.

    `also` are the names of keys that stand in the same table but are not this model's, for suggestions. Where only keys
    of `salvage` and unknown ones are wrong, there is a model all the same, with their defaults, so that what must hold between
    sections can still be looked at; it is for nothing else.
    """
    values = _as_text_where_text_is_meant(model, values, path, document)
    problems: dict[str, ConfigProblem] = {}
    wrong: set[str | int] = set()
    for place, expected in _loose(model, values):
        text = f"{_A[expected]} is needed, not {_kind(_at(values, place))}"
        problem = document.problem(path + place, text, _write(path + place, expected, _walk(model, place)[1]))
        problems[problem.key] = problem
        wrong.add(place[0])
    instance, errors = _instance(model, values, document)
    for error in errors:
        problem = _problem(model, values, error, document, path=path, also=also)
        problems.setdefault(problem.key, problem)
        wrong.update(error["loc"][:1] or (".",))
    if problems:
        may_go = {*salvage, *(name for name in wrong if isinstance(name, str) and _field(model, name) is None)}
        instance = None
        if wrong <= may_go and isinstance(values, dict):
            rest = {key: value for key, value in cast("dict[str, Any]", values).items() if key not in wrong}
            instance, _ = _instance(model, rest, document)
    return instance, list(problems.values())


def _instance(model: type[ModelT], values: Any, document: Document) -> tuple[ModelT | None, list[ErrorDetails]]:
    try:
        return model.model_validate(values, context={"base": document.file.parent}), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


# --- where a model and the values meet ---


def _unwrapped(annotation: Any) -> Any:
    """The type without `| None` and without `Annotated`."""
    while True:
        origin = get_origin(annotation)
        if origin in {Union, types.UnionType}:
            others = [arm for arm in get_args(annotation) if arm is not types.NoneType]
            if len(others) != 1:
                return annotation
            annotation = others[0]
        elif hasattr(annotation, "__metadata__"):
            annotation = annotation.__origin__
        else:
            return annotation


def _item_type(annotation: Any) -> Any:
    """What a tuple, a list or a mapping has for items; None for anything else."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in {tuple, list, set, frozenset} and arguments:
        return _unwrapped(arguments[0])
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2:
        return _unwrapped(arguments[1])
    return None


def _field(model: type[BaseModel], name: str) -> FieldInfo | None:
    for known, info in model.model_fields.items():
        if name in {known, info.alias}:
            return info
    return None


def _names(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _walk(model: type[BaseModel], place: KeyPath) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The innermost model on the way to this place, and the last field on it."""
    here: Any = model
    owner: type[BaseModel] | None = model
    info: FieldInfo | None = None
    for part in place:
        if isinstance(here, type) and issubclass(here, BaseModel) and isinstance(part, str):
            owner = here
            info = _field(here, part)
            here = _unwrapped(info.annotation) if info is not None else None
        else:
            here = _item_type(here)
    return owner, info


def _at(values: Any, place: KeyPath) -> Any:
    for part in place:
        if isinstance(values, dict):
            values = cast("dict[str | int, Any]", values).get(part)
        elif isinstance(values, list) and isinstance(part, int) and part < len(cast("list[Any]", values)):
            values = cast("list[Any]", values)[part]
        else:
            return None
    return values


def _fields_in(model: type[BaseModel], values: Any, place: KeyPath = ()) -> Iterator[tuple[KeyPath, Any, Any]]:
    """Every value that a field of the model takes: its place, its type, and itself."""
    if not isinstance(values, dict):
        return
    for key, value in cast("dict[str, Any]", values).items():
        info = _field(model, key)
        if info is not None:
            yield from _values_in(_unwrapped(info.annotation), value, (*place, key))


def _values_in(annotation: Any, value: Any, place: KeyPath) -> Iterator[tuple[KeyPath, Any, Any]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from _fields_in(annotation, value, place)
        return
    item_type = _item_type(annotation)
    if item_type is not None and isinstance(value, list):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _values_in(item_type, item, (*place, index))
    elif item_type is not None and isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            yield from _values_in(item_type, item, (*place, key))
    else:
        yield place, annotation, value


def _loose(model: type[BaseModel], values: Any) -> Iterator[tuple[KeyPath, str]]:
    """The values that pydantic would turn into the right type, such as "20" for a number, but TOML can write better."""
    for place, annotation, value in _fields_in(model, values):
        if annotation is bool and not isinstance(value, bool):
            yield place, "boolean"
        elif annotation is int and (isinstance(value, bool) or not isinstance(value, int)):
            yield place, "integer"
        elif annotation in {float, timedelta} and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield place, "number"


def _as_text_where_text_is_meant(model: type[BaseModel], values: Any, path: KeyPath, document: Document) -> Any:
    """A variable's text reads as a TOML value where it can; `1.3` for a key that takes strings is meant as a string."""
    for place, annotation, value in list(_fields_in(model, values)):
        override = document.overrides.get(path + place)
        if override is None or isinstance(value, str | dict | list):
            continue
        if annotation not in {bool, int, float, timedelta}:
            table = _at(values, place[:-1])
            table[place[-1]] = override.text
    return values


# --- what is wrong, and what to write instead ---

_A = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "table": "a table",
}

_EXPECTED = {
    "string_type": "string",
    "int_type": "integer",
    "int_parsing": "integer",
    "int_from_float": "integer",
    "float_type": "number",
    "float_parsing": "number",
    "time_delta_type": "number",
    "time_delta_parsing": "number",
    "bool_type": "boolean",
    "bool_parsing": "boolean",
    "tuple_type": "array",
    "list_type": "array",
    "set_type": "array",
    "frozen_set_type": "array",
    "dict_type": "table",
    "mapping_type": "table",
    "model_type": "table",
    "model_attributes_type": "table",
    "dataclass_type": "string",
    "path_type": "string",
}

_LIMIT = {
    "greater_than": ("gt", "a number above {limit} is needed"),
    "greater_than_equal": ("ge", "{limit} or more is needed"),
    "less_than": ("lt", "a number below {limit} is needed"),
    "less_than_equal": ("le", "{limit} is the most"),
    "too_short": ("min_length", "it needs at least {limit} item{s}"),
    "too_long": ("max_length", "it takes at most {limit} item{s}"),
    "string_too_short": ("min_length", "it needs at least {limit} character{s}"),
    "string_too_long": ("max_length", "it takes at most {limit} character{s}"),
}


def _kind(value: Any) -> str:
    """What TOML calls a value of this type, with its article."""
    if isinstance(value, bool):
        return "a boolean"
    for kind, name in (
        (str, "a string"),
        (int, "a whole number"),
        (float, "a number with a fraction"),
        (dict, "a table"),
        (list, "an array"),
        (datetime | date | time, "a date or time"),
    ):
        if isinstance(value, kind):
            return name
    return "nothing"


def _write(path: KeyPath, expected: str, info: FieldInfo | None = None) -> str:
    key = next((part for part in reversed(path) if isinstance(part, str)), "key")
    if path and isinstance(path[-1], int):
        samples = {"string": '"..."', "table": "{ ... }"}
        return f"write each item of {key} as {samples.get(expected, _A[expected])}"
    samples = {
        "string": f'write {key} = "..."',
        "integer": f"write {key} = {_number(info)}, without quotes",
        "number": f"write {key} = {_number(info)}, without quotes",
        "boolean": f"write {key} = true or {key} = false, without quotes",
        "array": f"write {key} = [...]",
        "table": f"write it as a table, [{key}] with its keys below",
    }
    return samples[expected]


def _number(info: FieldInfo | None) -> str:
    """The default, where it is a number, to show what one looks like."""
    default: object = info.default if info is not None else None
    if isinstance(default, timedelta):
        return f"{default.total_seconds():g}"
    return str(default) if isinstance(default, int | float) and not isinstance(default, bool) else "1"


def _meaning(info: FieldInfo | None) -> str:
    """The first sentence of a field's description."""
    text = " ".join((info.description or "").split()) if info is not None else ""
    return text.split(". ")[0].rstrip(".").replace("`", "")


def _in_values(values: Any, location: tuple[int | str, ...], kind: str) -> KeyPath:
    """The place in the file that pydantic's location speaks of: without the marks it puts in for unions and keys."""
    place: list[int | str] = []
    for index, part in enumerate(location):
        here = _at(values, tuple(place))
        last = index == len(location) - 1
        in_table = isinstance(here, dict) and part in here
        in_array = isinstance(here, list) and isinstance(part, int)
        if in_table or in_array or (last and kind == "missing"):
            place.append(part)
    return tuple(place)


def _problem(
    model: type[BaseModel], values: Any, error: ErrorDetails, document: Document, *, path: KeyPath, also: Iterable[str]
) -> ConfigProblem:
    place = _in_values(values, error["loc"], error["type"])
    where = path + place
    owner, info = _walk(model, place)
    if error["type"] == "extra_forbidden":
        known = [*(_names(owner) if owner is not None else ()), *(also if owner is model else ())]
        return later_problem(where, document) or unknown_key(where, known, document)
    key = next((part for part in reversed(where) if isinstance(part, str)), "it")
    return document.problem(where, *_words(error, key, info, where, _at(values, place)))


def _words(error: ErrorDetails, key: str, info: FieldInfo | None, where: KeyPath, value: Any) -> tuple[str, str]:
    """What is wrong, and what to write instead."""
    context: dict[str, Any] = error.get("ctx", {})
    expected = str(context.get("expected", "")).replace("'", '"')
    match error["type"]:
        case "missing":
            meaning = _meaning(info)
            words = "it is missing", f"write {key} = ...{': ' + meaning if meaning else ''}"
        case "value_error":
            problem, _, remedy = str(context.get("error", error["msg"])).partition("; ")
            words = problem, remedy or _mend(key, info)
        case kind if kind in _EXPECTED:
            words = f"{_A[_EXPECTED[kind]]} is needed, not {_kind(value)}", _write(where, _EXPECTED[kind], info)
        case "literal_error" | "enum":
            if error["loc"][-1:] == ("[key]",):
                words = "unknown key", f"the keys here are {expected}"
            else:
                words = "it is none of the values it may have", f"write {expected}"
        case kind if kind in _LIMIT:
            name, text = _LIMIT[kind]
            limit = context.get(name)
            words = text.format(limit=limit, s="" if limit == 1 else "s"), _mend(key, info)
        case "string_pattern_mismatch":
            words = "it has a character or a form that is not possible here", _mend(key, info)
        case _:
            words = error["msg"][:1].lower() + error["msg"][1:], _mend(key, info)
    return words


def _mend(key: str, info: FieldInfo | None) -> str:
    meaning = _meaning(info)
    return f"mend {key} ({meaning[:1].lower()}{meaning[1:]})" if meaning else f"mend {key}"


def unknown_key(where: KeyPath, known: Collection[str], document: Document) -> ConfigProblem:
    """The refusal of a key that nobody knows, with the one that was probably meant."""
    meant = suggestion(str(where[-1]), known)
    if meant is not None:
        return document.problem(where, "unknown key", f"did you mean {meant}?")
    remedy = f"the keys here are {', '.join(sorted(known))}" if known else "there are no keys here"
    return document.problem(where, "unknown key", f"take it out: {remedy}")
