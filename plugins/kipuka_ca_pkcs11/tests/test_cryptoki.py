"""The library in this process, and what is asked of it before a PIN is given away."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
from kipuka_ca_pkcs11 import cryptoki
from kipuka_ca_pkcs11.cryptoki import ModuleFault, Refusal
from kipuka_ca_pkcs11.tokens import _Connection
from pkcs11 import TokenFlag
from pkcs11.exceptions import PinIncorrect, SessionHandleInvalid

from .softhsm import MODULE


class Asked:
    """A token that notes each PIN it is given."""

    def __init__(self, flags: TokenFlag, *, serial: bytes, takes: str = "right", counts: bool = True) -> None:
        self.flags = flags
        self.serial = serial
        self.label = "asked"
        self.tried: list[str] = []
        self._takes = takes
        self._counts = counts
        self.slot = SimpleNamespace(get_token=lambda: self)

    def open(self, *, user_pin: str) -> str:
        self.tried.append(user_pin)
        if user_pin != self._takes:
            if self._counts:
                self.flags |= TokenFlag.USER_PIN_COUNT_LOW
            raise PinIncorrect
        self.flags &= ~TokenFlag.USER_PIN_COUNT_LOW
        return "a session"


NONE = TokenFlag(0)
NOT_ASKED = [
    pytest.param(TokenFlag.USER_PIN_LOCKED, True, "is locked", id="locked"),
    pytest.param(TokenFlag.USER_PIN_FINAL_TRY, True, "one more try", id="the last try, with somebody there"),
    pytest.param(TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_COUNT_LOW, False, "one more try", id="the last try"),
    pytest.param(TokenFlag.USER_PIN_COUNT_LOW, False, "the last PIN it was given was wrong", id="a wrong one before"),
]


@pytest.mark.parametrize(("flags", "attended", "text"), NOT_ASKED)
def test_a_token_that_could_lock_is_not_given_a_pin(flags, attended, text):
    token = Asked(flags, serial=b"1")
    with pytest.raises(Refusal, match=text) as caught:
        cryptoki._log_in(token, "right", attended=attended)
    assert caught.value.remedy
    assert token.tried == []


def test_a_person_who_waits_for_the_answer_may_try_after_a_wrong_one():
    token = Asked(TokenFlag.USER_PIN_COUNT_LOW, serial=b"2")
    assert cryptoki._log_in(token, "right", attended=True) == "a session"


@pytest.mark.parametrize("counts", [True, False], ids=["a token that tells", "a token that does not tell"])
def test_a_refused_pin_is_never_given_again_and_another_one_is(counts):
    token = Asked(NONE, serial=b"3%d" % counts, counts=counts)
    for attended in (True, True, False):
        with pytest.raises(Refusal) as caught:
            cryptoki._log_in(token, "wrong", attended=attended)
        assert "wrong-one" not in str(caught.value)
    assert token.tried == ["wrong"]
    assert cryptoki._log_in(token, "right", attended=True) == "a session"
    assert token.tried == ["wrong", "right"]


def test_a_pin_that_the_token_has_again_is_tried_after_a_good_login_of_somebody():
    token = Asked(NONE, serial=b"4", takes="new")
    with pytest.raises(Refusal):
        cryptoki._log_in(token, "old", attended=False)
    token._takes = "old"  # it was set back
    with pytest.raises(Refusal):
        cryptoki._log_in(token, "old", attended=False)
    token.flags = NONE  # somebody has logged in
    assert cryptoki._log_in(token, "old", attended=False) == "a session"


def test_a_library_of_the_process_before_the_fork_is_refused(hsm, monkeypatch):
    module = cryptoki.Module(MODULE)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(ModuleFault, match="before this process was forked"):
        module.restart(module.generation, patience=1)


def test_a_library_that_is_in_use_in_this_process_already_is_refused(hsm):
    module, other = cryptoki.borrow(MODULE), cryptoki.Module(MODULE)
    try:
        module.restart(module.generation, patience=1)
        with pytest.raises(ModuleFault):
            other.restart(other.generation, patience=1)
    finally:
        cryptoki.give_back(module)


def test_the_library_is_told_that_several_threads_call_it(hsm, monkeypatch):
    """Without a word it takes them for one, and SoftHSM for instance leaves its locks out (PKCS#11 2.40, 5.4)."""
    module = cryptoki.borrow(MODULE)
    told = []
    real = cryptoki._InitializeArgs

    def arguments(**values):
        told.append(values)
        return real(**values)

    monkeypatch.setattr(cryptoki, "_InitializeArgs", arguments)
    try:
        module.restart(module.generation, patience=1)
        assert told == [{"flags": 0x2}]
    finally:
        cryptoki.give_back(module)


def test_a_restart_waits_for_calls_under_way_and_gives_up_on_one_that_does_not_come_back(hsm):
    module = cryptoki.borrow(MODULE)
    try:
        module.restart(module.generation, patience=1)
        seen = module.generation
        with module.work(patience=1), pytest.raises(ModuleFault, match="does not come back"):
            module.restart(seen, patience=0.05)
        assert module.generation == seen
        module.restart(seen, patience=1)
        assert module.generation == seen + 1
        module.restart(seen, patience=1)  # somebody has done it already
        assert module.generation == seen + 1
    finally:
        cryptoki.give_back(module)


def test_a_library_that_somebody_has_borrowed_meanwhile_is_not_stopped(hsm):
    module = cryptoki.borrow(MODULE)
    module.restart(module.generation, patience=1)
    module.stop_unless_used(patience=1)
    assert module.is_up
    cryptoki.give_back(module)
    assert not module.is_up


class Session:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1
        raise SessionHandleInvalid


def test_a_session_that_comes_back_after_its_connection_was_given_up_is_closed():
    connection = _Connection(None, 1, frozenset())
    free, used = Session(), Session()
    connection.put((free, None))
    connection.close()
    assert (free.closed, used.closed) == (1, 0)
    connection.put((used, None))
    assert (free.closed, used.closed) == (1, 1)
