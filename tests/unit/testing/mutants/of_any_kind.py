"""Ways to break a plugin that have nothing to do with what it is for. Each is made of a sample's kind that keeps the contract.

In the room: sections, checks, openers and health. Not in the room: what the opened objects do.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from kipuka.api import Finding

from .light import Mutant

SECRET = "swordfish-and-chips"


def mutants(kind, *, leaky, undescribed):
    """Of a kind whose section has the secret `password`; `leaky` and `undescribed` are models that differ from its own in that."""

    class Lax(kind.config):
        model_config = kind.config.model_config | {"extra": "ignore"}

    def check(settings):
        yield Finding(severity="error", key="", problem="it will not do", remedy="do without")

    def tells_the_password(settings):
        password = settings.password.get_secret_value()
        yield Finding(severity="warning", key="password", problem=f"{password} is weak", remedy="take another")

    def opener(around):
        """The kind with another opener, that is given the right one."""
        return replace(kind, open=asynccontextmanager(around))

    there: set[Path] = set()

    async def only_once(settings, services):
        if services.directory in there:
            raise RuntimeError("it was opened before")
        there.add(services.directory)
        async with kind.open(settings, services) as subject:
            yield subject
        if "one" not in services.directory.name:
            return
        there.discard(services.directory)

    tasks = set()

    async def leaves_a_task(settings, services):
        tasks.add(asyncio.ensure_future(asyncio.Event().wait()))
        async with kind.open(settings, services) as subject:
            yield subject

    async def swallows(settings, services):
        async with kind.open(settings, services) as subject:
            try:
                yield subject
            except Exception:  # noqa: BLE001 - that is what is wrong with it
                services.log.info("swallowed")

    count = 0

    async def alone(settings, services):
        nonlocal count
        if count:
            raise RuntimeError("there is one already")
        count += 1
        try:
            async with kind.open(settings, services) as subject:
                yield subject
        finally:
            count -= 1

    def with_health(health):
        async def other_health(settings, services):
            async with kind.open(settings, services) as subject:
                right = subject.health
                subject.health = lambda: health(right)
                yield subject

        return opener(other_health)

    async def is_fine(right):
        return await right() or "fine"

    async def is_always_well(right):
        return None

    async def is_long_winded(right):
        return "first line\nsecond line" if await right() else None

    async def stays_ill(right):
        ill = right.__self__.__dict__.setdefault("ill", [])
        ill += [said] if (said := await right()) else []
        return ill[0] if ill else None

    health, away = "test_the_health_of_what_works_is_none", "test_the_health_of_what_is_out_of_reach_is_a_sentence"
    restarts = ("test_a_held_use_survives_the_process", "test_what_was_written_before_is_kept")
    restarts += (
        "test_the_chain_stays_the_same",
        "test_a_promise_outlives_the_process",
        "test_an_order_that_it_took_is_found",
    )
    return {
        "has a name with a space": Mutant(
            "test_the_name_is_one_that_a_configuration_file_can_have",
            replace(kind, name="my plugin"),
            ("test_a_good_credential_is_authenticated",),
        ),
        "takes unknown keys": Mutant(
            "test_the_section_is_a_model_that_refuses_unknown_keys", replace(kind, config=Lax)
        ),
        "has a secret that is a plain text": Mutant("test_the_section_shows_no_secret", replace(kind, config=leaky)),
        "has a key that nobody explains": Mutant("test_every_key_is_described", replace(kind, config=undescribed)),
        "finds an error where there is none": Mutant(
            "test_the_check_finds_no_error_in_a_section_that_works", replace(kind, check=check)
        ),
        "tells the password in a finding": Mutant(
            "test_the_check_finds_no_error_in_a_section_that_works", replace(kind, check=tells_the_password)
        ),
        "can be opened once": Mutant("test_it_works_again_after_it_was_closed", opener(only_once), restarts),
        "leaves a task behind": Mutant("test_closing_leaves_no_task_behind", opener(leaves_a_task)),
        "swallows what the host raises": Mutant("test_a_failure_around_it_passes_through", opener(swallows)),
        "can be there once at a time": Mutant("test_two_of_a_kind_stand_side_by_side", opener(alone)),
        "is well, and says so": Mutant(health, with_health(is_fine), (away,)),
        "is always well": Mutant(away, with_health(is_always_well)),
        "tells of its health in two lines": Mutant(away, with_health(is_long_winded)),
        "never recovers": Mutant(away, with_health(stays_ill)),
    }
