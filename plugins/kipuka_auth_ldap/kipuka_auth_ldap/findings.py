"""What `kipuka check` says about a weak or impossible `[ldap]`.

In the room: the findings. Not in the room: the bounds that no section may leave (`kipuka_auth_ldap.config`). Nothing is asked of a
directory here: a check works without one.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cryptography import x509

from kipuka.api import Finding
from kipuka_auth_ldap.config import LDAPSettings

__all__ = ["check_settings"]


def check_settings(settings: LDAPSettings) -> Iterator[Finding]:
    """Errors for what cannot work, warnings for what is weak."""
    yield from _anchors(settings)
    plain = [server for server in settings.servers if server.startswith("ldap:")]
    if settings.allow_plaintext and plain:
        local = all(urlsplit(server).hostname in {"localhost", "127.0.0.1", "::1"} for server in plain)
        yield Finding(
            severity="warning",
            key="allow_plaintext",
            problem=f"passwords go to {', '.join(plain)} without encryption"
            + ("" if local else ": everybody on the way can read them"),
            remedy="take allow_plaintext out, and name the directory's CA in ca_file",
        )
    elif settings.allow_plaintext:
        yield Finding(
            severity="warning",
            key="allow_plaintext",
            problem="it is on although every server is ldaps://: one that is added later may go unencrypted",
            remedy="take allow_plaintext out",
        )
    if settings.bind_dn is None and settings.user_dn is None:
        yield Finding(
            severity="warning",
            key="bind_dn",
            problem="users are searched for without an account: the directory must let anybody search",
            remedy="write bind_dn and bind_password of an account that may read users and nothing else",
        )
    if settings.require_group is None:
        yield Finding(
            severity="warning",
            key="require_group",
            problem="everybody with a password in the directory may enrol",
            remedy="write require_group with the group of those who may",
        )


def _anchors(settings: LDAPSettings) -> Iterator[Finding]:
    path = settings.ca_file
    if path is None:
        return
    remedy = "name a PEM file with the CA certificates of the directory's servers, readable by the server's account"
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        yield Finding(severity="error", key="ca_file", problem=f"cannot read {path}: {error.strerror}", remedy=remedy)
        return
    except ValueError:
        yield Finding(severity="error", key="ca_file", problem=f"{path} has no certificates in PEM", remedy=remedy)
        return
    if all(certificate.not_valid_after_utc < datetime.now(UTC) for certificate in certificates):
        yield Finding(
            severity="error", key="ca_file", problem=f"every certificate in {path} has expired", remedy=remedy
        )
