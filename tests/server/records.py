"""What a server finds in its record although it never issued it: certificates that have expired, or that no profile would allow."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial

from cryptography.hazmat.primitives.hashes import SHA256

from kipuka.jobs import names_of
from kipuka.runtime import compose, open_admin_store
from kipuka.store import certificates, replaced
from kipuka.store.certificates import RecordedCertificate

__all__ = ["record", "recorded", "revoke", "schedule"]


def record(deployment, *credentials, label=None, ca=None, **changes):
    """Write these certificates into the record, beside a server that may be running; `changes` are of the row."""

    def row(credential):
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
            certificates.add(tx, row(credential))

    _write(deployment, unit)


def revoke(deployment, credential, reason):
    """Mark a recorded certificate as revoked, and tell nobody."""
    fingerprint = _fingerprint(credential)
    _write(deployment, lambda tx: certificates.revoke(tx, fingerprint, reason=reason))


def _fingerprint(credential):
    return credential.certificate.fingerprint(SHA256()).hex()


def _write(deployment, unit):
    async def write():
        async with open_admin_store(compose(deployment.config_file, {})) as store:
            await store.write(unit)

    asyncio.run(write())


def recorded(deployment, credential):
    """The row of a certificate."""

    async def look():
        async with open_admin_store(compose(deployment.config_file, {})) as store:
            return await store.read(partial(certificates.find_by_fingerprint, fingerprint=_fingerprint(credential)))

    return asyncio.run(look())


def schedule(deployment, credential, when):
    """Have a certificate revoked at another time than its renewal has set."""
    _write(deployment, partial(replaced.schedule, fingerprint=_fingerprint(credential), when=when))
