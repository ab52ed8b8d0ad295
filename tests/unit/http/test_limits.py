"""The part of the limits that each worker process gets, and the files it needs."""

from __future__ import annotations

import resource

import pytest

from kipuka.config import ServerSection
from kipuka.http.limits import files_needed, limits_of_worker, raise_open_files


@pytest.mark.parametrize(
    ("workers", "expected"),
    [
        pytest.param(1, (1000, 10, 100), id="alone"),
        pytest.param(2, (500, 5, 50), id="half"),
        pytest.param(3, (334, 4, 34), id="rounded up"),
        pytest.param(2000, (1, 1, 1), id="never none"),
    ],
)
def test_each_worker_gets_its_part(workers: int, expected: tuple[int, int, int]) -> None:
    server = ServerSection(
        max_connections=1000, max_connections_per_address=10, max_requests_per_minute_per_address=100
    )
    part = limits_of_worker(server, workers=workers)
    assert (part.connections, part.connections_per_address, part.requests_per_minute_per_address) == expected


def test_no_limit_stays_none() -> None:
    server = ServerSection(max_requests_per_minute_per_address=0)
    assert limits_of_worker(server, workers=4).requests_per_minute_per_address == 0


def test_a_burst_that_is_only_accepted_to_be_refused_has_its_files_too() -> None:
    limits = limits_of_worker(ServerSection(max_connections=10), workers=1)
    assert files_needed(limits) > 10 + 1024


@pytest.fixture
def soft_limit():
    """The test's own limit of open files, lowered, and put back."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(512, soft)
    resource.setrlimit(resource.RLIMIT_NOFILE, (low, hard))
    yield low
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_of_open_files_is_raised_as_far_as_needed_and_allowed(soft_limit: int) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert raise_open_files(soft_limit - 1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft_limit, hard)
    assert raise_open_files(soft_limit + 1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft_limit + 1, hard)
    if hard != resource.RLIM_INFINITY:
        assert not raise_open_files(hard + 1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
