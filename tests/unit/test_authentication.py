"""Precedence and the denial a client hears (RULES C3, the chapter's order)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from kipuka.api import (
    Authenticated,
    BackendUnavailable,
    CertificateRequired,
    Claim,
    Connection,
    Continue,
    Credentials,
    DenialKind,
    Denied,
    Identity,
    LockedOut,
    NotAuthenticated,
    NotPermitted,
    NotPresented,
    Operation,
)
from kipuka.authentication import Authentication, Denial, Recognised, Unrecognised, failure_events, refusal

CREDENTIALS = Credentials(
    connection=Connection(
        id="c", listener="est", client_address="127.0.0.1", client_port=1, tls_version="TLSv1.3", cipher="x"
    ),
    operation=Operation.SIMPLEENROLL,
    label=None,
)
GOOD = Authenticated(identity=Identity(method="x", name="x"))
WRONG = Denied(detail="wrong", reason="wrong")
LOCKED = Denied(detail="locked", reason="locked", kind=DenialKind.LOCKED, retry_after=timedelta(seconds=9))
BUSY = Denied(detail="busy", reason="busy", kind=DenialKind.BUSY, retry_after=timedelta(seconds=1))
NOT_PERMITTED = Denied(detail="not you", reason="not_permitted", kind=DenialKind.NOT_PERMITTED)


@dataclass
class Answering:
    """An authenticator with a ready answer."""

    answer: object
    challenge: str | None = None
    asked: list[Credentials] = field(default_factory=list)

    async def authenticate(self, credentials):
        self.asked.append(credentials)
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class Hanging:
    challenge = None

    async def authenticate(self, _credentials):
        await asyncio.Event().wait()


async def accept(_authenticated):
    return None


def chain(**methods) -> Authentication:
    return Authentication(methods, timeout=timedelta(seconds=0.05))


async def test_the_first_method_that_recognises_the_client_wins_and_later_ones_are_not_asked():
    otp = Answering(GOOD)
    outcome = await chain(mtls=Answering(GOOD), otp=otp).authenticate(CREDENTIALS, accept=accept)
    assert isinstance(outcome, Recognised)
    assert outcome.method == "mtls"
    assert otp.asked == []


async def test_a_denial_does_not_stop_the_next_method_and_is_kept_for_audit():
    outcome = await chain(mtls=Answering(WRONG), otp=Answering(GOOD)).authenticate(CREDENTIALS, accept=accept)
    assert isinstance(outcome, Recognised)
    assert outcome.method == "otp"
    assert [event.method for event in failure_events(outcome.denials, CREDENTIALS)] == ["mtls"]


async def test_a_denied_certificate_ends_the_search_where_it_is_final():
    """RULES A2: in mode required a bad certificate is refused whatever else is presented."""
    otp = Answering(GOOD)
    outcome = await chain(mtls=Answering(WRONG), otp=otp).authenticate(
        CREDENTIALS, certificate_is_final=True, accept=accept
    )
    assert isinstance(outcome, Unrecognised)
    assert otp.asked == []


async def test_a_method_that_is_not_allowed_here_is_not_asked():
    otp = Answering(GOOD)
    outcome = await chain(otp=otp).authenticate(CREDENTIALS, allowed=frozenset({"mtls"}), accept=accept)
    assert outcome == Unrecognised()
    assert otp.asked == []


async def test_a_use_that_cannot_be_held_is_a_denial_and_the_next_method_is_asked():
    async def refuse_first(authenticated):
        return BUSY if authenticated is GOOD else None

    other = Authenticated(identity=Identity(method="y", name="y"))
    outcome = await chain(a=Answering(GOOD), b=Answering(other)).authenticate(CREDENTIALS, accept=refuse_first)
    assert isinstance(outcome, Recognised)
    assert (outcome.method, outcome.denials) == ("b", (Denial(method="a", denied=BUSY),))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (Answering(RuntimeError("secret")), "plugin_failed"),
        (Answering(BackendUnavailable("away")), "backend_unavailable"),
        (Hanging(), "timed_out"),
    ],
)
async def test_a_method_that_breaks_is_a_busy_denial_and_the_others_go_on(broken, reason):
    outcome = await chain(a=broken, b=Answering(GOOD)).authenticate(CREDENTIALS, accept=accept)
    assert isinstance(outcome, Recognised)
    (denial,) = outcome.denials
    assert (denial.denied.kind, denial.denied.reason) == (DenialKind.BUSY, reason)
    assert "secret" not in denial.denied.detail


@pytest.mark.parametrize("reason", ["store_unavailable", "store_queue_full", "node_lost"])
async def test_a_store_that_is_away_is_no_denial_and_nobody_else_is_asked(reason):
    """It is not the method's trouble, and an audited denial would have to wait for the store in turn."""
    away = BackendUnavailable("the server's store is not available", reason=reason)
    other = Answering(GOOD)
    with pytest.raises(BackendUnavailable) as caught:
        await chain(a=Answering(away), b=other).authenticate(CREDENTIALS, accept=accept)
    assert caught.value is away
    assert other.asked == []


