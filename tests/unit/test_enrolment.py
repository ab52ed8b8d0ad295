"""The enrolment against CAs that fail, lie, wait or vanish: what is recorded, what is given back, what stays held."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_private_key

from kipuka.api import (
    Authenticated,
    BackendFault,
    BackendUnavailable,
    CertificateChain,
    Claim,
    ClientCertificate,
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
    PresentedCertificate,
    ProofOfPossessionFailed,
)
from kipuka.api.errors import BackendError
from kipuka.audit.chain import seal
from kipuka.distinguished_names import subject_for
from kipuka.enrolment import Enrolled, Enrolment, EnrolmentRequest, LabelService, Postponed
from kipuka.est.enveloped import KeyEncryption, key_identifier
from kipuka.jobs import open_jobs, recovery
from kipuka.store import certificates, enrolments, name_changes
from kipuka.store.database import open_store
from kipuka.store.name_changes import NameChangeApproval
from kipuka.store.schema import upgrade
from kipuka.testing import der
from kipuka.testing.pki import Attribute, common_name, make_csr, make_key, make_root
from kipuka.x509.generate import generate
from kipuka.x509.profiles import Profile
from kipuka.x509.revocation import Reason

ROOT = make_root()
CHANGE = "1.3.6.1.5.5.7.7.36"
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
        """Its last order; `found` may be the serial number that it has signed it with."""
        assert order_id == self.orders[-1].id
        changes = {} if self.found is True else {"serial": self.found}
        return Issued(certificate=sign(self.orders[-1], **changes)) if self.found else None


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
            return Denied(detail="spent", reason="spent", spent=CLAIM)
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

    def __init__(self, claim, name="ws42", method="spending") -> None:
        self.winner = Authenticated(
            identity=Identity(method=method, name=name, subject=subject_for(name), host_name=name), claim=claim
        )

    def require_some_credential(self, credentials):
        del credentials

    async def recognise(self, _credentials, *, cache, accept, recall):
        del cache, recall
        denied = await accept(self.winner)
        if denied is not None:
            raise BackendUnavailable(denied.detail, reason=denied.reason)


class Renewing:
    """A label that knows its client by a certificate that this server has recorded."""

    def __init__(self, device) -> None:
        self.device = device
        self.winner = Authenticated(identity=Identity(method="mtls", name="CN=ws42", subject=device.subject))

    def require_some_credential(self, credentials):
        del credentials

    async def recognise(self, _credentials, *, cache, accept, recall):
        del cache, recall
        assert await accept(self.winner) is None
        return ClientCertificate(certificate=self.device, recorded=True)


class World:
    """One enrolment service over a real store."""

    def __init__(self, store, backend, *, remote, claim, unique_keys=True, window=0) -> None:
        self.store, self.backend, self.spending, self.no_slow_key = store, backend, Spending(), None
        self.connection, self.method, self.operation = CONNECTION, "spending", Operation.SIMPLEENROLL
        self.enrolment = Enrolment(
            store=store,
            spenders={"spending": self.spending},
            clock=now,
            ca_timeout=timedelta(seconds=0.2),
            process="b1/0/0",
            make_slow_key=self.make_slow_key,
        )
        self.service = LabelService(
            name=None,
            ca="main",
            backend=backend,
            remote=remote,
            profile=Profile(name="default", unique_keys=unique_keys),
            validity=timedelta(days=1),
            authentication=Recognising(claim),
            replay_window=timedelta(seconds=window),
        )

    def request(self, csr, name="ws42"):
        claim = self.service.authentication.winner.claim
        return EnrolmentRequest(
            service=replace(self.service, authentication=Recognising(claim, name, self.method)),
            credentials=Credentials(connection=self.connection, operation=self.operation, label=None),
            path_cache={},
            body=csr.der,
        )

    async def make_slow_key(self, kind):
        if self.no_slow_key is not None:
            raise self.no_slow_key
        return generate(kind)

    async def enrol(self, csr=None, *, name="ws42"):
        return await self.enrolment.enrol(self.request(csr or make_csr(common_name="whatever"), name))

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

    async def recover(self, *, backend=None, **more):
        job = recovery(
            self.store,
            spenders={"spending": self.spending},
            backends={"main": backend or self.backend},
            clock=now,
            ca_timeout=timedelta(seconds=0.2),
            **more,
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


@pytest.mark.parametrize("committed", [True, False])
async def test_a_reservation_that_may_have_been_committed_comes_back_as_soon_as_the_store_does(
    world, monkeypatch, committed
):
    """Guarantee 2: the client heard 503, and neither it nor its use wait for the end of a lease."""
    here = world()
    write = here.store.write

    async def unanswered(fn, /, **more):
        if committed:
            await write(fn, **more)
        monkeypatch.setattr(here.store, "write", write)
        raise BackendUnavailable("the server's store is not available", reason="store_outcome_unknown")

    owed = []
    monkeypatch.setattr(here.store, "write_later", owed.append)
    monkeypatch.setattr(here.store, "write", unanswered)
    with pytest.raises(BackendUnavailable) as raised:
        await here.enrol()
    assert raised.value.reason == "store_outcome_unknown"
    assert here.spending.counts == ((0, 1, 0) if committed else (1, 0, 0))
    after = ["authentication_succeeded", "certificate_requested", "enrolment_failed"] if committed else []
    for fn in owed:
        await write(fn)
    assert here.spending.counts == (1, 0, 0)
    assert await here.events() == after
    assert await here.rows() == []
    assert isinstance(await here.enrol(), Enrolled)


@pytest.mark.parametrize(
    ("octets", "closes"), [(b"e" * 32, True), (b"x" * 32, True), (None, False)], ids=["this", "another's", "none"]
)
async def test_a_connection_whose_exporter_was_compared_is_closed_whatever_fails_afterwards(world, octets, closes):
    """RULES G2; RFC 9266, 4.1."""

    def away(_order):
        raise BackendUnavailable("away", reason="away")

    here = world(CA(away))
    challenge = None if octets is None else base64.b64encode(octets).decode()
    with pytest.raises((BackendUnavailable, ProofOfPossessionFailed)) as raised:
        await here.enrol(make_csr(challenge_password=challenge))
    assert raised.value.closes_connection is closes


async def test_a_linked_request_that_has_to_wait_closes_its_connection(world):
    """RULES G2: the answer may be "later", the exporter was used all the same; also when it is asked again."""
    here = world(WaitingCA(), remote=True, claim=None)
    csr = make_csr(challenge_password=base64.b64encode(b"e" * 32).decode())
    for _ in range(2):
        outcome = await here.enrol(csr)
        assert isinstance(outcome, Postponed)
        assert outcome.close_connection
    plain = await here.enrol(make_csr(common_name="unlinked"))
    assert isinstance(plain, Postponed)
    assert not plain.close_connection


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


# -- a renewal that recovery finds -------------------------------------------------------------------------------------

WEEK = timedelta(days=7)


async def lost_renewal(here, *, new_name=None):
    """A device enrols, renews, and the remote CA loses the answer to that; the certificate that it has."""
    first = await here.enrol()
    here.service = replace(
        here.service,
        profile=replace(here.service.profile, change_subject_name=True),
        authentication=Renewing(first.certificate),
    )
    asked = () if new_name is None else (Attribute(oid=CHANGE, values=(der.sequence(new_name.public_bytes()),)),)
    csr = make_csr(first.certificate.subject, attributes=asked)
    credentials = Credentials(connection=CONNECTION, operation=Operation.SIMPLEREENROLL, label=None)
    here.backend.answer = lose
    with pytest.raises(BackendUnavailable) as lost:
        await here.enrolment.enrol(
            EnrolmentRequest(service=here.service, credentials=credentials, path_cache={}, body=csr.der)
        )
    assert lost.value.reason == "ca_unknown"
    return first.certificate.fingerprint(SHA256()).hex()


def lose(_order):
    raise RuntimeError("lost")


@pytest.mark.parametrize("revokes", [True, False])
async def test_a_renewal_that_recovery_finds_at_a_remote_ca_replaces_the_certificate_before(world, revokes):
    """As it would have at once: the link, and when the old one is revoked."""
    here = world(RememberingCA(lambda order: Issued(certificate=sign(order)), found=True), remote=True)
    old = await lost_renewal(here)
    await here.recover(revoke_replaced={"default": WEEK} if revokes else {})
    found, before = await here.recorded()
    assert (found.replaces, found.state, before.fingerprint) == (old, "valid", old)
    assert before.revoke_at == (found.issued_at + WEEK if revokes else None)


@pytest.mark.parametrize("approved", ["ws43", "ws44"])
async def test_a_renewal_that_recovery_finds_uses_up_the_approval_of_its_names_and_no_other(world, approved):
    """RULES F3: approved once. In between an administrator may have approved other names."""
    here = world(RememberingCA(lambda order: Issued(certificate=sign(order)), found=True), remote=True)
    listed, asked = [], common_name("ws43")

    async def approve(name, certificate):
        approval = NameChangeApproval(
            certificate=certificate, subject=f"CN={name}", names=(), until=now() + timedelta(hours=1)
        )
        listed.append(approval)
        await here.store.write(partial(name_changes.approve, approval=approval))

    enrol = here.enrolment.enrol

    async def approved_first(request):
        if request.credentials.operation is Operation.SIMPLEREENROLL:
            (first,) = await here.recorded()
            await approve("ws43", first.fingerprint)
        return await enrol(request)

    here.enrolment.enrol = approved_first
    old = await lost_renewal(here, new_name=asked)
    if approved != "ws43":
        await approve(approved, old)
    await here.recover()
    assert (await here.recorded())[0].subject == "CN=ws43"
    left = await here.store.read(partial(name_changes.find, certificate=old))
    assert left == (None if approved == "ws43" else listed[-1])


async def test_a_renewal_that_recovery_finds_of_a_certificate_that_was_revoked_meanwhile_is_revoked_too(world):
    """RULES B2: it gets no successor."""
    here = world(RememberingCA(lambda order: Issued(certificate=sign(order)), found=True), remote=True)
    old = await lost_renewal(here)
    await here.store.write(partial(certificates.revoke, fingerprint=old, reason=Reason.KEY_COMPROMISE))
    await here.recover(revoke_replaced={"default": WEEK})
    found, before = await here.recorded()
    assert (found.replaces, found.state, before.revoke_at) == (old, "revoked", None)
    assert await here.rows() == []
    assert (await here.events())[-2:] == ["enrolment_recovered", "certificate_revoked"]


@pytest.mark.parametrize(
    "failure", [RuntimeError("x"), BackendUnavailable("away"), "hang"], ids=["raises", "away", "hangs"]
)
async def test_recovery_outlives_a_ca_that_cannot_say_what_became_of_the_order(world, failure):
    """It runs before the server serves: what a plugin does there must not keep it from starting."""

    class Speechless(RememberingCA):
        async def find(self, _order_id):
            if failure == "hang":
                await asyncio.Event().wait()
            raise failure

    def fail(_order):
        raise RuntimeError

    here = world(Speechless(fail, found=False), remote=True)
    with pytest.raises(BackendUnavailable):
        await here.enrol()
    async with asyncio.timeout(10):
        await here.recover()
    assert here.spending.counts == (0, 1, 0), "what is unknown stays held"


async def test_recovery_settles_the_others_where_one_use_cannot_be_given_back(world):
    class Stuck(Spending):
        def release(self, tx, ref):
            if not self.asked:
                self.asked = True
                raise RuntimeError("stuck")
            super().release(tx, ref)

    here = world()
    here.spending = Stuck()
    here.spending.asked, here.spending.free = False, 2
    for id_ in ("first", "second"):
        row = dead_row(id_)
        await here.store.write(lambda tx, row=row: enrolments.start(tx, row, here.spending))
    await here.recover()
    assert here.spending.counts == (1, 1, 0), "one was stuck, the other came back"
    await here.recover()
    assert here.spending.counts == (2, 0, 0)


@pytest.mark.parametrize("method", ["reserve", "redeem", "release"])
async def test_what_a_spender_raises_is_a_fault_with_its_plugins_name(world, method):
    """docs/plugins/failures.md; never a 500."""

    def fail(*_):
        raise RuntimeError("x")

    here = world(CA(lambda _order: (_ for _ in ()).throw(BackendFault("no"))) if method == "release" else None)
    setattr(here.spending, method, fail)
    here.enrolment = replace_spender(here)
    with pytest.raises(BackendError) as raised:
        await here.enrol()
    assert raised.value.reason == ("backend_fault" if method == "release" else "plugin_failed")
    assert raised.value.plugin == (None if method in {"reserve", "release"} else "spending")
    assert here.spending.counts == {"reserve": (1, 0, 0), "redeem": (1, 0, 0), "release": (0, 1, 0)}[method]
    if method != "reserve":
        assert raised.value.audited
        assert "enrolment_failed" in await here.events()
        states = [recorded.state for recorded in await here.recorded()]
        assert states == (["revoked"] if method == "redeem" else []), (
            "what was signed is in the record, and good for nothing"
        )


@pytest.mark.parametrize("stuck", [(), ("release",)], ids=["given back", "still held"])
@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
async def test_what_was_signed_when_its_use_could_not_be_spent_is_recorded_as_revoked_and_its_ca_told(
    world, remote, stuck
):
    """Guarantee 1: nothing that exists is missing in the record; it is one transaction with the event of the failure."""

    def fail(*_):
        raise RuntimeError("x")

    here = world(RevokingCA(lambda order: Issued(certificate=sign(order))), remote=remote)
    for method in ("redeem", *stuck):
        setattr(here.spending, method, fail)
    with pytest.raises(BackendFault, match="not available"):
        await here.enrol()
    (recorded,) = await here.recorded()
    assert (recorded.state, recorded.untold_reason) == ("revoked", "cessationOfOperation")
    assert here.spending.counts == ((0, 1, 0) if stuck else (1, 0, 0))
    assert (await here.events())[-2:] == ["enrolment_failed", "certificate_revoked"]


async def test_what_recovery_will_find_again_when_the_use_is_stuck_is_left_to_it(world):
    """The use can be spent by then: the certificate is the client's after all."""
    here = world(RememberingCA(lambda order: Issued(certificate=sign(order, serial=77)), found=77), remote=True)
    redeem, release = here.spending.redeem, here.spending.release

    def fail(*_):
        raise RuntimeError("x")

    here.spending.redeem = here.spending.release = fail
    with pytest.raises(BackendFault):
        await here.enrol()
    assert await here.recorded() == ()
    here.spending.redeem, here.spending.release = redeem, release
    await here.recover()
    assert [recorded.state for recorded in await here.recorded()] == ["valid"]
    assert here.spending.counts == (0, 0, 1)


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
async def test_what_is_refused_after_a_remote_ca_has_signed_is_recorded_as_revoked(world, remote):
    """RULES F5: the key came to belong to somebody else meanwhile. Of a CA in this process nobody has seen anything."""
    go = asyncio.Event()

    async def slowly(order):
        await go.wait()
        return Issued(certificate=sign(order))

    here = world(CA(slowly), remote=remote, claim=None)
    csr = make_csr(common_name="x")
    both = [asyncio.create_task(here.enrol(csr, name=name)) for name in ("ws1", "ws2")]
    while len(here.backend.orders) < 2:
        await asyncio.sleep(0.01)
    go.set()
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Enrolled", "KeyRefused"]
    states = sorted(recorded.state for recorded in await here.recorded())
    assert states == (["revoked", "valid"] if remote else ["valid"])


