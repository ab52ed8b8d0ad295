"""Judging a Basic credential: RULES C4, D1, D3 and the OTP part of the authentication chapter."""

from __future__ import annotations

import asyncio
import base64
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from kipuka_auth_otp.authenticator import open_otp, read_password
from kipuka_auth_otp.config import OTPSettings

from kipuka.api import (
    Authenticated,
    Authorization,
    Claim,
    CountsFailures,
    DenialKind,
    Denied,
    NotPresented,
    SpendsOnIssue,
    StartupError,
)

INVALID = "invalid OTP token"
TWENTY = "A" * 20


def encoded(text: bytes) -> str:
    return base64.b64encode(text).decode()


async def test_a_good_token_names_its_client_and_claims_its_use(bench):
    token, ref = await bench.token("workstation-42")
    outcome = await bench.present(token)
    assert isinstance(outcome, Authenticated)
    assert outcome.claim == Claim(plugin="otp", ref=ref)
    assert outcome.identity.method == "otp"
    assert outcome.identity.name == "workstation-42"
    assert outcome.identity.host_name == "workstation-42"
    assert outcome.identity.permitted_names == ()
    assert outcome.identity.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "workstation-42")])


async def test_a_tokens_own_subject_and_names_are_those_of_the_identity(bench):
    """DESIGN guarantee 5: names travel as structure, commas and all."""
    token, _ = await bench.token(
        "Printer 7, hall",
        subject=r"CN=Printer 7\, hall,O=Example",
        san=["DNS:P7.example", "IP:192.0.2.9"],
    )
    outcome = await bench.present(token)
    assert isinstance(outcome, Authenticated)
    assert outcome.identity.subject == x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example"),
            x509.NameAttribute(NameOID.COMMON_NAME, "Printer 7, hall"),
        ]
    )
    assert [str(name.value) for name in outcome.identity.permitted_names] == ["p7.example", "192.0.2.9"]
    assert outcome.identity.host_name is None  # a client id that is no DNS name permits none


@pytest.mark.parametrize("user", ["", "workstation-42", "someone else", "ä"])
async def test_the_user_name_is_ignored(bench, present_raw, user):
    """RULES D3."""
    token, _ = await bench.token()
    authorization = Authorization(scheme="basic", parameters=encoded(f"{user}:{token}".encode()))
    assert isinstance(await present_raw(authorization), Authenticated)


@pytest.mark.parametrize(
    "authorization",
    [None, Authorization(scheme="negotiate", parameters="YII="), Authorization(scheme="bearer", parameters="x")],
)
async def test_nothing_is_presented_without_a_basic_credential(present_raw, bench, authorization):
    assert await present_raw(authorization) == NotPresented()
    assert bench.failures == 0


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param("", id="empty"),
        pytest.param("!!!!", id="not base64"),
        pytest.param(encoded(b"user:pass")[:-2], id="wrong padding"),
        pytest.param("!" + encoded(b"user:" + TWENTY.encode()), id="a character that base64 has not"),
        pytest.param(encoded(TWENTY.encode()), id="no colon"),
        pytest.param(encoded(b":" + TWENTY.encode() + b"\0"), id="NUL"),
        pytest.param(encoded(b"us\ner:" + TWENTY.encode()), id="control character in the user id"),
        pytest.param(encoded(b":\xff\xfe" + TWENTY.encode()), id="not UTF-8"),
        pytest.param(encoded(b":x") + "\u00e9", id="not ASCII"),
    ],
)
async def test_a_header_that_cannot_be_read_is_denied_and_not_counted(present_raw, bench, services, parameters):
    """RULES C4: it carries no secret. Nor does it cost a look-up."""
    statements = services.statements()
    outcome = await present_raw(Authorization(scheme="basic", parameters=parameters))
    assert outcome == Denied(detail=INVALID, reason="malformed_basic_credentials")
    assert bench.failures == 0
    assert statements == []


def test_the_password_starts_after_the_first_colon():
    """RFC 7617, section 2."""
    assert read_password(encoded(b"user:pa:ss")) == "pa:ss"
    assert read_password(encoded("ü:ö".encode())) == "ö"


