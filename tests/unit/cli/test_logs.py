"""The operational log."""

from __future__ import annotations

import logging

import pytest
import structlog

from kipuka.cli.logs import configure_logs


@pytest.fixture(autouse=True)
def _logs_as_before():
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("ours", [True, False], ids=["by structlog", "by a library"])
def test_an_entry_is_one_line_and_steers_no_terminal(form, ours, capsys):
    """Whatever a client has put into a name or a path."""
    configure_logs(form=form, level="info")
    evil = "/x\r\n\x1b[2J\u202e\u2028forged"
    if ours:
        structlog.get_logger().info("request", path=evil)
    else:
        logging.getLogger("library").warning("bad path %s", evil)
    written = capsys.readouterr().err
    assert "forged" in written
    assert written.endswith("\n")
    assert written.removesuffix("\n").isprintable()
