"""Reservations: held, spent and given back in step with the certificate."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, select, update

from kipuka.api import BackendFault, BackendUnavailable, Claim, DenialKind, Denied
from kipuka.audit.chain import seal
from kipuka.store import certificates, enrolments
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.database import open_store
from kipuka.store.enrolments import EnrolmentState, Incarnation, NewEnrolment

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
meters = Table(
    "meter_uses",
    MetaData(),
    Column("ref", String, primary_key=True),
    Column("max", Integer),
    Column("held", Integer),
    Column("spent", Integer),
)
c = meters.c


class Meter:
    """Spends one of a row's uses per certificate, as a one-time password does."""

    def reserve(self, tx, ref):
        statement = update(meters).where(c.ref == ref, c.held + c.spent < c.max).values(held=c.held + 1)
        if tx.execute(statement).rowcount:
            return None
        return Denied(detail="no use left", reason="used", kind=DenialKind.WRONG)

    def redeem(self, tx, ref):
        tx.execute(update(meters).where(c.ref == ref).values(held=c.held - 1, spent=c.spent + 1))

    def release(self, tx, ref):
        tx.execute(update(meters).where(c.ref == ref).values(held=c.held - 1))


METER = Meter()


@pytest.fixture(autouse=True)
def meter(sql):
    sql(
        "CREATE TABLE meter_uses (ref TEXT PRIMARY KEY, max INT, held INT CHECK (held >= 0), spent INT)",
        "INSERT INTO meter_uses VALUES ('t', 1, 0, 0)",
    )


@pytest.fixture
def uses(store):
    async def uses():
        return tuple(await store.read(lambda tx: tx.execute(select(c.held, c.spent)).one()))

    return uses


def an_enrolment(name="e1", **changes) -> NewEnrolment:
    row = NewEnrolment(
        id=name,
        operation="simpleenroll",
        label=None,
        method="meter",
        identity_name="device-1",
        claim=Claim(plugin="meter", ref="t"),
        ca="main",
        profile="default",
        request_sha256="ab" * 32,
        csr=b"\x30\x00",
        process="b1/0/0",
        lease_until=NOW + timedelta(minutes=5),
        created_at=NOW,
    )
    return replace(row, **changes)


def a_certificate(number=1, enrolment="e1") -> RecordedCertificate:
    return RecordedCertificate(
        fingerprint=f"{number:064x}",
        ca="main",
        serial=f"{number:x}",
        subject="CN=device-1",
        names=(),
        spki_sha256="00",
        holder_sha256="00",
        not_before=NOW,
        not_after=NOW + timedelta(days=1),
        der=b"\x30\x00",
        label=None,
        profile="default",
        method="meter",
        identity_name="device-1",
        enrolment=enrolment,
        issued_at=NOW,
    )


async def begun(store, row=None, **options):
    return await store.write(partial(enrolments.start, row=row or an_enrolment(), spender=METER, **options))


async def found(store, name="e1"):
    return await store.read(partial(enrolments.find, id=name))


async def recorded(store, row=None, certificate=None, *, exists=True, spender=METER):
    await store.write(
        partial(
            enrolments.record,
            row=row or an_enrolment(),
            certificate=certificate or a_certificate(),
            spender=spender,
            exists=exists,
        )
    )


async def test_a_reservation_holds_one_use_and_is_written_down(store, uses):
    assert await begun(store) is None
    row = await found(store)
    assert (row.state, row.node, row.claim) == (EnrolmentState.RESERVED, "alpha", Claim(plugin="meter", ref="t"))
    assert row.lease_until == NOW + timedelta(minutes=5)
    assert row.created_at == NOW
    assert await uses() == (1, 0)


async def test_a_denied_reservation_writes_nothing(store, uses):
    """DESIGN, the store: an expected refusal is a value that has written nothing."""
    await begun(store)
    denied = await begun(store, an_enrolment("e2"))
    assert denied.reason == "used"
    assert await found(store, "e2") is None
    assert await uses() == (1, 0)


async def test_a_certificate_is_recorded_with_its_row_and_its_use(store, uses):
    """DESIGN guarantees 1 and 2: all in one transaction."""
    await begun(store)
    await recorded(store)
    row = await found(store)
    assert row.state is EnrolmentState.ISSUED
    assert row.certificate == a_certificate().fingerprint
    assert row.lease_until is None
    assert row.settled_at is not None
    assert await uses() == (0, 1)
    assert await store.read(partial(certificates.find, id="1")) == a_certificate()


