"""Which extensions a certificate may take over from its request, and which never.

In the room: names for some of them, those that decide what a certificate is worth and so are never the client's word (RULES F4), and
how much of them there may be. Not in the room: reading them out of a request (`kipuka.est.csr`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from kipuka.api.errors import BadCSR

__all__ = ["COPYABLE", "NEVER_COPIED", "check_copied"]

COPYABLE: Mapping[str, x509.ObjectIdentifier] = {
    "tlsFeature": ExtensionOID.TLS_FEATURE,  # RFC 7633: "OCSP must-staple"
    "msTemplateName": x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"),  # [MS-WCCE] 2.2.2.7.7.1
    "msTemplate": x509.ObjectIdentifier("1.3.6.1.4.1.311.21.7"),  # [MS-WCCE] 2.2.2.7.7.2
}
"""Extensions that may be copied and have a name in the configuration; others are written as object identifiers."""

_CA = "only a CA may say it"
NEVER_COPIED: Mapping[x509.ObjectIdentifier, str] = {
    ExtensionOID.KEY_USAGE: "write key_usage",
    ExtensionOID.EXTENDED_KEY_USAGE: "write extended_key_usage",
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: "write san_patterns or san_domains",
    ExtensionOID.CERTIFICATE_POLICIES: "write certificate_policies",
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS: "write ca_issuers and ocsp",
    ExtensionOID.CRL_DISTRIBUTION_POINTS: "write crl_distribution_points",
    ExtensionOID.FRESHEST_CRL: _CA,
    ExtensionOID.BASIC_CONSTRAINTS: _CA,
    ExtensionOID.NAME_CONSTRAINTS: _CA,
    ExtensionOID.POLICY_CONSTRAINTS: _CA,
    ExtensionOID.POLICY_MAPPINGS: _CA,
    ExtensionOID.INHIBIT_ANY_POLICY: _CA,
    ExtensionOID.ISSUER_ALTERNATIVE_NAME: _CA,
    ExtensionOID.SUBJECT_INFORMATION_ACCESS: _CA,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: _CA,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: _CA,
    ExtensionOID.PRECERT_POISON: _CA,  # RFC 6962, 3.1
    ExtensionOID.PRECERT_SIGNED_CERTIFICATE_TIMESTAMPS: _CA,
    ExtensionOID.OCSP_NO_CHECK: _CA,  # RFC 6960, 4.2.2.2.1: makes a certificate irrevocable
    ExtensionOID.ADMISSIONS: _CA,  # professions that somebody is admitted to
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.14"): _CA,  # proxyCertInfo (RFC 3820): lets its holder issue
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.3"): _CA,  # qcStatements (RFC 3739): what the CA vouches for
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.7"): _CA,  # IP address blocks and AS numbers (RFC 3779, RFC 8360)
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.8"): _CA,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.28"): _CA,
    x509.ObjectIdentifier("1.3.6.1.5.5.7.1.29"): _CA,
    x509.ObjectIdentifier("2.16.840.1.113730.1.1"): _CA,  # Netscape certificate type, which can say "CA"
    x509.ObjectIdentifier("1.3.6.1.4.1.311.21.1"): _CA,  # Microsoft's CA version
    x509.ObjectIdentifier("1.3.6.1.4.1.311.21.10"): "write extended_key_usage",  # Microsoft's application policies
    x509.ObjectIdentifier("1.3.6.1.4.1.311.21.11"): _CA,
    x509.ObjectIdentifier("1.3.6.1.4.1.311.21.12"): _CA,
    x509.ObjectIdentifier("1.3.6.1.4.1.311.25.2"): _CA,  # the SID by which Active Directory knows the holder
}
"""Extensions that no profile can copy, and why: they say whose certificate it is, what it is good for, or what only a CA knows."""

MOST_COPIED = 8  # in one profile, and so in one certificate
_LARGEST_COPIED = 1024  # octets of one extension's value

RULE = "copy_extensions"


def check_copied(extensions: Sequence[x509.Extension[x509.ExtensionType]]) -> None:
    """Hold extensions that are to be copied to what a certificate has room for.

    Raises BadCSR, with the rule, for too many or too large ones, for one that is asked for as critical (whoever does not know it would have to
    refuse the certificate), and for one that is never copied.
    """
    if len(extensions) > MOST_COPIED:
        raise BadCSR(f"more than {MOST_COPIED} extensions would be copied from the request", rule=RULE)
    for extension in extensions:
        name = extension.oid.dotted_string
        if extension.oid in NEVER_COPIED:
            raise BadCSR(f"the extension {name} is never copied from a request", rule=RULE)
        if extension.critical:
            raise BadCSR(f"the extension {name} is asked for as critical, and is copied only when it is not", rule=RULE)
        if len(extension.value.public_bytes()) > _LARGEST_COPIED:
            raise BadCSR(f"the extension {name} has more than {_LARGEST_COPIED} bytes", rule=RULE)
