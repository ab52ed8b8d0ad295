"""Which value of PostgreSQL a value of SQLite is, for each type of column. Pure.

In the room: the types that can be moved, and what does not fit them. Not in the room: rows (`kipuka.store.move`).

SQLite keeps what it is given in any column, whatever its type says. PostgreSQL does not, so that what differs is an error.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy.types import (
    JSON,
    BigInteger,
    Boolean,
    Date,
    DateTime,
    Enum,
    Float,
    Integer,
    LargeBinary,
    Numeric,
    SmallInteger,
    String,
    Time,
    TypeEngine,
    Uuid,
)

__all__ = ["Unfit", "is_known", "same", "translate"]

T = TypeVar("T")


class Unfit(Exception):
    """What is wrong with a value, without the value."""


def is_known(kind: TypeEngine[Any]) -> bool:
    """Whether values of that type of PostgreSQL can be moved."""
    return any(isinstance(kind, one) for one, _reader in _READERS)


def translate(raw: object, kind: TypeEngine[Any]) -> Any:
    """The value for a column of that type of PostgreSQL. `raw` is as the driver of SQLite has it. Raises `Unfit`."""
    if raw is None:
        return None
    for one, reader in _READERS:
        if isinstance(kind, one):
            return reader(raw, kind)
    raise Unfit(f"values of type {kind} cannot be moved")


def same(wanted: object, found: object, kind: TypeEngine[Any]) -> bool:
    """Whether PostgreSQL gave back what it was given. JSON is compared by what it says."""
    if isinstance(kind, JSON) and isinstance(wanted, str) and isinstance(found, str):
        return _canonical(wanted) == _canonical(found)
    return type(wanted) is type(found) and wanted == found


def _canonical(document: str) -> str:
    return json.dumps(json.loads(document), sort_keys=True)


def _one_of(raw: object, *classes: type) -> Any:
    if type(raw) not in classes:
        wanted = " or ".join(_NAMES[one] for one in classes)
        raise Unfit(f"it has {_NAMES[type(raw)]}, where {wanted} is needed")
    return raw


_NAMES: dict[type, str] = {str: "text", bytes: "octets", int: "an integer", float: "a floating-point number"}
"""What SQLite has, beside NULL."""


def _boolean(raw: object, _kind: Boolean) -> bool:
    number = _one_of(raw, int)
    if number not in {0, 1}:
        raise Unfit("it has a number that is neither 0 nor 1, where a truth value is needed")
    return bool(number)


def _integer(raw: object, kind: Integer) -> int:
    number: int = _one_of(raw, int)
    bits = 64 if isinstance(kind, BigInteger) else 16 if isinstance(kind, SmallInteger) else 32
    if not -(2 ** (bits - 1)) <= number < 2 ** (bits - 1):
        raise Unfit(f"the number has more than {bits} bits")
    return number


def _string(raw: object, kind: String) -> str:
    return _text(raw, kind.length)


def _text(raw: object, length: int | None = None) -> str:
    string: str = _one_of(raw, str)
    if "\0" in string:
        raise Unfit("there is a NUL character in it, which PostgreSQL cannot hold")
    try:
        string.encode("utf-8")
    except UnicodeEncodeError:
        raise Unfit("it is not UTF-8") from None
    if length is not None and len(string) > length:
        raise Unfit(f"it is longer than {length} characters")
    return string


def _json(raw: object, _kind: JSON) -> str:
    document = _text(raw)
    try:
        json.loads(document)
    except (ValueError, RecursionError):
        raise Unfit("it is not JSON") from None
    return document


def _moment(raw: object, kind: DateTime) -> datetime:
    moment = _parsed(raw, datetime.fromisoformat)
    return moment.replace(tzinfo=UTC) if kind.timezone and moment.tzinfo is None else moment


def _parsed(raw: object, parse: Callable[[str], T]) -> T:
    try:
        return parse(_text(raw))
    except ValueError:
        raise Unfit("it cannot be read as what its column is for") from None


_READERS: tuple[tuple[type[TypeEngine[Any]], Callable[[object, Any], Any]], ...] = (
    (Boolean, _boolean),
    (Integer, _integer),
    (Float, lambda raw, _kind: float(_one_of(raw, int, float))),
    (Numeric, lambda raw, _kind: Decimal(repr(_one_of(raw, int, float)))),
    (LargeBinary, lambda raw, _kind: _one_of(raw, bytes)),
    (JSON, _json),
    (DateTime, _moment),
    (Date, lambda raw, _kind: _parsed(raw, date.fromisoformat)),
    (Time, lambda raw, _kind: _parsed(raw, time.fromisoformat)),
    (Uuid, lambda raw, _kind: _parsed(raw, uuid.UUID)),
    (Enum, lambda raw, _kind: _text(raw)),
    (String, _string),
)
"""The first that fits counts: an Enum is a String too, a Float a Numeric."""
