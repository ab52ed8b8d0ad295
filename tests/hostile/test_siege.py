"""A running server under everything that `attacks` can think of, with good clients all the while (RULES H1, H2, C2, C3)."""

from __future__ import annotations

import os
import secrets

import pytest

from .siege import CONFIGURATION, CONFIGURATION_WITH_HTTP2, Regulars, Siege

pytestmark = [
    pytest.mark.server,
    # hypothesis, of a drawn request with a large body: that is what is wanted here, and no fault of the server
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),
]

SHORT = 12  # seconds
MINUTES = float(os.environ.get("SOAK_MINUTES", "10"))
SEED = int(os.environ.get("SOAK_SEED") or secrets.randbelow(1 << 32))
HTTP2_MINUTES = max(2.0, MINUTES / 5)

protocols = pytest.mark.parametrize("configuration", [CONFIGURATION, CONFIGURATION_WITH_HTTP2], ids=["http/1.1", "h2"])


@protocols
def test_a_short_siege_harms_nobody(kipuka_servers, tmp_path, configuration):
    """Always the same attacks: whatever they find can be found again."""
    server = kipuka_servers(configuration)
    siege = Siege.of(server, tmp_path)
    with Regulars(server, count=1) as regulars:
        siege.lay(SHORT, number=7030)
    siege.end(regulars)
    print(siege.summary(regulars))


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + 600)
@protocols
def test_a_long_siege_harms_nobody_and_leaves_the_memory_as_it_was(kipuka_servers, tmp_path, capsys, configuration):
    """SOAK_MINUTES (default 10; a fifth in HTTP/2) of attacks; memory after the last minute is within a tenth of that after the first."""
    server = kipuka_servers(configuration)
    siege = Siege.of(server, tmp_path)
    minutes = HTTP2_MINUTES if siege.http2 else MINUTES
    each_minute: list[int] = []
    with capsys.disabled():
        print(f"\nsiege of {minutes:g} minutes, SOAK_SEED={SEED}", flush=True)
    with Regulars(server) as regulars:
        siege.lay(minutes * 60, number=SEED, each_minute=each_minute)
        each_minute.append(siege.resident)
    siege.end(regulars)
    with capsys.disabled():
        print(siege.summary(regulars))
        print(f"memory after each minute, MiB: {', '.join(f'{size / 2**20:.1f}' for size in each_minute)}", flush=True)
    assert each_minute[-1] <= 1.1 * each_minute[0]
