"""What a directory means by its answer to a bind.

In the room: result codes, the sub-codes of Active Directory, and password policy controls, as pure functions of one value. Not in
the room: asking (`kipuka_auth_ldap.connection`).

A client always hears the same sentence. The words here are for audit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["BindAnswer", "Policy", "PolicyError", "Refusal", "Trouble", "judge_bind", "judge_service_bind", "printable"]

PolicyError = Literal["expired", "locked", "change_after_reset", "other"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What the password policy response control says (draft-behera-ldap-password-policy), and the older `expired` control."""

    error: PolicyError | None = None
    grace_left: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BindAnswer:
    """The answer to a bind request (RFC 4511, 4.2.2): result code, diagnostic message, and what controls came with it."""

    code: int
    text: str = ""
    policy: Policy = Policy()


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """The client is not let in. `counts` says that it may have been a guess (RULES C4)."""

    reason: str
    explanation: str | None = None
    counts: bool = False


class Trouble(Exception):
    """A directory server cannot say now. `away` says that it did not even answer."""

    def __init__(self, reason: str, explanation: str, *, away: bool = False) -> None:
        super().__init__(explanation)
        self.reason = reason
        self.explanation = explanation
        self.away = away


SUCCESS = 0
BUSY, UNAVAILABLE = 51, 52

# RFC 4511, appendix A.2. The directory knows the credentials are not good, or the account is not to be used.
_REFUSED: Mapping[int, tuple[str, bool]] = {
    19: ("account_locked", True),  # constraintViolation: 389 Directory Server, too many failures
    32: ("unknown_user", True),  # noSuchObject
    34: ("unknown_user", True),  # invalidDNSyntax
    48: ("no_password", True),  # inappropriateAuthentication: the entry has none
    49: ("wrong_password", True),  # invalidCredentials
    50: ("account_disabled", False),  # insufficientAccessRights
    53: ("account_disabled", False),  # unwillingToPerform: 389 Directory Server, inactivated
}

# Active Directory answers invalidCredentials and the Windows error in the text. Those that do not count are told only to
# whoever has the right password.
_ACTIVE_DIRECTORY: Mapping[str, tuple[str, bool]] = {
    "525": ("unknown_user", True),
    "52e": ("wrong_password", True),
    "530": ("outside_logon_hours", False),
    "531": ("workstation_not_allowed", False),
    "532": ("password_expired", False),
    "533": ("account_disabled", False),
    "568": ("too_many_groups", False),
    "701": ("account_expired", False),
    "773": ("password_must_change", False),
    "775": ("account_locked", True),
}
_SUB_CODE = re.compile(r"AcceptSecurityContext error, data ([0-9a-fA-F]+)\b")

_POLICY: Mapping[PolicyError, tuple[str, bool]] = {
    "expired": ("password_expired", False),
    "locked": ("account_locked", True),
    "change_after_reset": ("password_must_change", False),
}


def printable(text: str, limit: int = 200) -> str:
    """A server's own words, fit for a log: no control characters, and not too many."""
    shown = "".join(character if character.isprintable() else "?" for character in text.strip("\0\r\n "))
    return shown if len(shown) <= limit else f"{shown[:limit]}..."


def judge_bind(answer: BindAnswer) -> Refusal | None:
    """Why the one who bound is not let in; None when all is well. Raises `Trouble` where the answer is none about the password.

    A grace login of an expired password is for changing it, not for a certificate.
    """
    explanation = printable(answer.text) or None
    by_policy = _POLICY.get(answer.policy.error) if answer.policy.error is not None else None
    if answer.code == SUCCESS:
        if by_policy is None and answer.policy.grace_left is not None:
            by_policy = _POLICY["expired"]
        return None if by_policy is None else Refusal(reason=by_policy[0], explanation=explanation, counts=False)
    if answer.code not in _REFUSED:
        raise _trouble("bind_failed", answer)
    found = _SUB_CODE.search(answer.text)
    by_text = _ACTIVE_DIRECTORY.get(found[1].lower()) if found else None
    reason, counts = by_policy or by_text or _REFUSED[answer.code]
    return Refusal(reason=reason, explanation=explanation, counts=counts)


def judge_service_bind(answer: BindAnswer) -> None:
    """The server's own account must get in: anything else is `Trouble`, and never the client's fault."""
    if answer.code != SUCCESS:
        raise _trouble("service_bind_failed", answer)


def _trouble(reason: str, answer: BindAnswer) -> Trouble:
    text = f"result code {answer.code}" + (f": {printable(answer.text)}" if answer.text else "")
    return Trouble(reason, text, away=answer.code in {BUSY, UNAVAILABLE})
