"""Taking certificates back: the record decides, and the CA is told."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest

from kipuka.api import BackendFault, BackendUnavailable, Conflict, MalformedRequest, UnknownResource
from kipuka.audit.chain import seal
from kipuka.revocation import RevocationOrder, Revocations
from kipuka.store import certificates, events, replaced
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.database import open_store
from kipuka.store.schema import upgrade
from kipuka.testing.clock import FakeClock
from kipuka.testing.pki import make_root
from kipuka.x509.revocation import Reason

ROOT = make_root("Revoking")
NOW = datetime.now(UTC)


class LocalCA:
    """Cannot revoke: there is nobody to tell."""


class TellingCA:
    """Takes note of what it is told, unless it is away."""

    def __init__(self):
        self.told = []
        self.problem = None
        self.calls = 0

    async def revoke(self, certificate, reason):
        self.calls += 1
        if self.problem == "hang":
            await asyncio.sleep(60)
        if self.problem is not None:
            raise self.problem
        await asyncio.sleep(0.01)
        self.told.append((certificate.serial_number, reason.value))


@pytest.fixture
async def store(tmp_path):
    url = f"sqlite:///{tmp_path / 'kipuka.db'}"
    await asyncio.to_thread(upgrade, url)
    async with open_store(url, node="n", clock=lambda: NOW, seal=seal) as store:
        yield store


@pytest.fixture
async def serials(store):
    """Four certificates: two of each CA."""
    issued = [ROOT.issue_client().certificate for _ in range(4)]

    def add(tx):
        for number, certificate in enumerate(issued):
            record = RecordedCertificate.of(
                certificate,
                ca="remote" if number < 2 else "local",
                label=None,
                profile="default",
                method="otp",
                identity_name="d",
                enrolment=f"e{number}",
                issued_at=NOW,
                names=(),
            )
            certificates.add(tx, record)

    await store.write(add)
    return [f"{certificate.serial_number:x}" for certificate in issued]


@pytest.fixture
def remote():
    return TellingCA()


@pytest.fixture
def revocations(store, remote):
    backends = {"remote": remote, "local": LocalCA()}
    return Revocations(store=store, backends=backends, ca_timeout=timedelta(seconds=0.1))


@pytest.fixture
def audited(store):
    async def audited(*names):
        found = await store.read(partial(events.tail, limit=200))
        return [json.loads(record.line) for record in found if record.event in names]

    return audited


async def found(store, serial):
    return await store.read(partial(certificates.find, id=serial))


async def test_it_is_recorded_audited_and_told(store, serials, revocations, remote, audited):
    order = RevocationOrder(
        id=serials[0], reason=Reason.KEY_COMPROMISE, invalidity_date=NOW - timedelta(days=1), comment="stolen"
    )
    revoked = await revocations.revoke(order)
    assert (revoked.change, revoked.certificate.untold_reason) == ("revoked", None)
    assert await found(store, serials[0]) == revoked.certificate
    assert remote.told == [(int(serials[0], 16), "keyCompromise")]
    event, told = await audited("certificate_revoked", "revocation_told")
    assert (event["data"]["serial"], event["data"]["reason"]) == (serials[0], "keyCompromise")
    assert event["data"]["comment"] == "stolen"
    assert told["data"]["fingerprint"] == revoked.certificate.fingerprint


async def test_a_ca_without_the_ability_is_not_told_of_and_no_event_says_so(store, serials, revocations, audited):
    revoked = await revocations.revoke(RevocationOrder(id=serials[2]))
    assert (revoked.change, revoked.certificate.untold_reason) == ("revoked", None)
    assert await audited("revocation_told", "revocation_not_told") == []


async def test_the_same_order_again_changes_nothing_and_is_no_event(serials, revocations, remote, audited):
    for change in ("revoked", "nothing"):
        assert (await revocations.revoke(RevocationOrder(id=serials[0]))).change == change
    assert len(remote.told) == 1
    assert len(await audited("certificate_revoked")) == 1


async def test_a_hold_is_told_and_lifted(store, serials, revocations, remote, audited):
    for reason in (Reason.CERTIFICATE_HOLD, Reason.REMOVE_FROM_CRL):
        await revocations.revoke(RevocationOrder(id=serials[0], reason=reason))
    assert [reason for _, reason in remote.told] == ["certificateHold", "removeFromCRL"]
    assert (await found(store, serials[0])).state == "valid"
    assert [event["event"] for event in await audited("certificate_revoked", "certificate_hold_lifted")] == [
        "certificate_revoked",
        "certificate_hold_lifted",
    ]


@pytest.mark.parametrize(
    ("order", "error"),
    [
        pytest.param({"id": "ff"}, UnknownResource, id="unknown"),
        pytest.param({"reason": Reason.REMOVE_FROM_CRL}, Conflict, id="not on hold"),
        pytest.param({"invalidity_date": NOW + timedelta(hours=1)}, MalformedRequest, id="invalid in the future"),
        pytest.param(
            {"reason": Reason.REMOVE_FROM_CRL, "invalidity_date": NOW}, MalformedRequest, id="a date for a lifted hold"
        ),
        pytest.param({"comment": "two\nlines"}, MalformedRequest, id="a comment of two lines"),
        pytest.param({"comment": "x" * 501}, MalformedRequest, id="a long comment"),
    ],
)
async def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    *, store, serials, revocations, remote, audited, order, error
):
    with pytest.raises(error):
        await revocations.revoke(RevocationOrder(**{"id": serials[0], **order}))
    assert (await found(store, serials[0])).state == "valid"
    assert remote.calls == 0
    assert await audited("certificate_revoked") == []


@pytest.mark.parametrize(
    "problem",
    [
        pytest.param(BackendUnavailable("the CA is away"), id="away"),
        pytest.param(BackendFault("the CA refuses"), id="refusing"),
        pytest.param(RuntimeError("password=hunter2"), id="broken"),
        pytest.param("hang", id="hanging"),
    ],
)
async def test_a_ca_that_cannot_be_told_stops_nothing_and_is_told_later(
    *, store, serials, revocations, remote, audited, problem
):
    """The record of this server decides; the CA is asked until it has taken it."""
    remote.problem = problem
    revoked = await revocations.revoke(RevocationOrder(id=serials[0], reason=Reason.SUPERSEDED))
    assert (revoked.certificate.state, revoked.certificate.untold_reason) == ("revoked", "superseded")
    await revocations.tell_untold()
    (event,) = await audited("revocation_not_told")
    assert "hunter2" not in json.dumps(event)
    remote.problem = None
    await revocations.tell_untold()
    assert remote.told == [(int(serials[0], 16), "superseded")]
    assert (await found(store, serials[0])).untold_reason is None
    assert len(await audited("revocation_told")) == 1
    calls = remote.calls
    await revocations.tell_untold()
    assert remote.calls == calls


async def test_a_ca_that_is_away_is_not_asked_for_each_certificate(serials, revocations, remote):
    remote.problem = BackendUnavailable("away")
    for serial in serials[:2]:
        await revocations.revoke(RevocationOrder(id=serial))
    remote.calls = 0
    await revocations.tell_untold()
    assert remote.calls == 1


async def test_what_a_command_could_not_tell_the_server_does(store, serials, revocations, remote):
    """RULES K7: `kipuka cert revoke` revokes also where it cannot open the CA."""
    command = Revocations(store=store, backends={}, ca_timeout=timedelta(seconds=1))
    for serial in (serials[0], serials[2]):
        assert (await command.revoke(RevocationOrder(id=serial))).certificate.untold_reason == "unspecified"
    await revocations.tell_untold()
    assert remote.told == [(int(serials[0], 16), "unspecified")]
    for serial in (serials[0], serials[2]):
        assert (await found(store, serial)).untold_reason is None


async def test_twenty_orders_at_once_revoke_once_and_tell_once(serials, revocations, remote, audited):
    reasons = [Reason.SUPERSEDED, Reason.CESSATION_OF_OPERATION] * 10
    outcomes = await asyncio.gather(
        *(revocations.revoke(RevocationOrder(id=serials[0], reason=reason)) for reason in reasons),
        return_exceptions=True,
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    changes = sorted(outcome.change for outcome in outcomes if not isinstance(outcome, Exception))
    assert len(refused) == 10
    assert changes == ["nothing"] * 9 + ["revoked"]
    assert len(remote.told) == 1
    assert len(await audited("certificate_revoked")) == 1


# --- replaced certificates


GRACE = timedelta(days=7)
LATE = {"default": timedelta(0)}


async def renewed(store, ca, *, replaces=None, **changes):
    """A recorded certificate, which has replaced another one."""
    record = RecordedCertificate.of(
        ROOT.issue_client(not_after=NOW + timedelta(days=90)).certificate,
        ca=ca,
        label=None,
        profile="default",
        method="mtls",
        identity_name="d",
        enrolment="e",
        issued_at=NOW,
        names=(),
        replaces=None if replaces is None else replaces.fingerprint,
    )
    record = replace(record, **changes)
    await store.write(lambda tx: certificates.add(tx, record))
    return record


@pytest.fixture
def moving_clock():
    return FakeClock(NOW)


@pytest.fixture
async def later(tmp_path, moving_clock):
    """A store whose clock moves."""
    url = f"sqlite:///{tmp_path / 'later.db'}"
    await asyncio.to_thread(upgrade, url)
    async with open_store(url, node="n", clock=moving_clock, seal=seal) as store:
        yield store


@pytest.mark.parametrize("ca", ["remote", "local"])
async def test_a_replaced_certificate_is_revoked_when_it_is_due_and_its_ca_is_told(later, moving_clock, remote, ca):
    """Audited with its successor; a second look finds nothing to do."""
    revocations = Revocations(
        store=later, backends={"remote": remote, "local": LocalCA()}, ca_timeout=timedelta(seconds=1)
    )
    old = await renewed(later, ca, revoke_at=NOW + GRACE)
    new = await renewed(later, ca, replaces=old)
    await revocations.revoke_replaced(LATE)
    assert (await found(later, old.serial)).state == "valid"
    moving_clock.advance(GRACE)
    for _ in range(2):
        await revocations.revoke_replaced(LATE)
    gone = await found(later, old.serial)
    assert (gone.state, gone.revocation_reason, gone.revoke_at) == ("revoked", "superseded", None)
    assert (await found(later, new.serial)).state == "valid"
    records = await later.read(partial(events.tail, limit=200))
    told = [json.loads(record.line) for record in records if record.event == "certificate_revoked"]
    assert [(event["data"]["fingerprint"], event["data"]["reason"]) for event in told] == [
        (old.fingerprint, "superseded")
    ]
    assert new.serial in told[0]["data"]["comment"]
    assert remote.told == ([(int(old.serial, 16), "superseded")] if ca == "remote" else [])


async def test_a_ca_that_is_away_is_told_later(later, moving_clock, remote):
    """The record decides: see above."""
    revocations = Revocations(store=later, backends={"remote": remote}, ca_timeout=timedelta(seconds=1))
    old = await renewed(later, "remote", revoke_at=NOW)
    await renewed(later, "remote", replaces=old)
    remote.problem = BackendUnavailable("away", reason="away")
    await revocations.revoke_replaced(LATE)
    assert (await found(later, old.serial)).untold_reason == "superseded"
    remote.problem = None
    await revocations.tell_untold()
    assert remote.told == [(int(old.serial, 16), "superseded")]


async def test_two_nodes_at_it_revoke_once(later, remote):
    """Whoever comes second finds nothing to do."""
    nodes = [Revocations(store=later, backends={"remote": remote}, ca_timeout=timedelta(seconds=1)) for _ in range(2)]
    old = await renewed(later, "remote", revoke_at=NOW)
    await renewed(later, "remote", replaces=old)
    await asyncio.gather(*(node.revoke_replaced(LATE) for node in nodes))
    assert len(remote.told) == 1
    records = await later.read(partial(events.tail, limit=200))
    assert [record.event for record in records].count("certificate_revoked") == 1


async def test_a_renewal_that_comes_between_begins_the_time_anew(later, remote):
    """What was due when the job looked is looked at once more where it is revoked."""
    old = await renewed(later, "remote", revoke_at=NOW)
    await renewed(later, "remote", replaces=old)

    class Rescheduling:
        """The store, in which another renewal with the old certificate is recorded right after the job has looked."""

        async def read(self, unit):
            found = await later.read(unit)
            await later.write(partial(replaced.schedule, fingerprint=old.fingerprint, when=NOW + GRACE))
            return found

        write = later.write

    revocations = Revocations(store=Rescheduling(), backends={"remote": remote}, ca_timeout=timedelta(seconds=1))
    await revocations.revoke_replaced(LATE)
    left = await found(later, old.serial)
    assert (left.state, left.revoke_at) == ("valid", NOW + GRACE)


async def test_while_the_new_one_is_on_hold_the_old_one_is_left_alone(later, moving_clock, remote):
    """And looked at again later; once the hold is lifted it goes."""
    revocations = Revocations(store=later, backends={"remote": remote}, ca_timeout=timedelta(seconds=1))
    old = await renewed(later, "remote", revoke_at=NOW)
    new = await renewed(later, "remote", replaces=old)
    await revocations.revoke(RevocationOrder(id=new.fingerprint, reason=Reason.CERTIFICATE_HOLD))
    await revocations.revoke_replaced(LATE)
    waiting = await found(later, old.serial)
    assert (waiting.state, waiting.revoke_at) == ("valid", NOW + replaced.HOLD_PAUSE)
    await revocations.revoke(RevocationOrder(id=new.fingerprint, reason=Reason.REMOVE_FROM_CRL))
    moving_clock.advance(replaced.HOLD_PAUSE)
    await revocations.revoke_replaced(LATE)
    assert (await found(later, old.serial)).state == "revoked"


async def test_where_the_new_one_was_taken_back_the_old_one_stays(later, remote):
    """It may be all that the device has; and it is not looked at again."""
    revocations = Revocations(store=later, backends={"remote": remote}, ca_timeout=timedelta(seconds=1))
    old = await renewed(later, "remote", revoke_at=NOW)
    new = await renewed(later, "remote", replaces=old)
    await revocations.revoke(RevocationOrder(id=new.fingerprint, reason=Reason.CESSATION_OF_OPERATION))
    await revocations.revoke_replaced(LATE)
    kept = await found(later, old.serial)
    assert (kept.state, kept.revoke_at) == ("valid", None)
