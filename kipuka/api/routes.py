"""Admin routes a plugin brings, without a web framework.

In the room: the record, the request a handler is given and the reply it gives. Not in the room: HTTP. The host mounts a route
under `/admin`, authenticates and authorises the caller, validates path, query and body, and writes the audit event
`admin_access`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel

from kipuka.api.kinds import Services

__all__ = ["AdminReply", "AdminRequest", "AdminRoute"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdminRequest:
    """One authenticated administrator's request.

    `body` is an instance of the route's body model (None where it has none), `query` of its query model; `path` has the
    values of the path's `{names}`.

    Since API 1.0.
    """

    administrator: str
    services: Services
    path: Mapping[str, str] = field(default_factory=dict[str, str])
    query: Any = None
    body: Any = None


@dataclass(frozen=True, kw_only=True, slots=True)
class AdminReply:
    """What a handler answers: a model (None: no content), and headers such as Location.

    Since API 1.0.
    """

    body: BaseModel | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True, slots=True)
class AdminRoute:
    """One route under /admin.

    `handler(opened, request)` is given the object that the opener of the plugin's kind yielded; it raises
    `kipuka.api.errors.RequestError` for what the caller can mend. `role` is "admin" (RULES K8).

    Since API 1.0.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str  # starts with "/admin/"; a segment may be "{name}"
    summary: str
    handler: Callable[[Any, AdminRequest], Awaitable[AdminReply]]
    role: str = "admin"
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    response: type[BaseModel] | None = None
    status: int = 200
