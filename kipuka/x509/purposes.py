"""What a certificate says that it may be used for.

In the room: the extended key usages that the host's own rules ask about. Not in the room: which usages a profile issues
(`kipuka.x509.profiles`), and what a client certificate must have to be good (`kipuka.x509.path`).
"""

from __future__ import annotations

from cryptography import x509

__all__ = ["CMC_RA", "has_usage"]

CMC_RA = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.28")
"""id-kp-cmcRA: the holder is a registration authority (RFC 6402, 2.10; RFC 7030, 3.7)."""


def has_usage(certificate: x509.Certificate, usage: x509.ObjectIdentifier) -> bool:
    """Whether the extended key usage stands in the certificate, by itself: neither its absence nor anyExtendedKeyUsage is enough.

    For certificates that the path check has read already.
    """
    try:
        return usage in certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
