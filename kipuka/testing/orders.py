"""Orders as the host gives them to a CA backend, and the host's own check of what comes back.

In the room: `make_order`, and `mismatch` (RULES F6), which the host asks before it hands out any certificate. Not in the room: requests
(`kipuka.testing.pki.make_csr`) and how an order is decided.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kipuka.api import Order
from kipuka.testing.pki import CLIENT_AUTH, KeyKind, PrivateKey, common_name, make_csr, make_key
from kipuka.x509.issued import mismatch

__all__ = ["key_usage", "make_order", "mismatch"]


def key_usage(*names: str) -> x509.KeyUsage:
    """A key usage with those bits, named as in `x509.KeyUsage`."""
    bits = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
    rest = ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")
    return x509.KeyUsage(**{name: name in names for name in (*bits, *rest)})


def make_order(
    name: str = "device-1",
    *,
    key: PrivateKey | KeyKind = "p256",
    clock: Callable[[], datetime] | None = None,
    **changes: Any,
) -> Order:
    """An order for a device of that name, as the host would make it of the shipped profile: 90 days, for client authentication.

    Each has an id and (unless `key` is one) a key of its own. `changes` replace fields of the `Order`.
    """
    private = make_key(key) if isinstance(key, str) else key
    now = (clock or _now)().replace(microsecond=0)
    host = f"{name}.example"
    extensions: tuple[x509.Extension[Any], ...] = (
        x509.Extension(x509.KeyUsage.oid, critical=True, value=key_usage("digital_signature")),
        x509.Extension(x509.ExtendedKeyUsage.oid, critical=False, value=x509.ExtendedKeyUsage([CLIENT_AUTH])),
        x509.Extension(
            x509.SubjectAlternativeName.oid,
            critical=False,
            value=x509.SubjectAlternativeName([x509.DNSName(host)]),
        ),
    )
    fields: dict[str, Any] = {
        "id": secrets.token_hex(16),
        "ca": "main",
        "subject": common_name(name),
        "public_key": private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "extensions": extensions,
        "not_before": now - timedelta(minutes=5),
        "not_after": now + timedelta(days=90),
        "csr": make_csr(key=private, common_name=name, dns=(host,)).der,
        "metadata": {"label": "", "profile": "default", "identity": f"otp:{name}"},
    }
    return Order(**{**fields, **changes})


def _now() -> datetime:
    return datetime.now(UTC)
