# ruff: noqa: S101 - these are tests
"""The promises every authenticator keeps, as a pytest class to derive from.

    class TestBadge(AuthenticatorContract):
        kind = BADGE
        storages = (STORAGE,)
        scheme = "badge"

        def section(self, directory):
            return {"secret": "..."}

        async def good(self, opened):
            return credentials(authorization=Authorization(scheme="badge", parameters="..."))

        def wrong(self):
            return [credentials(authorization=Authorization(scheme="badge", parameters="forged"))]

In the room: `AuthenticatorContract`, whose tests run with pytest alone. Not in the room: what one method promises beyond this;
that is the deriving class's to add.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from kipuka.api import (
    Authenticated,
    AuthenticatorKind,
    Authorization,
    AuthOutcome,
    Claim,
    Continue,
    CountsFailures,
    Credentials,
    DenialKind,
    Denied,
    NotPresented,
    SpendsOnIssue,
    Tx,
)
from kipuka.testing.contract.kind import PARALLEL, TURNS, KindContract, cancel_after
from kipuka.testing.contract.loop import what_blocks
from kipuka.testing.harness import OpenedAuthenticator, credentials, open_authenticator

__all__ = ["GARBAGE", "AuthenticatorContract"]

T = TypeVar("T")

GARBAGE: tuple[str, ...] = (
    "",
    " ",
    "=",
    "====",
    "A",
    "\x00",
    "\x00" * 100,
    "é",
    "\udc80",
    "%00",
    "null",
    "{}",
    '"',
    "a" * 100_000,
    base64.b64encode(b"").decode(),
    base64.b64encode(b":").decode(),
    base64.b64encode(b"user").decode(),
    base64.b64encode(b"user:").decode(),
    base64.b64encode(b"user:\x00").decode(),
    base64.b64encode(b"\xff\xfe:\xff\xfe").decode(),
    base64.b64encode("usér:pässwörd".encode()).decode(),
    base64.b64encode("usér:pässwörd".encode("latin-1")).decode(),
    base64.b64encode(b"user:' OR 1=1 --").decode(),
    base64.b64encode(b"user:" + b"9" * 10_000).decode(),
    base64.b64encode(b"`\x82\x01\x00" + b"\x00" * 40).decode(),
)
"""What comes after the scheme's name from clients that are broken or mean harm."""

_HEADER_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")  # RFC 9110, 5.5, without obs-text
_AUTH_SCHEME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?: .+)?")  # RFC 9110, 11.2
_WORD = re.compile(r"[a-z][a-z0-9_]*")


