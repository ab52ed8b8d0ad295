"""Reasons for a revocation, and what may follow what (RFC 5280, 5.3.1). Pure.

In the room: the reasons by their names in the RFC, and the one rule that says what a request changes. Not in the room: the
record (`kipuka.store.certificates`) and the certification authority (`kipuka.revocation`).

A revocation is final, with two exceptions: a hold can be lifted or made final, and any reason can become keyCompromise, since a key that
got out is found out about late. The time stays that of the first revocation, also when a hold becomes final (ITU-T X.509).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from kipuka.api.errors import Conflict

__all__ = ["Change", "Reason", "change_of"]


class Reason(StrEnum):
    """Why a certificate is revoked, as RFC 5280 spells it."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    REMOVE_FROM_CRL = "removeFromCRL"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AA_COMPROMISE = "aACompromise"


Change = Literal["revoked", "amended", "hold_lifted", "nothing"]
"""What a request does: the certificate is revoked; it was, and the record now says another reason or date of invalidity; it is
valid again; it was so already.
"""


def change_of(current: Reason | None, wanted: Reason) -> Change:
    """What revoking for `wanted` changes in a certificate that is revoked for `current` (None: it is not revoked).

    Raises `Conflict` for what cannot follow.
    """
    match current, wanted:
        case None, Reason.REMOVE_FROM_CRL:
            raise Conflict("the certificate is not on hold", reason="not_on_hold")
        case None, _:
            return "revoked"
        case _, _ if current is wanted:
            return "nothing"
        case Reason.CERTIFICATE_HOLD, Reason.REMOVE_FROM_CRL:
            return "hold_lifted"
        case (Reason.CERTIFICATE_HOLD, _) | (_, Reason.KEY_COMPROMISE):
            return "amended"
        case _:
            detail = f"the certificate is revoked for {current.value} already, and that is final"
            raise Conflict(detail, reason="already_revoked")