def test_basic_is_the_first_challenge():
    """RULES C3: Basic first, since some clients look at the first challenge only."""
    methods = chain(
        gssapi=Answering(GOOD, "Negotiate"), mtls=Answering(GOOD), otp=Answering(GOOD, 'Basic realm="kipuka"')
    )
    assert methods.challenges() == ('Basic realm="kipuka"', "Negotiate")
    assert methods.challenges(frozenset({"mtls"})) == ()


def told(*denials: Denied, certificate_only: bool = False, challenges: tuple[str, ...] = ("Basic x",)):
    outcome = Unrecognised(denials=tuple(Denial(method="m", denied=denied) for denied in denials))
    return refusal(outcome, challenges=challenges, certificate_only=certificate_only)


@pytest.mark.parametrize(
    ("error", "kind", "detail"),
    [
        pytest.param(told(), NotAuthenticated, "", id="nothing presented"),
        pytest.param(
            told(certificate_only=True), CertificateRequired, "client certificate required", id="only a certificate"
        ),
        pytest.param(
            told(challenges=()), CertificateRequired, "client certificate required", id="no challenge to offer"
        ),
        pytest.param(told(WRONG, NOT_PERMITTED), NotAuthenticated, "wrong", id="the first is answered"),
        pytest.param(told(NOT_PERMITTED, WRONG), NotPermitted, "not you", id="not permitted"),
        pytest.param(told(WRONG, LOCKED), LockedOut, "locked", id="locked comes before"),
        pytest.param(told(WRONG, BUSY), BackendUnavailable, "busy", id="busy comes before"),
        pytest.param(told(BUSY, LOCKED), BackendUnavailable, "busy", id="among urgent ones the first"),
        pytest.param(told(WRONG, certificate_only=True), CertificateRequired, "wrong", id="denied certificate"),
    ],
)
def test_a_client_hears_one_denial(error, kind, detail):
    """RULES C3: which denial is answered."""
    assert type(error) is kind
    assert error.detail == detail


def test_a_second_leg_is_asked_for_with_its_own_challenge():
    outcome = Unrecognised(continuations=("Negotiate abc",))
    error = refusal(outcome, challenges=("Basic x", "Negotiate"), certificate_only=False)
    assert isinstance(error, NotAuthenticated)
    assert error.challenges == ("Negotiate abc",)


def test_an_exchange_that_goes_on_comes_before_a_denial():
    """The chapter, precedence: a bad certificate does not stop a method that may still succeed."""
    outcome = Unrecognised(denials=(Denial(method="mtls", denied=WRONG),), continuations=("Negotiate abc",))
    error = refusal(outcome, challenges=("Basic x", "Negotiate"), certificate_only=False)
    assert isinstance(error, NotAuthenticated)
    assert error.challenges == ("Negotiate abc",)
    assert isinstance(refusal(outcome, challenges=("Basic x",), certificate_only=True), CertificateRequired)


def test_what_a_denial_explains_is_in_the_audit_event():
    denied = Denied(detail="x", reason="clock_skew", explanation="the client's clock is late")
    (event,) = failure_events([Denial(method="gssapi", denied=denied)], CREDENTIALS)
    assert (event.reason, event.explanation) == ("clock_skew", "the client's clock is late")


