"""What of a changed configuration takes effect at once, and what waits for a restart."""

from __future__ import annotations

import pytest

from kipuka.config.reload import reload

from .conftest import GOOD, settled

SERVER = '[server]\nnode = "alpha"\n'
ADMIN = "[admin.bearer_token]\nenabled = true\n"


@pytest.mark.parametrize(
    ("before", "now", "waiting"),
    [
        pytest.param("", "", (), id="nothing"),
        pytest.param("", '[est]\nbase64_lines = "never"\n', (), id="the service"),
        pytest.param("", '[log]\nlevel = "debug"\n', (), id="the log"),
        pytest.param("", ADMIN, (), id="an admin interface"),
        pytest.param("", "workers = 3\nidle_timeout = 5\n", ("server.workers", "server.idle_timeout"), id="the server"),
        pytest.param("", '[db]\nurl = "sqlite:///other.db"\n', ("db.url",), id="the database"),
        pytest.param(
            "", f'admin_listen = "127.0.0.1:1"\n{ADMIN}', ("server.admin_listen", "admin"), id="another place for it"
        ),
        pytest.param(
            f'admin_listen = "127.0.0.1:1"\n{ADMIN}', "", ("server.admin_listen", "admin"), id="no place for it"
        ),
        pytest.param(
            ADMIN, f'admin_listen = "127.0.0.1:1"\n{ADMIN}', ("server.admin_listen",), id="the same in another place"
        ),
    ],
)
def test_sections_of_the_process_wait_and_are_named(tmp_path, before, now, waiting):
    running, read = (settled(tmp_path, SERVER + text + GOOD) for text in (before, now))
    change = reload(running, read)
    assert change.restart_needed == waiting
    assert change.settings.server == running.server
    assert change.settings.db == running.db
    assert change.settings.est == read.est
    assert change.settings.log == read.log
    assert change.settings.sha256 == read.sha256
    assert change.settings.admin == (running.admin if "admin" in waiting else read.admin)