async def test_unknown_spent_expired_and_revoked_tokens_are_told_apart_in_audit_only(make_bench, services):
    """RULES C4: each of these counts. The client hears one text."""
    bench = await make_bench(max_failures=100)
    spent, spent_ref = await bench.token()
    await bench.spend(spent_ref)
    revoked, revoked_ref = await bench.token()
    await bench.otp.tokens.revoke(revoked_ref)
    expired, _ = await bench.token()
    services.clock.advance(timedelta(hours=24))
    for token, reason, name in (
        (TWENTY, "unknown_token", None),
        ("", "unknown_token", None),
        ("x" * 5000, "unknown_token", None),
        ("ü" * 20, "unknown_token", None),
        (spent, "token_spent", "workstation-42"),
        (revoked, "token_revoked", "workstation-42"),
        (expired, "token_expired", "workstation-42"),
    ):
        before = bench.failures
        outcome = await bench.present(token)
        assert outcome == Denied(detail=INVALID, reason=reason, name=name)
        assert bench.failures == before + 1


async def test_a_spent_token_says_so_and_counts_only_when_the_host_has_no_answer_to_give_again(make_bench):
    """RULES C4, D4: it may ask for an answer that was lost, which is no failure."""
    bench = await make_bench(max_failures=1)
    token, ref = await bench.token()
    await bench.spend(ref)
    for _ in range(3):
        denied = await bench.present(token)
        assert (denied.reason, denied.spent) == ("token_spent", Claim(plugin="otp", ref=ref))
    assert bench.failures == 0
    assert await bench.count(denied) == denied
    assert bench.failures == 1
    assert (await bench.count(denied)).kind is DenialKind.LOCKED
    assert (await bench.present(token)).kind is DenialKind.LOCKED


async def test_a_spent_token_that_was_revoked_or_has_expired_asks_for_nothing_any_more(make_bench, services):
    """RULES D4. Each of these counts at once."""
    bench = await make_bench(max_failures=100)
    revoked, revoked_ref = await bench.token()
    expired, expired_ref = await bench.token(expires_at="2026-06-24T10:16:00Z")
    for ref in (revoked_ref, expired_ref):
        await bench.spend(ref)
    await bench.otp.tokens.revoke(revoked_ref)
    services.clock.advance(timedelta(seconds=60))
    for token, reason in ((revoked, "token_revoked"), (expired, "token_spent")):
        before = bench.failures
        denied = await bench.present(token)
        assert (denied.reason, denied.spent) == (reason, None)
        assert bench.failures == before + 1


async def test_a_wrong_secret_is_never_called_spent(bench):
    """RULES D1, D4: the hash is checked before anything is said of the token, also of a spent one with the same index."""
    token, ref = await bench.token()
    await bench.spend(ref)
    for wrong in (TWENTY, token[:-1] + ("a" if token[-1] != "a" else "b")):
        denied = await bench.present(wrong)
        assert (denied.reason, denied.spent) == ("unknown_token", None)


async def test_a_token_ends_at_expires_at_to_the_second(bench, services):
    token, _ = await bench.token(expires_at="2026-06-24T10:16:00Z")
    services.clock.advance(timedelta(seconds=59.7))
    assert isinstance(await bench.present(token), Authenticated)
    services.clock.advance(timedelta(seconds=0.05))
    outcome = await bench.present(token)
    assert isinstance(outcome, Denied)
    assert outcome.reason == "token_expired"


@pytest.mark.parametrize(
    ("made_for", "used_at", "good"),
    [(None, None, True), (None, "lab", False), ("lab", None, False), ("lab", "lab", True), ("lab", "Lab", False)],
)
async def test_a_token_is_good_at_its_own_label_only(bench, made_for, used_at, good):
    """RULES D3: without a label, at the default label. It is no guess, so it is not counted (RULES C4)."""
    token, _ = await bench.token(label=made_for)
    outcome = await bench.present(token, label=used_at)
    assert isinstance(outcome, Authenticated) is good
    if not good:
        assert outcome == Denied(detail=INVALID, reason="token_of_another_label", name="workstation-42")
    assert bench.failures == 0


async def test_a_token_that_another_request_holds_is_busy_and_not_counted(bench):
    """RULES C4: 503 with Retry-After 1, while the other request has not ended."""
    token, ref = await bench.token()
    assert await bench.reserve(ref) is None
    assert isinstance(await bench.present(token), Authenticated)  # the holder may be this request, asked again
    outcome = await bench.reserve(ref)
    assert isinstance(outcome, Denied)
    assert (outcome.kind, outcome.retry_after, outcome.reason) == (DenialKind.BUSY, timedelta(seconds=1), "token_held")
    assert bench.failures == 0
    await bench.release(ref)
    assert await bench.reserve(ref) is None