def test_a_denial_that_asks_to_come_back_says_when():
    with pytest.raises(ValueError, match="needs retry_after"):
        Denied(detail="x", reason="x", kind=DenialKind.LOCKED)


SPENT = Denied(detail="spent", reason="spent", spent=Claim(plugin="a", ref="7"))


@dataclass
class Counting(Answering):
    """One that counts what is spent, and says so."""

    counts: object = LOCKED
    counted: list[Denied] = field(default_factory=list)

    async def count_failure(self, denied, credentials):
        assert credentials is CREDENTIALS
        self.counted.append(denied)
        if isinstance(self.counts, BaseException):
            raise self.counts
        return self.counts


async def test_a_spent_credential_wins_where_there_is_an_answer_to_give_again():
    """RULES D4, C4: it is no failure then, and later methods are not asked."""
    asked = []

    async def recall(method, claim):
        asked.append((method, claim))
        return True

    a, b = Counting(SPENT), Answering(GOOD)
    outcome = await chain(a=a, b=b).authenticate(CREDENTIALS, accept=accept, recall=recall)
    assert outcome == Recognised(method="a", authenticated=None)
    assert asked == [("a", SPENT.spent)]
    assert (a.counted, b.asked) == ([], [])


async def test_only_what_a_method_calls_spent_is_looked_for():
    """RULES D4: a wrong, expired or revoked credential asks for nothing."""

    async def recall(method, claim):
        raise AssertionError((method, claim))

    outcome = await chain(a=Counting(WRONG)).authenticate(CREDENTIALS, accept=accept, recall=recall)
    assert outcome == Unrecognised(denials=(Denial(method="a", denied=WRONG),))


async def recall_nothing(_method, _claim):
    return False


@pytest.mark.parametrize("spent_in", ["authenticate", "reserve"])
async def test_a_spent_credential_with_nothing_to_give_again_is_counted_and_the_next_method_asked(spent_in):
    """RULES C4: the method that counts says what the client hears, wherever it was found to be spent."""

    async def refuse(authenticated):
        return SPENT if authenticated is GOOD else None

    first = Counting(SPENT if spent_in == "authenticate" else GOOD)
    other = Authenticated(identity=Identity(method="y", name="y"))
    outcome = await chain(a=first, b=Answering(other)).authenticate(CREDENTIALS, accept=refuse, recall=recall_nothing)
    assert isinstance(outcome, Recognised)
    assert (outcome.method, outcome.denials) == ("b", (Denial(method="a", denied=LOCKED),))
    assert first.counted == [SPENT]


async def test_a_method_that_does_not_count_has_its_denial_as_it_is():
    outcome = await chain(a=Answering(SPENT)).authenticate(CREDENTIALS, accept=accept, recall=recall_nothing)
    assert outcome == Unrecognised(denials=(Denial(method="a", denied=SPENT),))


async def test_a_method_that_breaks_while_it_counts_is_a_busy_denial():
    broken = Counting(SPENT, counts=RuntimeError("secret"))
    outcome = await chain(a=broken).authenticate(CREDENTIALS, accept=accept, recall=recall_nothing)
    assert isinstance(outcome, Unrecognised)
    (denial,) = outcome.denials
    assert (denial.denied.kind, denial.denied.reason) == (DenialKind.BUSY, "plugin_failed")


async def test_an_unexpected_answer_leg_is_reported_as_a_continuation():
    outcome = await chain(a=Answering(Continue(challenge="Negotiate abc")), b=Answering(NotPresented())).authenticate(
        CREDENTIALS, accept=accept
    )
    assert outcome == Unrecognised(continuations=("Negotiate abc",))


# --- Several methods together


CERTIFIED = Authenticated(identity=Identity(method="mtls", name="CN=ws42"))
HOLDER = Authenticated(
    identity=Identity(method="otp", name="ws42"), claim=Claim(plugin="otp", ref="7"), response_challenge="Done"
)
BOTH = (("mtls", "otp"),)


async def together(methods, sets=BOTH, **more):
    return await chain(**methods).authenticate_together(CREDENTIALS, sets, **({"accept": accept} | more))


