"""Calls of a certification authority, as the host makes every one of them.

In the room: the time limit, and what goes wrong in the words of `kipuka.api.errors`, with the plugin's name. Not in the room: what follows for an
enrolment, and from a remote CA whose answer is lost (`kipuka.enrolment.use_case`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import timedelta
from typing import Any, TypeVar

import structlog

from kipuka.api import BackendFault, BackendUnavailable
from kipuka.api.errors import BackendError

__all__ = ["ask_authority", "blame"]

log = structlog.get_logger(__name__)

T = TypeVar("T")
E = TypeVar("E", bound=BackendError)


async def ask_authority(call: Coroutine[Any, Any, T], *, ca: str, plugin: str | None, patience: timedelta) -> T:
    """The answer to a call of a CA backend. Raises `BackendError`; what it raises beyond its contract is a fault of its own."""
    try:
        async with asyncio.timeout(patience.total_seconds()):
            return await call
    except BackendError as error:
        blame(error, plugin)
        raise
    except TimeoutError as error:
        late = BackendUnavailable("the certification authority did not answer", reason="ca_timeout")
        raise blame(late, plugin) from error
    except Exception as error:
        log.exception("ca_backend_failed", ca=ca, plugin=plugin)
        fault = BackendFault("the certification authority failed", reason="ca_failed")
        raise blame(fault, plugin) from error


def blame(error: E, plugin: str | None) -> E:
    """The error, with the plugin whose call came to it; who was blamed before stays so."""
    error.plugin = error.plugin or plugin
    return error