async def test_the_failure_that_exceeds_max_failures_locks_the_address_and_only_it(make_bench, services):
    """RULES C4."""
    bench = await make_bench(max_failures=3, failure_window=60, lockout_duration=120)
    token, _ = await bench.token()
    for _ in range(3):
        assert (await bench.present(TWENTY)).detail == INVALID
    locked = await bench.present(TWENTY)
    assert (locked.kind, locked.detail, locked.retry_after) == (
        DenialKind.LOCKED,
        "too many failures, locked out",
        timedelta(seconds=120),
    )
    assert (await bench.present(token)).kind is DenialKind.LOCKED
    assert isinstance(await bench.present(token, address="192.0.2.8"), Authenticated)
    services.clock.advance(121)
    assert isinstance(await bench.present(token), Authenticated)


async def test_a_locked_address_costs_no_look_up(make_bench, services):
    """DESIGN guarantee 6."""
    bench = await make_bench(max_failures=1)
    token, _ = await bench.token()
    await bench.present(TWENTY)
    await bench.present(TWENTY)
    services.blocking.clear()
    statements = services.statements()
    assert (await bench.present(token)).kind is DenialKind.LOCKED
    assert statements == []
    assert services.blocking == []


async def test_a_success_takes_nothing_off_the_count(make_bench):
    """RULES C4: the holder of one good token must not be able to guess for ever."""
    bench = await make_bench(max_failures=2)
    token, _ = await bench.token()
    for _ in range(2):
        await bench.present(TWENTY)
    assert isinstance(await bench.present(token), Authenticated)
    assert (await bench.present(TWENTY)).kind is DenialKind.LOCKED


async def test_an_unknown_token_never_reaches_the_hash(bench, services):
    """RULES D1, DESIGN guarantee 6."""
    token, _ = await bench.token()
    services.blocking.clear()
    await bench.present(TWENTY)
    assert services.blocking == []
    await bench.present(token)
    assert services.blocking == ["verify_token"]


async def test_tokens_whose_index_collides_are_told_apart_by_their_hash(bench, monkeypatch):
    """RULES D1: 32 bits may collide, so each candidate is checked."""
    monkeypatch.setattr("kipuka_auth_otp.secrecy.LookupKey.index", lambda _key, _token: "00000000")
    tokens = {client: (await bench.token(client))[0] for client in ("a", "b", "c")}
    for client, token in tokens.items():
        outcome = await bench.present(token)
        assert isinstance(outcome, Authenticated)
        assert outcome.identity.name == client
    assert (await bench.present(TWENTY)).reason == "unknown_token"


@pytest.mark.parametrize("first", ["argon2id", "bcrypt", "sha256-hmac"])
async def test_a_token_outlives_a_change_of_hash_algorithm(make_bench, first):
    """RULES D1: what is stored says how it was made."""
    token, _ = await (await make_bench(hash_algorithm=first)).token()
    for later in ("argon2id", "bcrypt", "sha256-hmac"):
        assert isinstance(await (await make_bench(hash_algorithm=later)).present(token), Authenticated)


async def test_the_challenge_is_basic_in_utf_8(bench):
    """RFC 7617, 2.1."""
    assert bench.otp.challenge == 'Basic realm="kipuka", charset="UTF-8"'


async def test_the_opened_object_spends_on_issue_and_counts_failures(bench):
    assert isinstance(bench.otp, SpendsOnIssue)
    assert isinstance(bench.otp, CountsFailures)


async def test_a_cancelled_request_leaves_nothing_held(bench):
    token, ref = await bench.token()
    task = asyncio.create_task(bench.present(token))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await bench.otp.tokens.view(ref)).held == 0


async def test_the_plugin_does_not_open_without_its_look_up_key(tmp_path, services):
    settings = OTPSettings.model_validate({"lookup_key": str(tmp_path / "gone.key")})
    with pytest.raises(StartupError, match=r"otp\.lookup_key: cannot read .*gone\.key"):
        async with open_otp(settings, services):
            pass
