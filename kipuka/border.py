"""The border between the host and what a plugin has opened: every call of a protocol's method goes through here.

In the room: the facade that the host holds in place of a plugin's object, what it makes sure of, the trace of its calls, and which
plugins fail at the moment. Not in the room: what follows from a failed call. Whoever asked decides that (`kipuka.authentication`,
`kipuka.enrolment`, `kipuka.audit.pipeline`), and sets the time limit.

The facade has the methods of the protocols in `kipuka.api.protocols` that the object has, and no others, so that an ability is found on
the one exactly where it is found on the other. An answer of another type than the protocol's is an exception here, with the plugin's
name, and never a surprise three modules further on. What stands in arguments, answers and messages of exceptions is never traced.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

import structlog

from kipuka.api import protocols
from kipuka.api.errors import BackendError, KipukaError

__all__ = ["Border", "UnfitAnswer", "UnfitObject", "Watch"]

log = structlog.get_logger(__name__)

_CLOCK_STEP = 0.05
"""Seconds by which a call may seem to have ended before its limit, which began a moment earlier."""


_MEMORY = 300.0
"""Seconds after which a failure says nothing of today, where the method was not called again."""


class UnfitAnswer(TypeError):
    """A plugin's method answered with something that its protocol does not have."""


class UnfitObject(TypeError):
    """What an opener gave does not play its role."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Member:
    """One method or property of a protocol. `answers` None: anything."""

    name: str
    protocol: str
    is_async: bool
    is_property: bool
    answers: tuple[type, ...] | None

    def check_awaitable(self, given: object) -> None:
        if not inspect.isawaitable(given):
            msg = f"{self.name} is no async function: it gave {_a(given)} at once"
            raise UnfitAnswer(msg)

    def check_plain(self, answer: object) -> None:
        if inspect.iscoroutine(answer):
            answer.close()
            msg = f"{self.name} is an async function, where a plain one is expected"
            raise UnfitAnswer(msg)

    def check(self, answer: object) -> None:
        if self.answers is not None and not isinstance(answer, self.answers):
            wanted = " or ".join("None" if one is types.NoneType else one.__name__ for one in self.answers)
            msg = f"{self.name} gave {_a(answer)} where {wanted} is expected"
            raise UnfitAnswer(msg)


def _a(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _answers(hint: object) -> tuple[type, ...] | None:
    """The classes of a return annotation, None where it allows what cannot be told by its class."""
    if hint is None:
        return (types.NoneType,)
    if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union:
        found: list[type] = []
        for one in typing.get_args(hint):
            classes = _answers(one)
            if classes is None:
                return None
            found += classes
        return tuple(found)
    known = typing.get_origin(hint) or hint
    if known is Any or not isinstance(known, type) or Protocol in known.__bases__:
        return None
    return (known,)


def _members() -> Mapping[str, _Member]:
    """Every method and property of the protocols, by its name; no two protocols share one."""
    found: dict[str, _Member] = {}
    for protocol in vars(protocols).values():
        if not isinstance(protocol, type) or Protocol not in protocol.__bases__:
            continue
        for name, member in vars(protocol).items():
            is_property = isinstance(member, property)
            function = member.fget if isinstance(member, property) else member
            if name.startswith("_") or not inspect.isfunction(function):
                continue
            if name in found:
                msg = f"{name} is a member of two protocols: {found[name].protocol} and {protocol.__name__}"
                raise AssertionError(msg)
            found[name] = _Member(
                name=name,
                protocol=protocol.__name__,
                is_async=inspect.iscoroutinefunction(function),
                is_property=is_property,
                answers=_answers(typing.get_type_hints(function).get("return", Any)),
            )
    return found


_MEMBERS = _members()


@dataclass(kw_only=True, slots=True)
class Watch:
    """What the calls of all plugins come to. `trace`: tell each one."""

    trace: bool = False
    _failing: dict[tuple[str, str], tuple[str, float]] = field(default_factory=dict[tuple[str, str], tuple[str, float]])

    @property
    def failing(self) -> Mapping[str, str]:
        """The plugins whose last call of some method failed not long ago, each with that method and what became of it."""
        since = time.monotonic() - _MEMORY
        return {
            who: f"{method}: {outcome}" for (who, method), (outcome, when) in self._failing.items() if when >= since
        }

    def note(self, border: Border, method: str, outcome: str, *, seconds: float, failed: bool) -> None:
        """A call has ended."""
        key = (border.who, method)
        if failed:
            self._failing[key] = outcome, time.monotonic()
        elif key in self._failing:
            del self._failing[key]
        if self.trace:
            log.info(
                "plugin_call",
                plugin=border.plugin,
                object=border.id,
                method=method,
                outcome=outcome,
                milliseconds=round(seconds * 1000, 3),
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Border:
    """Around one object: `plugin` opened it, and where a plugin opens several, `id` tells them apart.

    `limit` is how long the host lets one of its asynchronous calls take: a call that is cancelled after that has timed out.
    """

    plugin: str
    watch: Watch
    limit: timedelta
    id: str | None = None

    @property
    def who(self) -> str:
        """The plugin, and which object of it."""
        return self.plugin if self.id is None else f"{self.plugin} ({self.id})"

    def around(self, opened: object, role: type) -> Any:
        """The facade of this object. Raises `UnfitObject` where something of the role is missing."""
        missing = [one.name for one in _MEMBERS.values() if one.protocol == role.__name__ and not _has(opened, one)]
        if missing:
            msg = f"what its opener gave, {_a(opened)}, has no {' and no '.join(missing)}"
            raise UnfitObject(msg)
        members = {one.name: self._member(opened, one) for one in _MEMBERS.values() if _has(opened, one)}
        return type(f"{type(opened).__name__}OfPlugin", (), members)()

    def _member(self, opened: object, member: _Member) -> Any:
        if member.is_property:
            return property(lambda _facade: self._read(opened, member))
        method = getattr(opened, member.name)
        if member.is_async:

            async def ask(_facade: object, *arguments: Any) -> Any:
                return await self._ask(member, method, arguments)

            return ask

        def call(_facade: object, *arguments: Any) -> Any:
            return self._call(member, method, arguments)

        return call

    def _read(self, opened: object, member: _Member) -> Any:
        return self._call(member, lambda: getattr(opened, member.name), ())

    def _call(self, member: _Member, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        began = time.perf_counter()
        try:
            answer = method(*arguments)
            member.check_plain(answer)
            member.check(answer)
        except BaseException as error:
            self._note(member, error, began)
            raise
        self._note(member, answer, began)
        return answer

    async def _ask(self, member: _Member, method: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        began = time.perf_counter()
        try:
            waiting = method(*arguments)
            member.check_awaitable(waiting)
            answer: Any = await waiting
            member.check(answer)
        except BaseException as error:
            self._note(member, error, began)
            raise
        self._note(member, answer, began)
        return answer

    def _note(self, member: _Member, result: object, began: float) -> None:
        seconds = time.perf_counter() - began
        outcome, failed = self._outcome(result, seconds)
        self.watch.note(self, member.name, outcome, seconds=seconds, failed=failed)

    def _outcome(self, result: object, seconds: float) -> tuple[str, bool]:
        """In a word, and whether it is a failure. An exception is told by its class: its text may say anything."""
        match result:
            case BackendError():
                return f"{type(result).__name__}: {result.reason}", False
            case KipukaError():
                return type(result).__name__, False
            case asyncio.CancelledError():
                late = seconds >= self.limit.total_seconds() - _CLOCK_STEP
                return ("timed out", True) if late else ("cancelled", False)
            case BaseException():
                return type(result).__name__, True
            case _:
                return "None" if result is None else type(result).__name__, False


def _has(opened: object, member: _Member) -> bool:
    # a property is not read for this: it may raise
    if member.is_property:
        return inspect.getattr_static(opened, member.name, _NOTHING) is not _NOTHING
    return callable(getattr(opened, member.name, None))


_NOTHING = object()
