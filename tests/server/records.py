"""What a server finds in its record although it never issued it: certificates that have expired, or that no profile would allow."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from kipuka.jobs import names_of
from kipuka.runtime import compose, open_admin_store
from kipuka.store import certificates
from kipuka.store.certificates import RecordedCertificate

__all__ = ["record", "revoke"]


def record(deployment, *credentials, label=None, ca=None, **changes):
    """Write these certificates into the record, beside a server that may be running; `changes` are of the row."""

    def recorded(credential):
        known = {
            "ca": deployment.settings["ca"][0]["id"] if ca is None else ca,
            "label": label,
            "profile": "default",
            "method": "otp",
            "identity_name": "device",
            "enrolment": "written by a test",
            "issued_at": datetime.now(UTC),
            "names": names_of(credential.certificate),
        }
        return RecordedCertificate.of(credential.certificate, **{**known, **changes})

    def unit(tx):
        for credential in credentials:
            certificates.add(tx, recorded(credential))

    _write(deployment, unit)


def revoke(deployment, credential, reason):
    """Mark a recorded certificate as revoked, and tell nobody."""
    fingerprint = RecordedCertificate.of(
        credential.certificate,
        ca="",
        label=None,
        profile="",
        method="",
        identity_name="",
        enrolment="",
        issued_at=datetime.now(UTC),
        names=(),
    ).fingerprint
    _write(deployment, lambda tx: certificates.revoke(tx, fingerprint, reason=reason))


def _write(deployment, unit):
    async def write():
        async with open_admin_store(compose(deployment.config_file, {})) as store:
            await store.write(unit)

    asyncio.run(write())
