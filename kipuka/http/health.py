"""`/healthz` and `/readyz`: what a load balancer or a service manager asks (RULES H3).

In the room: the two answers. Not in the room: what readiness is found out from (`kipuka.readiness`), and on which listeners the
resources are (`kipuka.http.app`).
"""

from __future__ import annotations

import json
from typing import Any, cast

from quart import Request, Response

from kipuka.readiness import Condition, Readiness

__all__ = ["HEALTH_PATHS", "alive", "is_probe", "ready"]

HEALTH_PATHS = ("/healthz", "/readyz")

_RAW_PATHS = frozenset(path.encode("ascii") for path in HEALTH_PATHS)
_RETRY_AFTER = "2"  # seconds: as long as an answer of the readiness holds
_DRAINING = Condition(text="draining", hinders=True)


def is_probe(request: Request) -> bool:
    """Whether it asks for one of the two, in the one way in which their paths are written.

    Only what is answered in any case is one: a refusal is audited, and so has to keep the pace of its address.
    """
    return request.method in {"GET", "HEAD"} and request.scope["raw_path"] in _RAW_PATHS


def alive() -> Response:
    """The process answers, and that is all it says."""
    response = Response("ok\n", status=200, content_type="text/plain; charset=utf-8")
    response.headers["Cache-Control"] = "no-store"
    return response


async def ready(request: Request, readiness: Readiness) -> Response:
    """Whether this process should be given new work: 200 or 503, and a word for each part."""
    conditions = dict(await readiness.conditions())
    draining = cast("dict[str, Any]", request.scope["state"]).get("draining", False)
    conditions["service"] = _DRAINING if draining else Condition()
    is_ready = not any(one.hinders for one in conditions.values())
    body = {"ready": is_ready, "parts": {name: one.text for name, one in conditions.items()}}
    response = Response(json.dumps(body) + "\n", status=200 if is_ready else 503, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    if not is_ready:
        response.headers["Retry-After"] = _RETRY_AFTER
    return response
