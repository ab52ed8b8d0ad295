"""What every request meets first, whichever listener and resource it is for.

In the room: the request's id and audit context, the checks that hold for all resources (RULES C1, C2, C5, H1), and the
connection's facts as the TLS seam left them. Not in the room: routes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

import structlog
from quart import Request

from kipuka.api import (
    Authorization,
    CertificateProblem,
    CertificateRequired,
    Connection,
    MalformedRequest,
    RequestTooLarge,
    UnknownResource,
    UnsupportedMediaType,
)
from kipuka.api.errors import CrossSiteRequest
from kipuka.authentication import PathCache
from kipuka.http.body import BodyFault
from kipuka.http.rates import Pace
from kipuka.store.context import AuditContext, audit_context
from kipuka.x509.path import AnchorSet, check_path

__all__ = [
    "Visit",
    "authorization_of",
    "check_body",
    "enter",
    "keep_pace",
    "path_of",
    "refuse_cross_site",
    "require_demanded_certificate",
    "require_media_type",
    "require_plain_path",
]

ID_OCTETS = 8
MAX_NOTED_PATH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Visit:
    """One request: its id, its connection, and the path verdicts that belong to the connection."""

    request_id: str
    connection: Connection
    path_cache: PathCache = field(repr=False)


def enter(request: Request) -> Visit:
    """Give the request an id that joins its log lines and audit events."""
    state = cast("dict[str, Any]", request.scope["state"])
    connection = cast("Connection", state["connection"])
    visit = Visit(
        request_id=secrets.token_hex(ID_OCTETS),
        connection=connection,
        path_cache=cast("PathCache", state["path_cache"]),
    )
    audit_context.set(
        AuditContext(request_id=visit.request_id, client_address=connection.client_address, identity=None)
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=visit.request_id, client=connection.client_address)
    return visit


def keep_pace(request: Request, visit: Visit) -> None:
    """RULES H1: refuse what this address asks too fast. Raises `TooManyRequests`."""
    pace = cast("Pace | None", request.scope["state"].get("pace"))
    if pace is not None:
        pace.keep(visit.connection.client_address)


def require_demanded_certificate(request: Request, visit: Visit) -> None:
    """RULES A2, B2: on a connection that was made before a reload, what a handshake of today would insist on.

    Raises `CertificateRequired` where a certificate is demanded now and this client has none that an anchor signed.
    """
    demands = cast("dict[str, Any]", request.scope["state"]).get("demands")
    if demands is None:
        return
    presented = visit.connection.presented
    if presented is None:
        raise CertificateRequired("client certificate required")
    problem = CertificateProblem.UNKNOWN_AUTHORITY
    if presented.leaf is None or check_path(presented, AnchorSet(tuple(demands))).problem is problem:
        raise CertificateRequired(problem.value, reason="unknown_authority")


def path_of(request: Request) -> str:
    """The path for log and audit: as it was sent, percent signs and all, since what they stand for may be a line break or
    a terminal's control sequence; not the whole of a very long one.
    """
    raw = request.scope["raw_path"]
    return raw[:MAX_NOTED_PATH].decode("ascii", "backslashreplace")


def require_plain_path(request: Request, prefix: str, *, segments: int | None = None) -> None:
    """The path must be written out: its fixed part without percent signs, and with as many slashes as it is read with.

    Otherwise `//admin`, `/%61dmin` or `/admin%2Fotp` would lead where a proxy in front of this server, which sees other
    octets, has been told that nobody may go. `segments` is how many follow `prefix` where that is fixed. Raises
    `UnknownResource`.
    """
    raw = request.scope["raw_path"]
    fixed = prefix.encode("ascii") + b"/"
    if not raw.startswith(fixed) or (segments is not None and raw.count(b"/", len(fixed)) != segments - 1):
        raise UnknownResource("there is no such resource")


def check_body(request: Request) -> None:
    """RULES H1, H2: refuse what the body reader could not take whole, and any content encoding."""
    fault = cast("dict[str, Any]", request.scope["state"]).get("body_fault")
    if fault == BodyFault.TOO_LARGE:
        raise RequestTooLarge("the request body is too large")
    if fault == BodyFault.TOO_SLOW:
        raise MalformedRequest("the request body did not arrive in time", reason="body_timeout")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedMediaType(
            "a content encoding is not accepted, send the body as it is", reason="content_encoding"
        )


def authorization_of(request: Request) -> Authorization | None:
    """The one Authorization field; two or more are refused (RULES C1)."""
    fields = request.headers.getlist("Authorization")
    if len(fields) > 1:
        raise MalformedRequest("there is more than one Authorization field", reason="two_authorizations")
    if not fields:
        return None
    scheme, _, parameters = fields[0].strip().partition(" ")
    return Authorization(scheme=scheme.lower(), parameters=parameters.strip())


def require_media_type(request: Request, expected: str) -> None:
    """The request's Content-Type without parameters must be `expected` (RULES C5)."""
    given = request.headers.getlist("Content-Type")
    media_type = given[0].partition(";")[0].strip().lower() if len(given) == 1 else ""
    if media_type != expected:
        raise UnsupportedMediaType(f"the content type must be {expected}")


def refuse_cross_site(request: Request) -> None:
    """RULES C5: a browser may not be made to enrol or administer by a foreign page; there is no CORS."""
    if request.headers.get("Sec-Fetch-Site", "").strip().lower() == "cross-site":
        raise CrossSiteRequest("cross-site requests are refused")
    origin = request.headers.get("Origin")
    if origin is not None and _host_of(origin) != request.host.lower():
        raise CrossSiteRequest("requests from a foreign origin are refused")


def _host_of(origin: str) -> str | None:
    """Host and port of an origin (RFC 6454, 7); None of what is none."""
    try:
        return urlsplit(origin.strip()).netloc.lower()
    except ValueError:
        return None