def replace_spender(here):
    return Enrolment(
        store=here.store,
        spenders={"spending": here.spending},
        clock=now,
        ca_timeout=timedelta(seconds=0.2),
        process="b1/0/0",
    )


def dead_row(id_):
    return enrolments.NewEnrolment(
        id=id_,
        operation="simpleenroll",
        label=None,
        method="spending",
        identity_name="ws42",
        claim=CLAIM,
        ca="main",
        profile="default",
        request_sha256=id_,
        csr=b"",
        process="b1/0/0",
        lease_until=now() + timedelta(hours=1),
        created_at=now(),
    )


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


# -- lost answers (RULES D4) -------------------------------------------------------------------------------------------


async def test_a_promise_of_a_ca_and_then_its_certificate_are_what_the_same_request_gets(world):
    """RFC 7030, 4.2.3: pending is answered as ever; the window begins when the certificate is issued."""
    backend = WaitingCA()
    here = world(backend, remote=True, window=600)
    csr = make_csr(common_name="x")
    assert [await here.enrol(csr) for _ in range(2)] == [Postponed(retry_after=timedelta(seconds=5))] * 2
    backend.collected = True
    first, again = [await here.enrol(csr) for _ in range(2)]
    assert first.certificate == again.certificate
    assert here.spending.counts == (0, 0, 1)
    assert len(backend.orders) == 1


