"""A token that goes away, and what comes back by itself."""

from __future__ import annotations

import asyncio
import threading

import pkcs11
import pytest
from kipuka_ca_pkcs11 import cryptoki, tokens
from kipuka_ca_pkcs11.config import PKCS11CASettings, check_settings

from kipuka.api import BackendUnavailable
from kipuka.testing.pki import make_root

from .softhsm import MODULE

LOST = [
    pkcs11.exceptions.SessionHandleInvalid,
    pkcs11.exceptions.SessionClosed,
    pkcs11.exceptions.DeviceRemoved,
    pkcs11.exceptions.DeviceError,
    pkcs11.exceptions.TokenNotPresent,
    pkcs11.exceptions.UserNotLoggedIn,
    pkcs11.exceptions.KeyHandleInvalid,
    pkcs11.exceptions.ObjectHandleInvalid,
    pkcs11.exceptions.GeneralError,
    pkcs11.exceptions.FunctionFailed,
]


async def test_a_token_that_is_away_is_a_clean_503_and_is_back_without_a_restart(
    *, hsm, item, open_ca, make_order, issuing, issue_until_it_works
):
    authority = await open_ca(item(issuing))
    await authority.issue(make_order())
    hsm.take_away()
    for _ in range(3):
        with pytest.raises(BackendUnavailable) as caught:
            await authority.issue(make_order())
        assert caught.value.reason == "hsm_unavailable"
        assert caught.value.retry_after.total_seconds() > 0
        assert hsm.pin not in str(caught.value.__cause__)
    assert "module: " in await authority.health()
    hsm.bring_back()
    certificate = await issue_until_it_works(authority, make_order())
    certificate.verify_directly_issued_by(issuing.certificate)
    assert await authority.health() is None


async def test_a_token_that_is_away_at_the_start_of_a_worker_is_waited_for(
    *, hsm, item, open_ca, make_order, issuing, issue_until_it_works
):
    values = item(issuing)
    hsm.take_away()
    authority = await open_ca(values)
    with pytest.raises(BackendUnavailable):
        await authority.issue(make_order())
    hsm.bring_back()
    (await issue_until_it_works(authority, make_order())).verify_directly_issued_by(issuing.certificate)


@pytest.mark.parametrize("lost", LOST, ids=lambda one: one.__name__)
async def test_lost_sessions_are_opened_anew_within_the_same_order(
    *, item, open_ca, make_order, issuing, monkeypatch, lost
):
    authority = await open_ca(item(issuing))
    await authority.issue(make_order())
    take = tokens._Connection.take
    left = [lost]

    def failing(self, place):
        if left:
            raise left.pop()
        return take(self, place)

    monkeypatch.setattr(tokens._Connection, "take", failing)
    certificate = (await authority.issue(make_order())).certificate
    certificate.verify_directly_issued_by(issuing.certificate)
    assert left == []


async def test_a_library_that_something_else_finalised_is_initialised_again(item, open_ca, make_order, issuing):
    authority = await open_ca(item(issuing))
    module = cryptoki._modules[MODULE]
    assert module._calls.finalize() == 0
    (await authority.issue(make_order())).certificate.verify_directly_issued_by(issuing.certificate)


async def test_a_logout_by_something_else_is_healed(item, open_ca, make_order, issuing):
    """A login counts for the whole process: so does a logout."""
    authority = await open_ca(item(issuing))
    login = next(iter(cryptoki._modules[MODULE]._logins.values()))
    login._session.close()
    (await authority.issue(make_order())).certificate.verify_directly_issued_by(issuing.certificate)


async def test_two_authorities_on_one_token_share_the_login_and_the_first_to_close_takes_nothing_along(
    *, item, make_order, issuing, services, monkeypatch
):
    """As on a reload, where the new runtime is opened while the old one serves."""
    from kipuka_ca_pkcs11.backend import open_pkcs11_ca

    logins = []
    log_in = cryptoki._log_in
    monkeypatch.setattr(
        cryptoki, "_log_in", lambda token, pin, **more: logins.append(token.label) or log_in(token, pin, **more)
    )
    settings = PKCS11CASettings.model_validate(item(issuing))
    async with open_pkcs11_ca(settings, services) as new:
        async with open_pkcs11_ca(settings, services) as old:
            assert cryptoki._modules[MODULE].users == 2
            generation = cryptoki._modules[MODULE].generation
            await asyncio.gather(old.issue(make_order()), new.issue(make_order()))
        await new.issue(make_order())
        assert logins == ["kipuka"], "somebody had to log in again"
        assert cryptoki._modules[MODULE].generation == generation, "the library was started again: something was lost"
        assert [one._users for one in cryptoki._modules[MODULE]._logins.values()] == [1]
    assert not cryptoki._modules[MODULE].is_up


