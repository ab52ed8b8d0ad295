"""GSSAPI's statuses in words.

In the room: from a major and a minor status to one snake_case word for audit, and a sentence. Not in the room: what is done
about it.

A minor status has no number to go by: under SPNEGO the library gives each a new one as it comes up. So the words go by the
texts of MIT Kerberos (1.19 and later), which are not translated in a process that has not asked for it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gssapi.raw.exceptions import (
    BadChannelBindingsError,
    BadMechanismError,
    DuplicateTokenError,
    ExpiredCredentialsError,
    InvalidTokenError,
    MissingCredentialsError,
)
from gssapi.raw.misc import GSSError

__all__ = ["OUR_FAULT", "Failure", "describe"]

OUR_FAULT = frozenset({"keytab_unusable", "kerberos_files_unusable"})
"""The words for what no client can mend."""

_LONGEST = 300

_BY_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"clock skew", re.IGNORECASE), "clock_skew"),
    (re.compile(r"ticket expired", re.IGNORECASE), "ticket_expired"),
    (re.compile(r"ticket not yet valid", re.IGNORECASE), "ticket_not_yet_valid"),
    (re.compile(r"request is a replay", re.IGNORECASE), "replayed"),
    (re.compile(r"likely out of date|key version", re.IGNORECASE), "wrong_key_version"),
    (re.compile(r"but not with enctype|encryption type", re.IGNORECASE), "wrong_encryption_type"),
    (re.compile(r"cannot decrypt ticket|decrypt integrity check failed", re.IGNORECASE), "wrong_key"),
    (re.compile(r"keytab .* is nonexistent or empty", re.IGNORECASE), "keytab_unusable"),
    (re.compile(r"not found in keytab|no key table entry|wrong principal", re.IGNORECASE), "unknown_service"),
    (re.compile(r"\(filename: "), "kerberos_files_unusable"),
    (re.compile(r"malformed or corrupt|invalid message type|asn\.1", re.IGNORECASE), "malformed_token"),
)

_BY_MAJOR: tuple[tuple[type[GSSError], str], ...] = (
    (BadChannelBindingsError, "wrong_channel_binding"),
    (BadMechanismError, "unsupported_mechanism"),
    (InvalidTokenError, "malformed_token"),
    (ExpiredCredentialsError, "ticket_expired"),
    (DuplicateTokenError, "replayed"),
    (MissingCredentialsError, "keytab_unusable"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a token was not accepted: a word, and the library's own sentence."""

    reason: str
    explanation: str


def describe(error: GSSError) -> Failure:
    """The statuses of an error in words. To be called in the thread that got it: the library keeps the texts there."""
    minor = _texts(error, error.min_code, is_major=False)
    explanation = "; ".join([*_texts(error, error.maj_code, is_major=True), *minor])[:_LONGEST]
    reason = next((word for kind, word in _BY_MAJOR if isinstance(error, kind)), None)
    if reason is None:
        said = "; ".join(minor)
        reason = next((word for pattern, word in _BY_TEXT if pattern.search(said)), "gss_failure")
    return Failure(reason=reason, explanation=explanation)


def _texts(error: GSSError, code: int, *, is_major: bool) -> list[str]:
    texts = error.get_all_statuses(code, is_major)
    return [text for text in texts if text not in {"Success", "Unknown error"}]
