"""Naming the plugin that is waited for."""

from __future__ import annotations

import threading
import time

from kipuka.vigil import told_when_slow


def test_a_block_that_takes_long_is_told_once_with_what_to_do(capsys):
    with told_when_slow("badge", "stranger 1", "being imported", after=0.01):
        while not (said := capsys.readouterr().err):
            time.sleep(0.01)
    assert said == (
        "warning: plugin badge (stranger 1) is still being imported after 0.01 seconds; "
        'if that goes on, stop kipuka and write disabled = ["badge"] below [plugins]\n'
    )


def test_a_block_that_is_quick_is_not_told_and_leaves_no_thread(capsys):
    before = threading.active_count()
    with told_when_slow("badge", "stranger 1", "being imported", after=60):
        pass
    assert threading.active_count() == before
    assert capsys.readouterr().err == ""
