"""A small CA backend that keeps the contract, and one that is broken for each promise.

The CA stands at the other end of a wire that can be cut, decides later, finds its orders and revokes. In the room: `Contract` and `MUTANTS`.
Not in the room: real CAs (plugins/*/tests).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_private_key,
)

from kipuka.api import (
    BackendFault,
    BackendUnavailable,
    CABackendKind,
    CertificateChain,
    ConfigPath,
    CreatedCA,
    Issued,
    Pending,
    Secret,
    Section,
    StartupError,
)
from kipuka.testing.contract import CABackendContract
from kipuka.testing.harness import OpenedCABackend
from kipuka.testing.pki import common_name, make_root

from . import of_any_kind
from .light import Mutant, opened
from .of_any_kind import SECRET

STRAY = make_root("Stray").certificate


class Settings(Section):
    """A sample."""

    files: ConfigPath
    """Folder with ca.pem and ca.key."""

    password: Secret
    """What the CA asks for."""


class Leaky(Section):
    """The same, with a secret in the open."""

    files: ConfigPath
    """Folder with ca.pem and ca.key."""

    password: str
    """What the CA asks for."""


class Undescribed(Section):
    """The same, without a word on a key."""

    files: ConfigPath
    password: Secret


class Authority:
    """The CA at the other end of the wire."""

    def __init__(self, files):
        self.chain = CertificateChain(tuple(x509.load_pem_x509_certificates((files / "ca.pem").read_bytes())))
        self.key = load_pem_private_key((files / "ca.key").read_bytes(), None)
        self.taken = {}
        self.revoked = {}
        self.is_away = self.is_silent = False


AUTHORITIES: dict[object, Authority] = {}


class SampleCA:
    """Keeps the contract, with every ability."""

    def __init__(self, settings, services):
        self.password = (
            settings.password if isinstance(settings.password, str) else settings.password.get_secret_value()
        )
        self.services = services
        if settings.files not in AUTHORITIES:
            AUTHORITIES[settings.files] = Authority(settings.files)
        self.authority = AUTHORITIES[settings.files]

    async def reach(self):
        await asyncio.sleep(0)
        if self.authority.is_away:
            raise BackendUnavailable("the certification authority is away", retry_after=timedelta(seconds=7))

    async def ca_certificates(self):
        return self.authority.chain

    async def issue(self, order, /):
        await self.reach()
        self.take(order)
        if self.authority.is_silent:
            await asyncio.Event().wait()
        return self.promise(order)

    def take(self, order):
        if order.id not in self.authority.taken:
            self.authority.taken[order.id] = self.sign(order)

    def promise(self, order):
        return Pending(ref=order.id, retry_after=timedelta(seconds=7))

    async def collect(self, ref, /):
        await self.reach()
        if ref not in self.authority.taken:
            raise BackendFault("the certification authority does not know that request", reason="unknown_reference")
        return Issued(certificate=self.authority.taken[ref])

    async def find(self, order_id, /):
        await self.reach()
        taken = self.authority.taken.get(order_id)
        return None if taken is None else Issued(certificate=taken)

    async def revoke(self, certificate, reason, /):
        await self.reach()
        self.authority.revoked[certificate.serial_number] = reason

    async def health(self):
        return "the certification authority is away" if self.authority.is_away else None

    def sign(self, order):
        try:
            public_key = load_der_public_key(order.public_key)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BackendFault("the order's public key cannot be read", reason="bad_order") from error
        issuer = self.authority.chain.issuer
        builder = (
            x509.CertificateBuilder()
            .issuer_name(issuer.subject)
            .subject_name(order.subject)
            .public_key(public_key)
            .serial_number(self.serial())
            .not_valid_before(order.not_before)
            .not_valid_after(self.end(order, issuer))
        )
        for value, critical in (*self.ordered(order), *self.added(public_key, issuer)):
            builder = builder.add_extension(value, critical)
        return builder.sign(self.authority.key, hashes.SHA256())

    def serial(self):
        return x509.random_serial_number()

    def end(self, order, issuer):
        return min(order.not_after, issuer.not_valid_after_utc)

    def ordered(self, order):
        for extension in order.extensions:
            value = extension.value
            if isinstance(value, x509.BasicConstraints) or (isinstance(value, x509.KeyUsage) and value.key_cert_sign):
                raise BackendFault("the order is for a CA", reason="order_for_a_ca")
            yield value, extension.critical

    def added(self, public_key, issuer):
        yield x509.BasicConstraints(ca=False, path_length=None), True
        yield x509.SubjectKeyIdentifier.from_public_key(public_key), False
        yield self.names_issuer(issuer), False

    def names_issuer(self, issuer):
        there = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(there)


class Creator:
    """The ability `CreatesCA`."""

    names = ("ca.pem", "ca.key")

    def create(self, plan, /):
        self.check(plan)
        for name in self.names:
            if (plan.directory / name).exists():
                raise FileExistsError(name)
        plan.directory.mkdir(mode=0o700, exist_ok=True)
        root = make_root(plan.common_name)
        key, certificate = plan.directory / "ca.key", plan.directory / "ca.pem"
        self.write(key, root.key_pem())
        certificate.write_bytes(root.pem)
        chain = CertificateChain((root.certificate,))
        return CreatedCA(chain=chain, settings=self.settings(plan), files=(certificate, key))

    def check(self, plan):
        if not plan.common_name or plan.key_type != "p256" or plan.issuing_days < 1:
            raise StartupError("the plan makes no sense")

    def write(self, path, content):
        path.touch(mode=0o600)
        path.write_bytes(content)

    def settings(self, plan):
        return {"files": str(plan.directory), "password": "none"}


def kind_of(backend, creator=Creator):
    @asynccontextmanager
    async def open_sample(settings, services):
        yield backend(settings, services)

    return CABackendKind(name="sample", config=Settings, open=open_sample, remote=True, creator=creator())


ISSUING = make_root("Sample Root").issue_ca("Sample CA")


class Contract(CABackendContract):
    """The contract over a sample."""

    patience = 0.2
    silence = 0.02
    key_kinds = ("p256", "p384", "ed25519")

    def __init__(self, kind=None):
        self.kind = kind or kind_of(SampleCA)

    def section(self, directory):
        files = directory / "ca"
        files.mkdir(exist_ok=True)
        (files / "ca.pem").write_bytes(ISSUING.pem + ISSUING.root.pem)
        (files / "ca.key").write_bytes(ISSUING.key_pem())
        return {"files": "ca", "password": SECRET}

    def secrets(self):
        return (SECRET,)

    def open_with(self, section, directory):
        settings = self.kind.config.model_validate(section, context={"base": directory})
        return opened(OpenedCABackend, "backend", self.kind, settings, directory)

    @asynccontextmanager
    async def out_of_reach(self, directory):
        AUTHORITIES[directory / "ca"].is_away = True
        yield
        AUTHORITIES[directory / "ca"].is_away = False

    @asynccontextmanager
    async def silent(self, directory):
        AUTHORITIES[directory / "ca"].is_silent = True
        yield
        AUTHORITIES[directory / "ca"].is_silent = False


# -- the chain ---------------------------------------------------------------------------------------------------------


class ShowsAStrayCertificate(SampleCA):
    async def ca_certificates(self):
        return CertificateChain((*self.authority.chain.certificates, STRAY))


class LeavesTheRootOut(SampleCA):
    async def ca_certificates(self):
        return CertificateChain((self.authority.chain.issuer,))


class ShowsTheRootTwiceAtTimes(SampleCA):
    asked = 0

    async def ca_certificates(self):
        self.asked += 1
        chain = self.authority.chain
        return chain if self.asked < 3 else CertificateChain((*chain.certificates, chain.root))


# -- the certificate ---------------------------------------------------------------------------------------------------


class AddsAName(SampleCA):
    def ordered(self, order):
        for value, critical in super().ordered(order):
            if isinstance(value, x509.SubjectAlternativeName):
                yield x509.SubjectAlternativeName([*value, x509.DNSName("dc.example")]), critical
            else:
                yield value, critical


class MakesUsageUncritical(SampleCA):
    def ordered(self, order):
        for value, critical in super().ordered(order):
            yield value, critical and not isinstance(value, x509.KeyUsage)


class LeavesConstraintsOut(SampleCA):
    def added(self, public_key, issuer):
        return itertools.islice(super().added(public_key, issuer), 1, None)


class NamesTheIssuersKeyByItsOwnHash(SampleCA):
    def names_issuer(self, issuer):
        return x509.AuthorityKeyIdentifier(b"\x01" * 20, None, None)


class HasOneKeyIdentifier(SampleCA):
    def added(self, public_key, issuer):
        for value, critical in super().added(public_key, issuer):
            yield (
                (x509.SubjectKeyIdentifier(b"\x01") if isinstance(value, x509.SubjectKeyIdentifier) else value),
                critical,
            )


class RoundsUpToDays(SampleCA):
    def end(self, order, issuer):
        days = -(-(order.not_after - order.not_before) // timedelta(days=1))
        return min(order.not_before + timedelta(days=max(days, 2)), issuer.not_valid_after_utc)


class OutlivesItsIssuer(SampleCA):
    def end(self, order, issuer):
        return order.not_after


class KnowsOneCurve(SampleCA):
    def sign(self, order):
        if len(order.public_key) not in {91, 0, 2, 7, 90}:
            raise BackendFault("another key is needed", reason="bad_key")
        return super().sign(order)


class ReadsNamesAsText(SampleCA):
    def sign(self, order):
        text = order.subject.rfc4514_string()
        if "\\," in text:
            order = replace(order, subject=x509.Name.from_rfc4514_string(text.replace("\\,", ",").split(",")[0]))
        return super().sign(order)


class DropsWildcards(SampleCA):
    def ordered(self, order):
        for value, critical in super().ordered(order):
            if isinstance(value, x509.SubjectAlternativeName):
                kept = [name for name in value if "*" not in str(name.value)]
                yield x509.SubjectAlternativeName(kept), critical
            else:
                yield value, critical


class FillsTheSubject(SampleCA):
    def sign(self, order):
        return super().sign(order if list(order.subject) else replace(order, subject=common_name("device-1.example")))


class Counts(SampleCA):
    numbers = itertools.count(1 << 100)

    def serial(self):
        return next(self.numbers)


class HasShortNumbers(SampleCA):
    def serial(self):
        return x509.random_serial_number() >> 110


class NumbersByTime(SampleCA):
    def serial(self):
        time.sleep(0.000001)
        return (1 << 70) + time.time_ns()


# -- what is not signed ------------------------------------------------------------------------------------------------


class RaisesWhatItMay(SampleCA):
    def sign(self, order):
        load_der_public_key(order.public_key)
        return super().sign(order)


class SignsCAs(SampleCA):
    def ordered(self, order):
        for extension in order.extensions:
            yield extension.value, extension.critical

    def added(self, public_key, issuer):
        yield from list(super().added(public_key, issuer))[1:]
        yield self.constraints, True

    def sign(self, order):
        ordered = [one.value for one in order.extensions if isinstance(one.value, x509.BasicConstraints)]
        self.constraints = x509.BasicConstraints(ca=bool(ordered), path_length=None)
        rest = tuple(one for one in order.extensions if not isinstance(one.value, x509.BasicConstraints))
        return super().sign(replace(order, extensions=rest))


# -- among others ------------------------------------------------------------------------------------------------------


class MixesUpItsOrders(SampleCA):
    async def issue(self, order, /):
        self.order = order
        await asyncio.sleep(0)
        return await super().issue(self.order)


class KeepsALockWhenCancelled(SampleCA):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.lock = asyncio.Lock()

    async def issue(self, order, /):
        if self.authority.is_away or self.authority.is_silent:
            return await super().issue(order)
        await self.lock.acquire()
        try:
            answer = await super().issue(order)
        except BackendFault:
            self.lock.release()
            raise
        self.lock.release()
        return answer


class SwallowsCancellation(SampleCA):
    async def issue(self, order, /):
        try:
            return await super().issue(order)
        except asyncio.CancelledError:
            if self.authority.is_silent:
                raise
            raise BackendUnavailable("it was cancelled") from None


class Sleeps(SampleCA):
    def take(self, order):
        time.sleep(0)
        super().take(order)


class ReadsItsKeyInTheLoop(SampleCA):
    def take(self, order):
        open("/dev/null", "rb").close()  # noqa: PTH123
        super().take(order)


class LogsThePassword(SampleCA):
    def take(self, order):
        self.services.log.info("order_taken", order=order.id, password=self.password)
        super().take(order)


class CausesTellThePassword(SampleCA):
    async def reach(self):
        try:
            await super().reach()
        except BackendUnavailable as error:
            raise error from ConnectionError(f"https://kipuka:{self.password}@ca.example")


class RaisesWhenAway(SampleCA):
    async def issue(self, order, /):
        if self.authority.is_away:
            raise ConnectionError("no route to the CA")
        return await super().issue(order)


class PrintsTheAnswerOfTheCA(SampleCA):
    async def issue(self, order, /):
        if self.authority.is_away:
            raise BackendUnavailable("502 Bad Gateway\n<html>")
        return await super().issue(order)


# -- at the end of a wire ----------------------------------------------------------------------------------------------


class SignsTwice(SampleCA):
    def take(self, order):
        self.authority.taken[order.id] = self.sign(order)


class CallsALostAnswerUnsigned(SampleCA):
    async def issue(self, order, /):
        if self.authority.is_silent:
            self.take(order)
            raise BackendUnavailable("the certification authority did not answer")
        return await super().issue(order)


class FindsAnother(SampleCA):
    async def issue(self, order, /):
        if self.authority.is_silent:
            self.authority.taken[order.id] = STRAY
        return await super().issue(order)


class PromisesForNow(SampleCA):
    def promise(self, order):
        return Pending(ref=order.id, retry_after=timedelta(0))


class RefersInLines(SampleCA):
    def promise(self, order):
        return Pending(ref=f"{order.id}\n", retry_after=timedelta(seconds=7))

    async def collect(self, ref, /):
        return await super().collect(ref.strip())


class GivesOutOnce(SampleCA):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.given = set()

    async def collect(self, ref, /):
        if ref in self.given:
            raise BackendFault("it was given out", reason="gone")
        answer = await super().collect(ref)
        self.given.add(ref)
        return answer


class SignsWhenCollected(SampleCA):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.orders = {}
        self.times = {}

    def take(self, order):
        self.orders[order.id] = order
        super().take(order)

    async def collect(self, ref, /):
        answer = await super().collect(ref)
        self.times[ref] = self.times.get(ref, 0) + 1
        return Issued(certificate=self.sign(self.orders[ref])) if self.times[ref] > 2 else answer


class ForgetsItsPromises(SampleCA):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.promised = set()

    def promise(self, order):
        self.promised.add(order.id)
        return super().promise(order)

    async def collect(self, ref, /):
        if ref not in self.promised and ref in self.authority.taken:
            raise BackendUnavailable("it is not known")
        return await super().collect(ref)


class GivesSomebodyElses(SampleCA):
    async def collect(self, ref, /):
        await self.reach()
        return Issued(certificate=self.authority.taken.get(ref) or list(self.authority.taken.values())[-1])


class RaisesForUnknownReferences(SampleCA):
    async def collect(self, ref, /):
        await self.reach()
        return Issued(certificate=self.authority.taken[ref])


class NeverFinds(SampleCA):
    async def find(self, order_id, /):
        await self.reach()


class ForgetsItsOrders(SampleCA):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.mine = set()

    def take(self, order):
        self.mine.add(order.id)
        super().take(order)

    async def find(self, order_id, /):
        return await super().find(order_id) if order_id in self.mine or self.authority.is_away else None


class IsNeverCertain(SampleCA):
    async def find(self, order_id, /):
        found = await super().find(order_id)
        if found is None:
            raise BackendUnavailable("there is no such order")
        return found


class IsCertainWhileAway(SampleCA):
    async def find(self, order_id, /):
        return None if self.authority.is_away else await super().find(order_id)


class CallsAwayAFault(SampleCA):
    async def collect(self, ref, /):
        if self.authority.is_away:
            raise BackendFault("the certification authority failed", reason="refused_by_ca")
        return await super().collect(ref)


class RevokesOnce(SampleCA):
    async def revoke(self, certificate, reason, /):
        there = self.authority.revoked.get(certificate.serial_number)
        if there == reason != x509.ReasonFlags.remove_from_crl:
            raise ValueError("it is revoked already")
        await super().revoke(certificate, reason)


class KnowsNoHold(SampleCA):
    async def revoke(self, certificate, reason, /):
        if reason is x509.ReasonFlags.remove_from_crl:
            raise ValueError("a revocation is for ever")
        await super().revoke(certificate, reason)


class IsSilentAboutRevocation(SampleCA):
    async def revoke(self, certificate, reason, /):
        if not self.authority.is_away:
            await super().revoke(certificate, reason)


# -- making a CA -------------------------------------------------------------------------------------------------------


class NamesAnotherFolder(Creator):
    def settings(self, plan):
        return {"files": str(plan.directory / "elsewhere"), "password": "none"}


class LetsOthersRead(Creator):
    def write(self, path, content):
        path.write_bytes(content)
        path.chmod(0o644)


class LetsTheGroupWrite(Creator):
    def write(self, path, content):
        super().write(path, content)
        (path.parent / "ca.pem").touch()
        (path.parent / "ca.pem").chmod(0o664)


class Overwrites(Creator):
    names = ()


class OverwritesKeys(Creator):
    names = ("ca.pem",)


class TakesAnyPlan(Creator):
    def check(self, plan):
        pass


class BeginsBeforeItChecks(Creator):
    def check(self, plan):
        plan.directory.mkdir(exist_ok=True)
        if not (plan.directory / "ca.pem").exists():
            try:
                super().check(plan)
            except StartupError:
                (plan.directory / "ca.key").write_bytes(b"half")
                raise


MUTANTS = {
    **of_any_kind.mutants(kind_of(SampleCA), leaky=Leaky, undescribed=Undescribed),
    **{
        backend.__name__: Mutant(test, kind_of(backend), tuple(also))
        for backend, test, *also in (
            (
                ShowsAStrayCertificate,
                "test_the_chain_goes_from_the_issuer_up_to_a_root",
                "test_a_ca_that_is_made_can_be_opened",
            ),
            (LeavesTheRootOut, "test_the_chain_goes_from_the_issuer_up_to_a_root"),
            (ShowsTheRootTwiceAtTimes, "test_the_chain_stays_the_same"),
            (AddsAName, "test_the_certificate_is_the_one_that_was_ordered", "any"),
            (MakesUsageUncritical, "test_ordered_extensions_keep_their_criticality", "any"),
            (LeavesConstraintsOut, "test_the_certificate_says_that_it_is_no_ca"),
            (NamesTheIssuersKeyByItsOwnHash, "test_the_certificate_names_its_own_key_and_its_issuers"),
            (HasOneKeyIdentifier, "test_the_certificate_names_its_own_key_and_its_issuers"),
            (RoundsUpToDays, "test_the_validity_is_never_longer_than_ordered"),
            (OutlivesItsIssuer, "test_the_validity_ends_with_the_cas_own"),
            (KnowsOneCurve, "test_every_kind_of_key_is_certified"),
            (ReadsNamesAsText, "test_names_are_taken_as_they_are"),
            (DropsWildcards, "test_names_are_taken_as_they_are"),
            (FillsTheSubject, "test_an_empty_subject_stays_empty"),
            (Counts, "test_serial_numbers_are_unique_and_cannot_be_guessed"),
            (HasShortNumbers, "test_serial_numbers_are_unique_and_cannot_be_guessed"),
            (
                NumbersByTime,
                "test_serial_numbers_are_unique_and_cannot_be_guessed",
                "test_the_event_loop_is_not_held_up",
            ),
            (RaisesWhatItMay, "test_an_order_that_nobody_can_sign_is_refused_by_name"),
            (SignsCAs, "test_no_order_makes_a_ca"),
            (MixesUpItsOrders, "test_many_orders_at_once_get_each_their_own_certificate"),
            (KeepsALockWhenCancelled, "test_a_cancelled_order_holds_up_nothing"),
            (SwallowsCancellation, "test_a_cancelled_order_holds_up_nothing"),
            (Sleeps, "test_the_event_loop_is_not_held_up"),
            (ReadsItsKeyInTheLoop, "test_the_event_loop_is_not_held_up"),
            (LogsThePassword, "test_no_secret_is_left_in_log_error_or_database"),
            (CausesTellThePassword, "test_no_secret_is_left_in_log_error_or_database"),
            (RaisesWhenAway, "test_a_ca_that_is_away_has_signed_nothing"),
            (PrintsTheAnswerOfTheCA, "test_a_ca_that_is_away_has_signed_nothing"),
            (SignsTwice, "test_the_same_order_twice_is_one_certificate"),
            (CallsALostAnswerUnsigned, "test_an_answer_that_was_lost_is_not_called_unsigned"),
            (FindsAnother, "test_an_answer_that_was_lost_is_not_called_unsigned"),
            (PromisesForNow, "test_a_promise_has_a_reference_and_a_time"),
            (RefersInLines, "test_a_promise_has_a_reference_and_a_time"),
            (
                GivesOutOnce,
                "test_what_was_promised_can_be_collected_again_and_again",
                "test_the_same_order_twice_is_one_certificate",
            ),
            (SignsWhenCollected, "test_what_was_promised_can_be_collected_again_and_again"),
            (ForgetsItsPromises, "test_a_promise_outlives_the_process"),
            (GivesSomebodyElses, "test_a_reference_that_the_ca_does_not_know_is_told"),
            (RaisesForUnknownReferences, "test_a_reference_that_the_ca_does_not_know_is_told"),
            (NeverFinds, "test_an_order_that_it_took_is_found"),
            (ForgetsItsOrders, "test_an_order_that_it_took_is_found"),
            (IsNeverCertain, "test_an_order_that_it_never_took_is_none", "test_the_event_loop_is_not_held_up"),
            (IsCertainWhileAway, "test_looking_is_unsure_while_the_ca_is_away"),
            (CallsAwayAFault, "test_looking_is_unsure_while_the_ca_is_away"),
            (RevokesOnce, "test_revoking_twice_is_no_error"),
            (KnowsNoHold, "test_every_reason_and_the_end_of_a_hold_are_taken"),
            (IsSilentAboutRevocation, "test_a_revocation_that_is_not_certain_is_told"),
        )
    },
    **{
        creator.__name__: Mutant(test, kind_of(SampleCA, creator))
        for creator, test in (
            (NamesAnotherFolder, "test_a_ca_that_is_made_can_be_opened"),
            (LetsOthersRead, "test_a_ca_that_is_made_is_the_owners_only"),
            (LetsTheGroupWrite, "test_a_ca_that_is_made_is_the_owners_only"),
            (Overwrites, "test_a_ca_is_never_overwritten"),
            (OverwritesKeys, "test_a_ca_is_never_overwritten"),
            (TakesAnyPlan, "test_a_plan_that_makes_no_sense_is_refused"),
            (BeginsBeforeItChecks, "test_a_plan_that_makes_no_sense_is_refused"),
        )
    },
}
