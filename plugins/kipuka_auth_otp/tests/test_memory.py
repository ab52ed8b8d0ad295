"""What was verified a moment ago: RULES D1. Whether a token is still good is read each time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from kipuka_auth_otp.memory import LIFETIME, MOST, Verified

from kipuka.api import Authenticated
from kipuka.testing.clock import FakeClock


@pytest.fixture
def clock():
    return FakeClock(datetime(2026, 6, 24, 10, 15, tzinfo=UTC))


@pytest.mark.parametrize("algorithm", ["argon2id", "bcrypt", "sha256-hmac"])
async def test_a_token_presented_again_costs_no_second_hash(make_bench, services, algorithm):
    bench = await make_bench(hash_algorithm=algorithm)
    token, _ = await bench.token()
    services.blocking.clear()
    for _ in range(3):
        assert isinstance(await bench.present(token), Authenticated)
    assert services.blocking == ["verify_token"]
    services.clock.advance(LIFETIME)
    assert isinstance(await bench.present(token), Authenticated)
    assert services.blocking == ["verify_token"] * 2


@pytest.mark.parametrize("end", ["spent", "revoked", "expired"])
async def test_a_remembered_token_ends_like_any_other(bench, services, end):
    token, ref = await bench.token(expires_at="2026-06-24T10:15:30Z")
    assert isinstance(await bench.present(token), Authenticated)
    services.blocking.clear()
    match end:
        case "spent":
            await bench.spend(ref)
        case "revoked":
            await bench.otp.tokens.revoke(ref)
        case _:
            services.clock.advance(timedelta(seconds=31))
    assert (await bench.present(token)).reason == f"token_{end}"
    # A spent one may ask for its lost answer: whether it failed is the host's to say (RULES D4).
    assert bench.failures == (0 if end == "spent" else 1)
    assert services.blocking == []  # it was remembered


async def test_a_remembered_token_lets_no_other_of_its_index_in(bench, monkeypatch):
    monkeypatch.setattr("kipuka_auth_otp.secrecy.LookupKey.index", lambda _key, _token: "00000000")
    tokens = {client: (await bench.token(client))[0] for client in ("a", "b")}
    for client in ("a", "b", "a", "b"):
        assert (await bench.present(tokens[client])).identity.name == client
    for _ in range(2):
        assert (await bench.present("A" * 20)).reason == "unknown_token"


async def test_a_failure_is_not_remembered(bench, services, monkeypatch):
    monkeypatch.setattr("kipuka_auth_otp.secrecy.LookupKey.index", lambda _key, _token: "00000000")
    await bench.token()
    services.blocking.clear()
    for _ in range(2):
        assert (await bench.present("A" * 20)).reason == "unknown_token"
    assert services.blocking == ["verify_token"] * 2


def test_token_and_record_are_remembered_together(clock):
    verified = Verified(clock)
    verified.add(("token", "record"))
    assert ("token", "record") in verified
    for other in (("token", "another"), ("another", "record"), ("record", "token"), ("", "record\0token")):
        assert other not in verified


def test_what_is_remembered_is_forgotten_in_time_and_when_the_clock_goes_back(clock):
    verified = Verified(clock)
    verified.add(("token", "record"))
    clock.advance(LIFETIME - timedelta(microseconds=1))
    assert ("token", "record") in verified
    clock.advance(timedelta(microseconds=1))
    assert ("token", "record") not in verified
    verified.add(("token", "record"))
    clock.advance(timedelta(seconds=-1))
    assert ("token", "record") not in verified


def test_the_oldest_makes_room(clock):
    verified = Verified(clock)
    verified.add(("first", "record"))
    verified.add(("second", "record"))
    verified.add(("first", "record"))
    for number in range(MOST - 1):
        verified.add((str(number), "record"))
    assert ("second", "record") not in verified
    assert ("first", "record") in verified
    verified.add(("one more", "record"))
    assert ("first", "record") not in verified
    assert ("one more", "record") in verified


def test_two_processes_share_nothing_and_no_token_is_kept(clock):
    one, other = Verified(clock), Verified(clock)
    one.add(("token", "record"))
    other.add(("token", "record"))
    assert vars(one)["_since"].keys().isdisjoint(vars(other)["_since"])
    assert "token" not in repr(vars(one))
