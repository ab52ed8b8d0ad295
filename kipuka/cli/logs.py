"""The operational log on stderr, by structlog; what libraries log the standard way joins it.

In the room: format, level, and where it goes. Not in the room: what is logged, and the audit log (`kipuka.audit`).
"""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from kipuka.cli.output import printable

__all__ = ["configure_logs"]

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def configure_logs(*, form: Literal["console", "json"], level: Literal["debug", "info", "warning", "error"]) -> None:
    """Log to stderr from now on. Tracebacks never show values of variables: those may be secrets."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _show_what_steers,
    ]
    last: list[Processor]
    if form == "json":
        last = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
        )
        last = [console]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove_meta, *last]))
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries speak up when something is wrong; what happens per request is kipuka's to log.
    root.setLevel(max(LEVELS[level], logging.WARNING))


def _show_what_steers(_logger: WrappedLogger, _method: str, entry: EventDict) -> EventDict:
    """One entry stays one line, and moves no cursor: what clients send may stand in any value."""
    for name, value in entry.items():
        if isinstance(value, str) and not value.isprintable():
            entry[name] = printable(value)
    return entry