async def test_without_a_reservation_the_row_is_written_as_issued(store):
    row = an_enrolment(claim=None, method="mtls")
    await recorded(store, row, exists=False, spender=None)
    assert (await found(store)).state is EnrolmentState.ISSUED


async def test_a_claim_that_was_not_reserved_is_not_redeemed(store, uses):
    with pytest.raises(ValueError, match="reserved"):
        await recorded(store, exists=False)
    assert await uses() == (0, 0)


@pytest.mark.parametrize("state", ["refused", "failed"])
async def test_settling_gives_the_use_back_once(store, uses, state):
    """RULES C2: whoever comes second, the request or the recovery, changes nothing."""
    await begun(store)
    settle = partial(enrolments.settle, id="e1", state=state, reason="name_refused", spender=METER)
    assert await store.write(settle) is True
    assert await store.write(settle) is False
    row = await found(store)
    assert (row.state, row.reason, row.lease_until) == (state, "name_refused", None)
    assert await uses() == (0, 0)
    assert await begun(store, an_enrolment("e2")) is None


async def test_an_unknown_enrolment_is_not_settled(store):
    assert await store.write(partial(enrolments.settle, id="x", state="failed", reason="r", spender=METER)) is False


async def test_a_recorded_enrolment_is_not_given_back(store, uses):
    await begun(store)
    await recorded(store)
    assert not await store.write(partial(enrolments.settle, id="e1", state="failed", reason="r", spender=METER))
    assert await uses() == (0, 1)


async def test_a_certificate_that_comes_after_the_use_was_given_back_is_not_recorded(store, uses):
    """DESIGN guarantee 2: otherwise the use would be there twice."""
    await begun(store)
    await store.write(partial(enrolments.settle, id="e1", state="failed", reason="lease", spender=METER))
    with pytest.raises(BackendUnavailable) as raised:
        await recorded(store)
    assert raised.value.reason == "enrolment_settled"
    assert await store.read(partial(certificates.find, id="1")) is None
    assert await uses() == (0, 0)


@pytest.mark.parametrize(
    "unit",
    [
        pytest.param(partial(enrolments.begin_signing, id="e1"), id="begin signing"),
        pytest.param(partial(enrolments.set_pending, id="e1", reference="r"), id="set pending"),
    ],
)
async def test_a_settled_enrolment_does_not_move_any_more(store, unit):
    await begun(store)
    await store.write(partial(enrolments.settle, id="e1", state="refused", reason="r", spender=METER))
    with pytest.raises(BackendUnavailable):
        await store.write(unit)


async def test_a_serial_number_that_was_used_before_is_the_cas_fault(store, uses):
    """RULES F6."""
    await begun(store)
    await recorded(store)
    other = an_enrolment("e2", claim=None)
    with pytest.raises(BackendFault) as raised:
        await recorded(store, other, replace(a_certificate(2), serial="1"), exists=False)
    assert raised.value.reason == "serial_used"
    assert await found(store, "e2") is None


async def test_a_missing_plugin_does_not_strand_a_use(store, uses):
    await begun(store)
    with pytest.raises(BackendFault, match="meter"):
        await store.write(partial(enrolments.settle, id="e1", state="failed", reason="r", spender=None))
    with pytest.raises(BackendFault, match="meter"):
        await recorded(store, spender=None)
    assert (await found(store)).state is EnrolmentState.RESERVED
    assert await uses() == (1, 0)


async def test_the_database_itself_refuses_an_issued_row_without_its_certificate(store):
    """DESIGN guarantee 1."""
    table = enrolments.enrolments
    await begun(store)
    for values in ({"state": "issued"}, {"state": "issued", "certificate": "unknown"}):
        with pytest.raises(BackendFault):
            await store.write(lambda tx, values=values: tx.execute(update(table).values(**values)))
    assert (await found(store)).state is EnrolmentState.RESERVED


async def test_parallel_reservations_of_a_single_use_give_one(store, uses):
    """DESIGN guarantee 2."""
    answers = await asyncio.gather(*(begun(store, an_enrolment(f"e{number}")) for number in range(20)))
    assert sum(answer is None for answer in answers) == 1
    assert await uses() == (1, 0)


