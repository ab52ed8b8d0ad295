"""The authenticator contract: client certificates keep it, and it notices whoever does not."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from kipuka.api import (
    Authenticated,
    AuthenticatorKind,
    Authorization,
    CertificateProblem,
    Claim,
    ClientCertificate,
    Denied,
    Identity,
    NotPresented,
    Section,
)
from kipuka.mtls import kipuka_authenticators
from kipuka.testing.contract import AuthenticatorContract
from kipuka.testing.harness import credentials
from kipuka.testing.pki import make_root

ROOT = make_root()


class TestClientCertificates(AuthenticatorContract):
    """The built-in mtls, under the same promises as a stranger's plugin."""

    kind = kipuka_authenticators()[0]

    def section(self, directory):
        (directory / "anchors.pem").write_bytes(ROOT.pem)
        return {"mode": "optional", "trust_anchors": "anchors.pem"}

    async def good(self, opened):
        return credentials(client_certificate=ClientCertificate(certificate=ROOT.issue_client().certificate))

    def wrong(self):
        bad = [
            ClientCertificate(certificate=ROOT.issue_client().certificate, problem=problem, reason="some_reason")
            for problem in CertificateProblem
        ]
        unreadable = ClientCertificate(
            certificate=None, problem=CertificateProblem.UNKNOWN_AUTHORITY, reason="unparsable"
        )
        return [credentials(client_certificate=judged) for judged in (*bad, unreadable)]


class Pass(Section):
    """The section of the authenticator below."""

    word: str = "swordfish-and-chips"
    """The one word."""


class PassAuthenticator:
    """A small authenticator that keeps the contract, for others to break in one way each."""

    challenge = 'Pass realm="test"'

    def __init__(self, settings, services):
        self.word = settings.word
        self.services = services

    async def authenticate(self, presented):
        given = presented.authorization
        if given is None or given.scheme != "pass":
            return NotPresented()
        if given.parameters != self.word:
            return Denied(detail="wrong word", reason="wrong_word")
        return Authenticated(identity=Identity(method="pass", name="somebody"))


def contract(authenticator, *, settings=Pass):
    @asynccontextmanager
    async def open_pass(section, services):
        yield authenticator(section, services)

    class Contract(AuthenticatorContract):
        kind = AuthenticatorKind(name="pass", config=settings, open=open_pass)
        scheme = "pass"

        async def good(self, opened):
            return credentials(authorization=Authorization(scheme="pass", parameters=settings().word))

        def wrong(self):
            return [credentials(authorization=Authorization(scheme="pass", parameters="another-word"))]

    return Contract()


PROMISES = [name for name in dir(AuthenticatorContract) if name.startswith("test_")]


@pytest.mark.parametrize("promise", PROMISES)
def test_an_authenticator_that_keeps_the_contract_passes_it(promise, tmp_path):
    hold(contract(PassAuthenticator), promise, tmp_path)


def hold(kept, promise, tmp_path):
    test = getattr(kept, promise)
    test(tmp_path) if inspect.signature(test).parameters else test()


class Lax(Pass):
    model_config = Pass.model_config | {"extra": "ignore"}


class SplitsHeaders(PassAuthenticator):
    challenge = "Pass\r\nSet-Cookie: x"


class TakesAnything(PassAuthenticator):
    async def authenticate(self, presented):
        return Authenticated(identity=Identity(method="pass", name="somebody"))


class Raises(PassAuthenticator):
    async def authenticate(self, presented):
        if presented.authorization is not None:
            presented.authorization.parameters.encode("ascii")
        return await super().authenticate(presented)


class NamesAnotherMethod(PassAuthenticator):
    async def authenticate(self, presented):
        outcome = await super().authenticate(presented)
        if isinstance(outcome, Authenticated):
            return Authenticated(identity=Identity(method="mtls", name="somebody"))
        return outcome


class TellsTheSecret(PassAuthenticator):
    async def authenticate(self, presented):
        outcome = await super().authenticate(presented)
        if isinstance(outcome, Denied):
            return Denied(detail=f"wrong: {presented.authorization.parameters}", reason="wrong_word")
        return outcome


class LogsTheSecret(PassAuthenticator):
    async def authenticate(self, presented):
        if presented.authorization is not None:
            self.services.log.info("word_given", word=presented.authorization.parameters)
        return await super().authenticate(presented)


class SpendsWhileJudging(PassAuthenticator):
    used = False

    async def authenticate(self, presented):
        outcome = await super().authenticate(presented)
        if isinstance(outcome, Authenticated):
            if self.used:
                return Denied(detail="used", reason="used")
            self.used = True
        return outcome


class KeepsALockWhenCancelled(PassAuthenticator):
    def __init__(self, settings, services):
        super().__init__(settings, services)
        self.busy = False

    async def authenticate(self, presented):
        if self.busy:
            return Denied(detail="another one is at it", reason="in_use")
        self.busy = True
        await asyncio.sleep(0)
        self.busy = False
        return await super().authenticate(presented)


class MixesUpItsCallers(PassAuthenticator):
    last = None

    async def authenticate(self, presented):
        mine = self.last = object()
        await asyncio.sleep(0)
        if self.last is not mine:
            return NotPresented()
        return await super().authenticate(presented)


class WritesANovel(PassAuthenticator):
    async def authenticate(self, presented):
        outcome = await super().authenticate(presented)
        return Denied(detail="first line\nsecond line", reason="Wrong Word") if isinstance(outcome, Denied) else outcome


class CallsAnythingSpent(PassAuthenticator):
    async def authenticate(self, presented):
        outcome = await super().authenticate(presented)
        return replace(outcome, spent=Claim(plugin="pass", ref="1")) if isinstance(outcome, Denied) else outcome


@pytest.mark.parametrize(
    ("broken", "promise"),
    [
        (SplitsHeaders, "test_the_challenge_is_a_legal_header_value_or_none"),
        (TakesAnything, "test_no_credential_is_not_presented"),
        (TakesAnything, "test_another_scheme_is_not_presented"),
        (TakesAnything, "test_a_wrong_credential_is_denied_with_a_text_and_a_reason"),
        (TakesAnything, "test_garbage_is_refused_and_never_raises"),
        (Raises, "test_garbage_is_refused_and_never_raises"),
        (NamesAnotherMethod, "test_a_good_credential_is_authenticated"),
        (TellsTheSecret, "test_a_wrong_credential_is_denied_with_a_text_and_a_reason"),
        (LogsTheSecret, "test_no_secret_is_left_in_log_audit_or_database"),
        (SpendsWhileJudging, "test_judging_spends_nothing"),
        (KeepsALockWhenCancelled, "test_cancellation_leaves_nothing_held"),
        (MixesUpItsCallers, "test_many_good_credentials_at_once_are_all_served"),
        (CallsAnythingSpent, "test_a_wrong_credential_is_denied_with_a_text_and_a_reason"),
        (WritesANovel, "test_a_wrong_credential_is_denied_with_a_text_and_a_reason"),
    ],
)
def test_an_authenticator_that_breaks_a_promise_is_caught(broken, promise, tmp_path):
    with pytest.raises((AssertionError, UnicodeEncodeError)):
        getattr(contract(broken), promise)(tmp_path)


def test_a_section_that_takes_unknown_keys_is_caught(tmp_path):
    with pytest.raises(pytest.fail.Exception):
        contract(PassAuthenticator, settings=Lax).test_the_section_is_a_model_that_refuses_unknown_keys(tmp_path)