async def test_what_recovery_found_at_a_remote_ca_is_what_the_retry_gets(world):
    """Guarantee 3: no token is lost by a crash either."""

    def fail(_order):
        raise RuntimeError

    here = world(RememberingCA(fail, found=True), remote=True, window=600)
    csr = make_csr(common_name="x")
    with pytest.raises(BackendUnavailable):
        await here.enrol(csr)
    await here.recover()
    (recorded,) = await here.recorded()
    answer = await here.enrol(csr)
    assert x509.load_der_x509_certificate(recorded.der) == answer.certificate
    assert here.spending.counts == (0, 0, 1)
    assert (await here.events())[-1] == "certificate_replayed"
    with pytest.raises(BackendUnavailable, match="spent"):
        await here.enrol(make_csr(common_name="x"))


async def test_a_retry_whose_first_request_ends_between_its_look_and_its_hold_is_still_a_retry(world):
    """The use was spent in that moment: the denial says so, and the record is looked at again in the same transaction."""

    class Overtaken:
        """A store in which the first request ends right after the retry's first look."""

        def __init__(self) -> None:
            self.first = None
            self.write = here.store.write

        async def read(self, unit):
            found = await here.store.read(unit)
            if self.first is None:
                assert here.spending.free == 1
                self.first = await here.enrol(csr)
            return found

    csr = make_csr(common_name="x")
    here = world(window=600)
    store = Overtaken()
    late = Enrolment(
        store=store,
        spenders={"spending": here.spending},
        clock=now,
        ca_timeout=timedelta(seconds=0.2),
        process="b1/0/0",
    )
    answer = await late.enrol(here.request(csr))
    assert answer.certificate == store.first.certificate
    assert here.spending.counts == (0, 0, 1)


