"""A small authenticator that keeps the contract, and one that is broken for each promise.

Its credentials are coupons, good once. In the room: `Contract` and `MUTANTS`. Not in the room: real methods (plugins/*/tests).
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from hashlib import sha256

from kipuka.api import (
    Authenticated,
    AuthenticatorKind,
    Authorization,
    Claim,
    Continue,
    Denied,
    Identity,
    NotPresented,
    Secret,
    Section,
)
from kipuka.testing.contract import AuthenticatorContract
from kipuka.testing.harness import OpenedAuthenticator, credentials

from . import of_any_kind
from .light import Mutant, opened
from .of_any_kind import SECRET

AWAY = set()
"""Directories whose register of coupons is out of reach."""


class Settings(Section):
    """A sample."""

    password: Secret
    """Of the register of coupons."""


class Leaky(Section):
    """The same, with a secret in the open."""

    password: str
    """Of the register of coupons."""


class Undescribed(Section):
    """The same, without a word on the key."""

    password: Secret


class Coupons:
    """Keeps the contract, with `SpendsOnIssue`, `CountsFailures` and `ReportsHealth`."""

    challenge = 'Coupon realm="test"'

    def __init__(self, settings, services):
        self.services = services
        self.rows = services.rows

    def make(self):
        coupon = secrets.token_urlsafe(16)
        self.rows[self.ref(coupon)] = {"left": 1, "held": 0}
        return coupon

    def ref(self, coupon):
        return sha256(coupon.encode("utf-8", "surrogatepass")).hexdigest()[:16]

    async def authenticate(self, presented, /):
        given = presented.authorization
        if given is None or given.scheme != "coupon":
            return NotPresented()
        await asyncio.sleep(0)
        return self.judge(self.ref(given.parameters))

    def judge(self, ref):
        row = self.rows.get(ref)
        if row is None:
            return Denied(detail="no such coupon", reason="unknown_coupon")
        if not row["left"]:
            return self.spent(ref)
        return Authenticated(identity=Identity(method="sample", name=ref), claim=Claim(plugin="sample", ref=ref))

    def spent(self, ref):
        return Denied(detail="the coupon was used", reason="coupon_spent", spent=Claim(plugin="sample", ref=ref))

    def reserve(self, tx, ref, /):
        row = tx.rows[ref]
        if row["left"] <= row["held"]:
            return self.spent(ref)
        row["held"] += 1
        return None

    def redeem(self, tx, ref, /):
        tx.rows[ref]["held"] -= 1
        tx.rows[ref]["left"] -= 1

    def release(self, tx, ref, /):
        tx.rows[ref]["held"] -= 1

    async def count_failure(self, denied, presented, /):
        return denied

    async def health(self):
        return "the register is away" if self.services.directory in AWAY else None


def kind_of(authenticator):
    @asynccontextmanager
    async def open_sample(settings, services):
        yield authenticator(settings, services)

    return AuthenticatorKind(name="sample", config=Settings, open=open_sample)


class Contract(AuthenticatorContract):
    """The contract over a sample."""

    patience = 0.2
    scheme = "coupon"

    def __init__(self, kind=None):
        self.kind = kind or kind_of(Coupons)

    def section(self, directory):
        return {"password": SECRET}

    def secrets(self):
        return (SECRET,)

    def open(self, directory):
        return opened(OpenedAuthenticator, "authenticator", self.kind, self.settings(directory), directory)

    async def good(self, opened):
        coupon = opened.authenticator.make()
        return credentials(authorization=Authorization(scheme="coupon", parameters=coupon))

    def wrong(self):
        return [credentials(authorization=Authorization(scheme="coupon", parameters="none-of-ours"))]

    @asynccontextmanager
    async def out_of_reach(self, directory):
        AWAY.add(directory)
        yield
        AWAY.discard(directory)


class SplitsHeaders(Coupons):
    challenge = "Coupon\r\nSet-Cookie: x"


class DeniesWhoPresentsNothing(Coupons):
    async def authenticate(self, presented, /):
        if presented.authorization is None:
            return Denied(detail="a coupon is needed", reason="no_coupon")
        return await super().authenticate(presented)


class JudgesEveryScheme(Coupons):
    async def authenticate(self, presented, /):
        given = presented.authorization
        return NotPresented() if given is None else self.judge(self.ref(given.parameters))


class NamesAnotherMethod(Coupons):
    def judge(self, ref):
        outcome = super().judge(ref)
        if isinstance(outcome, Authenticated):
            return replace(outcome, identity=Identity(method="mtls", name=ref))
        return outcome


class ClaimsWithTheCoupon(Coupons):
    async def authenticate(self, presented, /):
        outcome = await super().authenticate(presented)
        if isinstance(outcome, Authenticated):
            return replace(outcome, identity=Identity(method="sample", name=presented.authorization.parameters))
        return outcome


class ClaimsAndCannotSpend:
    """Without the three functions."""

    challenge = None

    def __init__(self, settings, services):
        self.inner = Coupons(settings, services)
        self.make, self.authenticate, self.health = self.inner.make, self.inner.authenticate, self.inner.health


class TellsAnotherNameTheSecondTime(Coupons):
    last = None

    def judge(self, ref):
        outcome = super().judge(ref)
        again, self.last = self.last == ref, ref
        if again and isinstance(outcome, Authenticated):
            return replace(outcome, identity=Identity(method="sample", name="again"))
        return outcome


class WritesANovel(Coupons):
    def judge(self, ref):
        outcome = super().judge(ref)
        if isinstance(outcome, Denied) and outcome.spent is None:
            return Denied(detail="no such coupon,\nnot here", reason="unknown_coupon")
        return outcome


class ReasonsInSentences(Coupons):
    def judge(self, ref):
        outcome = super().judge(ref)
        return replace(outcome, reason="No such coupon.") if isinstance(outcome, Denied) else outcome


class TellsWhatWasPresented(Coupons):
    async def authenticate(self, presented, /):
        outcome = await super().authenticate(presented)
        if isinstance(outcome, Denied) and outcome.spent is None:
            return replace(outcome, explanation=f"{presented.authorization.parameters} is none of ours")
        return outcome


class CallsAnythingSpent(Coupons):
    def judge(self, ref):
        outcome = super().judge(ref)
        return replace(outcome, spent=Claim(plugin="sample", ref=ref)) if isinstance(outcome, Denied) else outcome


class AnswersWithACookie(Coupons):
    def judge(self, ref):
        outcome = super().judge(ref)
        if isinstance(outcome, Authenticated):
            return replace(outcome, response_challenge="Coupon a\r\nSet-Cookie: b")
        return outcome


class AsksForMoreIllegally(Coupons):
    async def authenticate(self, presented, /):
        if presented.authorization is not None and presented.authorization.parameters == "null":
            return Continue(challenge="Coupon é")
        return await super().authenticate(presented)


class RaisesForSomeBytes(Coupons):
    def ref(self, coupon):
        return sha256(coupon.encode("ascii")).hexdigest()[:16]


class MixesUpItsCallers(Coupons):
    async def authenticate(self, presented, /):
        self.last = presented
        await asyncio.sleep(0)
        return await super().authenticate(self.last)


class KeepsALockWhenCancelled(Coupons):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.locked = set()

    async def authenticate(self, presented, /):
        if presented in self.locked:
            return Denied(detail="it is being looked at", reason="in_use")
        self.locked.add(presented)
        outcome = await super().authenticate(presented)
        self.locked.discard(presented)
        return outcome


class SwallowsCancellation(Coupons):
    async def authenticate(self, presented, /):
        try:
            return await super().authenticate(presented)
        except asyncio.CancelledError:
            return Denied(detail="too slow", reason="too_slow")


class Sleeps(Coupons):
    def judge(self, ref):
        time.sleep(0)
        return super().judge(ref)


class ReadsAFile(Coupons):
    def judge(self, ref):
        with open("/dev/null", encoding="ascii") as file:  # noqa: PTH123
            file.read()
        return super().judge(ref)


class Computes(Coupons):
    async def authenticate(self, presented, /):
        if presented.authorization is not None and presented.authorization.parameters == "none-of-ours":
            end = time.thread_time() + 0.15
            while time.thread_time() < end:
                sha256(b"slow").hexdigest()
        return await super().authenticate(presented)


class LogsTheCoupon(Coupons):
    async def authenticate(self, presented, /):
        if presented.authorization is not None:
            self.services.log.info("coupon_shown", coupon=presented.authorization.parameters)
        return await super().authenticate(presented)


class LogsItsPassword(Coupons):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        services.log.info("opened", password=settings.password.get_secret_value())


class GivesBackTwice(Coupons):
    """What is given back a third time stays held."""

    def release(self, tx, ref, /):
        row = tx.rows[ref]
        row["given"] = row.get("given", 0) + 1
        if row["given"] <= 2:
            super().release(tx, ref)


class RemembersInMemory(Coupons):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.memory = {}

    def reserve(self, tx, ref, /):
        if self.memory.get(ref, 0) >= tx.rows[ref]["left"]:
            return self.spent(ref)
        self.memory[ref] = self.memory.get(ref, 0) + 1
        return None

    def redeem(self, tx, ref, /):
        tx.rows[ref]["left"] -= 1
        self.memory[ref] = self.memory.get(ref, 0) - 1

    def release(self, tx, ref, /):
        self.memory[ref] = self.memory.get(ref, 0) - 1


class SellsTwiceWhatWasGivenBack(Coupons):
    def reserve(self, tx, ref, /):
        row = tx.rows[ref]
        if row["left"] + row.get("given", 0) <= row["held"]:
            return self.spent(ref)
        row["held"] += 1
        return None

    def release(self, tx, ref, /):
        super().release(tx, ref)
        tx.rows[ref]["given"] = 1


class RecognisesWhatIsSpent(Coupons):
    def judge(self, ref):
        row = self.rows.get(ref)
        if row is not None and not row["left"]:
            return Authenticated(identity=Identity(method="sample", name=ref), claim=Claim(plugin="sample", ref=ref))
        return super().judge(ref)


class NamesAnotherClaim(Coupons):
    def spent(self, ref):
        return replace(super().spent(ref), spent=Claim(plugin="sample", ref="another"))


class ForgivesWhatItCounts(Coupons):
    async def count_failure(self, denied, presented, /):
        return NotPresented()


class SettlesOnlyWhatItJudged(Coupons):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.judged = set()

    def judge(self, ref):
        self.judged.add(ref)
        return super().judge(ref)

    def release(self, tx, ref, /):
        if ref in self.judged:
            super().release(tx, ref)


MUTANTS = {
    **of_any_kind.mutants(kind_of(Coupons), leaky=Leaky, undescribed=Undescribed),
    **{
        authenticator.__name__: Mutant(test, kind_of(authenticator), tuple(also))
        for authenticator, test, *also in (
            (SplitsHeaders, "test_the_challenge_is_a_legal_header_value_or_none"),
            (DeniesWhoPresentsNothing, "test_no_credential_is_not_presented"),
            (JudgesEveryScheme, "test_another_scheme_is_not_presented"),
            (NamesAnotherMethod, "test_a_good_credential_is_authenticated"),
            (ClaimsWithTheCoupon, "test_a_good_credential_is_authenticated"),
            (
                ClaimsAndCannotSpend,
                "test_a_good_credential_is_authenticated",
                "test_a_held_use_can_be_given_back_and_taken_again",
                "test_a_held_use_survives_the_process",
                "test_a_spent_credential_is_denied",
                "test_cancellation_leaves_nothing_held",
                "test_no_secret_is_left_in_log_audit_or_database",
                "test_parallel_reservations_and_redemptions_stay_within_what_is_there",
                "test_what_was_rolled_back_can_be_done_again",
            ),
            (TellsAnotherNameTheSecondTime, "test_judging_spends_nothing"),
            (WritesANovel, "test_a_wrong_credential_is_denied_with_a_text_and_a_reason"),
            (ReasonsInSentences, "test_a_wrong_credential_is_denied_with_a_text_and_a_reason"),
            (TellsWhatWasPresented, "test_a_wrong_credential_is_denied_with_a_text_and_a_reason"),
            (CallsAnythingSpent, "test_a_wrong_credential_is_denied_with_a_text_and_a_reason"),
            (AnswersWithACookie, "test_a_challenge_on_the_way_is_a_legal_header_value"),
            (AsksForMoreIllegally, "test_a_challenge_on_the_way_is_a_legal_header_value"),
            (RaisesForSomeBytes, "test_garbage_is_refused_and_never_raises"),
            (MixesUpItsCallers, "test_many_good_credentials_at_once_are_all_served"),
            (KeepsALockWhenCancelled, "test_cancellation_leaves_nothing_held"),
            (SwallowsCancellation, "test_cancellation_leaves_nothing_held"),
            (Sleeps, "test_the_event_loop_is_not_held_up"),
            (ReadsAFile, "test_the_event_loop_is_not_held_up"),
            (Computes, "test_the_event_loop_is_not_held_up"),
            (LogsTheCoupon, "test_no_secret_is_left_in_log_audit_or_database"),
            (LogsItsPassword, "test_no_secret_is_left_in_log_audit_or_database"),
            (GivesBackTwice, "test_a_held_use_can_be_given_back_and_taken_again"),
            (
                RemembersInMemory,
                "test_what_was_rolled_back_can_be_done_again",
            ),
            (
                SellsTwiceWhatWasGivenBack,
                "test_parallel_reservations_and_redemptions_stay_within_what_is_there",
            ),
            (RecognisesWhatIsSpent, "test_a_spent_credential_is_denied"),
            (NamesAnotherClaim, "test_a_spent_credential_is_denied"),
            (ForgivesWhatItCounts, "test_a_spent_credential_is_denied"),
            (SettlesOnlyWhatItJudged, "test_a_held_use_survives_the_process"),
        )
    },
}
