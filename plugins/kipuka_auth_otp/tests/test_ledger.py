"""Holding, spending and giving back uses: DESIGN guarantee 2."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from datetime import timedelta

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from kipuka_auth_otp.events import OTPUsed
from kipuka_auth_otp.ledger import OTP_STORAGE, TOKENS, reserve
from kipuka_auth_otp.migrations import otp_0001_tokens
from sqlalchemy import StaticPool, create_engine, text
from sqlalchemy.exc import IntegrityError

from kipuka.api import BackendFault, Claim, DenialKind, Denied

from .conftest import DirectTx


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request):
    """On both databases: each of them decides by itself who gets the last use."""
    if request.param == "sqlite":
        yield create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        return
    server = request.getfixturevalue("postgresql_server")
    database = server.create_database()
    yield create_engine(database.url.replace("postgresql://", "postgresql+psycopg://"))
    server.drop_database(database.name)


@pytest.mark.parametrize("uses", [1, 3])
async def test_of_twenty_requests_exactly_as_many_as_there_are_uses_get_one(bench, uses):
    _, ref = await bench.token(max_uses=uses)
    outcomes = [await bench.reserve(ref) for _ in range(20)]
    assert outcomes.count(None) == uses
    assert {denied.kind for denied in outcomes if denied is not None} == {DenialKind.BUSY}
    for _ in range(uses):
        await bench.redeem(ref)
    spent = Claim(plugin="otp", ref=ref)
    assert await bench.reserve(ref) == Denied(
        detail="invalid OTP token", reason="token_spent", name="workstation-42", spent=spent
    )


async def test_a_use_given_back_can_be_had_again(bench):
    _, ref = await bench.token()
    for _ in range(3):
        assert await bench.reserve(ref) is None
        await bench.release(ref)
    await bench.spend(ref)
    seen = await bench.otp.tokens.view(ref)
    assert (seen.used, seen.held, seen.state) == (1, 0, "spent")


async def test_giving_back_what_is_not_held_changes_nothing(bench):
    _, ref = await bench.token()
    await bench.release(ref)
    await bench.release("no such token")
    seen = await bench.otp.tokens.view(ref)
    assert (seen.used, seen.held) == (0, 0)


async def test_spending_what_is_not_held_is_a_fault_and_leaves_no_event(bench, services):
    """DESIGN guarantee 2: rather no certificate than one more than the token is good for."""
    _, ref = await bench.token()
    with pytest.raises(BackendFault) as caught:
        await bench.redeem(ref)
    assert caught.value.reason == "otp_use_not_held"
    assert not [event for event in services.events if isinstance(event, OTPUsed)]
    assert (await bench.otp.tokens.view(ref)).used == 0


async def test_a_spent_use_is_an_event_of_the_same_transaction(bench, services):
    _, ref = await bench.token(max_uses=2)
    await bench.spend(ref)
    assert services.events[-1] == OTPUsed(token=ref, client_id="workstation-42", used=1, max_uses=2)
    seen = await bench.otp.tokens.view(ref)
    assert seen.last_used_at is not None


async def test_a_token_that_ended_since_it_was_judged_is_not_held(bench, services):
    """Between the judgement and the reservation others may act: the reservation asks again."""
    _, revoked = await bench.token()
    await bench.otp.tokens.revoke(revoked)
    _, expired = await bench.token()
    services.clock.advance(timedelta(days=2))
    assert (await bench.reserve(revoked)).reason == "token_revoked"
    assert (await bench.reserve(expired)).reason == "token_expired"
    assert (await bench.reserve("no such token")).reason == "unknown_token"


async def test_a_use_that_was_held_before_the_revocation_is_still_spent(bench):
    _, ref = await bench.token()
    assert await bench.reserve(ref) is None
    await bench.otp.tokens.revoke(ref)
    await bench.redeem(ref)
    assert (await bench.otp.tokens.view(ref)).used == 1


async def test_a_held_use_outlives_the_tokens_end(bench, services):
    """A pending certificate holds its use for as long as the CA takes."""
    _, ref = await bench.token()
    assert await bench.reserve(ref) is None
    services.clock.advance(timedelta(days=60))
    await bench.redeem(ref)
    assert (await bench.otp.tokens.view(ref)).used == 1


async def test_the_database_itself_refuses_more_uses_than_there_are(bench, services):
    _, ref = await bench.token()
    with pytest.raises(IntegrityError, match="otp_tokens_uses"):
        await services.write(lambda tx: tx.execute(TOKENS.update().values(used=1, held=1)))
    assert (await bench.otp.tokens.view(ref)).used == 0


def test_the_migration_makes_the_table_that_the_code_describes(services):
    with services.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, OTP_STORAGE.metadata) == []
    assert all(table.name.startswith("otp_") for table in OTP_STORAGE.metadata.sorted_tables)
    assert otp_0001_tokens.revision.startswith("otp_")


async def test_a_busy_database_answers_by_the_row_count_not_by_reading_first(bench, services):
    """One conditional UPDATE decides; a look at the row follows only to say why not."""
    _, ref = await bench.token()
    statements = services.statements()
    assert await bench.reserve(ref) is None
    assert [statement.split()[0] for statement in statements] == ["UPDATE"]
    assert sqlite3.sqlite_version_info >= (3, 35)  # UPDATE ... RETURNING


@pytest.mark.parametrize("engine", ["postgresql"], indirect=True)  # with SQLite whoever writes is alone
async def test_the_last_use_is_one_requests_though_the_others_have_seen_it(bench, services, engine):
    """READ COMMITTED: an UPDATE that waited for another looks at the row again, as that one has left it."""
    _, ref = await bench.token(max_uses=1)
    with engine.connect() as first, engine.connect() as second:
        assert reserve(DirectTx(first, services.clock), ref) is None
        waiting = asyncio.create_task(asyncio.to_thread(reserve, DirectTx(second, services.clock), ref))
        await asyncio.to_thread(until_one_waits, services)
        first.commit()
        assert (await waiting).reason == "token_held"


def until_one_waits(services):
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    for _ in range(1000):
        with services.engine.connect() as connection:
            if connection.execute(text(waiting)).scalar_one():
                return
        time.sleep(0.01)
    raise TimeoutError
