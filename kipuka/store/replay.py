"""Which certificate answered a request before, so that a lost answer can be given again (RULES D4, guarantee 3).

In the room: what makes two requests the same, as one digest on the enrolment's row, and the look-up of what it led to. Not in the
room: when a window is open and who may ask (`kipuka.enrolment`).

A digest is kept only where a window is open when the certificate is issued. Of issued enrolments one at most has a digest: the
database holds to that (a unique index). Of two requests that are the same and end at once on two nodes, which see nothing of each
other, it refuses the later one, which then looks again.
"""

from __future__ import annotations

import hashlib
import json
from datetime import timedelta

from sqlalchemy import bindparam, select, update

from kipuka.api.storage import ReadTx, Tx
from kipuka.api.values import Claim
from kipuka.store import certificates
from kipuka.store.certificates import RecordedCertificate
from kipuka.store.tables import enrolments

__all__ = ["find", "holder", "let_go", "replay_digest", "still_good"]

_of_digest = (enrolments.c.replay_sha256 == bindparam("digest"), enrolments.c.state == "issued")
_ANSWERED = select(enrolments.c.certificate).where(*_of_digest)
_LET_GO = (
    update(enrolments).where(*_of_digest, enrolments.c.certificate == bindparam("holder")).values(replay_sha256=None)
)


def replay_digest(credential: Claim | str, *, operation: str, label: str | None, ca: str, request_sha256: str) -> str:
    """What two requests have in common when they are the same: hexadecimal SHA-256.

    `credential` is what the request was made with: a claim, or a client certificate's fingerprint. `request_sha256` is over the
    CertificationRequestInfo without its challenge attributes, which differ from connection to connection.
    """
    who = [credential.plugin, credential.ref] if isinstance(credential, Claim) else [credential]
    whole = json.dumps([who, operation, label, ca, request_sha256])  # JSON, so that no part can run into the next
    return hashlib.sha256(whole.encode("utf-8")).hexdigest()


def holder(tx: ReadTx, digest: str | None) -> str | None:
    """The fingerprint of the newest certificate that this request led to, good or not; None also for a request that has no digest.

    Who records another one looks here first, and once: everything that follows is about that one, also where another node commits in between.
    """
    return None if digest is None else tx.execute(_ANSWERED, {"digest": digest}).scalar_one_or_none()


def still_good(tx: ReadTx, fingerprint: str | None, *, window: timedelta) -> RecordedCertificate | None:
    """That certificate, while it is valid, not revoked, and issued no longer than `window` ago."""
    found = None if fingerprint is None else certificates.find_by_fingerprint(tx, fingerprint)
    if found is None or found.state != "valid" or not found.not_before <= tx.now < found.not_after:
        return None
    return found if tx.now - found.issued_at < window else None


def find(tx: ReadTx, digest: str, *, window: timedelta) -> RecordedCertificate | None:
    """The certificate that this request led to, while it may be handed out again."""
    return still_good(tx, holder(tx, digest), window=window)


def let_go(tx: Tx, digest: str, fingerprint: str) -> None:
    """Take the digest from that certificate's enrolment: another one is about to be issued for it.

    From no other's. One that another node has recorded since `holder` was asked keeps it, and the database refuses a second.
    """
    tx.execute(_LET_GO, {"digest": digest, "holder": fingerprint})