@pytest.mark.parametrize("others", [1, 0], ids=["the other's certificate", "something else"])
async def test_a_constraint_met_while_recording_has_the_record_looked_at_again(world, others):
    """RULES D4: on another node the same request was recorded in this moment. What is still refused then is a fault."""

    class Contended:
        """A store in which another node is first, and the unique index says so, as it is with two transactions that overlap."""

        def __init__(self) -> None:
            self.read = here.store.read
            self.first = None
            self.refusals = 1 if others else 2

        async def write(self, unit, **more):
            if unit.func.__name__ == "record" and self.refusals:
                self.refusals -= 1
                if others:
                    self.first = await here.enrol(csr)
                raise BackendFault("refused", reason="store_constraint")
            return await here.store.write(unit, **more)

    csr = make_csr(common_name="ws42")
    here = world(window=600, claim=None)
    as_certificate(here)
    store = Contended()
    late = Enrolment(store=store, spenders={}, clock=now, ca_timeout=timedelta(seconds=0.2), process="b1/0/0")
    if others:
        answer = await late.enrol(here.request(csr))
        assert answer.certificate == store.first.certificate
        assert len(await here.recorded()) == 1
    else:
        with pytest.raises(BackendFault):
            await late.enrol(here.request(csr))
        assert await here.recorded() == ()


