"""What this process has verified a moment ago, so that one good token does not cost a slow hash with each request.

In the room: a small memory of verified pairs of token and record. Not in the room: whether a token is good now, which is read from the
table with each request (`kipuka_auth_otp.authenticator`).

The slow hash is for the case that the database is lost (RULES D1), and of that nothing changes: what is kept here stands in this
process alone and is a MAC under a key that was made with it and is stored nowhere. Failures are not remembered. Nobody who does
not know that key can choose a MAC, so finding one need not take constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

__all__ = ["LIFETIME", "MOST", "Verified"]

LIFETIME = timedelta(seconds=60)
MOST = 256
"""Pairs that are kept; one more drives out the oldest."""


class Verified:
    """The pairs of token and record that were found to belong together within the last `LIFETIME`."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._since: dict[bytes, datetime] = {}  # the oldest first

    def __contains__(self, pair: tuple[str, str]) -> bool:
        since = self._since.get(self._mac(pair))
        return since is not None and timedelta() <= self._clock() - since < LIFETIME

    def add(self, pair: tuple[str, str]) -> None:
        """Remember a token and the record that it was just verified against."""
        mac = self._mac(pair)
        self._since.pop(mac, None)
        self._since[mac] = self._clock()
        if len(self._since) > MOST:
            del self._since[next(iter(self._since))]

    def _mac(self, pair: tuple[str, str]) -> bytes:
        token, recorded = pair
        return hmac.digest(self._key, f"{recorded}\0{token}".encode(), hashlib.sha256)  # no record has a NUL