@pytest.mark.parametrize(
    ("sets", "first", "second"), [(BOTH, CERTIFIED, HOLDER), ((("otp", "mtls"),), HOLDER, CERTIFIED)]
)
async def test_of_methods_that_are_required_together_the_first_names_the_client(sets, first, second):
    """What any of them wants spent is spent, and what any of them answers is answered."""
    accepted = []

    async def keep(authenticated):
        accepted.append(authenticated)

    outcome = await together({"otp": Answering(HOLDER), "mtls": Answering(CERTIFIED)}, sets, accept=keep)
    assert isinstance(outcome, Recognised)
    assert outcome.method == sets[0][0]
    assert accepted == [outcome.authenticated]
    assert (accepted[0].identity, accepted[0].also) == (first.identity, (second.identity,))
    assert (accepted[0].claim, accepted[0].response_challenge) == (HOLDER.claim, "Done")


@pytest.mark.parametrize("order", [("mtls", "otp"), ("otp", "mtls")])
@pytest.mark.parametrize(("certificate", "denied"), [(WRONG, ["mtls"]), (NotPresented(), [])])
async def test_no_secret_is_tried_without_the_certificate_that_belongs_to_it(order, certificate, denied):
    otp = Answering(HOLDER)
    outcome = await together({"mtls": Answering(certificate), "otp": otp}, (order,))
    assert isinstance(outcome, Unrecognised)
    assert [denial.method for denial in outcome.denials] == denied
    assert otp.asked == []


async def test_a_wrong_half_is_a_denial():
    outcome = await together({"mtls": Answering(CERTIFIED), "otp": Answering(WRONG)})
    assert outcome == Unrecognised(denials=(Denial(method="otp", denied=WRONG),))


async def test_a_missing_half_is_not_enough():
    assert await together({"mtls": Answering(CERTIFIED), "otp": Answering(NotPresented())}) == Unrecognised()


async def test_another_set_may_be_met_and_each_method_is_asked_and_told_once():
    mtls, otp, gssapi = Answering(CERTIFIED), Answering(WRONG), Answering(GOOD)
    sets = (("mtls", "otp"), ("otp",), ("mtls", "gssapi"))
    outcome = await together({"mtls": mtls, "otp": otp, "gssapi": gssapi}, sets)
    assert isinstance(outcome, Recognised)
    assert (outcome.method, outcome.denials) == ("mtls", (Denial(method="otp", denied=WRONG),))
    assert [len(method.asked) for method in (mtls, otp, gssapi)] == [1, 1, 1]


async def test_a_use_that_cannot_be_held_is_a_denial_of_the_method_it_belongs_to():
    async def refuse(_authenticated):
        return BUSY

    outcome = await together({"mtls": Answering(CERTIFIED), "otp": Answering(HOLDER)}, accept=refuse)
    assert outcome == Unrecognised(denials=(Denial(method="otp", denied=BUSY),))


async def test_an_exchange_goes_on_beside_a_good_certificate():
    legs = {"mtls": Answering(CERTIFIED), "gssapi": Answering(Continue(challenge="Negotiate abc"))}
    assert await together(legs, (("mtls", "gssapi"),)) == Unrecognised(continuations=("Negotiate abc",))


@pytest.mark.parametrize(("certificate", "again"), [(CERTIFIED, True), (WRONG, False), (SPENT, False)])
async def test_a_lost_answer_is_given_again_to_whom_the_other_half_is_good(certificate, again):
    """RULES D4: a spent password alone asks for nothing where a certificate belongs to it."""

    async def recall(method, claim):
        assert (method, claim) == ("mtls", SPENT.spent)
        return True

    otp = Counting(SPENT)
    outcome = await together({"mtls": Answering(certificate), "otp": otp}, recall=recall)
    assert (outcome == Recognised(method="mtls", authenticated=None)) is again
    assert otp.counted == []


async def test_a_denied_certificate_ends_the_search_for_a_set_where_it_is_final():
    """RULES A2."""
    otp = Answering(HOLDER)
    sets = (("mtls", "otp"), ("otp",))
    outcome = await together({"mtls": Answering(WRONG), "otp": otp}, sets, certificate_is_final=True)
    assert outcome == Unrecognised(denials=(Denial(method="mtls", denied=WRONG),))
    assert otp.asked == []