@pytest.mark.parametrize(("remote", "certificates_made"), [(False, 1), (True, 2)], ids=["local", "remote"])
async def test_the_same_request_at_the_same_time_is_one_certificate_unless_a_remote_ca_knows_two(
    world, remote, certificates_made
):
    """RULES D4: what a remote CA has signed is recorded, so that it can be revoked; the newest is given again."""
    go = asyncio.Event()

    async def slowly(order):
        await go.wait()
        return Issued(certificate=sign(order))

    here = world(CA(slowly), remote=remote, claim=None, window=600)
    as_certificate(here)
    csr = make_csr(common_name="ws42")
    both = [asyncio.create_task(here.enrol(csr)) for _ in range(2)]
    while len(here.backend.orders) < 2:
        await asyncio.sleep(0.01)
    go.set()
    answers = await asyncio.gather(*both)
    assert len(await here.recorded()) == certificates_made
    again = await here.enrol(csr)
    assert again.certificate in [answer.certificate for answer in answers]
    assert len(here.backend.orders) == 2


async def test_a_ticket_has_no_window(world):
    """RULES D4: a proof that a client has any number of is no credential to ask again with, whatever certificate is beside it."""
    here = world(claim=None, window=600)
    as_certificate(here, method="gssapi")
    csr = make_csr(common_name="ws42")
    first, second = [await here.enrol(csr) for _ in range(2)]
    assert first.certificate != second.certificate


