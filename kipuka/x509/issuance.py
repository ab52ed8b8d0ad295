"""The extensions of a certificate, as a profile says them.

In the room: writing them down, in one order. Not in the room: which names are granted (`kipuka.x509.profiles`), and what a CA adds:
key identifiers and basic constraints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from kipuka.x509.keys import PublicKey
from kipuka.x509.usages import key_usage

__all__ = ["CertificatePolicy", "Issuance"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificatePolicy:
    """A policy under which certificates are issued, and where its practice statement (CPS) is to be read (RFC 5280, 4.2.1.4)."""

    oid: x509.ObjectIdentifier
    cps: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Issuance:
    """What every certificate of a profile says, whoever it is for.

    `key_usage` None is the usual for the key (`kipuka.x509.usages`). `ca_issuers` and `ocsp` are the URIs of authority information access
    (RFC 5280, 4.2.2.1), `crl_distribution_points` those of 4.2.1.13, any of which has the whole CRL.
    """

    key_usage: tuple[str, ...] | None = None
    extended_key_usage: tuple[x509.ObjectIdentifier, ...] = ()
    extended_key_usage_critical: bool = False
    certificate_policies: tuple[CertificatePolicy, ...] = ()
    ca_issuers: tuple[str, ...] = ()
    ocsp: tuple[str, ...] = ()
    crl_distribution_points: tuple[str, ...] = ()

    def extensions(
        self,
        public_key: PublicKey,
        names: Sequence[x509.GeneralName],
        *,
        critical_san: bool,
        copied: Sequence[x509.Extension[x509.ExtensionType]] = (),
    ) -> tuple[x509.Extension[x509.ExtensionType], ...]:
        """All extensions of a certificate for this key and these alternative names, those that are copied last.

        Raises ValueError where the key can have none of the usages.
        """
        found: list[x509.Extension[x509.ExtensionType]] = [
            x509.Extension(x509.KeyUsage.oid, critical=True, value=key_usage(self.key_usage, public_key))
        ]
        if self.extended_key_usage:
            purposes = x509.ExtendedKeyUsage(self.extended_key_usage)
            critical = self.extended_key_usage_critical
            found.append(x509.Extension(x509.ExtendedKeyUsage.oid, critical=critical, value=purposes))
        if names:
            # RFC 5280 section 4.2.1.6: critical where the subject is empty
            san = x509.SubjectAlternativeName(names)
            found.append(x509.Extension(x509.SubjectAlternativeName.oid, critical=critical_san, value=san))
        for value in self.pointers():
            found.append(x509.Extension(value.oid, critical=False, value=value))  # noqa: PERF401 - types
        return (*found, *copied)

    def pointers(self) -> Sequence[x509.ExtensionType]:
        """Where to read on: policies, the issuer, its OCSP responder, its CRL. None of them is ever critical."""
        values: list[x509.ExtensionType] = []
        if self.certificate_policies:
            values.append(
                x509.CertificatePolicies(
                    # RFC 5280 recommends no qualifier but a CPS pointer, which is what a text is to this class.
                    [
                        x509.PolicyInformation(policy.oid, None if policy.cps is None else [policy.cps])
                        for policy in self.certificate_policies
                    ]
                )
            )
        access = [
            *((AuthorityInformationAccessOID.OCSP, uri) for uri in self.ocsp),
            *((AuthorityInformationAccessOID.CA_ISSUERS, uri) for uri in self.ca_issuers),
        ]
        if access:
            values.append(
                x509.AuthorityInformationAccess(
                    [x509.AccessDescription(method, x509.UniformResourceIdentifier(uri)) for method, uri in access]
                )
            )
        if self.crl_distribution_points:
            uris = [x509.UniformResourceIdentifier(uri) for uri in self.crl_distribution_points]
            values.append(x509.CRLDistributionPoints([x509.DistributionPoint(uris, None, None, None)]))
        return values