class AuthenticatorContract(KindContract[AuthenticatorKind[Any], OpenedAuthenticator]):
    """Derive, name the class `Test...`, and say what a good and a wrong credential of the method look like."""

    kind: ClassVar[AuthenticatorKind[Any]]
    scheme: ClassVar[str | None] = None  # of the Authorization field, in lower case; None: the method does not use it
    presented_once: ClassVar[bool] = False  # the method refuses a proof that it has seen before (a replay cache)

    async def good(self, opened: OpenedAuthenticator) -> Credentials:
        """A credential that is good, for once at least; each call a new one."""
        raise NotImplementedError

    def wrong(self) -> Sequence[Credentials]:
        """Credentials of this method that are well formed and not good."""
        raise NotImplementedError

    def secrets_of(self, presented: Credentials) -> Sequence[str]:
        """What of a credential must be found nowhere afterwards: by default what the Authorization field carries."""
        if presented.authorization is None:
            return ()
        parameters = presented.authorization.parameters
        found = [parameters]
        with contextlib.suppress(ValueError):
            found.append(base64.b64decode(parameters, validate=True).decode("utf-8").partition(":")[2])
        return [secret for secret in found if len(secret) >= 8]

    def garbage(self) -> Sequence[Credentials]:
        """Credentials of this method that nobody can read: by default `GARBAGE` under the method's scheme."""
        if self.scheme is None:
            return ()
        return [credentials(authorization=Authorization(scheme=self.scheme, parameters=text)) for text in GARBAGE]

    def open(self, directory: Path) -> Any:
        """The authenticator, opened over a store in `directory`."""
        return open_authenticator(self.kind, self.section(directory), directory=directory, storages=self.storages)

    def subject(self, opened: OpenedAuthenticator) -> object:
        """The authenticator itself."""
        return opened.authenticator

    async def working(self, opened: OpenedAuthenticator, directory: Path) -> object:
        """A good credential is recognised."""
        outcome = await opened.authenticator.authenticate(await self.good(opened))
        assert isinstance(outcome, Authenticated), outcome
        return outcome

    # -- what it says of itself ------------------------------------------------------------------------------------

    def test_the_challenge_is_a_legal_header_value_or_none(self, tmp_path: Path) -> None:
        """RFC 9110, 11.6.1: one challenge, without line breaks or characters that no header may have."""

        async def test(opened: OpenedAuthenticator) -> None:
            challenge = opened.authenticator.challenge
            if challenge is not None:
                assert _HEADER_VALUE.fullmatch(challenge)
                assert _AUTH_SCHEME.fullmatch(challenge)

        self.run(tmp_path, test)

    # -- what it answers -------------------------------------------------------------------------------------------

    def test_no_credential_is_not_presented(self, tmp_path: Path) -> None:
        """RULES C3: only what is presented can be denied."""

        async def test(opened: OpenedAuthenticator) -> None:
            assert await opened.authenticator.authenticate(credentials()) == NotPresented()

        self.run(tmp_path, test)

    def test_another_scheme_is_not_presented(self, tmp_path: Path) -> None:
        """RULES C1: a method looks at its own scheme only."""

        async def test(opened: OpenedAuthenticator) -> None:
            other = credentials(authorization=Authorization(scheme="x-another-scheme", parameters="abc"))
            assert await opened.authenticator.authenticate(other) == NotPresented()

        self.run(tmp_path, test)

    def test_a_good_credential_is_authenticated(self, tmp_path: Path) -> None:
        """The identity names its method; a claim names its plugin and carries no secret."""

        async def test(opened: OpenedAuthenticator) -> None:
            presented = await self.good(opened)
            outcome = await opened.authenticator.authenticate(presented)
            assert isinstance(outcome, Authenticated), outcome
            assert outcome.identity.method == self.kind.name
            assert outcome.identity.name
            if outcome.claim is not None:
                assert outcome.claim.plugin == self.kind.name
                assert isinstance(opened.authenticator, SpendsOnIssue)
            for secret in self.secrets_of(presented):
                assert secret not in repr(outcome)

        self.run(tmp_path, test)

    def test_judging_spends_nothing(self, tmp_path: Path) -> None:
        """`Authenticator.authenticate`: asked twice, it says the same; a proof that is good once leaves the next one good."""

        async def test(opened: OpenedAuthenticator) -> None:
            presented = await self.good(opened)
            first = await opened.authenticator.authenticate(presented)
            assert isinstance(first, Authenticated)
            second = await opened.authenticator.authenticate(presented)
            if self.presented_once:
                assert isinstance(second, Denied)
                assert _alike(await opened.authenticator.authenticate(await self.good(opened)), first)
            else:
                assert second == first

        self.run(tmp_path, test)

    def test_a_wrong_credential_is_denied_with_a_text_and_a_reason(self, tmp_path: Path) -> None:
        """RULES C3: one line for the client, a word for the auditor."""

        async def test(opened: OpenedAuthenticator) -> None:
            for presented in self.wrong():
                outcome = await opened.authenticator.authenticate(presented)
                assert isinstance(outcome, Denied), outcome
                assert outcome.detail.strip() == outcome.detail != ""
                assert len(outcome.detail.splitlines()) == 1
                assert _WORD.fullmatch(outcome.reason)
                assert outcome.spent is None  # what is wrong has nothing to ask for again (RULES D4)
                for secret in self.secrets_of(presented):
                    assert secret not in repr(outcome)

        self.run(tmp_path, test)

    def test_a_challenge_on_the_way_is_a_legal_header_value(self, tmp_path: Path) -> None:
        """RFC 9110, 11.6.1: what goes with a success, or asks for another leg, is one challenge as well."""

        async def test(opened: OpenedAuthenticator) -> None:
            for presented in (await self.good(opened), *self.garbage(), *self.wrong()):
                asked = opened.authenticator.authenticate(presented)
                (outcome,) = await asyncio.gather(asked, return_exceptions=True)  # raising is another test's affair
                challenge = None
                if isinstance(outcome, Authenticated):
                    challenge = outcome.response_challenge
                elif isinstance(outcome, Continue):
                    challenge = outcome.challenge
                if challenge is not None:
                    assert _HEADER_VALUE.fullmatch(challenge)
                    assert _AUTH_SCHEME.fullmatch(challenge)

        self.run(tmp_path, test)

    def test_garbage_is_refused_and_never_raises(self, tmp_path: Path) -> None:
        """`Authenticator.authenticate`: nothing that a client sends is an exception."""

        async def test(opened: OpenedAuthenticator) -> None:
            for presented in self.garbage():
                outcome = await opened.authenticator.authenticate(presented)
                assert isinstance(outcome, Denied | Continue | NotPresented), (presented.authorization, outcome)

        self.run(tmp_path, test)

    # -- how it behaves among others -------------------------------------------------------------------------------

    def test_many_good_credentials_at_once_are_all_served(self, tmp_path: Path) -> None:
        """Each is recognised, or told to come back; none is taken for another."""

        async def test(opened: OpenedAuthenticator) -> None:
            presented = [await self.good(opened) for _ in range(PARALLEL)]
            alone = [await opened.authenticator.authenticate(one) for one in presented]
            if self.presented_once:
                presented = [await self.good(opened) for _ in range(PARALLEL)]
            together = await asyncio.gather(*(opened.authenticator.authenticate(one) for one in presented))
            for expected, outcome in zip(alone, together, strict=True):
                if isinstance(outcome, Denied):
                    assert outcome.kind is DenialKind.BUSY
                else:
                    assert _alike(outcome, expected) if self.presented_once else outcome == expected

        self.run(tmp_path, test)

    def test_cancellation_leaves_nothing_held(self, tmp_path: Path) -> None:
        """A client that goes away in the middle takes nothing with it: the credential is as good as before."""

        async def test(opened: OpenedAuthenticator) -> None:
            presented = await self.good(opened)
            for turns in range(TURNS):
                await cancel_after(turns, opened.authenticator.authenticate(presented))
                if self.presented_once:
                    presented = await self.good(opened)
            async with asyncio.timeout(self.patience):
                outcome = await opened.authenticator.authenticate(presented)
            assert isinstance(outcome, Authenticated), outcome
            if outcome.claim is not None:
                assert await opened.reserve(outcome.claim.ref) is None

        self.run(tmp_path, test)

    def test_the_event_loop_is_not_held_up(self, tmp_path: Path) -> None:
        """Others are served in the same loop: what waits or computes for long runs in `Services.run_blocking`."""

        async def test(opened: OpenedAuthenticator) -> None:
            good = [await self.good(opened) for _ in range(3)]
            for each in (good, [self.wrong()[0]] * 3, [credentials()] * 3):
                ahead = iter(each)

                async def one(ahead: Iterator[Credentials] = ahead) -> AuthOutcome:
                    return await opened.authenticator.authenticate(next(ahead))

                _, signs = await what_blocks(one)
                assert not signs, signs

        self.run(tmp_path, test)

    def test_no_secret_is_left_in_log_audit_or_database(self, tmp_path: Path) -> None:
        """A search for every secret that was presented, in all that the plugin left behind."""

        async def test(opened: OpenedAuthenticator) -> None:
            every = [await self.good(opened), *self.wrong(), *self.garbage()[:3]]
            for presented in every:
                outcome = await opened.authenticator.authenticate(presented)
                if isinstance(outcome, Authenticated) and outcome.claim is not None:
                    await opened.reserve(outcome.claim.ref)
                    await opened.redeem(outcome.claim.ref)
            traces = opened.traces() + repr(opened.authenticator)
            for secret in self.all_secrets(tmp_path):
                assert secret not in traces
            for presented in every:
                for secret in self.secrets_of(presented):
                    assert secret not in traces
                    assert secret not in repr(presented)

        self.run(tmp_path, test)

    # -- what it spends --------------------------------------------------------------------------------------------

    def test_a_held_use_can_be_given_back_and_taken_again(self, tmp_path: Path) -> None:
        """`SpendsOnIssue`: a refusal after the reservation costs the client nothing."""

        async def test(opened: OpenedAuthenticator) -> None:
            for claim in await self._claims(opened):
                for _ in range(3):
                    assert await opened.reserve(claim.ref) is None
                    await opened.release(claim.ref)
                assert await opened.reserve(claim.ref) is None
                await opened.redeem(claim.ref)

        self.run(tmp_path, test)

    def test_what_was_rolled_back_can_be_done_again(self, tmp_path: Path) -> None:
        """`SpendsOnIssue`: the functions are run again when their transaction is rolled back; what they know is in the database."""

        async def test(opened: OpenedAuthenticator) -> None:
            for claim in await self._claims(opened):
                for act in (
                    opened.spender.reserve,
                    opened.spender.release,
                    opened.spender.reserve,
                    opened.spender.redeem,
                ):
                    for _ in range(3):
                        await _rolled_back(opened, act, claim.ref)
                    refused = await opened.store.write(partial(_act, act=act, ref=claim.ref))
                    assert refused is None, refused

        self.run(tmp_path, test)

    def test_parallel_reservations_and_redemptions_stay_within_what_is_there(self, tmp_path: Path) -> None:
        """Guarantee 2: whatever is held or spent cannot be held again; what is given back can."""

        async def test(opened: OpenedAuthenticator) -> None:
            for claim in await self._claims(opened):
                answers = await asyncio.gather(*(opened.reserve(claim.ref) for _ in range(PARALLEL)))
                held = answers.count(None)
                assert 1 <= held <= PARALLEL
                if held == PARALLEL:
                    continue  # more uses than we tried
                assert all(isinstance(answer, Denied) for answer in answers if answer is not None)
                await opened.release(claim.ref)
                assert await opened.reserve(claim.ref) is None
                assert isinstance(await opened.reserve(claim.ref), Denied)
                for _ in range(held):
                    await opened.redeem(claim.ref)
                assert isinstance(await opened.reserve(claim.ref), Denied)

        self.run(tmp_path, test)

    def test_a_spent_credential_is_denied(self, tmp_path: Path) -> None:
        """A credential whose last use is spent does not authenticate any more."""

        async def test(opened: OpenedAuthenticator) -> None:
            presented = await self.good(opened)
            outcome = await opened.authenticator.authenticate(presented)
            assert isinstance(outcome, Authenticated)
            if outcome.claim is None:
                return
            uses = 0
            while uses < PARALLEL and await opened.reserve(outcome.claim.ref) is None:
                await opened.redeem(outcome.claim.ref)
                uses += 1
            assert uses >= 1
            if uses < PARALLEL:
                denied = await opened.authenticator.authenticate(presented)
                assert isinstance(denied, Denied)
                if denied.spent is not None:
                    await self._check_spent(opened, presented, denied, outcome.claim)

        self.run(tmp_path, test)

    async def _check_spent(
        self, opened: OpenedAuthenticator, presented: Credentials, denied: Denied, claim: Claim
    ) -> None:
        """RULES D4: what is called spent is named as it was claimed, and is denied still when its failure is counted."""
        assert denied.spent == claim
        refused = await opened.reserve(claim.ref)
        assert isinstance(refused, Denied)
        assert refused.spent == claim
        if isinstance(opened.authenticator, CountsFailures):
            assert isinstance(await opened.authenticator.count_failure(denied, presented), Denied)

    def test_a_held_use_survives_the_process(self, tmp_path: Path) -> None:
        """A claim is a value: after a restart it can still be given back, and spent (DESIGN, the plugin contract)."""

        async def hold(opened: OpenedAuthenticator) -> list[Claim]:
            claims = await self._claims(opened)
            for claim in claims:
                assert await opened.reserve(claim.ref) is None
            return claims

        claims = self.run(tmp_path, hold)

        async def settle(opened: OpenedAuthenticator) -> None:
            for claim in claims:
                await opened.release(claim.ref)
                assert await opened.reserve(claim.ref) is None
                await opened.redeem(claim.ref)

        self.run(tmp_path, settle)

    async def _claims(self, opened: OpenedAuthenticator) -> list[Claim]:
        """The claim of one good credential; empty for a method that spends nothing."""
        outcome = await opened.authenticator.authenticate(await self.good(opened))
        assert isinstance(outcome, Authenticated), outcome
        return [] if outcome.claim is None else [outcome.claim]


class _RolledBack(Exception):
    """Raised by a unit of the store, so that nothing of it stays."""


def _act(tx: Tx, *, act: Callable[[Tx, str], Denied | None], ref: str) -> Denied | None:
    return act(tx, ref)


async def _rolled_back(opened: OpenedAuthenticator, act: Callable[[Tx, str], Denied | None], ref: str) -> None:
    def unit(tx: Tx) -> None:
        act(tx, ref)
        raise _RolledBack

    with contextlib.suppress(_RolledBack):
        await opened.store.write(unit)


def _alike(outcome: AuthOutcome, expected: AuthOutcome) -> bool:
    """Whether both recognise the same client, whatever goes back to it with the success."""
    return (
        isinstance(outcome, Authenticated)
        and isinstance(expected, Authenticated)
        and (outcome.identity, outcome.claim) == (expected.identity, expected.claim)
    )
