# ruff: noqa: S101 - these are tests
"""The promises every CA backend keeps, as a pytest class to derive from.

    class TestVault(CABackendContract):
        kind = VAULT

        def section(self, directory):
            return {"cert": "chain.pem", "key": "issuing.key"}

In the room: `CABackendContract`, whose tests run with pytest alone. Not in the room: what one CA promises beyond this; that is the
deriving class's to add.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from datetime import timedelta
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from kipuka.api import (
    BackendError,
    BackendUnavailable,
    CABackendKind,
    CAPlan,
    CertificateChain,
    CollectsPending,
    CreatedCA,
    FindsOrders,
    Issued,
    Order,
    Pending,
    RevokesCertificates,
    StartupError,
)
from kipuka.testing.contract.kind import PARALLEL, TURNS, KindContract, cancel_after, sentence
from kipuka.testing.contract.loop import what_blocks
from kipuka.testing.harness import OpenedCABackend, open_ca_backend
from kipuka.testing.orders import key_usage, make_order, mismatch
from kipuka.testing.pki import KeyKind, common_name

__all__ = ["CABackendContract"]

_PAUSE = 0.025  # seconds between two questions
_GAP = 1 << 32
"""Two serial numbers of 64 random bits or more that are nearer to each other than this: once in a million runs."""


class CABackendContract(KindContract[CABackendKind[Any], OpenedCABackend]):
    """Derive, name the class `Test...`, and say with which keys of its [[ca]] item the backend can be opened here.

    Where a CA decides later, `decide` makes it say yes. Where the way to it can be cut, `out_of_reach` does so, and `silent` lets it take
    orders without an answer.
    """

    kind: ClassVar[CABackendKind[Any]]
    key_kinds: ClassVar[Sequence[KeyKind]] = (
        "rsa2048",
        "rsa3072",
        "p256",
        "p384",
        "p521",
        "ed25519",
    )  # that it certifies
    silence: ClassVar[float] = 1  # seconds after which an answer that does not come is given up
    serials_are_ours: ClassVar[bool] = True  # False: a remote CA makes the serial numbers, by rules of its own

    def silent(self, directory: Path) -> AbstractAsyncContextManager[object] | None:
        """While this is entered, the CA takes orders and nobody hears its answers; None: that cannot happen, or not here."""
        return None

    def creation_options(self, directory: Path) -> Mapping[str, str]:
        """What `CreatesCA` needs beyond the common plan: the `--set KEY=VALUE` of `kipuka ca create`."""
        return {}

    async def decide(self, opened: OpenedCABackend, pending: Pending) -> None:
        """Let the CA say yes to what it has promised to decide, as its operator would."""

    def open(self, directory: Path) -> Any:
        """The backend, opened over a store in `directory`."""
        return self.open_with(self.section(directory), directory)

    def open_with(self, section: Mapping[str, object], directory: Path) -> Any:
        """The backend with other keys than those of `section`, for a CA that was made just now."""
        return open_ca_backend(self.kind, section, directory=directory, storages=self.storages)

    def subject(self, opened: OpenedCABackend) -> object:
        """The backend itself."""
        return opened.backend

    async def working(self, opened: OpenedCABackend, directory: Path) -> object:
        """A certificate is issued, and is the one that was ordered."""
        return await self.ordered(opened, make_order())

    async def ordered(self, opened: OpenedCABackend, order: Order) -> x509.Certificate:
        """Order, collect where it was promised, and check as the host does (RULES F6)."""
        certificate = await self.certificate(opened, await opened.backend.issue(order))
        wrong = mismatch(order, certificate, (await opened.backend.ca_certificates()).issuer)
        assert wrong is None, wrong
        return certificate

    async def certificate(self, opened: OpenedCABackend, answer: Issued | Pending) -> x509.Certificate:
        """What the answer leads to: at once, or after the CA has decided."""
        if isinstance(answer, Pending):
            await self.decide(opened, answer)
            return await self._collected(opened, answer)
        assert isinstance(answer, Issued), answer
        return answer.certificate

    # -- the chain -------------------------------------------------------------------------------------------------

    def test_the_chain_goes_from_the_issuer_up_to_a_root(self, tmp_path: Path) -> None:
        """RFC 7030, 4.1.3, and `CertificateChain`: each is signed by the next, the last by itself, and each may sign."""

        async def test(opened: OpenedCABackend) -> None:
            chain = await opened.backend.ca_certificates()
            assert isinstance(chain, CertificateChain)
            for lower, upper in pairwise((*chain.certificates, chain.root)):
                lower.verify_directly_issued_by(upper)
            for one in chain.certificates:
                assert one.extensions.get_extension_for_class(x509.BasicConstraints).value.ca, one.subject

        self.run(tmp_path, test)

    def test_the_chain_stays_the_same(self, tmp_path: Path) -> None:
        """`/cacerts` is asked often: the answers agree, also with those after a restart."""

        async def test(opened: OpenedCABackend) -> CertificateChain:
            first = await opened.backend.ca_certificates()
            await self.working(opened, tmp_path)
            assert await opened.backend.ca_certificates() == first
            return first

        assert self.run(tmp_path, test) == self.run(tmp_path, test)

    # -- the certificate -------------------------------------------------------------------------------------------

    def test_the_certificate_is_the_one_that_was_ordered(self, tmp_path: Path) -> None:
        """RULES F6, with the host's own check: issuer, key, subject, extensions, validity, form of the serial number."""

        async def test(opened: OpenedCABackend) -> None:
            await self.ordered(opened, make_order())

        self.run(tmp_path, test)

    def test_ordered_extensions_keep_their_criticality(self, tmp_path: Path) -> None:
        """RFC 5280, 4.2: whoever does not know a critical extension refuses the certificate; neither is the CA's to change."""

        async def test(opened: OpenedCABackend) -> None:
            order = make_order()
            certificate = await self.ordered(opened, order)
            for ordered in order.extensions:
                there = certificate.extensions.get_extension_for_oid(ordered.oid)
                assert (there.value, there.critical) == (ordered.value, ordered.critical)

        self.run(tmp_path, test)

    def test_the_certificate_says_that_it_is_no_ca(self, tmp_path: Path) -> None:
        """`Order.extensions`: the backend adds basic constraints, CA:FALSE."""

        async def test(opened: OpenedCABackend) -> None:
            certificate = await self.ordered(opened, make_order())
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
            assert constraints == x509.BasicConstraints(ca=False, path_length=None)

        self.run(tmp_path, test)

    def test_the_certificate_names_its_own_key_and_its_issuers(self, tmp_path: Path) -> None:
        """RFC 5280, 4.2.1.1 and 4.2.1.2: the authority key identifier is the issuer's subject key identifier, as that stands."""

        async def test(opened: OpenedCABackend) -> None:
            first, second = [await self.ordered(opened, make_order()) for _ in range(2)]
            issuer = (await opened.backend.ca_certificates()).issuer
            own = [one.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value for one in (first, second)]
            assert own[0] != own[1]
            named = first.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
            try:
                there = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            except x509.ExtensionNotFound:
                assert named is not None
            else:
                assert named == there.digest

        self.run(tmp_path, test)

    def test_the_validity_is_never_longer_than_ordered(self, tmp_path: Path) -> None:
        """`Order.not_after`: it may be clipped, never extended; a day stays a day, and an hour an hour."""

        async def test(opened: OpenedCABackend) -> None:
            for lifetime in (timedelta(days=30), timedelta(days=1), timedelta(hours=1)):
                order = make_order()
                await self.ordered(opened, replace(order, not_after=order.not_before + lifetime))

        self.run(tmp_path, test)

    def test_the_validity_ends_with_the_cas_own(self, tmp_path: Path) -> None:
        """RFC 5280, 6.1.3: beyond its issuer's end a certificate is of no use. Refusing such an order is right as well."""

        async def test(opened: OpenedCABackend) -> None:
            issuer = (await opened.backend.ca_certificates()).issuer
            order = replace(make_order(), not_after=issuer.not_valid_after_utc + timedelta(days=400))
            try:
                certificate = await self.ordered(opened, order)
            except BackendError:
                return
            assert certificate.not_valid_after_utc <= issuer.not_valid_after_utc

        self.run(tmp_path, test)

    def test_every_kind_of_key_is_certified(self, tmp_path: Path) -> None:
        """`key_kinds`: the profile decides which keys are taken; the CA signs what it is ordered."""

        async def test(opened: OpenedCABackend) -> None:
            for kind in self.key_kinds:
                await self.ordered(opened, make_order(f"device-with-{kind}", key=kind))

        self.run(tmp_path, test)

    def test_names_are_taken_as_they_are(self, tmp_path: Path) -> None:
        """Guarantee 5: a name is structure; nothing in its text is read as more of it, and nothing is dropped."""

        async def test(opened: OpenedCABackend) -> None:
            for order in _named_oddly():
                await self.ordered(opened, order)

        self.run(tmp_path, test)

    def test_an_empty_subject_stays_empty(self, tmp_path: Path) -> None:
        """RFC 5280, 4.1.2.6: the names are then in the critical alternative name. A CA that wants a subject says so."""

        async def test(opened: OpenedCABackend) -> None:
            names = x509.SubjectAlternativeName([x509.DNSName("device-1.example")])
            extension = x509.Extension(names.oid, critical=True, value=names)
            try:
                await self.ordered(opened, make_order(subject=x509.Name([]), extensions=(extension,)))
            except BackendError:
                return

        self.run(tmp_path, test)

    def test_serial_numbers_are_unique_and_cannot_be_guessed(self, tmp_path: Path) -> None:
        """RFC 5280, 4.1.2.2: unique, positive, at most 20 octets; at least 64 bits of them by chance (`serials_are_ours`)."""

        async def test(opened: OpenedCABackend) -> None:
            serials = [(await self.ordered(opened, make_order())).serial_number for _ in range(PARALLEL)]
            assert len(set(serials)) == PARALLEL
            if self.serials_are_ours:
                assert max(serial.bit_length() for serial in serials) >= 64, "shorter than 64 bits"
                assert all(abs(one - other) > _GAP for one, other in combinations(serials, 2)), (
                    "one follows from another"
                )

        self.run(tmp_path, test)

    # -- what is not signed ----------------------------------------------------------------------------------------

    def test_an_order_that_nobody_can_sign_is_refused_by_name(self, tmp_path: Path) -> None:
        """`CABackend.issue`: an error of kipuka's, since any other means *unknown*, and keeps the client's use held for ever."""

        async def test(opened: OpenedCABackend) -> None:
            for public_key in (b"", b"\x30\x00", b"garbage", make_order().public_key[:-1]):
                with pytest.raises(BackendError) as raised:
                    await opened.backend.issue(replace(make_order(), public_key=public_key))
                assert sentence(raised.value.detail)
            await self.working(opened, tmp_path)

        self.run(tmp_path, test)

    def test_no_order_makes_a_ca(self, tmp_path: Path) -> None:
        """Whatever was ordered: no certificate that can sign others."""

        async def test(opened: OpenedCABackend) -> None:
            order = make_order()
            authority = x509.BasicConstraints(ca=True, path_length=None)
            for extension in (
                x509.Extension(authority.oid, critical=True, value=authority),
                x509.Extension(x509.KeyUsage.oid, critical=True, value=key_usage("key_cert_sign", "crl_sign")),
            ):
                try:
                    answer = await opened.backend.issue(
                        replace(order, id=f"{order.id}-{extension.oid.dotted_string}", extensions=(extension,))
                    )
                except BackendError:
                    continue
                assert not _can_sign(await self.certificate(opened, answer))
            await self.working(opened, tmp_path)

        self.run(tmp_path, test)

    # -- how it behaves among others -------------------------------------------------------------------------------

    def test_many_orders_at_once_get_each_their_own_certificate(self, tmp_path: Path) -> None:
        """A server with many clients: none gets another's key or name, or another's serial number."""

        async def test(opened: OpenedCABackend) -> None:
            orders = [make_order(f"device-{number}") for number in range(PARALLEL)]
            made = await asyncio.gather(*(self.ordered(opened, order) for order in orders))
            assert len({certificate.serial_number for certificate in made}) == PARALLEL

        self.run(tmp_path, test)

    def test_a_cancelled_order_holds_up_nothing(self, tmp_path: Path) -> None:
        """A client that goes away, a time-out: cancellation passes through at every await, and the next order is served."""

        async def test(opened: OpenedCABackend) -> None:
            for turns in range(TURNS):
                await cancel_after(turns, opened.backend.issue(make_order()))
                await cancel_after(turns, opened.backend.ca_certificates())
            async with asyncio.timeout(self.patience):
                await self.working(opened, tmp_path)

        self.run(tmp_path, test)

    def test_the_event_loop_is_not_held_up(self, tmp_path: Path) -> None:
        """Others are served in the same loop: what waits or computes for long runs in `Services.run_blocking`."""

        async def test(opened: OpenedCABackend) -> None:
            for call in self._calls(opened):
                _, signs = await what_blocks(call)
                assert not signs, signs

        self.run(tmp_path, test)

    def test_no_secret_is_left_in_log_error_or_database(self, tmp_path: Path) -> None:
        """A search for the section's secrets in all that the backend left behind, whether the CA was there or not."""

        async def test(opened: OpenedCABackend) -> None:
            said = [repr(opened.backend), repr(await opened.backend.issue(make_order()))]
            bad = replace(make_order(), public_key=b"garbage")
            said += [repr(end) for end in await asyncio.gather(opened.backend.issue(bad), return_exceptions=True)]
            away = self.out_of_reach(tmp_path)
            if away is not None:
                async with away:
                    ends = await asyncio.gather(opened.backend.issue(make_order()), return_exceptions=True)
                said += [_everything(end) for end in ends]
            traces = "\n".join([opened.traces(), *said])
            for secret in self.all_secrets(tmp_path):
                assert secret not in traces

        self.run(tmp_path, test)

    def test_a_ca_that_is_away_has_signed_nothing(self, tmp_path: Path) -> None:
        """`BackendUnavailable`: the client's use is given back and it may come again; and then it is served."""

        async def test(opened: OpenedCABackend) -> None:
            await self.working(opened, tmp_path)
            away = self.out_of_reach(tmp_path)
            if away is None:
                pytest.skip("it depends on nothing that could be out of reach")
            async with away:
                for _ in range(2):
                    with pytest.raises(BackendUnavailable) as raised:
                        await opened.backend.issue(make_order())
                    assert sentence(raised.value.detail)
                    assert raised.value.retry_after > timedelta(0)
            await self.working(opened, tmp_path)

        self.run(tmp_path, test)

    # -- a CA at the end of a wire -----------------------------------------------------------------------------------

    def test_the_same_order_twice_is_one_certificate(self, tmp_path: Path) -> None:
        """`Order.id`: an answer that was lost is asked for again under the same id, and nothing is signed twice."""

        async def test(opened: OpenedCABackend) -> None:
            if not self.kind.remote:
                pytest.skip("it is not remote: an order leaves no trace in it")
            order = make_order()
            first = await self.ordered(opened, order)
            assert await self.ordered(opened, order) == first

        self.run(tmp_path, test)

    def test_an_answer_that_was_lost_is_not_called_unsigned(self, tmp_path: Path) -> None:
        """`CABackend.issue`: a time-out of a remote CA is unknown. `BackendUnavailable` would say that nothing was signed."""

        async def test(opened: OpenedCABackend) -> None:
            silent = self.silent(tmp_path)
            if silent is None:
                pytest.skip("an answer of it cannot be lost, or not here")
            order = make_order()
            async with silent:
                end = (await asyncio.gather(self._within(opened, order), return_exceptions=True))[0]
            assert isinstance(end, Exception), end
            assert not isinstance(end, BackendUnavailable), end
            backend = opened.backend
            if isinstance(backend, FindsOrders):
                found = await backend.find(order.id)
                if found is not None:
                    assert (
                        mismatch(order, await self.certificate(opened, found), (await backend.ca_certificates()).issuer)
                        is None
                    )
            await self.ordered(opened, order)

        self.run(tmp_path, test)

    def test_a_promise_has_a_reference_and_a_time(self, tmp_path: Path) -> None:
        """`Pending`, RFC 7030, 4.2.3: the reference is the CA's own and no secret; Retry-After is more than nothing."""

        async def test(opened: OpenedCABackend) -> None:
            pending = await self._promise(opened)
            assert isinstance(opened.backend, CollectsPending), "it promises, and cannot be asked"
            assert sentence(pending.ref)
            assert pending.retry_after > timedelta(0)
            for secret in self.all_secrets(tmp_path):
                assert secret not in pending.ref

        self.run(tmp_path, test)

    def test_what_was_promised_can_be_collected_again_and_again(self, tmp_path: Path) -> None:
        """`CollectsPending`: before the decision it is still pending, after it the certificate, each time the same."""

        async def test(opened: OpenedCABackend) -> None:
            order = make_order()
            pending = await self._promise(opened, order)
            backend = opened.backend
            assert isinstance(backend, CollectsPending), "it promises, and cannot be asked"
            await self.decide(opened, pending)
            first = await self._collected(opened, pending)
            assert mismatch(order, first, (await backend.ca_certificates()).issuer) is None
            ends = await asyncio.gather(*(backend.collect(pending.ref) for _ in range(3)))
            assert ends == [Issued(certificate=first)] * 3

        self.run(tmp_path, test)

    def test_a_promise_outlives_the_process(self, tmp_path: Path) -> None:
        """`CollectsPending`: the reference is a value; after a restart it leads to the same request."""
        order = make_order()

        async def promise(opened: OpenedCABackend) -> Pending:
            return await self._promise(opened, order)

        async def collect(opened: OpenedCABackend) -> None:
            await self.decide(opened, pending)
            certificate = await self._collected(opened, pending)
            assert mismatch(order, certificate, (await opened.backend.ca_certificates()).issuer) is None

        pending = self.run(tmp_path, promise)
        self.run(tmp_path, collect)

    def test_a_reference_that_the_ca_does_not_know_is_told(self, tmp_path: Path) -> None:
        """`CollectsPending.collect`: an error of kipuka's, and never somebody else's certificate."""

        async def test(opened: OpenedCABackend) -> None:
            backend = opened.backend
            if not isinstance(backend, CollectsPending):
                pytest.skip("it promises nothing")
            await self.working(opened, tmp_path)
            for ref in ("", "no-such-reference", "../../etc/passwd", "a b?c=d&e#f", "\N{SNOWMAN}", "x" * 10_000):
                with pytest.raises(BackendError):
                    await backend.collect(ref)

        self.run(tmp_path, test)

    def test_an_order_that_it_took_is_found(self, tmp_path: Path) -> None:
        """`FindsOrders`: the outcome of that order, also after a restart."""
        order = make_order()

        async def place(opened: OpenedCABackend) -> x509.Certificate:
            if not isinstance(opened.backend, FindsOrders):
                pytest.skip("it cannot look for an order")
            certificate = await self.ordered(opened, order)
            assert await opened.backend.find(order.id) == Issued(certificate=certificate)
            return certificate

        async def look(opened: OpenedCABackend) -> None:
            assert isinstance(opened.backend, FindsOrders)
            assert await opened.backend.find(order.id) == Issued(certificate=certificate)

        certificate = self.run(tmp_path, place)
        self.run(tmp_path, look)

    def test_an_order_that_it_never_took_is_none(self, tmp_path: Path) -> None:
        """`FindsOrders`: None says that the CA is certain; the host then gives the client's use back."""

        async def test(opened: OpenedCABackend) -> None:
            backend = opened.backend
            if not isinstance(backend, FindsOrders):
                pytest.skip("it cannot look for an order")
            await self.working(opened, tmp_path)
            for order_id in (make_order().id, "", "no-such-order", "../../etc/passwd", "a b?c=d&e#f"):
                assert await backend.find(order_id) is None

        self.run(tmp_path, test)

    def test_looking_is_unsure_while_the_ca_is_away(self, tmp_path: Path) -> None:
        """`FindsOrders`, `CollectsPending`: what cannot be asked is not answered with None, which would be certain."""

        async def test(opened: OpenedCABackend) -> None:
            backend, away = opened.backend, self.out_of_reach(tmp_path)
            if away is None or not isinstance(backend, FindsOrders | CollectsPending):
                pytest.skip("it cannot be asked, or is never out of reach")
            async with away:
                if isinstance(backend, FindsOrders):
                    with pytest.raises(BackendUnavailable):
                        await backend.find(make_order().id)
                if isinstance(backend, CollectsPending):
                    with pytest.raises(BackendUnavailable):
                        await backend.collect("1")

        self.run(tmp_path, test)

    # -- revocation ------------------------------------------------------------------------------------------------

    def test_revoking_twice_is_no_error(self, tmp_path: Path) -> None:
        """`RevokesCertificates`: the host asks until it returns, from several nodes, and after a crash once more."""

        async def test(opened: OpenedCABackend) -> None:
            backend, certificate = opened.backend, await self.ordered(opened, make_order())
            if not isinstance(backend, RevokesCertificates):
                pytest.skip("it revokes nothing")
            reason = x509.ReasonFlags.key_compromise
            for _ in range(2):
                await backend.revoke(certificate, reason)
            await asyncio.gather(*(backend.revoke(certificate, reason) for _ in range(5)))

        self.run(tmp_path, test)

    def test_every_reason_and_the_end_of_a_hold_are_taken(self, tmp_path: Path) -> None:
        """RFC 5280, 5.3.1: each reason of `kipuka cert revoke`, another one after it, and `remove_from_crl` after a hold."""

        async def test(opened: OpenedCABackend) -> None:
            backend = opened.backend
            if not isinstance(backend, RevokesCertificates):
                pytest.skip("it revokes nothing")
            flags = x509.ReasonFlags
            held = await self.ordered(opened, make_order())
            for reason in (
                flags.certificate_hold,
                flags.remove_from_crl,
                flags.remove_from_crl,
                flags.certificate_hold,
                flags.superseded,
            ):
                await backend.revoke(held, reason)
            for reason in (
                flags.unspecified,
                flags.affiliation_changed,
                flags.cessation_of_operation,
                flags.privilege_withdrawn,
            ):
                await backend.revoke(await self.ordered(opened, make_order()), reason)

        self.run(tmp_path, test)

    def test_a_revocation_that_is_not_certain_is_told(self, tmp_path: Path) -> None:
        """`RevokesCertificates`: `BackendUnavailable` while the CA is away; it is asked again, and then returns."""

        async def test(opened: OpenedCABackend) -> None:
            backend, away = opened.backend, self.out_of_reach(tmp_path)
            if away is None or not isinstance(backend, RevokesCertificates):
                pytest.skip("it revokes nothing, or is never out of reach")
            certificate = await self.ordered(opened, make_order())
            async with away:
                with pytest.raises(BackendUnavailable):
                    await backend.revoke(certificate, x509.ReasonFlags.key_compromise)
            await backend.revoke(certificate, x509.ReasonFlags.key_compromise)

        self.run(tmp_path, test)

    # -- making a CA -----------------------------------------------------------------------------------------------

    def test_a_ca_that_is_made_can_be_opened(self, tmp_path: Path) -> None:
        """`CreatesCA`: the settings it answers with are the keys of a [[ca]] item that works; its chain is the one that is shown."""
        made = self._create(tmp_path / "new")

        async def main() -> None:
            settings = dict(made.settings)
            async with self.open_with(settings, tmp_path) as opened:
                assert await opened.backend.ca_certificates() == made.chain
                await self.ordered(opened, make_order())

        asyncio.run(main())

    def test_a_ca_that_is_made_is_the_owners_only(self, tmp_path: Path) -> None:
        """Guarantee 8: what has a private key in it is for its owner alone; every file that is named is there."""
        made = self._create(tmp_path / "new")
        for file in made.files:
            mode = stat.S_IMODE(file.stat().st_mode)
            assert not mode & 0o022, f"{file.name} has mode {mode:04o}"
            if b"PRIVATE KEY" in file.read_bytes():
                assert not mode & 0o077, f"{file.name} has mode {mode:04o}"

    def test_a_ca_is_never_overwritten(self, tmp_path: Path) -> None:
        """`CreatesCA`: FileExistsError, whichever of its files is there; and everything stays as it was."""
        directory = tmp_path / "new"
        made = self._create(directory)
        before = _contents(directory)
        with pytest.raises(FileExistsError):
            self._create(directory)
        assert _contents(directory) == before
        for file in made.files:
            for other in made.files:
                other.unlink(missing_ok=True)
            file.write_bytes(b"somebody's")
            before = _contents(directory)
            with pytest.raises(FileExistsError):
                self._create(directory)
            assert _contents(directory) == before

    def test_a_plan_that_makes_no_sense_is_refused(self, tmp_path: Path) -> None:
        """`CreatesCA`: an error for the administrator, and nothing is left behind."""
        for number, changes in enumerate(({"common_name": ""}, {"key_type": "rsa17"}, {"issuing_days": 0})):
            directory = tmp_path / f"bad-{number}"
            with pytest.raises(StartupError):
                self._create(directory, **changes)
            assert not directory.exists() or not _contents(directory)

    # -- steps -----------------------------------------------------------------------------------------------------

    def _create(self, directory: Path, **changes: Any) -> CreatedCA:
        if self.kind.creator is None:
            pytest.skip("it makes no CA")
        plan: dict[str, Any] = {
            "id": "main",
            "directory": directory,
            "common_name": "Contract CA",
            "key_type": "p256",
            "root_days": 30,
            "issuing_days": 20,
            "options": self.creation_options(directory.parent),
            **changes,
        }
        return self.kind.creator.create(CAPlan(**plan))

    async def _within(self, opened: OpenedCABackend, order: Order) -> Issued | Pending:
        async with asyncio.timeout(self.silence):
            return await opened.backend.issue(order)

    async def _promise(self, opened: OpenedCABackend, order: Order | None = None) -> Pending:
        answer = await opened.backend.issue(make_order() if order is None else order)
        if not isinstance(answer, Pending):
            pytest.skip("it decides at once")
        return answer

    async def _collected(self, opened: OpenedCABackend, pending: Pending) -> x509.Certificate:
        assert isinstance(opened.backend, CollectsPending), "it promises, and cannot be asked"
        for _ in range(int(self.patience / _PAUSE)):
            answer = await opened.backend.collect(pending.ref)
            if isinstance(answer, Issued):
                return answer.certificate
            assert isinstance(answer, Pending), answer
            await asyncio.sleep(_PAUSE)
        pytest.fail("what was promised is still pending: let `decide` make the CA say yes")

    def _calls(self, opened: OpenedCABackend) -> Sequence[Callable[[], Any]]:
        backend = opened.backend
        calls: list[Callable[[], Any]] = [backend.ca_certificates, lambda: backend.issue(make_order())]
        if isinstance(backend, FindsOrders):
            calls.append(lambda: backend.find(make_order().id))
        return calls


