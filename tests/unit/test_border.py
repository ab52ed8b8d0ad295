"""The border around a plugin's object: abilities are found through it, answers are held against the protocol, calls are traced."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from kipuka.api import (
    AuditSink,
    Authenticator,
    BackendUnavailable,
    CABackend,
    CollectsPending,
    CountsFailures,
    Denied,
    FindsOrders,
    NotPresented,
    ReportsHealth,
    RevokesCertificates,
    SpendsOnIssue,
    protocols,
)
from kipuka.border import Border, UnfitAnswer, UnfitObject, Watch

ABILITIES = (CollectsPending, CountsFailures, FindsOrders, ReportsHealth, RevokesCertificates, SpendsOnIssue)
NOTHING = NotPresented()
DENIED = Denied(detail="no", reason="no")


class Method:
    """An authenticator with a ready answer, and no ability."""

    challenge = "Badge"

    def __init__(self, answer=NOTHING):
        self.answer = answer

    async def authenticate(self, _credentials):
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class AbleMethod(Method):
    """One with abilities."""

    def reserve(self, _tx, _ref):
        return self.answer

    def redeem(self, _tx, _ref):
        return self.answer

    def release(self, _tx, _ref):
        return self.answer

    async def health(self):
        return self.answer

    async def count_failure(self, _denied, _credentials):
        return self.answer


def border(watch=None, limit=5.0):
    return Border(plugin="badge", watch=watch or Watch(), limit=timedelta(seconds=limit))


def facade(opened, role=Authenticator, watch=None, **more):
    return border(watch, **more).around(opened, role)


# --- abilities


@pytest.mark.parametrize("ability", ABILITIES, ids=lambda ability: ability.__name__)
@pytest.mark.parametrize("opened", [Method(), AbleMethod()], ids=["plain", "able"])
def test_an_ability_is_found_through_the_border_exactly_where_the_object_has_it(opened, ability):
    assert isinstance(facade(opened), ability) is isinstance(opened, ability)


def test_every_ability_of_the_api_is_known_to_the_border():
    """A protocol that is added later needs nothing here: the members are read from `kipuka.api.protocols`."""
    everything = {
        name: (property(lambda _self: None) if isinstance(member, property) else lambda _self, *_: None)
        for protocol in vars(protocols).values()
        if isinstance(protocol, type) and getattr(protocol, "_is_protocol", False)
        for name, member in vars(protocol).items()
        if not name.startswith("_")
    }
    opened = type("Everything", (), everything)()
    made = facade(opened)
    assert {name for name in vars(type(made)) if not name.startswith("_")} == set(everything)
    for ability in ABILITIES:
        assert isinstance(made, ability)


@pytest.mark.parametrize(
    ("opened", "role", "missing"),
    [
        (object(), Authenticator, "no challenge and no authenticate"),
        (Method(), CABackend, "no ca_certificates and no issue"),
        (None, AuditSink, "None, has no write"),
    ],
)
def test_an_object_that_does_not_play_its_role_is_refused_when_it_is_opened(opened, role, missing):
    with pytest.raises(UnfitObject, match=missing):
        facade(opened, role)


# --- answers


@pytest.mark.parametrize("answer", [None, "text", {"outcome": "denied"}, Denied, True], ids=str)
async def test_an_answer_that_the_protocol_does_not_have_is_an_error_there_and_then(answer):
    with pytest.raises(
        UnfitAnswer, match="authenticate gave .* where Authenticated or NotPresented or Continue or Denied"
    ):
        await facade(Method(answer)).authenticate(None)


@pytest.mark.parametrize("answer", [NotPresented(), DENIED], ids=["not presented", "denied"])
async def test_an_answer_of_the_protocol_comes_through_as_it_is(answer):
    assert await facade(Method(answer)).authenticate(None) is answer


async def test_a_method_that_is_no_coroutine_is_an_error():
    opened = Method()
    opened.authenticate = lambda _credentials: NotPresented()
    with pytest.raises(UnfitAnswer, match="authenticate is no async function: it gave a value of type NotPresented"):
        await facade(opened).authenticate(None)


async def test_a_plain_function_that_is_a_coroutine_is_an_error():
    opened = AbleMethod()

    async def reserve(_tx, _ref):
        return None

    opened.reserve = reserve
    with pytest.raises(UnfitAnswer, match="reserve is an async function, where a plain one is expected"):
        facade(opened).reserve(None, "1")


def test_a_property_is_read_anew_and_held_against_its_type():
    opened = Method()
    made = facade(opened)
    assert made.challenge == "Badge"
    opened.challenge = 7
    with pytest.raises(UnfitAnswer, match="challenge gave a value of type int where str or None is expected"):
        _ = made.challenge


def test_a_property_that_raises_raises_when_it_is_read_and_not_before():
    class Raising(Method):
        @property
        def challenge(self):
            raise RuntimeError("no")

    made = facade(Raising())
    with pytest.raises(RuntimeError):
        _ = made.challenge


# --- who fails


async def failing_after(watch, opened, **more):
    made = facade(opened, watch=watch, **more)
    try:
        async with asyncio.timeout(more.get("limit")):
            await made.authenticate(None)
    except Exception:  # noqa: BLE001 - what became of it is what the watch says
        return dict(watch.failing)
    return dict(watch.failing)


async def test_a_failure_is_remembered_until_the_method_works_again():
    watch, opened = Watch(), Method(RuntimeError("x"))
    assert await failing_after(watch, opened) == {"badge": "authenticate: RuntimeError"}
    opened.answer = NotPresented()
    assert await failing_after(watch, opened) == {}


async def test_what_the_contract_allows_is_no_failure():
    """A CA that is away has said so as it should."""
    assert await failing_after(Watch(), Method(BackendUnavailable("away"))) == {}


async def test_a_call_that_outlasts_its_limit_is_a_failure_and_one_that_is_given_up_earlier_is_none():
    class Hanging(Method):
        async def authenticate(self, _credentials):
            await asyncio.Event().wait()

    assert await failing_after(Watch(), Hanging(), limit=0.06) == {"badge": "authenticate: timed out"}
    watch = Watch()
    call = asyncio.ensure_future(facade(Hanging(), watch=watch).authenticate(None))
    await asyncio.sleep(0)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert dict(watch.failing) == {}


# --- the trace


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (DENIED, "Denied"),
        (RuntimeError("a secret"), "RuntimeError"),
        (BackendUnavailable("a secret", reason="away"), "BackendUnavailable: away"),
        ("a secret", "UnfitAnswer"),
    ],
    ids=["answer", "exception", "on purpose", "unfit"],
)
async def test_a_traced_call_tells_plugin_method_duration_and_sort_of_answer_only(answer, outcome):
    with capture_logs() as lines:
        await failing_after(Watch(trace=True), Method(answer))
    (line,) = lines
    assert line.pop("milliseconds") >= 0
    assert line == {
        "event": "plugin_call",
        "log_level": "info",
        "plugin": "badge",
        "object": None,
        "method": "authenticate",
        "outcome": outcome,
    }


async def test_without_trace_nothing_is_told():
    with capture_logs() as lines:
        await failing_after(Watch(), Method())
    assert lines == []