async def test_a_pending_request_is_found_by_the_same_request_only(store):
    """RFC 7030, 4.2.3: the client comes again with the same request."""
    await begun(store, signing=True)
    assert await store.read(partial(enrolments.find_pending, row=an_enrolment("e2"))) is None
    await store.write(partial(enrolments.set_pending, id="e1", reference="ca-7"))
    row = await store.read(partial(enrolments.find_pending, row=an_enrolment("e2")))
    assert (row.id, row.state, row.reference, row.lease_until) == ("e1", EnrolmentState.PENDING, "ca-7", None)
    for other in (
        an_enrolment(request_sha256="cd" * 32),
        an_enrolment(label="ot"),
        an_enrolment(operation="simplereenroll"),
        an_enrolment(claim=Claim(plugin="meter", ref="other")),
        an_enrolment(claim=Claim(plugin="other", ref="t")),
        an_enrolment(claim=None),
        an_enrolment(ca="other"),
    ):
        assert await store.read(partial(enrolments.find_pending, row=other)) is None


async def test_a_pending_request_without_a_claim_is_its_identitys(store):
    row = an_enrolment(claim=None, method="mtls", identity_name="CN=a")
    await begun(store, row)
    await store.write(partial(enrolments.set_pending, id="e1", reference="ca-7"))
    assert await store.read(partial(enrolments.find_pending, row=row)) is not None
    assert await store.read(partial(enrolments.find_pending, row=replace(row, identity_name="CN=b"))) is None


async def test_a_pending_enrolment_is_recorded_later(store, uses):
    await begun(store)
    await store.write(partial(enrolments.set_pending, id="e1", reference="ca-7"))
    await recorded(store)
    assert await uses() == (0, 1)


async def test_abandoned_are_those_whose_lease_has_run_out_and_at_start_all_of_the_node(store, url, clock):
    """After a crash, from any node."""
    late = NOW + timedelta(hours=1)
    await begun(store, an_enrolment("mine", claim=None, lease_until=late))
    await begun(store, an_enrolment("mine-late", claim=None), signing=True)
    await begun(store, an_enrolment("pending", claim=None))
    await store.write(partial(enrolments.set_pending, id="pending", reference="r"))
    await begun(store, an_enrolment("ended", claim=None))
    await store.write(partial(enrolments.settle, id="ended", state="failed", reason="r", spender=None))
    async with open_store(url, node="beta", clock=clock, seal=seal) as other:
        await begun(other, an_enrolment("theirs", claim=None, lease_until=late))
        await begun(other, an_enrolment("theirs-late", claim=None))

    async def abandoned(heir=None):
        now = NOW + timedelta(minutes=10)
        rows = await store.read(partial(enrolments.abandoned, node="alpha", heir=heir, now=now))
        return {row.id for row in rows}

    assert await abandoned() == {"mine-late", "theirs-late"}
    assert await abandoned(Incarnation(boot="b2")) == {"mine", "mine-late", "theirs-late"}


@pytest.mark.parametrize(
    ("heir", "inherits"),
    [
        pytest.param(Incarnation(boot="b2"), {"earlier boot"}, id="the first worker of a server"),
        pytest.param(Incarnation(boot="b2", slot=1), set(), id="a sibling that starts after it"),
        pytest.param(Incarnation(boot="b2", slot=1, life=2), {"slot 1, life 0", "slot 1, life 1"}, id="a replacement"),
        pytest.param(Incarnation(boot="b2", slot=0, life=1), {"slot 0, life 0"}, id="a replacement of the first"),
        pytest.param(Incarnation(boot="b2", slot=11, life=1), set(), id="a slot whose number begins alike"),
    ],
)
async def test_a_worker_inherits_from_the_dead_and_never_from_a_living_sibling(store, heir, inherits):
    """Guarantee 2 with several workers."""
    late = NOW + timedelta(hours=1)
    for name, process in {
        "earlier boot": "b1/1/0",
        "slot 0, life 0": "b2/0/0",
        "slot 1, life 0": "b2/1/0",
        "slot 1, life 1": "b2/1/1",
    }.items():
        await begun(store, an_enrolment(name, claim=None, process=process, lease_until=late))
    rows = await store.read(partial(enrolments.abandoned, node="alpha", heir=heir, now=NOW))
    assert {row.id for row in rows} == inherits


async def test_of_several_that_end_an_enrolment_at_once_one_does_and_the_others_are_told(store, opened, uses):
    """The request and the recovery of another node meet: the use is given back once, and nobody fails."""
    async with opened(node="beta") as beta, opened(node="gamma") as gamma:
        for turn in range(10):
            name = f"e{turn}"
            assert await store.write(partial(enrolments.start, row=an_enrolment(name), spender=METER)) is None
            settle = partial(enrolments.settle, id=name, state="failed", reason="abandoned", spender=METER)
            outcomes = await asyncio.gather(*(one.write(settle) for one in (store, beta, gamma)))
            assert sorted(outcomes) == [False, False, True]
            assert await uses() == (0, 0)