def _named_oddly() -> Sequence[Order]:
    texts = ("a,b=c", 'quote " and \\ backslash', "ünïcödé 漢字", "CN=admin/O=root", "#hash", "semi;colon <tag>")
    orders = [make_order(subject=common_name(text)) for text in texts]
    several = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "NZ"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Acme, Inc."),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "one"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "two"),
            x509.NameAttribute(NameOID.COMMON_NAME, "device-1"),
        ]
    )
    orders.append(make_order(subject=several))
    names = x509.SubjectAlternativeName(
        [
            x509.DNSName("device-1.example"),
            x509.DNSName("*.device-1.example"),
            x509.RFC822Name("device@example.org"),
            x509.UniformResourceIdentifier("urn:uuid:0d3b5d32-6e3c-4f0e-9a86-6f1f7f3b2a10"),
        ]
    )
    orders.append(make_order(extensions=(x509.Extension(names.oid, critical=False, value=names),)))
    return orders


def _can_sign(certificate: x509.Certificate) -> bool:
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.BasicConstraints) and value.ca:
            return True
        if isinstance(value, x509.KeyUsage) and (value.key_cert_sign or value.crl_sign):
            return True
    return False


def _everything(error: object) -> str:
    """An error with what it came from, as a traceback would show them."""
    said: list[str] = []
    while isinstance(error, BaseException):
        said.append(f"{error!r} {error}")
        error = error.__cause__ or error.__context__
    return "\n".join(said)


def _contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}
