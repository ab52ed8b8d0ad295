# ruff: noqa: S101 - these are tests
"""What every kind of plugin promises, whatever its objects then do.

In the room: `KindContract`, of which each kind's own contract is made: its section, its secrets, its `check`, being opened and closed.
Not in the room: what the opened object does.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from kipuka.api import AuditSinkKind, AuthenticatorKind, CABackendKind, Finding, ReportsHealth, Storage
from kipuka.testing.harness import OpenedKind

__all__ = ["PARALLEL", "TURNS", "KindContract", "cancel_after", "sentence"]

T = TypeVar("T")
KindT = TypeVar("KindT", bound="AuthenticatorKind[Any] | CABackendKind[Any] | AuditSinkKind[Any]")
OpenedT = TypeVar("OpenedT", bound=OpenedKind)

PARALLEL = 20
TURNS = 8
"""A call is cancelled after none, one, two, ... turns of the event loop: at each of its first awaits."""

_NAME = re.compile(r"[a-z][a-z0-9_-]*")


class KindContract(Generic[KindT, OpenedT]):
    """The common part. Not to be derived from by plugins: each kind has its own."""

    kind: ClassVar[Any]
    storages: ClassVar[Sequence[Storage]] = ()
    patience: ClassVar[float] = (
        10  # seconds for what must come: an arrival, a decision, the next answer after a cancelled call
    )

    def section(self, directory: Path) -> Mapping[str, object]:
        """The keys of the plugin's section or item, without those of the host. Files that it names may be made in `directory`.

        Asked again with the same directory it gives the same: a test may open what it had opened before.
        """
        return {}

    def secrets(self) -> Sequence[str]:
        """What of `section` is secret, beyond the fields of type `Secret`."""
        return ()

    def out_of_reach(self, directory: Path) -> AbstractAsyncContextManager[object] | None:
        """While this is entered, what the plugin depends on (a CA, a collector, a file) is not to be had; None: it depends on nothing.

        Entered before or after the object is opened.
        """
        return None

    def open(self, directory: Path) -> AbstractAsyncContextManager[OpenedT]:
        """The object, opened over a store in `directory`; with the same directory again, as after a restart."""
        raise NotImplementedError

    def working(self, opened: OpenedT, directory: Path) -> Awaitable[object]:
        """Some use of the object that must succeed."""
        raise NotImplementedError

    async def attempted(self, opened: OpenedT, directory: Path) -> None:
        """The same use while it may fail."""

        async def use() -> None:
            await self.working(opened, directory)

        await asyncio.gather(use(), return_exceptions=True)

    def run(self, directory: Path, test: Callable[[OpenedT], Awaitable[T]]) -> T:
        """Run `test` with an open object; with the same directory again, as after a restart."""

        async def main() -> T:
            async with self.open(directory) as opened:
                return await test(opened)

        return asyncio.run(main())

    def settings(self, directory: Path) -> BaseModel:
        """The section as its model reads it."""
        return self.kind.config.model_validate(dict(self.section(directory)), context={"base": directory})

    def all_secrets(self, directory: Path) -> list[str]:
        """Every secret of the section."""
        return [*dict.fromkeys([*self.secrets(), *_secrets_in(self.settings(directory))])]

    # -- what the kind says of itself ------------------------------------------------------------------------------

    def test_the_name_is_one_that_a_configuration_file_can_have(self) -> None:
        """RULES K2: the name is a section, an item's `backend` or `type`, and a word of a command line."""
        assert _NAME.fullmatch(self.kind.name), self.kind.name

    def test_the_section_is_a_model_that_refuses_unknown_keys(self, tmp_path: Path) -> None:
        """RULES K1: a key that nobody reads is a mistake, and is told."""
        assert issubclass(self.kind.config, BaseModel)
        with pytest.raises(ValidationError):
            self.kind.config.model_validate({**self.section(tmp_path), "no_such_key": 1}, context={"base": tmp_path})

    def test_the_section_shows_no_secret(self, tmp_path: Path) -> None:
        """RULES K6: settings are printed and logged, so a secret is of type `Secret`, which shows none."""
        settings = self.settings(tmp_path)
        for secret in self.all_secrets(tmp_path):
            assert secret not in repr(settings)
            assert secret not in str(settings)
            assert secret not in settings.model_dump_json()

    def test_every_key_is_described(self) -> None:
        """RULES K1: the reference of the configuration is made of the model's docstrings."""
        for name, field in self.kind.config.model_fields.items():
            assert field.description, f"the key {name} has no docstring"

    def test_the_check_finds_no_error_in_a_section_that_works(self, tmp_path: Path) -> None:
        """`Finding`: an error stops the start. A warning has its key, its problem and its remedy."""
        settings = self.settings(tmp_path)
        if self.kind.check is None:
            return
        for finding in self.kind.check(settings):
            assert isinstance(finding, Finding)
            assert finding.severity == "warning", finding
            assert finding.problem.strip()
            assert finding.remedy.strip()
            for secret in self.all_secrets(tmp_path):
                assert secret not in repr(finding)

    # -- being opened and closed -----------------------------------------------------------------------------------

    def test_it_works_again_after_it_was_closed(self, tmp_path: Path) -> None:
        """A server is stopped and started: what was opened once can be opened again."""

        async def test(opened: OpenedT) -> None:
            await self.working(opened, tmp_path)

        for _ in range(3):
            self.run(tmp_path, test)

    def test_closing_leaves_no_task_behind(self, tmp_path: Path) -> None:
        """Structured concurrency: what an opener started has ended when it is left."""

        async def main() -> None:
            async with self._only_the_object(tmp_path) as (opened, before):
                await self.working(opened, tmp_path)
            left = asyncio.all_tasks() - before
            assert not left, left

        asyncio.run(main())

    def test_a_failure_around_it_passes_through(self, tmp_path: Path) -> None:
        """An opener is left also by an exception of the host's: it swallows none."""

        class OfTheHost(Exception):
            pass

        async def main() -> None:
            async with self.open(tmp_path) as opened:
                await self.working(opened, tmp_path)
                raise OfTheHost

        with pytest.raises(OfTheHost):
            asyncio.run(main())

    def test_two_of_a_kind_stand_side_by_side(self, tmp_path: Path) -> None:
        """A configuration may name a kind more than once, and a reload opens the new object before it leaves the old one."""
        directories = [tmp_path / "one", tmp_path / "two"]
        for directory in directories:
            directory.mkdir()

        async def main() -> None:
            async with AsyncExitStack() as stack:
                opened = [await stack.enter_async_context(self.open(one)) for one in directories]
                for one, directory in zip(opened, directories, strict=True):
                    await self.working(one, directory)
                await stack.aclose()
                again = await stack.enter_async_context(self.open(directories[0]))
                await self.working(again, directories[0])

        asyncio.run(main())

    # -- health ----------------------------------------------------------------------------------------------------

    def test_the_health_of_what_works_is_none(self, tmp_path: Path) -> None:
        """`ReportsHealth`: None when all is well."""

        async def test(opened: OpenedT) -> None:
            subject = self.subject(opened)
            if not isinstance(subject, ReportsHealth):
                pytest.skip("it does not report its health")
            assert await subject.health() is None
            await self.working(opened, tmp_path)
            assert await subject.health() is None

        self.run(tmp_path, test)

    def test_the_health_of_what_is_out_of_reach_is_a_sentence(self, tmp_path: Path) -> None:
        """`ReportsHealth`: one sentence for the operator, without a secret; None again afterwards."""

        async def test(opened: OpenedT) -> None:
            subject, away = self.subject(opened), self.out_of_reach(tmp_path)
            if not isinstance(subject, ReportsHealth) or away is None:
                pytest.skip("it does not report its health, or depends on nothing")
            async with away:
                await self.attempted(opened, tmp_path)  # some objects know only after they were used
                said = await subject.health()
                assert said is not None
                assert sentence(said), said
                for secret in self.all_secrets(tmp_path):
                    assert secret not in said
            await self.working(opened, tmp_path)
            assert await subject.health() is None

        self.run(tmp_path, test)

    def subject(self, opened: OpenedT) -> object:
        """The plugin's object itself."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def _only_the_object(self, directory: Path) -> AsyncGenerator[tuple[OpenedT, set[asyncio.Task[Any]]], None]:
        """The object, and the tasks that were there before the kit opened anything."""
        before = asyncio.all_tasks()
        async with self.open(directory) as opened:
            yield opened, before


async def cancel_after(turns: int, call: Awaitable[T]) -> T | None:
    """Start a call, cancel it after that many turns of the loop, and wait for its end; what it gave, if it was faster."""
    task = asyncio.ensure_future(call)
    for _ in range(turns):
        await asyncio.sleep(0)
    heard = task.cancel()
    try:
        given = await task
    except asyncio.CancelledError:
        return None
    assert not heard, "a cancelled call went on as if nothing had been said: asyncio.CancelledError was swallowed"
    return given


def sentence(text: str) -> bool:
    """Whether it is one line of text that a person can read."""
    return text == text.strip() != "" and text.isprintable()


def _secrets_in(value: object) -> Iterable[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets_in(getattr(value, name))
    elif isinstance(value, Mapping):
        for member in value.values():  # type: ignore[reportUnknownVariableType]
            yield from _secrets_in(member)  # type: ignore[reportUnknownArgumentType]
    elif isinstance(value, list | tuple):
        for member in value:  # type: ignore[reportUnknownVariableType]
            yield from _secrets_in(member)  # type: ignore[reportUnknownArgumentType]