async def test_a_certificate_whose_key_was_compromised_meanwhile_is_not_given_again(world):
    """RULES F5: also where it was another certificate of the same key that was revoked."""
    here = world(CA(), claim=None, window=600)
    as_certificate(here)
    key = make_key()
    other, csr = make_csr(common_name="a", key=key), make_csr(common_name="b", key=key)
    await here.enrol(other)
    await here.enrol(csr)
    recorded = await here.recorded()
    first = recorded[-1]
    await here.store.write(partial(certificates.revoke, fingerprint=first.fingerprint, reason=Reason.KEY_COMPROMISE))
    with pytest.raises(KeyRefused, match="compromise"):
        await here.enrol(csr)


async def test_a_certificate_that_is_revoked_while_its_retry_is_under_way_is_not_given_again(world):
    """It is looked at once more in the transaction that writes the retry down."""
    here = world(window=600)
    csr = make_csr(common_name="x")
    await here.enrol(csr)
    (recorded,) = await here.recorded()

    async def revoke(step):
        if step == "record":
            unit = partial(certificates.revoke, fingerprint=recorded.fingerprint, reason=Reason.SUPERSEDED)
            await here.store.write(unit)

    here.enrolment._checkpoint = revoke
    with pytest.raises(BackendUnavailable) as raised:
        await here.enrol(csr)
    assert raised.value.reason == "replay_ended"
    assert raised.value.retry_after == timedelta(seconds=1)


def as_certificate(here, method="mtls"):
    """Let the client of this world show a client certificate, and be known by it unless another method says so."""
    device = ROOT.issue_client("ws42").certificate
    here.connection = replace(CONNECTION, presented=PresentedCertificate(leaf=device))
    here.method = method


# -- the key is made here (RFC 7030, 4.4; RULES J1) --------------------------------------------------------------------


def making_keys(here):
    here.operation = Operation.SERVERKEYGEN
    return here


def key_of(outcome):
    return load_der_private_key(outcome.key.der, None)


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
async def test_a_ca_is_shown_a_request_of_the_made_key_with_the_granted_names(world, remote, kind):
    """The client's own request is of a key that no certificate is for."""
    here = making_keys(world(remote=remote))
    outcome = await here.enrol(make_csr(common_name="whatever", dns=("ws42",), key=kind))
    (order,) = here.backend.orders
    request = x509.load_der_x509_csr(order.csr)
    assert request.is_signature_valid
    assert request.public_key() == key_of(outcome).public_key() == outcome.certificate.public_key()
    assert request.subject == order.subject == subject_for("ws42")
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert names in order.extensions
    assert here.spending.counts == (0, 0, 1)


