"""Making, listing, looking at and revoking tokens: RULES D2, D3 and the admin part of the authentication chapter."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from kipuka_auth_otp.events import OTPCreated, OTPListed, OTPRevoked, OTPViewed
from kipuka_auth_otp.ledger import TOKENS
from kipuka_auth_otp.names import check_client_id, common_name
from kipuka_auth_otp.plugin import kipuka_admin_routes
from kipuka_auth_otp.tokens import NewToken, TokenQuery
from pydantic import ValidationError

from kipuka.api import AdminRequest, MalformedRequest, UnknownResource


async def call(bench, method, path, *, body=None, query=None, **names):
    (route,) = [route for route in kipuka_admin_routes() if (route.method, route.path) == (method, path)]
    request = AdminRequest(
        administrator="a",
        services=bench.services,
        path=names,
        query=None if query is None else route.query.model_validate(query),
        body=None if body is None else route.body.model_validate(body),
    )
    return route, await route.handler(bench.otp, request)


async def test_the_answer_has_the_chapters_five_fields_and_the_id_in_location(bench):
    """RULES D2."""
    body = {"client_id": "workstation-42", "max_uses": 1, "expires_at": "2026-06-30T23:59:59Z"}
    route, reply = await call(bench, "POST", "/admin/otp", body=body)
    assert route.status == 201
    answer = json.loads(reply.body.model_dump_json())
    assert list(answer) == ["token", "client_id", "created_at", "expires_at", "max_uses"]
    assert re.fullmatch("[0-9A-Za-z]{20}", answer.pop("token"))
    assert answer == {
        "client_id": "workstation-42",
        "created_at": "2026-06-24T10:15:00Z",
        "expires_at": "2026-06-30T23:59:59Z",
        "max_uses": 1,
    }
    assert re.fullmatch("/admin/otp/[0-9a-f]{32}", reply.headers["Location"])
    _, shown = await call(bench, "GET", "/admin/otp/{id}", id=reply.headers["Location"].rpartition("/")[2])
    assert shown.body.client_id == "workstation-42"


async def test_defaults_are_those_of_the_section(make_bench):
    """RULES D2: 24 hours by default."""
    bench = await make_bench(max_uses=3)
    made = await bench.otp.tokens.create(NewToken(client_id="a"))
    assert made.created.max_uses == 3
    assert made.created.model_dump(mode="json")["expires_at"] == "2026-06-25T10:15:00Z"


async def test_a_time_with_an_offset_and_a_fraction_is_shown_in_whole_seconds_of_utc(bench):
    made = await bench.otp.tokens.create(NewToken(client_id="a", expires_at="2026-06-25t12:00:00.123456789+02:00"))
    assert made.created.model_dump(mode="json")["expires_at"] == "2026-06-25T10:00:00Z"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        pytest.param({"client_id": "x" * 65}, "client_id: a common name has at most 64", id="CN too long"),
        pytest.param({"client_id": "ü" * 33}, "client_id: a common name has at most 64", id="CN too long in UTF-8"),
        pytest.param({"expires_at": "2026-06-24T10:14:59Z"}, "expires_at: it is in the past", id="past"),
        pytest.param({"expires_at": "2026-06-24T10:15:00Z"}, "expires_at: it is in the past", id="now"),
        pytest.param(
            {"expires_at": "2026-07-24T10:15:01Z"},
            "expires_at: it is later than 2026-07-24T10:15:00Z, the latest that max_ttl",
            id="beyond max_ttl",
        ),
    ],
)
async def test_what_depends_on_settings_and_time_is_refused_by_name(bench, services, fields, complaint):
    """RULES D2."""
    with pytest.raises(MalformedRequest) as caught:
        await bench.otp.tokens.create(NewToken.model_validate({"client_id": "a"} | fields))
    assert caught.value.detail.startswith(complaint)
    assert services.events == []


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, "client_id"),
        ({"client_id": ""}, "client_id"),
        ({"client_id": "a\0b"}, "client_id"),
        ({"client_id": "a\nb"}, "client_id"),
        ({"client_id": "a\u202eb"}, "client_id"),
        ({"client_id": "a\ud800"}, "client_id"),
        ({"client_id": " a"}, "client_id"),
        ({"client_id": "a" * 256}, "client_id"),
        ({"client_id": 7}, "client_id"),
        ({"client_id": "a", "max_uses": 0}, "max_uses"),
        ({"client_id": "a", "max_uses": -1}, "max_uses"),
        ({"client_id": "a", "max_uses": True}, "max_uses"),
        ({"client_id": "a", "max_uses": "1"}, "max_uses"),
        ({"client_id": "a", "max_uses": 1.5}, "max_uses"),
        ({"client_id": "a", "max_uses": 10**30}, "max_uses"),
        ({"client_id": "a", "expires_at": "tomorrow"}, "expires_at"),
        ({"client_id": "a", "expires_at": "2026-06-30T23:59:59"}, "expires_at"),
        ({"client_id": "a", "expires_at": "2026-13-30T23:59:59Z"}, "expires_at"),
        ({"client_id": "a", "expires_at": "0001-01-01T00:00:00+23:59"}, "expires_at"),
        ({"client_id": "a", "expires_at": 1782863999}, "expires_at"),
        ({"client_id": "a", "subject": ""}, "subject"),
        ({"client_id": "a", "subject": "workstation-42"}, "subject"),
        ({"client_id": "a", "subject": "CN=" + "x" * 65}, "subject"),
        ({"client_id": "a", "subject": "O=" + "x" * 65}, "subject"),
        ({"client_id": "a", "subject": "CN=a\\00b"}, "subject"),
        ({"client_id": "a", "subject": "CN=a\\0Ab"}, "subject"),
        ({"client_id": "a", "subject": "CN=#0500"}, "subject"),
        ({"client_id": "a", "subject": "C=ÜÜ"}, "subject"),
        ({"client_id": "a", "subject": "serialNumber=Ü"}, "subject"),
        ({"client_id": "a", "subject": "CN=a+CN=a"}, "subject"),
        ({"client_id": "a", "subject": "1.2.3="}, "subject"),
        ({"client_id": "a", "subject": "9999.1=x"}, "subject"),
        ({"client_id": "a", "san": "DNS:a.example"}, "san"),
        ({"client_id": "a", "san": ["DNS:"]}, "san"),
        ({"client_id": "a", "san": ["DNS:a..example"]}, "san"),
        ({"client_id": "a", "san": ["DNS:192.0.2.1"]}, "san"),
        ({"client_id": "a", "san": ["DNS:a\0.example"]}, "san"),
        ({"client_id": "a", "san": ["DNS:müller.example"]}, "san"),
        ({"client_id": "a", "san": ["DNS:a.*.example"]}, "san"),
        ({"client_id": "a", "san": ["DNS:*"]}, "san"),
        ({"client_id": "a", "san": ["DNS:*.example"]}, "san"),
        ({"client_id": "a", "san": ["IP:192.0.2.256"]}, "san"),
        ({"client_id": "a", "san": ["IP:fe80::1%eth0"]}, "san"),
        ({"client_id": "a", "san": ["email:nobody"]}, "san"),
        ({"client_id": "a", "san": ["URI:no scheme"]}, "san"),
        ({"client_id": "a", "san": ["otherName:1.2.3"]}, "san"),
        ({"client_id": "a", "san": ["DNS:a.example"] * 101}, "san"),
        ({"client_id": "a", "label": ""}, "label"),
        ({"client_id": "a", "label": "a/b"}, "label"),
        ({"client_id": "a", "uses": 1}, "uses"),
    ],
)
def test_lengths_and_characters_are_checked_when_the_token_is_made(fields, field):
    """RULES D2; the error names the field."""
    with pytest.raises(ValidationError) as caught:
        NewToken.model_validate(fields)
    assert caught.value.errors()[0]["loc"][0] == field


def test_names_are_kept_in_one_form():
    wanted = NewToken(
        client_id="a",
        subject="cn=a\\,b,serialNumber=12,o=Example",
        san=[
            "WWW.Example.com",
            "2001:DB8::1",
            "IP:192.0.2.1",
            "email:Joe@EXAMPLE.com",
            "uri:urn:x:1",
            "dns:*.a.example",
        ],
    )
    assert wanted.subject == "CN=a\\,b,serialNumber=12,O=Example"
    assert wanted.san == [
        "DNS:www.example.com",
        "IP:2001:db8::1",
        "IP:192.0.2.1",
        "email:Joe@example.com",
        "URI:urn:x:1",
        "DNS:*.a.example",
    ]
    assert NewToken(client_id="a", san=wanted.san, subject=wanted.subject) == wanted


@given(
    client_id=st.text(
        st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(' ,+"\\\\;<>=#'), min_size=1, max_size=64
    ).filter(lambda text: text == text.strip() and len(text.encode()) <= 64)
)
def test_a_client_id_becomes_the_one_value_of_the_one_part_of_a_name(client_id):
    """DESIGN guarantee 5."""
    assert check_client_id(client_id) == client_id
    subject = common_name(client_id)
    assert [(part.oid, part.value) for part in subject] == [(NameOID.COMMON_NAME, client_id)]


async def test_a_long_client_id_goes_with_a_subject_of_its_own(bench):
    name = ".".join(["a" * 50] * 4)
    made = await bench.otp.tokens.create(NewToken(client_id=name, subject="CN=a"))
    assert made.created.client_id == name


@pytest.mark.parametrize("algorithm", ["argon2id", "bcrypt", "sha256-hmac"])
async def test_the_token_is_nowhere_but_in_the_answer(make_bench, services, algorithm):
    """DESIGN guarantee 8."""
    bench = await make_bench(hash_algorithm=algorithm)
    token, ref = await bench.token()
    await bench.present(token)
    await bench.spend(ref)
    rows = await services.read(lambda tx: [tuple(row) for row in tx.execute(TOKENS.select())])
    assert token not in repr(rows)
    assert token not in repr([event.model_dump() for event in services.events])
    made = await bench.otp.tokens.create(NewToken(client_id="a"))
    assert made.created.token not in repr(made)


async def test_the_slow_hash_runs_where_it_blocks_nobody(make_bench, services):
    bench = await make_bench(hash_algorithm="argon2id")
    await bench.token()
    assert services.blocking == ["hash_token"]


async def test_a_token_has_the_configured_length(make_bench):
    bench = await make_bench(token_length=64)
    token, _ = await bench.token()
    assert len(token) == 64


async def test_the_list_has_filters_and_pages_newest_first(bench, services):
    ids = {}
    for client in ("a", "b", "a", "a"):
        services.clock.advance(1)
        ids.setdefault(client, []).append((await bench.token(client))[1])
    await bench.spend(ids["a"][0])
    await bench.otp.tokens.revoke(ids["a"][1])
    _, first = await call(bench, "GET", "/admin/otp", query={"limit": "3"})
    assert [token.client_id for token in first.body.tokens] == ["a", "a", "b"]
    _, second = await call(bench, "GET", "/admin/otp", query={"limit": "3", "after": first.body.next})
    assert [token.id for token in second.body.tokens] == [ids["a"][0]]
    assert second.body.next is None
    for state, expected in (
        ("active", [ids["a"][2], ids["b"][0]]),
        ("spent", ids["a"][:1]),
        ("revoked", ids["a"][1:2]),
    ):
        _, page = await call(bench, "GET", "/admin/otp", query={"state": state})
        assert [token.id for token in page.body.tokens] == expected
        assert {token.state for token in page.body.tokens} == {state}
    services.clock.advance(timedelta(days=2))
    _, page = await call(bench, "GET", "/admin/otp", query={"state": "expired", "client_id": "b"})
    assert [token.id for token in page.body.tokens] == ids["b"]
    assert page.body.tokens[0].state == "expired"


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "1001"}, {"state": "odd"}, {"other": "1"}])
def test_a_query_that_makes_no_sense_is_refused(query):
    with pytest.raises(ValidationError):
        TokenQuery.model_validate(query)


async def test_a_token_is_viewed_and_revoked_by_its_id(bench, services):
    _, ref = await bench.token("a")
    route, reply = await call(bench, "DELETE", "/admin/otp/{id}", id=ref)
    assert (route.status, reply.body) == (204, None)
    _, reply = await call(bench, "GET", "/admin/otp/{id}", id=ref)
    assert json.loads(reply.body.model_dump_json()) == {
        "id": ref,
        "client_id": "a",
        "state": "revoked",
        "label": None,
        "subject": None,
        "san": [],
        "max_uses": 1,
        "used": 0,
        "held": 0,
        "created_at": "2026-06-24T10:15:00Z",
        "expires_at": "2026-06-25T10:15:00Z",
        "last_used_at": None,
        "revoked_at": "2026-06-24T10:15:00Z",
    }
    await call(bench, "DELETE", "/admin/otp/{id}", id=ref)
    assert [type(event) for event in services.events] == [OTPCreated, OTPRevoked, OTPViewed]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_there_is_no_token_of_an_unknown_id(bench, services, method):
    with pytest.raises(UnknownResource, match="there is no such token"):
        await call(bench, method, "/admin/otp/{id}", id="0" * 32)
    assert services.events == []


async def test_making_and_listing_are_audited_without_the_secret(bench, services):
    token, ref = await bench.token("a", subject="CN=b", san=["DNS:b.example"], label="lab")
    await bench.otp.tokens.listing(TokenQuery())
    assert services.events == [
        OTPCreated(
            token=ref,
            client_id="a",
            label="lab",
            subject="CN=b",
            names=("DNS:b.example",),
            max_uses=1,
            expires_at="2026-06-25T10:15:00.000000Z",
        ),
        OTPListed(count=1),
    ]
    assert token not in repr(services.events)