async def test_one_authority_that_looks_for_its_token_does_not_stop_another(
    *, hsm, item, open_ca, make_order, issuing, tmp_path
):
    hsm.make_token("other")
    other = make_root("Other Root").issue_ca("Other CA")
    values = item(issuing)
    healthy = await open_ca(values)
    hsm.bring(other, label="other", token="other")
    (tmp_path / "other.pem").write_bytes(other.pem + other.root.pem)
    lost = await open_ca(values | {"cert": str(tmp_path / "other.pem"), "token": "missing", "key_label": "other"})

    async def knock():
        for _ in range(30):
            with pytest.raises(BackendUnavailable):
                await lost.issue(make_order())
            await asyncio.sleep(0.02)

    async def work():
        for _ in range(40):
            await healthy.issue(make_order())

    await asyncio.gather(knock(), work())


async def test_a_call_that_does_not_come_back_takes_one_thread_and_nobody_else_with_it(
    item, open_ca, make_order, issuing, monkeypatch
):
    authority = await open_ca(item(issuing, sessions=2, timeout=0.5))
    release, hanging = threading.Event(), threading.Event()
    take = tokens._Connection.take

    def hang(self, place):
        if not hanging.is_set():
            hanging.set()
            release.wait(30)
        return take(self, place)

    monkeypatch.setattr(tokens._Connection, "take", hang)
    with pytest.raises(BackendUnavailable) as caught:
        await authority.issue(make_order())
    assert caught.value.reason == "hsm_timeout"
    for _ in range(5):
        await authority.issue(make_order())
    release.set()


async def test_too_many_waiting_orders_are_sent_away_at_once(item, open_ca, make_order, issuing, monkeypatch):
    authority = await open_ca(item(issuing, sessions=1))
    release = threading.Event()
    take = tokens._Connection.take

    def slow(self, place):
        release.wait(30)
        return take(self, place)

    monkeypatch.setattr(tokens._Connection, "take", slow)
    calls = [asyncio.ensure_future(authority.issue(make_order())) for _ in range(70)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    busy = [call for call in calls if call.done()]
    assert len(busy) == 5
    for call in busy:
        assert call.exception().reason == "hsm_busy"
    release.set()
    done = await asyncio.gather(*(call for call in calls if call not in busy))
    assert len(done) == 65


async def test_a_pin_that_became_wrong_is_tried_once_and_never_again_by_this_process(
    *, hsm, item, open_ca, make_order, issuing, issue_until_it_works, monkeypatch
):
    tries = []
    log_in = cryptoki._log_in

    authority = await open_ca(item(issuing))
    hsm.change_pin("another-one")

    def counting(token, pin, *, attended):
        opened = token.open

        class Counting:
            def __getattr__(self, name):
                return getattr(token, name)

            def open(self, **arguments):
                if "user_pin" in arguments:
                    tries.append(arguments["user_pin"])
                return opened(**arguments)

        return log_in(Counting(), pin, attended=attended)

    monkeypatch.setattr(cryptoki, "_log_in", counting)
    hsm.take_away()
    with pytest.raises(BackendUnavailable):
        await authority.issue(make_order())
    hsm.bring_back()
    async with asyncio.timeout(20):
        while "pin: " not in (await authority.health() or ""):  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.05)
    for _ in range(20):
        with pytest.raises(BackendUnavailable) as caught:
            await authority.issue(make_order())
        assert hsm.pin not in f"{caught.value}{caught.value.__cause__}"
        await asyncio.sleep(0.02)
        authority._key._not_before = 0.0  # as if the pause were over
    assert tries == [hsm.pin]
    assert hsm.wrong_tries()


async def test_a_worker_does_not_try_a_pin_while_the_token_says_that_the_last_was_wrong(
    *, hsm, item, open_ca, make_order, issuing, issue_until_it_works
):
    values = item(issuing)
    wrong = values | {"pin": "wrong-one"}
    errors = [one for one in check_settings(PKCS11CASettings.model_validate(wrong)) if one.severity == "error"]
    assert [one.key for one in errors] == ["pin"]
    assert hsm.wrong_tries()
    authority = await open_ca(values)
    assert "the last PIN it was given was wrong" in await authority.health()
    with pytest.raises(BackendUnavailable):
        await authority.issue(make_order())
    # `kipuka check`, which somebody reads: it tries once, and with that the server lets itself in again.
    found = check_settings(PKCS11CASettings.model_validate(values))
    assert [one for one in found if one.severity == "error"] == []
    (await issue_until_it_works(authority, make_order())).verify_directly_issued_by(issuing.certificate)
