"""Each promise of each contract, and a plugin that breaks it: that promise's test fails, and no other that could do without.

A test that nothing makes fail holds nobody to anything. The samples that keep the contract have every ability there is, so no test is
skipped on them.
"""

from __future__ import annotations

import inspect

import pytest

from .mutants import authenticators, cas, sinks

SAMPLES = {"authenticator": authenticators, "ca": cas, "audit sink": sinks}


def promises_of(contract):
    return [name for name in dir(contract) if name.startswith("test_")]


def failures(contract, directory):
    """The tests that fail, each in a directory of its own."""
    failed = set()
    for number, name in enumerate(promises_of(contract)):
        place = directory / str(number)
        place.mkdir()
        test = getattr(contract, name)
        try:
            test(place) if inspect.signature(test).parameters else test()
        except Exception:  # noqa: BLE001 - a broken plugin may raise anything
            failed.add(name)
        except pytest.fail.Exception:
            failed.add(name)
    return failed


@pytest.mark.parametrize(
    ("sample", "test"),
    [
        pytest.param(sample, test, id=f"{name}-{test}")
        for name, sample in SAMPLES.items()
        for test in promises_of(sample.Contract)
    ],
)
def test_a_sample_that_keeps_the_contract_passes_and_skips_nothing(sample, test, tmp_path):
    held = getattr(sample.Contract(), test)
    try:
        held(tmp_path) if inspect.signature(held).parameters else held()
    except pytest.skip.Exception as skipped:
        pytest.fail(f"skipped: {skipped}")


@pytest.mark.parametrize(
    ("sample", "mutant"),
    [
        pytest.param(sample, mutant, id=f"{name}-{title}")
        for name, sample in SAMPLES.items()
        for title, mutant in sample.MUTANTS.items()
    ],
)
def test_a_broken_plugin_fails_the_test_of_the_promise_that_it_breaks(sample, mutant, tmp_path):
    failed = failures(sample.Contract(mutant.kind), tmp_path)
    assert mutant.test in failed
    if "any" not in mutant.also:
        assert failed - {mutant.test} <= set(mutant.also)


@pytest.mark.parametrize("sample", [pytest.param(sample, id=name) for name, sample in SAMPLES.items()])
def test_every_promise_has_a_plugin_that_breaks_it(sample):
    assert {mutant.test for mutant in sample.MUTANTS.values()} == set(promises_of(sample.Contract))
