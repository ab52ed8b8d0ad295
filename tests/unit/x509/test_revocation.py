"""Which revocation may follow which (RFC 5280, 5.3.1): the whole table."""

from __future__ import annotations

import pytest
from cryptography import x509

from kipuka.api import Conflict
from kipuka.cli.cert import REASONS
from kipuka.x509.revocation import Reason, change_of

HOLD, LIFT, COMPROMISE = Reason.CERTIFICATE_HOLD, Reason.REMOVE_FROM_CRL, Reason.KEY_COMPROMISE
FINAL = [reason for reason in Reason if reason not in {HOLD, LIFT}]


def test_the_names_are_those_of_the_rfc():
    """RFC 5280, 5.3.1; a CA backend is told by the same names."""
    assert {reason.value for reason in Reason} == {flag.value for flag in x509.ReasonFlags}
    assert tuple(reason.value for reason in Reason) == REASONS


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not LIFT])
def test_a_good_certificate_can_be_revoked_for_any_reason(reason):
    assert change_of(None, reason) == "revoked"


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not LIFT])
def test_the_same_again_changes_nothing(reason):
    assert change_of(reason, reason) == "nothing"


def test_a_hold_is_lifted_or_made_final():
    assert change_of(HOLD, LIFT) == "hold_lifted"
    assert {change_of(HOLD, reason) for reason in FINAL} == {"amended"}


@pytest.mark.parametrize("reason", [reason for reason in FINAL if reason is not COMPROMISE])
def test_any_reason_can_become_a_compromise_of_the_key(reason):
    assert change_of(reason, COMPROMISE) == "amended"


@pytest.mark.parametrize("current", FINAL)
@pytest.mark.parametrize("wanted", [reason for reason in Reason if reason is not COMPROMISE])
def test_all_else_is_final(current, wanted):
    if current is wanted:
        return
    with pytest.raises(Conflict, match=current.value):
        change_of(current, wanted)


def test_only_a_hold_can_be_lifted():
    with pytest.raises(Conflict, match="not on hold"):
        change_of(None, LIFT)
