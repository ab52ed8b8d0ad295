"""The section `[otp]` of the configuration file.

In the room: its keys, defaults and bounds. Not in the room: reading the look-up key (`kipuka_auth_otp.secrecy`) and what
`kipuka check` says about a weak choice (`kipuka_auth_otp.findings`).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from kipuka.api import ConfigPath, LockoutPolicy, Seconds, Section

__all__ = ["BCRYPT_BYTES", "MAX_USES", "TOKEN_LENGTHS", "HashAlgorithm", "OTPSettings"]

HashAlgorithm = Literal["argon2id", "bcrypt", "sha256-hmac"]

TOKEN_LENGTHS = range(16, 129)
"""Lengths a token can have. The upper end keeps `user:token` below the 174 characters that strongSwan can send."""

BCRYPT_BYTES = 72
"""bcrypt takes no more of its input than this."""

MAX_USES = 1_000_000


class OTPSettings(Section):
    """How one-time passwords are made, kept and checked."""

    enabled: bool = True
    """Whether one-time passwords are accepted."""

    hash_algorithm: HashAlgorithm = "argon2id"
    """How new tokens are hashed before they are stored: "argon2id" (recommended), "bcrypt", or "sha256-hmac", which is
    fast but stands on the secrecy of `lookup_key` alone. Tokens made under another setting keep working."""

    token_length: int = Field(default=20, ge=TOKEN_LENGTHS.start, lt=TOKEN_LENGTHS.stop, strict=True)
    """How many characters (0-9, A-Z, a-z; 5.95 bits each) a new token has: 16 to 128, with bcrypt at most 72."""

    max_uses: int = Field(default=1, ge=1, le=MAX_USES, strict=True)
    """How many certificates a new token is good for, where its maker does not say."""

    max_failures: int = Field(default=5, ge=1, le=10_000, strict=True)
    """How many failures an address may have within `failure_window`; the next one locks it out."""

    failure_window: Seconds = Field(default=timedelta(seconds=300), gt=timedelta(0), le=timedelta(days=30))
    """How long, in seconds, a failure is counted."""

    lockout_duration: Seconds = Field(default=timedelta(seconds=900), gt=timedelta(0), le=timedelta(days=30))
    """How long, in seconds, an address stays locked out."""

    lookup_key: ConfigPath = Path("otp.key")
    """A file of 32 or more random bytes, readable by the server alone and the same on all nodes. Tokens are found by a keyed
    hash under it, so that an unknown token costs next to nothing. Tokens are worthless without it: keep a copy."""

    default_ttl: Seconds = Field(default=timedelta(hours=24), gt=timedelta(0), le=timedelta(days=3650))
    """How long, in seconds, a new token is good where its maker does not say."""

    max_ttl: Seconds = Field(default=timedelta(days=30), gt=timedelta(0), le=timedelta(days=3650))
    """The longest time, in seconds, that a new token can be made good for."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.hash_algorithm == "bcrypt" and self.token_length > BCRYPT_BYTES:
            msg = f"token_length is {self.token_length}, but bcrypt hashes no more than {BCRYPT_BYTES} characters"
            raise ValueError(msg)
        if self.default_ttl > self.max_ttl:
            msg = "default_ttl is longer than max_ttl"
            raise ValueError(msg)
        return self

    @property
    def lockout_policy(self) -> LockoutPolicy:
        """The three rate limiting keys as the host's service takes them."""
        return LockoutPolicy(max_failures=self.max_failures, window=self.failure_window, duration=self.lockout_duration)