@pytest.mark.parametrize("fault", [BackendUnavailable("away"), BackendFault("no"), RuntimeError("odd")], ids=repr)
async def test_a_ca_that_fails_gives_the_use_of_a_made_key_back(world, fault):
    """Guarantee 2."""

    def fail(_order):
        raise fault

    here = making_keys(world(CA(fail)))
    with pytest.raises((BackendUnavailable, BackendFault)):
        await here.enrol()
    assert here.spending.counts == (1, 0, 0)
    assert await here.recorded() == ()


async def test_a_queue_that_is_full_gives_the_use_back(world):
    """RULES J1."""
    here = making_keys(world())
    here.no_slow_key = BackendUnavailable("the server is too busy", reason="pool_full")
    with pytest.raises(BackendUnavailable, match="too busy"):
        await here.enrol(make_csr(key="rsa2048"))
    assert here.spending.counts == (1, 0, 0)
    assert here.backend.orders == []


async def test_where_the_ca_decides_later_no_key_is_kept_and_the_client_is_told_what_to_do(world):
    """RULES J1: a 503 with the CA's own time; the use comes back, and nothing waits for an answer that nobody could use."""
    here = making_keys(world(WaitingCA(), remote=True))
    with pytest.raises(BackendUnavailable, match="use simpleenroll") as raised:
        await here.enrol()
    assert raised.value.retry_after == timedelta(seconds=5)
    assert raised.value.reason == "ca_decides_later"
    assert here.spending.counts == (1, 0, 0)
    assert await here.rows() == []


async def test_what_recovery_finds_of_a_made_key_is_recorded_revoked_and_not_paid_for(world):
    """RULES J1: the private key died with the process; the CA's certificate is on record, and the client can ask again."""

    def fail(_order):
        raise RuntimeError

    here = making_keys(world(RememberingCA(fail, found=True), remote=True, window=600))
    csr = make_csr(common_name="x")
    with pytest.raises(BackendUnavailable):
        await here.enrol(csr)
    assert here.spending.counts == (0, 1, 0)
    await here.recover()
    (lost,) = await here.recorded()
    assert (lost.state, lost.revocation_reason) == ("revoked", "cessationOfOperation")
    assert here.spending.counts == (1, 0, 0)
    assert (await here.events())[-2:] == ["enrolment_recovered", "certificate_revoked"]
    here.backend.answer = lambda order: Issued(certificate=sign(order))
    outcome = await here.enrol(csr)
    assert key_of(outcome).public_key() == outcome.certificate.public_key()
    assert here.spending.counts == (0, 0, 1)


async def test_what_recovery_finds_pending_of_a_made_key_is_given_up(world):
    """RULES J1: whatever the CA decides, it is of a key that nobody has."""

    class Undecided(RememberingCA):
        async def find(self, order_id):
            return Pending(ref=order_id, retry_after=timedelta(seconds=5))

    def fail(_order):
        raise RuntimeError

    here = making_keys(world(Undecided(fail, found=False), remote=True))
    with pytest.raises(BackendUnavailable):
        await here.enrol()
    await here.recover()
    assert here.spending.counts == (1, 0, 0)
    assert await here.rows() == []


@pytest.mark.parametrize("remote", [False, True])
async def test_a_retry_of_a_made_key_revokes_the_first_certificate_in_the_same_transaction(world, remote):
    """RULES D4; a CA that wants to hear of revocations is told of it."""
    here = making_keys(world(RevokingCA(lambda order: Issued(certificate=sign(order))), remote=remote, window=600))
    csr = make_csr(common_name="x", dns=("ws42",))
    first = await here.enrol(csr)
    begun = len(await here.events())
    second = await here.enrol(csr)
    assert second.key.der != first.key.der
    assert (await here.events())[begun:] == [
        "authentication_succeeded",
        "certificate_requested",
        "certificate_revoked",
        "certificate_issued",
    ]
    newest, oldest = await here.recorded()
    assert (oldest.state, oldest.untold_reason) == ("revoked", "superseded")
    assert newest.state == "valid"
    assert here.spending.counts == (0, 0, 1)


