"""The one table from errors to HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from kipuka.api import errors
from kipuka.http.responses import STATUS, answer_error, to_json, to_text


def subclasses(of: type) -> Iterator[type]:
    for child in of.__subclasses__():
        yield child
        yield from subclasses(child)


@pytest.mark.parametrize("root", [errors.RequestError, errors.BackendError])
def test_every_error_a_client_may_meet_has_a_row(root):
    missing = [
        error.__name__ for error in subclasses(root) if error.__module__ == errors.__name__ and error not in STATUS
    ]
    assert missing == []


def test_no_row_is_a_500():
    assert 500 not in STATUS.values()


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (
            errors.NotAuthenticated(challenges=["Basic x", "Negotiate"]),
            401,
            [("WWW-Authenticate", "Basic x"), ("WWW-Authenticate", "Negotiate")],
        ),
        (
            errors.LockedOut("too many failures, locked out", retry_after=timedelta(seconds=900)),
            429,
            [("Retry-After", "900")],
        ),
        (errors.BackendUnavailable("busy", retry_after=timedelta(milliseconds=1)), 503, [("Retry-After", "1")]),
        (errors.MethodNotAllowed("no", allowed=["GET", "HEAD"]), 405, [("Allow", "GET, HEAD")]),
        (errors.CertificateRequired("client certificate required"), 403, []),
        (errors.NameRefused("no"), 403, []),
        (errors.KeyRefused("no"), 400, []),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_gets_its_status_and_headers(error, status, headers):
    """RULES C3: which status, and what goes with it."""
    answer = answer_error(error)
    assert answer.status == status
    assert list(answer.headers) == headers


async def test_an_est_error_is_one_line_of_plain_text_and_nothing_presented_is_empty():
    """RULES C3 and CLIENTS: the 401 to a request without credentials has an empty body with a Content-Length."""
    refused = to_text(answer_error(errors.CertificateRequired("client certificate required")))
    assert await refused.get_data() == b"client certificate required\n"
    assert refused.content_type == "text/plain; charset=utf-8"
    empty = to_text(answer_error(errors.NotAuthenticated(challenges=["Basic x"])))
    assert await empty.get_data() == b""
    assert empty.headers["Content-Length"] == "0"


async def test_an_admin_error_is_json_with_the_request_id():
    response = to_json(answer_error(errors.Conflict("taken")), "abc")
    assert await response.get_json() == {"error": "conflict", "detail": "taken", "request_id": "abc"}
    assert response.status_code == 409


def test_the_cause_of_an_error_never_reaches_the_answer():
    """Guarantee 8: detail goes out, the cause stays."""
    error = errors.BackendFault("the certification authority failed")
    error.__cause__ = ValueError("password=hunter2")
    assert "hunter2" not in answer_error(error).detail
