"""The keys of a `[[ca]]` item with `backend = "local"`.

In the room: the keys, and what `kipuka check` says of them. Not in the room: reading what they name (`kipuka_ca_local.authority`).
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kipuka.api import ConfigPath, Finding, Secret, Section
from kipuka_ca_local.authority import Authority, AuthorityError, load_authority

__all__ = ["LocalCASettings", "check_issuer", "check_settings", "open_authority"]

EXPIRES_SOON = timedelta(days=30)

_LETS_CLIENTS_IN = frozenset({ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})


class LocalCASettings(Section):
    """A certification authority in PEM files."""

    cert: ConfigPath
    """PEM file of the issuing certificate. Those above it may follow in the same file."""

    key: ConfigPath
    """PEM file of the issuing certificate's private key: RSA (2048 to 8192), P-256, P-384, P-521 or Ed25519."""

    key_password: Secret | None = None
    """The password of an encrypted `key`, best as `file:PATH` or `env:NAME`."""

    chain: ConfigPath | None = None
    """PEM file of the certificates above the issuing one, in order, the root last. Not needed where `cert` is a root or has them."""


def open_authority(settings: LocalCASettings, now: datetime) -> Authority:
    """The authority that the settings name. Raises AuthorityError."""
    password = settings.key_password
    return load_authority(
        cert=settings.cert,
        key=settings.key,
        password=None if password is None else password.get_secret_value().encode("utf-8"),
        chain=settings.chain,
        now=now,
    )


def check_settings(settings: LocalCASettings) -> Iterator[Finding]:
    """An error for what cannot be opened, warnings for what is weak."""
    now = datetime.now(UTC)
    try:
        authority = open_authority(settings, now)
    except AuthorityError as error:
        yield Finding(severity="error", key=error.key, problem=str(error), remedy=error.remedy)
        return
    mode = _loose_mode(settings.key)
    if mode is not None:
        yield Finding(
            severity="warning",
            key="key",
            problem=f"{settings.key} has mode {mode}: others than the server can read or change it",
            remedy=f"chmod 600 '{settings.key}'",
        )
    yield from check_issuer(authority.chain.issuer, now)


def check_issuer(issuer: x509.Certificate, now: datetime) -> Iterator[Finding]:
    """Warnings for an issuing certificate that is of little use, wherever its key is."""
    if issuer.not_valid_after_utc - now < EXPIRES_SOON:
        yield Finding(
            severity="warning",
            key="cert",
            problem=f"the issuing certificate expires on {issuer.not_valid_after_utc:%Y-%m-%d}, and what it issues with it",
            remedy="have it renewed",
        )
    usages = _extended_key_usage(issuer)
    if usages is not None and not usages & _LETS_CLIENTS_IN:
        yield Finding(
            severity="warning",
            key="cert",
            problem="the issuing certificate's extended key usage leaves out client authentication: certificates "
            "issued under it cannot be used for re-enrolment",
            remedy="use an issuing certificate without extended key usage, or with clientAuth",
        )


def _extended_key_usage(certificate: x509.Certificate) -> frozenset[x509.ObjectIdentifier] | None:
    try:
        return frozenset(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return None


def _loose_mode(path: Path) -> str | None:
    """The file's permissions where they let in others, or let the group write.

    A group that may read is usual where root owns a key and the server's group reads it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"{mode:04o}" if mode & 0o037 else None
