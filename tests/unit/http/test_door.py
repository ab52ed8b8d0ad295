"""What every request meets first."""

from __future__ import annotations

import pytest
from quart import Quart, request

from kipuka.api import Connection, MalformedRequest, RequestTooLarge, UnsupportedMediaType
from kipuka.api.errors import CrossSiteRequest
from kipuka.http.body import BodyFault
from kipuka.http.door import authorization_of, check_body, enter, refuse_cross_site, require_media_type
from kipuka.store.context import audit_context

CONNECTION = Connection(
    id="c", listener="est", client_address="192.0.2.7", client_port=1, tls_version="TLSv1.3", cipher="x"
)


def visiting(headers=(), *, fault=None):
    app = Quart("door")
    context = app.test_request_context("/", method="POST", headers=dict(headers), scope_base={})
    context.request.scope["state"] = {"connection": CONNECTION, "path_cache": {}, "body_fault": fault}
    for name in dict(headers):
        context.request.headers.setlist(name, [v for n, v in headers if n == name])
    return context


async def test_a_request_gets_an_id_that_its_audit_events_carry():
    async with visiting():
        first, second = enter(request), enter(request)
        assert first.request_id != second.request_id
        assert audit_context.get().request_id == second.request_id
        assert audit_context.get().client_address == "192.0.2.7"


async def test_the_scheme_is_read_without_regard_to_case_and_the_rest_is_kept_secret():
    async with visiting([("Authorization", "BASIC  dXNlcjpwdw==")]):
        authorization = authorization_of(request)
    assert authorization is not None
    assert (authorization.scheme, authorization.parameters) == ("basic", "dXNlcjpwdw==")
    assert "dXNlcjpwdw" not in repr(authorization)


async def test_two_authorization_fields_are_refused():
    """RULES C1: at most one."""
    async with visiting([("Authorization", "Basic a"), ("Authorization", "Negotiate b")]):
        with pytest.raises(MalformedRequest, match="more than one Authorization"):
            authorization_of(request)


@pytest.mark.parametrize("given", ["application/pkcs10", "application/pkcs10; charset=x", "APPLICATION/PKCS10"])
async def test_the_media_type_is_read_without_its_parameters(given):
    """RULES C5."""
    async with visiting([("Content-Type", given)]):
        require_media_type(request, "application/pkcs10")


@pytest.mark.parametrize("headers", [[], [("Content-Type", "text/plain")], [("Content-Type", "application/pkcs10x")]])
async def test_another_media_type_is_refused(headers):
    """RULES C5."""
    async with visiting(headers):
        with pytest.raises(UnsupportedMediaType):
            require_media_type(request, "application/pkcs10")


@pytest.mark.parametrize(
    "headers",
    [
        [("Sec-Fetch-Site", "cross-site")],
        [("Origin", "https://evil.example"), ("Host", "est.example")],
        [("Origin", "null"), ("Host", "est.example")],
    ],
)
async def test_a_browser_on_a_foreign_page_is_refused(headers):
    """RULES C5: no cross-site requests."""
    async with visiting(headers):
        with pytest.raises(CrossSiteRequest):
            refuse_cross_site(request)


@pytest.mark.parametrize(
    "headers",
    [[], [("Sec-Fetch-Site", "same-origin"), ("Origin", "https://est.example:8443"), ("Host", "est.example:8443")]],
)
async def test_its_own_page_and_clients_without_a_browser_pass(headers):
    async with visiting(headers):
        refuse_cross_site(request)


@pytest.mark.parametrize(
    ("headers", "fault", "error"),
    [
        ([], BodyFault.TOO_LARGE, RequestTooLarge),
        ([], BodyFault.TOO_SLOW, MalformedRequest),
        ([("Content-Encoding", "gzip")], None, UnsupportedMediaType),
    ],
)
async def test_a_body_that_was_not_taken_whole_is_refused(headers, fault, error):
    """RULES H1, H2."""
    async with visiting(headers, fault=fault):
        with pytest.raises(error):
            check_body(request)
