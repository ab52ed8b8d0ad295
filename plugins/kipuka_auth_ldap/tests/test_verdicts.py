"""What answers to a bind mean: result codes, Active Directory's sub-codes, password policy controls."""

from __future__ import annotations

import pytest
from kipuka_auth_ldap.verdicts import BindAnswer, Policy, Trouble, judge_bind, judge_service_bind, printable

ACTIVE_DIRECTORY = "80090308: LdapErr: DSID-0C09042A, comment: AcceptSecurityContext error, data {}, v3839\0"


def test_a_plain_success_is_one():
    assert judge_bind(BindAnswer(code=0)) is None
    judge_service_bind(BindAnswer(code=0))


@pytest.mark.parametrize(
    ("sub_code", "reason", "counts"),
    [
        ("52e", "wrong_password", True),
        ("52E", "wrong_password", True),
        ("525", "unknown_user", True),
        ("530", "outside_logon_hours", False),
        ("531", "workstation_not_allowed", False),
        ("532", "password_expired", False),
        ("533", "account_disabled", False),
        ("701", "account_expired", False),
        ("773", "password_must_change", False),
        ("775", "account_locked", True),
        ("9999", "wrong_password", True),
    ],
)
def test_active_directory_says_why_in_its_text(sub_code, reason, counts):
    refusal = judge_bind(BindAnswer(code=49, text=ACTIVE_DIRECTORY.format(sub_code)))
    assert refusal is not None
    assert (refusal.reason, refusal.counts) == (reason, counts)
    assert "\0" not in str(refusal.explanation)


@pytest.mark.parametrize(
    ("code", "reason", "counts"),
    [
        (49, "wrong_password", True),
        (48, "no_password", True),
        (32, "unknown_user", True),
        (34, "unknown_user", True),
        (53, "account_disabled", False),
        (50, "account_disabled", False),
        (19, "account_locked", True),
    ],
)
def test_result_codes_about_the_account_are_refusals(code, reason, counts):
    refusal = judge_bind(BindAnswer(code=code))
    assert refusal is not None
    assert (refusal.reason, refusal.counts) == (reason, counts)


@pytest.mark.parametrize("code", [1, 2, 7, 8, 10, 11, 13, 51, 52, 80, 118])
def test_any_other_code_is_trouble_and_nobodys_fault(code):
    with pytest.raises(Trouble) as caught:
        judge_bind(BindAnswer(code=code, text="so\nso"))
    assert caught.value.away is (code in {51, 52})
    assert caught.value.explanation == f"result code {code}: so?so"


@pytest.mark.parametrize(
    ("code", "policy", "reason"),
    [
        (49, Policy(error="expired"), "password_expired"),
        (49, Policy(error="locked"), "account_locked"),
        (49, Policy(error="other"), "wrong_password"),
        (0, Policy(error="change_after_reset"), "password_must_change"),
        (0, Policy(error="expired"), "password_expired"),
        (0, Policy(grace_left=2), "password_expired"),
    ],
)
def test_password_policy_goes_before_the_code(code, policy, reason):
    refusal = judge_bind(BindAnswer(code=code, policy=policy))
    assert refusal is not None
    assert refusal.reason == reason


def test_a_warning_of_the_policy_lets_in():
    assert judge_bind(BindAnswer(code=0, policy=Policy(error="other"))) is None


@pytest.mark.parametrize("code", [49, 53, 8, 32])
def test_the_servers_own_account_is_never_a_clients_failure(code):
    with pytest.raises(Trouble) as caught:
        judge_service_bind(BindAnswer(code=code))
    assert caught.value.reason == "service_bind_failed"


def test_a_servers_words_are_made_fit_for_a_log():
    assert printable("a\r\nb\x1b[31m\0") == "a??b?[31m"
    assert len(printable("x" * 1000)) == 203