async def test_the_twin_has_what_its_first_was_granted_whatever_the_profile_says_by_now(world):
    """RULES D4: the same request has the same answer but for the key, also after a reload."""
    here = making_keys(world(window=600))
    csr = make_csr(common_name="x", key="rsa2048", dns=("ws42",))
    first = await here.enrol(csr)
    here.service = replace(here.service, profile=Profile(name="other", extended_key_usage=()))
    second = await here.enrol(csr)
    assert second.certificate.subject == first.certificate.subject
    assert list(second.certificate.extensions) == list(first.certificate.extensions)


async def test_of_two_that_ask_for_a_key_at_once_with_one_certificate_the_later_one_keeps_its_own(world):
    """RULES D4: each gets the key of its certificate; one certificate is left valid."""
    go = asyncio.Event()

    async def slowly(order):
        await go.wait()
        return Issued(certificate=sign(order))

    here = making_keys(world(CA(slowly), claim=None, window=600))
    as_certificate(here)
    csr = make_csr(common_name="ws42")
    both = [asyncio.create_task(here.enrol(csr)) for _ in range(2)]
    while len(here.backend.orders) < 2:
        await asyncio.sleep(0.01)
    go.set()
    for outcome in await asyncio.gather(*both):
        assert key_of(outcome).public_key() == outcome.certificate.public_key()
    assert sorted(recorded.state for recorded in await here.recorded()) == ["revoked", "valid"]


async def test_of_two_that_ask_for_a_key_at_once_with_a_token_of_two_uses_one_is_spent(world):
    """RULES D4: of a token with several uses the same request takes one; the later certificate has the earlier one's use."""
    go = asyncio.Event()

    async def slowly(order):
        await go.wait()
        return Issued(certificate=sign(order))

    here = making_keys(world(CA(slowly), window=600))
    here.spending.free = 2
    csr = make_csr(common_name="x")
    both = [asyncio.create_task(here.enrol(csr)) for _ in range(2)]
    while len(here.backend.orders) < 2:
        await asyncio.sleep(0.01)
    assert here.spending.counts == (0, 2, 0)
    go.set()
    await asyncio.gather(*both)
    assert sorted(recorded.state for recorded in await here.recorded()) == ["revoked", "valid"]
    assert here.spending.counts == (1, 0, 1)


async def test_a_first_certificate_that_is_revoked_while_the_retry_is_under_way_has_no_successor(world):
    """The use was spent on it, and it was taken back: nothing is issued for it."""
    here = making_keys(world(window=600))
    csr = make_csr(common_name="x")
    await here.enrol(csr)
    (recorded,) = await here.recorded()

    async def revoke(step):
        if step == "record":
            unit = partial(certificates.revoke, fingerprint=recorded.fingerprint, reason=Reason.KEY_COMPROMISE)
            await here.store.write(unit)

    here.enrolment._checkpoint = revoke
    with pytest.raises(BackendUnavailable) as raised:
        await here.enrol(csr)
    assert raised.value.reason == "replay_ended"
    assert len(await here.recorded()) == 1


async def test_a_server_that_cannot_sign_sends_no_plain_key_instead(world):
    """RFC 7030, 4.4.1: what was asked for, or an error; the use comes back."""
    here = making_keys(world())
    device = ROOT.issue("device", key="rsa2048", key_usage=("key_encipherment",)).certificate
    here.enrolment._keys.encryption = KeyEncryption(recipients={key_identifier(device): device})
    named = der.octet_string(key_identifier(device))
    csr = make_csr(attributes=[Attribute(oid="1.2.840.113549.1.9.16.2.54", values=(named,))])
    with pytest.raises(BackendFault) as refused:
        await here.enrol(csr)
    assert refused.value.reason == "no_key_signer"
    assert here.spending.counts == (1, 0, 0)
    assert here.backend.orders == []


async def test_a_private_key_is_in_no_repr_of_an_outcome(world):
    """Guarantee 8: whoever logs what was answered logs no key."""
    outcome = await making_keys(world()).enrol()
    assert "BEGIN" not in repr(outcome)
    assert repr(outcome.key.der) not in repr(outcome)
    assert "KeyPart" not in repr(outcome)


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
