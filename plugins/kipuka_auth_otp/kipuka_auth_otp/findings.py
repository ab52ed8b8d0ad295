"""What `kipuka check` says about a weak or impossible `[otp]`.

In the room: the findings. Not in the room: the bounds that no section may leave (`kipuka_auth_otp.config`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from kipuka.api import Finding
from kipuka_auth_otp.config import OTPSettings
from kipuka_auth_otp.secrecy import LookupKeyError, loose_mode, read_lookup_key

__all__ = ["check_settings"]

LONGEST_ADVISED = timedelta(days=30)
LONGEST_ADVISED_UNSAID = timedelta(days=7)


def check_settings(settings: OTPSettings) -> Iterator[Finding]:
    """Errors for what cannot work, warnings for what is weak."""
    path = settings.lookup_key
    try:
        read_lookup_key(path)
    except LookupKeyError as error:
        yield Finding(
            severity="error",
            key="lookup_key",
            problem=str(error),
            remedy=f"copy the key from another node, or make one: (umask 077; head -c 32 /dev/urandom > '{path}')",
        )
    else:
        mode = loose_mode(path)
        if mode is not None:
            yield Finding(
                severity="warning",
                key="lookup_key",
                problem=f"{path} has mode {mode}: others than the server can read or change it",
                remedy=f"chmod 600 '{path}'",
            )
    if settings.hash_algorithm == "sha256-hmac":
        yield Finding(
            severity="warning",
            key="hash_algorithm",
            problem="sha256-hmac is fast: whoever has the database and lookup_key can try tokens quickly",
            remedy='write hash_algorithm = "argon2id"',
        )
    if settings.token_length < 20:
        yield Finding(
            severity="warning",
            key="token_length",
            problem=f"tokens have {settings.token_length} characters; 20 or more are advised",
            remedy="write token_length = 20",
        )
    if settings.max_uses > 1:
        yield Finding(
            severity="warning",
            key="max_uses",
            problem=f"a token is good for {settings.max_uses} certificates where its maker does not say: whoever "
            "reads it on its way can use it too",
            remedy="write max_uses = 1, and give max_uses to the tokens that need more",
        )
    for key, period, advised, when in (
        ("max_ttl", settings.max_ttl, LONGEST_ADVISED, "can be made good"),
        ("default_ttl", settings.default_ttl, LONGEST_ADVISED_UNSAID, "is good where its maker does not say"),
    ):
        if period > advised:
            yield Finding(
                severity="warning",
                key=key,
                problem=f"a token {when} for {period / timedelta(days=1):g} days: one that was lost is not missed so long",
                remedy=f"write {key} = {advised.total_seconds():.0f}, which is {advised.days} days, or less",
            )
