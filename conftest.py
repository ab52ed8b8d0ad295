"""What holds for the suites of the host and of the bundled plugins alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from kipuka.testing.server import Deployment
from tests.linting import Linting

settings.register_profile("kipuka", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kipuka")  # how long an example takes says something of the machine alone


@pytest.fixture(scope="session")
def kipuka_examine() -> Callable[[Deployment], list[str]]:
    """A linter that others wrote looks at every certificate that a server of the suites has issued. Each shape once a process."""
    return Linting().examine
