"""The enrolment against CAs that fail, lie, wait or vanish: what is recorded, what is given back, what stays held."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509

from kipuka.api import (
    Authenticated,
    BackendFault,
    BackendUnavailable,
    CertificateChain,
    Claim,
    Connection,
    Credentials,
    Denied,
    Identity,
    Issued,
    KeyRefused,
    NameRefused,
    Operation,
    Order,
    Pending,
    ProofOfPossessionFailed,
)
from kipuka.audit.chain import seal
from kipuka.enrolment import Enrolled, Enrolment, EnrolmentRequest, LabelService, Postponed
from kipuka.jobs import open_jobs, recovery
from kipuka.store import certificates, enrolments
from kipuka.store.database import open_store
from kipuka.store.schema import upgrade
from kipuka.testing.pki import make_csr, make_key, make_root
from kipuka.x509.names import subject_for
from kipuka.x509.profiles import Profile
from kipuka.x509.revocation import Reason

ROOT = make_root()
CLAIM = Claim(plugin="spending", ref="t1")
CONNECTION = Connection(
    id="c",
    listener="est",
    client_address="127.0.0.1",
    client_port=1,
    tls_version="TLSv1.3",
    cipher="x",
    tls_exporter=b"e" * 32,
)


def sign(order: Order, issuer=ROOT, **changes):
    """What an honest CA makes of an order; `changes` make it dishonest."""
    key = x509.load_der_x509_csr(order.csr).public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(changes.get("subject", order.subject))
        .issuer_name(issuer.subject)
        .public_key(key)
        .serial_number(changes.get("serial", x509.random_serial_number()))
        .not_valid_before(order.not_before)
        .not_valid_after(order.not_after)
    )
    for extension in order.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    from cryptography.hazmat.primitives.hashes import SHA256

    return builder.sign(issuer.key, SHA256())


class CA:
    """Signs as told by `answer`, a function of the order."""

    def __init__(self, answer=None) -> None:
        self.answer = answer or (lambda order: Issued(certificate=sign(order)))
        self.orders: list[Order] = []

    async def ca_certificates(self):
        return CertificateChain((ROOT.certificate,))

    async def issue(self, order):
        self.orders.append(order)
        answer = self.answer(order)
        return await answer if asyncio.iscoroutine(answer) else answer


class WaitingCA(CA):
    """Promises first; `collected` is what it says when asked again."""

    def __init__(self) -> None:
        super().__init__(lambda order: Pending(ref=f"ref-{order.id}", retry_after=timedelta(seconds=5)))
        self.collected = None

    async def collect(self, ref):
        if isinstance(self.collected, Exception):
            raise self.collected
        if self.collected is None:
            return Pending(ref=ref, retry_after=timedelta(seconds=5))
        return Issued(certificate=sign(self.orders[0]))


class RememberingCA(CA):
    """A remote CA that can be asked what became of an order."""

    def __init__(self, answer, found) -> None:
        super().__init__(answer)
        self.found = found

    async def find(self, order_id):
        assert order_id == self.orders[0].id
        return Issued(certificate=sign(self.orders[0])) if self.found else None


class RevokingCA(CA):
    def __init__(self, answer) -> None:
        super().__init__(answer)
        self.revoked: list[x509.Certificate] = []

    async def revoke(self, certificate, _reason):
        self.revoked.append(certificate)


class Spending:
    """One use, counted in memory: enough, since the writer is one thread."""

    def __init__(self) -> None:
        self.free, self.held, self.spent = 1, 0, 0

    def reserve(self, _tx, ref):
        assert ref == CLAIM.ref
        if not self.free:
            return Denied(detail="spent", reason="spent")
        self.free, self.held = self.free - 1, self.held + 1
        return None

    def redeem(self, _tx, _ref):
        self.held, self.spent = self.held - 1, self.spent + 1

    def release(self, _tx, _ref):
        self.held, self.free = self.held - 1, self.free + 1

    @property
    def counts(self):
        return (self.free, self.held, self.spent)


class Recognising:
    """A label that knows its client already."""

    def __init__(self, claim, name="ws42") -> None:
        self.winner = Authenticated(
            identity=Identity(method="spending", name=name, subject=subject_for(name), host_name=name), claim=claim
        )

    def require_some_credential(self, credentials):
        del credentials

    async def recognise(self, _credentials, *, cache, accept, recall):
        del cache, recall
        denied = await accept(self.winner)
        if denied is not None:
            raise BackendUnavailable(denied.detail, reason=denied.reason)


class World:
    """One enrolment service over a real store."""

    def __init__(self, store, backend, *, remote, claim, unique_keys=True) -> None:
        self.store, self.backend, self.spending = store, backend, Spending()
        self.enrolment = Enrolment(
            store=store,
            spenders={"spending": self.spending},
            clock=now,
            ca_timeout=timedelta(seconds=0.2),
            process="b1/0/0",
        )
        self.service = LabelService(
            name=None,
            ca="main",
            backend=backend,
            remote=remote,
            profile=Profile(name="default", unique_keys=unique_keys),
            validity=timedelta(days=1),
            authentication=Recognising(claim),
        )

    async def enrol(self, csr=None, *, name="ws42"):
        service = replace(self.service, authentication=Recognising(self.service.authentication.winner.claim, name))
        return await self.enrolment.enrol(
            EnrolmentRequest(
                service=service,
                credentials=Credentials(connection=CONNECTION, operation=Operation.SIMPLEENROLL, label=None),
                path_cache={},
                body=(csr or make_csr(common_name="whatever")).der,
            )
        )

    async def recorded(self):
        return (await self.store.read(certificates.listing)).items

    async def rows(self):
        found = await self.store.read(
            partial(enrolments.abandoned, node="n1", heir=None, now=now() + timedelta(days=9))
        )
        return [row.state for row in found]

    async def events(self):
        from kipuka.store.tables import audit_events

        return await self.store.read(lambda tx: [row.event for row in tx.execute(audit_events.select())])

    async def recover(self, *, backend=None):
        job = recovery(
            self.store,
            spenders={"spending": self.spending},
            backends={"main": backend or self.backend},
            clock=now,
        )
        await job(enrolments.Incarnation(boot="b2"))


def now():
    return datetime.now(UTC)


@pytest.fixture
async def world(tmp_path):
    @asynccontextmanager
    async def opened():
        url = f"sqlite:///{tmp_path / 'kipuka.db'}"
        upgrade(url)
        async with open_store(url, node="n1", clock=now, seal=seal) as store:

            def make(backend=None, *, remote=False, claim=CLAIM, **more):
                return World(store, backend or CA(), remote=remote, claim=claim, **more)

            yield make

    async with opened() as make:
        yield make


async def test_an_issued_certificate_is_recorded_and_its_use_spent_before_it_is_handed_out(world):
    """Guarantees 1 and 2."""
    here = world()
    outcome = await here.enrol()
    assert isinstance(outcome, Enrolled)
    (recorded,) = await here.recorded()
    assert x509.load_der_x509_certificate(recorded.der) == outcome.certificate
    assert here.spending.counts == (0, 0, 1)
    assert await here.events() == ["authentication_succeeded", "certificate_requested", "certificate_issued"]


async def test_without_a_claim_and_with_a_local_ca_one_transaction_is_enough(world):
    here = world(claim=None)
    await here.enrol()
    assert await here.events() == ["authentication_succeeded", "certificate_requested", "certificate_issued"]
    assert len(await here.recorded()) == 1


@pytest.mark.parametrize(
    ("answer", "error", "reason"),
    [
        pytest.param(BackendUnavailable("away", reason="hsm_away"), BackendUnavailable, "hsm_away", id="unavailable"),
        pytest.param(RuntimeError("secret"), BackendFault, "ca_failed", id="raises"),
        pytest.param(TimeoutError(), BackendUnavailable, "ca_timeout", id="timeout"),
    ],
)
async def test_a_fault_of_a_local_ca_gives_the_use_back(world, answer, error, reason):
    """Guarantee 2: a CA failure gives the use back."""

    def fail(_order):
        raise answer

    here = world(CA(fail))
    with pytest.raises(error) as raised:
        await here.enrol()
    assert raised.value.reason == reason
    assert "secret" not in raised.value.detail
    assert here.spending.counts == (1, 0, 0)
    assert (await here.events())[-1] == "enrolment_failed"
    assert raised.value.audited


async def test_a_ca_that_hangs_is_given_up_after_its_time(world):
    here = world(CA(lambda _order: asyncio.sleep(60)))
    with pytest.raises(BackendUnavailable):
        await here.enrol()
    assert here.spending.counts == (1, 0, 0)


@pytest.mark.parametrize("failure", [RuntimeError("lost"), TimeoutError()], ids=["raises", "times out"])
async def test_what_a_remote_ca_left_unknown_stays_held(world, failure):
    """Guarantee 2: what a remote CA left unknown is not given back before it is known."""

    def fail(_order):
        raise failure

    here = world(CA(fail), remote=True)
    with pytest.raises(BackendUnavailable) as raised:
        await here.enrol()
    assert raised.value.reason == "ca_unknown"
    assert here.spending.counts == (0, 1, 0)
    assert await here.rows() == ["signing"]
    await here.recover()
    assert here.spending.counts == (0, 1, 0), "a CA that cannot be asked keeps it held"


@pytest.mark.parametrize(("found", "counts"), [(True, (0, 0, 1)), (False, (1, 0, 0))], ids=["signed", "never taken"])
async def test_recovery_asks_a_remote_ca_what_became_of_the_order(world, found, counts):
    """Guarantees 1 and 2: a certificate that exists is recorded and spent, one that does not gives the use back."""

    def fail(_order):
        raise RuntimeError

    here = world(RememberingCA(fail, found), remote=True)
    with pytest.raises(BackendUnavailable):
        await here.enrol()
    await here.recover()
    assert here.spending.counts == counts
    assert len(await here.recorded()) == (1 if found else 0)
    assert (await here.events())[-1] == "enrolment_recovered"
    assert await here.rows() == []


async def test_a_remote_ca_that_says_nothing_was_signed_gives_the_use_back(world):
    def away(_order):
        raise BackendUnavailable("away", reason="away")

    here = world(CA(away), remote=True)
    with pytest.raises(BackendUnavailable):
        await here.enrol()
    assert here.spending.counts == (1, 0, 0)


async def test_a_reservation_of_a_dead_process_is_given_back_at_start(world):
    """Guarantee 2: a crash gives the use back."""
    here = world()
    row = enrolments.NewEnrolment(
        id="dead",
        operation="simpleenroll",
        label=None,
        method="spending",
        identity_name="ws42",
        claim=CLAIM,
        ca="main",
        profile="default",
        request_sha256="00",
        csr=b"",
        process="b1/0/0",
        lease_until=now() + timedelta(hours=1),
        created_at=now(),
    )
    await here.store.write(lambda tx: enrolments.start(tx, row, here.spending))
    assert here.spending.counts == (0, 1, 0)
    await here.recover()
    assert here.spending.counts == (1, 0, 0)
    await here.recover()
    assert here.spending.counts == (1, 0, 0), "given back once"


@pytest.mark.parametrize(
    "changes",
    [{"subject": subject_for("dc01")}, {"issuer": make_root()}],
    ids=["another subject", "another CA"],
)
async def test_a_certificate_that_was_not_ordered_is_not_handed_out(world, changes):
    """RULES F6: a mismatch is a 503, audited, revoked where the CA can."""
    backend = RevokingCA(lambda order: Issued(certificate=sign(order, **changes)))
    here = world(backend)
    with pytest.raises(BackendFault) as raised:
        await here.enrol()
    assert raised.value.reason == "ca_mismatch"
    assert await here.recorded() == ()
    assert here.spending.counts == (1, 0, 0)
    assert len(backend.revoked) == 1
    assert (await here.events())[-1] == "enrolment_failed"


async def test_a_serial_number_that_was_used_before_is_a_fault(world):
    """RULES F6: the serial number is unused."""
    here = world(CA(lambda order: Issued(certificate=sign(order, serial=7))), claim=None)
    await here.enrol()
    with pytest.raises(BackendFault) as raised:
        await here.enrol()
    assert raised.value.reason == "serial_used"
    assert len(await here.recorded()) == 1


async def test_a_refused_name_gives_the_use_back(world):
    """RULES C2: a reservation is given back on every refusal after it."""
    here = world()
    with pytest.raises(NameRefused):
        await here.enrol(make_csr(common_name="ws42", dns=("dc01.example",)))
    assert here.spending.counts == (1, 0, 0)
    assert (await here.events())[-1] == "certificate_refused"


async def test_a_failed_proof_of_possession_gives_the_use_back(world):
    """RULES C2: proof of possession comes after names and key."""
    here = world()
    with pytest.raises(ProofOfPossessionFailed):
        await here.enrol(make_csr(common_name="ws42", break_signature=True))
    assert here.spending.counts == (1, 0, 0)


@pytest.mark.parametrize(("unique", "refused"), [(True, True), (False, False)])
async def test_a_key_recorded_for_another_name_is_refused_unless_the_profile_allows_it(world, unique, refused):
    """RULES F5: unique_keys."""
    here = world(claim=None, unique_keys=unique)
    csr = make_csr(common_name="x", key=make_key())
    await here.enrol(csr, name="ws42")
    await here.enrol(csr, name="ws42")
    if refused:
        with pytest.raises(KeyRefused, match="unique_keys"):
            await here.enrol(csr, name="dc01")
    else:
        await here.enrol(csr, name="dc01")
    assert len(await here.recorded()) == (2 if refused else 3)


async def test_two_names_racing_for_one_key_get_one_certificate(world):
    """RULES F5, decided in the transaction that records."""
    here = world(claim=None)
    csr = make_csr(common_name="x", key=make_key())
    outcomes = await asyncio.gather(
        *(here.enrol(csr, name=f"host-{number}") for number in range(8)), return_exceptions=True
    )
    assert sum(isinstance(outcome, Enrolled) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, KeyRefused) for outcome in outcomes) == 7


async def test_a_compromised_key_is_refused_to_its_own_name_too(world):
    """RULES F5: the SPKI was revoked for key compromise."""
    here = world(claim=None)
    csr = make_csr(common_name="x", key=make_key())
    await here.enrol(csr)
    (recorded,) = await here.recorded()
    await here.store.write(partial(certificates.revoke, fingerprint=recorded.fingerprint, reason=Reason.KEY_COMPROMISE))
    with pytest.raises(KeyRefused, match="compromise"):
        await here.enrol(csr)


async def test_a_ca_that_decides_later_holds_the_use_until_the_client_collects(world):
    """RFC 7030, 4.2.3: the same request again after Retry-After."""
    backend = WaitingCA()
    here = world(backend, remote=True)
    csr = make_csr(common_name="x")
    assert await here.enrol(csr) == Postponed(retry_after=timedelta(seconds=5))
    assert here.spending.counts == (0, 1, 0)
    assert await here.enrol(csr) == Postponed(retry_after=timedelta(seconds=5))
    await here.recover()
    assert here.spending.counts == (0, 1, 0), "pending has no lease"
    backend.collected = True
    assert isinstance(await here.enrol(csr), Enrolled)
    assert here.spending.counts == (0, 0, 1)
    assert len(backend.orders) == 1, "one order for the whole exchange"
    assert len(await here.recorded()) == 1


async def test_a_request_the_ca_refuses_in_the_end_gives_the_use_back(world):
    backend = WaitingCA()
    here = world(backend, remote=True)
    csr = make_csr(common_name="x")
    await here.enrol(csr)
    backend.collected = BackendFault("refused", reason="refused_by_ca")
    with pytest.raises(BackendFault):
        await here.enrol(csr)
    assert here.spending.counts == (1, 0, 0)


async def test_another_request_with_the_same_token_does_not_collect_what_is_pending(world):
    here = world(WaitingCA(), remote=True)
    await here.enrol(make_csr(common_name="x"))
    with pytest.raises(BackendUnavailable, match="spent"):
        await here.enrol(make_csr(common_name="x"))
    assert here.spending.counts == (0, 1, 0)


async def test_an_enrolment_goes_on_when_its_client_has_left(world):
    """From the reservation on an enrolment is not the client's any more."""
    go = asyncio.Event()

    async def slowly(order):
        await go.wait()
        return Issued(certificate=sign(order))

    here = world(CA(slowly))
    client = asyncio.create_task(here.enrol())
    while not here.spending.held:
        await asyncio.sleep(0.01)
    client.cancel()
    with pytest.raises(asyncio.CancelledError):
        await client
    go.set()
    await here.enrolment.drain()
    assert here.spending.counts == (0, 0, 1)
    assert len(await here.recorded()) == 1


async def test_a_job_is_run_by_one_of_two_processes(world):
    here = world()
    ran: list[str] = []

    def job(name):
        async def run():
            ran.append(name)

        return run

    quick = timedelta(seconds=0.02)
    async with (
        open_jobs(here.store, {"sweep": job("a")}, holder="a", interval=quick),
        open_jobs(here.store, {"sweep": job("b")}, holder="b", interval=quick),
    ):
        while len(ran) < 4:
            await asyncio.sleep(0.02)
    assert len(set(ran)) == 1
