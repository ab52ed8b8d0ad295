"""The one place where errors and outcomes become HTTP.

In the room: the table from error class to status, the headers that go with a status, and the text and JSON forms. Not in
the room: what led to the error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from quart import Response

from kipuka.api import errors

__all__ = ["STATUS", "Answer", "answer_error", "no_content", "to_json", "to_text"]

STATUS: Mapping[type[errors.KipukaError], int] = {
    errors.MalformedRequest: 400,
    errors.BadCSR: 400,
    errors.ProofOfPossessionFailed: 400,
    errors.KeyRefused: 400,
    errors.NameRefused: 403,
    errors.IdentityMismatch: 403,
    errors.NotAuthenticated: 401,
    errors.CertificateRequired: 403,
    errors.NotPermitted: 403,
    errors.CrossSiteRequest: 403,
    errors.LockedOut: 429,
    errors.TooManyRequests: 429,
    errors.UnknownResource: 404,
    errors.MethodNotAllowed: 405,
    errors.Conflict: 409,
    errors.UnsupportedMediaType: 415,
    errors.RequestTooLarge: 413,
    errors.BackendUnavailable: 503,
    errors.AuditUnavailable: 503,
    errors.BackendFault: 503,
}
"""Which status each error gets (RULES C3). Nothing that is raised on purpose is a 500."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """An error on its way out: one sentence (empty: an empty body), and headers in order."""

    status: int
    detail: str
    reason: str
    headers: tuple[tuple[str, str], ...] = field(default=())


def answer_error(error: errors.RequestError | errors.BackendError) -> Answer:
    """Status, sentence and headers for an error."""
    headers: list[tuple[str, str]] = []
    match error:
        case errors.NotAuthenticated():
            headers = [("WWW-Authenticate", challenge) for challenge in error.challenges]
        case errors.LockedOut() | errors.TooManyRequests() | errors.BackendError():
            headers = [("Retry-After", seconds(error.retry_after))]
        case errors.MethodNotAllowed():
            headers = [("Allow", ", ".join(error.allowed))]
        case _:
            pass
    return Answer(status=STATUS[type(error)], detail=error.detail, reason=error.reason, headers=tuple(headers))


def seconds(wait: timedelta) -> str:
    """Whole seconds, rounded up and at least one, for Retry-After (RFC 9110, 10.2.3)."""
    return str(max(1, math.ceil(wait.total_seconds())))


def no_content() -> Response:
    """204, which has neither a body nor fields that speak of one (RFC 9110, 8.6)."""
    response = Response(b"", status=204)
    for name in ("Content-Type", "Content-Length"):
        response.headers.pop(name, None)
    return response


def to_text(answer: Answer) -> Response:
    """An error of EST: text/plain, one sentence (RFC 7030, 4.2.3)."""
    body = f"{answer.detail}\n" if answer.detail else ""
    response = Response(body, status=answer.status, content_type="text/plain; charset=utf-8")
    for name, value in answer.headers:
        response.headers.add(name, value)
    return response


def to_json(answer: Answer, request_id: str) -> Response:
    """An error of the admin interface."""
    body = {"error": answer.reason, "detail": answer.detail, "request_id": request_id}
    response = Response(json.dumps(body) + "\n", status=answer.status, content_type="application/json")
    for name, value in answer.headers:
        response.headers.add(name, value)
    return response
