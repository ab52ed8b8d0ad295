"""Whether a client certificate leads to a trust anchor and may be used by a client (RULES B).

In the room: the path check, whose verdict a connection may keep, and the validity check, which every request makes anew.
Not in the room: revocation and the record of issued certificates (the store), and which anchors serve which purpose (the
caller hands in one `AnchorSet`; nothing else is trusted, neither another set nor the system's own store).

OpenSSL searches the path and checks signatures, CA flags, path lengths and name constraints (RFC 5280 section 6). Measured,
it lets MD5 and SHA-1 signatures, RSA-1024, CA certificates as clients and intermediates for servers only pass, so the
chain that it returns is looked at again here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, SignatureAlgorithmOID
from OpenSSL import crypto

from kipuka.api.values import CertificateProblem, PresentedCertificate
from kipuka.distinguished_names import format_dn
from kipuka.x509.keys import RSA_SMALLEST
from kipuka.x509.names import same_name

__all__ = ["DEEPEST", "REASONS", "AnchorSet", "PathVerdict", "check_chain", "check_path", "check_validity", "leads_to"]

DEEPEST = 8
"""How many certificates may stand above the leaf, the anchor included."""

_MOST_PRESENTED = 32  # further certificates of one peer; more are an attempt to keep us busy

_NO_CHECK_TIME = 0x200000  # X509_V_FLAG_NO_CHECK_TIME, which pyOpenSSL does not name

_UNKNOWN = CertificateProblem.UNKNOWN_AUTHORITY
_UNFIT = CertificateProblem.NOT_FOR_CLIENT_AUTHENTICATION

REASONS: dict[str, CertificateProblem] = {
    # there is no path (RULES B3)
    "unparsable": _UNKNOWN,
    "self_signed": _UNKNOWN,
    "unknown_authority": _UNKNOWN,  # what was presented leads to an authority that is no anchor
    "intermediate_missing": _UNKNOWN,  # the leaf's own issuer was not presented and is no anchor
    "leaf_is_anchor": _UNKNOWN,
    "bad_signature": _UNKNOWN,
    "intermediate_not_ca": _UNKNOWN,
    "path_length": _UNKNOWN,
    "name_constraints": _UNKNOWN,
    "too_deep": _UNKNOWN,
    "path_invalid": _UNKNOWN,  # any other refusal by OpenSSL
    "intermediate_expired": _UNKNOWN,
    "intermediate_not_yet_valid": _UNKNOWN,
    "anchor_expired": _UNKNOWN,
    "anchor_not_yet_valid": _UNKNOWN,
    # there is one, but this certificate or its path is not for clients here
    "expired": CertificateProblem.EXPIRED,
    "not_yet_valid": _UNFIT,
    "leaf_signature_md5": _UNFIT,
    "leaf_signature_sha1": _UNFIT,
    "leaf_signature_algorithm": _UNFIT,
    "leaf_key_too_small": _UNFIT,
    "leaf_key_type": _UNFIT,
    "leaf_is_ca": _UNFIT,
    "leaf_key_usage": _UNFIT,
    "leaf_extended_key_usage": _UNFIT,
    "critical_extension": _UNFIT,
    "intermediate_signature_md5": _UNFIT,
    "intermediate_signature_sha1": _UNFIT,
    "intermediate_signature_algorithm": _UNFIT,
    "intermediate_key_too_small": _UNFIT,
    "intermediate_key_type": _UNFIT,
    "intermediate_extended_key_usage": _UNFIT,
    "anchor_key_too_small": _UNFIT,
    "anchor_key_type": _UNFIT,
    "anchor_extended_key_usage": _UNFIT,
}
"""Every audit word of this module, with the text that the client hears. `expired` speaks of the leaf alone (RULES B4)."""

# X509_V_ERR_... of OpenSSL's x509_vfy.h
_EXPIRY_ERRORS = frozenset({9, 10, 13, 14})
_NO_ISSUER_ERRORS = frozenset({2, 20, 21})
_TOO_WEAK_DIGEST = 68
_OPENSSL_REASONS = {
    4: "bad_signature",
    6: "bad_signature",
    7: "bad_signature",
    18: "self_signed",
    19: "unknown_authority",
    22: "too_deep",
    24: "bad_signature",
    25: "path_length",
    32: "intermediate_not_ca",
    34: "critical_extension",
    47: "name_constraints",
    48: "name_constraints",
    49: "name_constraints",
    51: "name_constraints",
    52: "name_constraints",
    53: "name_constraints",
    66: "leaf_key_too_small",
    67: "intermediate_key_too_small",
    77: "bad_signature",
    78: "bad_signature",
    79: "intermediate_not_ca",
}

_GOOD_DIGESTS = frozenset(
    {"sha224", "sha256", "sha384", "sha512", "sha512-256", "sha3-224", "sha3-256", "sha3-384", "sha3-512"}
)
_WITHOUT_DIGEST = frozenset({SignatureAlgorithmOID.ED25519, SignatureAlgorithmOID.ED448})
_GOOD_CURVES = frozenset({"secp256r1", "secp384r1", "secp521r1"})

# What cryptography raises while it reads the inner parts of an odd certificate
_ODD = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.UnsupportedGeneralNameType)


@dataclass(frozen=True, slots=True)
class AnchorSet:
    """The trust anchors of one purpose. `id` names the generation: it changes when the certificates do.

    Raises ValueError where OpenSSL cannot take one of the certificates. An empty set trusts nobody.
    """

    certificates: tuple[x509.Certificate, ...]
    id: str = field(init=False, compare=False)
    _timed: crypto.X509Store = field(init=False, compare=False, repr=False)
    _timeless: crypto.X509Store = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        ders = sorted({_der(certificate) for certificate in self.certificates})
        set_once = object.__setattr__  # a frozen dataclass computes its own fields so
        set_once(self, "id", hashlib.sha256(b"".join(ders)).hexdigest())
        partial = crypto.X509StoreFlags.PARTIAL_CHAIN  # an issuing CA alone may be an anchor
        set_once(self, "_timed", _store(self.certificates, partial))
        set_once(self, "_timeless", _store(self.certificates, partial | _NO_CHECK_TIME))

    def search(self, leaf: crypto.X509, further: Sequence[crypto.X509]) -> list[crypto.X509]:
        """The path that OpenSSL finds, leaf first. Raises `OpenSSL.crypto.X509StoreContextError` where there is none.

        A path whose certificates are valid today is preferred, so that the expired one of two certificates of a
        renewed CA does not stand in the way; where there is none but for validity, that path is returned all the same.
        """
        try:
            return crypto.X509StoreContext(self._timed, leaf, further).get_verified_chain()
        except crypto.X509StoreContextError as error:
            if error.errors[0] not in _EXPIRY_ERRORS:
                raise
        return crypto.X509StoreContext(self._timeless, leaf, further).get_verified_chain()


@dataclass(frozen=True, kw_only=True, slots=True)
class PathVerdict:
    """What the path check says: good exactly when `problem` is None.

    `path` is the verified path, leaf first, anchor last, and empty where the certificate is not good. `reason` is one of
    `REASONS`.
    """

    problem: CertificateProblem | None = None
    reason: str | None = None
    path: tuple[x509.Certificate, ...] = ()


def check_path(presented: PresentedCertificate, anchors: AnchorSet) -> PathVerdict:
    """Judge a presented certificate against one set of anchors, in everything of RULES B1 but validity.

    The verdict holds as long as the connection and `anchors.id` do; validity and revocation are asked on every request.
    Never raises for what a peer can send.
    """
    if presented.leaf is None:
        return _refused("unparsable")
    if len(presented.chain) > _MOST_PRESENTED:
        return _refused("too_deep")
    try:
        _ = presented.leaf.extensions  # OpenSSL would say of one that cannot be read only that it has no issuer
        path = _search(presented.leaf, presented.chain, anchors)
        reason = _shortcoming(path)
    except crypto.X509StoreContextError as error:
        reason, path = _reason_of(error), ()
    except (crypto.Error, KeyError, *_ODD):
        reason, path = "unparsable", ()
    return PathVerdict(path=path) if reason is None else _refused(reason)


def check_validity(path: Sequence[x509.Certificate], now: datetime) -> tuple[CertificateProblem, str] | None:
    """What is wrong with the validity of a verified path at `now` (aware), or None; the reason is one of `REASONS`.

    An authority's shortcoming is told before the leaf's, so that "expired" means that nothing else is wrong.
    """
    last = len(path) - 1
    for place in range(last, -1, -1):
        prefix = "" if place == 0 else "anchor_" if place == last else "intermediate_"
        if now > path[place].not_valid_after_utc:
            reason = f"{prefix}expired"
        elif now < path[place].not_valid_before_utc:
            reason = f"{prefix}not_yet_valid"
        else:
            continue
        return REASONS[reason], reason
    return None


def check_chain(certificates: Sequence[x509.Certificate]) -> None:
    """Raise ValueError unless these are an issuing CA and those above it, each signed by the next, up to a root.

    For the chains that CA backends give out (RULES F7): a client cannot do with a chain that ends in the air.
    """
    if not certificates:
        raise ValueError("a chain has at least one certificate")
    for place, certificate in enumerate(certificates):
        title = format_dn(certificate.subject)
        issuer = certificates[min(place + 1, len(certificates) - 1)]
        try:
            if not _is_ca(certificate):
                raise ValueError(f"{title} is not a CA certificate")
            certificate.verify_directly_issued_by(issuer)
        except InvalidSignature as error:
            raise ValueError(f"{title} is not signed by {format_dn(issuer.subject)}") from error
        except _ODD as error:
            if issuer is certificate:
                raise ValueError(f"the chain ends in {title}, which is not a root") from error
            raise ValueError(f"{title} is not followed by its issuer: {error}") from error


def leads_to(chain: Sequence[x509.Certificate], anchors: AnchorSet) -> x509.Certificate | None:
    """The anchor that what the first CA of this chain issues would lead to, or None.

    An anchor stands for a name and a key: another certificate of the same CA, renewed or signed by somebody else, is as
    good as itself.
    """
    for authority in chain:
        for anchor in anchors.certificates:
            if same_name(authority.subject, anchor.subject) and _key_of(authority) == _key_of(anchor):
                return anchor
    try:
        return _search(chain[0], chain[1:], anchors)[-1]
    except (crypto.X509StoreContextError, crypto.Error, KeyError, *_ODD):
        return None


def _key_of(certificate: x509.Certificate) -> bytes:
    """The certificate's SubjectPublicKeyInfo, also where its type is not known here."""
    return crypto.dump_publickey(crypto.FILETYPE_ASN1, crypto.X509.from_cryptography(certificate).get_pubkey())


def _search(
    leaf: x509.Certificate, chain: Sequence[x509.Certificate], anchors: AnchorSet
) -> tuple[x509.Certificate, ...]:
    found = anchors.search(
        crypto.X509.from_cryptography(leaf), [crypto.X509.from_cryptography(further) for further in chain]
    )
    # OpenSSL gives copies; ours are found again by their octets, which are DER on both sides
    known = {_der(one): one for one in (*anchors.certificates, *chain, leaf)}
    return tuple(known[crypto.dump_certificate(crypto.FILETYPE_ASN1, one)] for one in found)


def _store(certificates: Sequence[x509.Certificate], flags: int) -> crypto.X509Store:
    store = crypto.X509Store()  # empty: the system's own anchors are never in it
    store.set_flags(flags)
    for certificate in certificates:
        try:
            store.add_cert(crypto.X509.from_cryptography(certificate))
        except crypto.Error as error:
            raise ValueError(f"OpenSSL cannot read the anchor {format_dn(certificate.subject)}") from error
    return store


def _der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def _refused(reason: str) -> PathVerdict:
    return PathVerdict(problem=REASONS[reason], reason=reason)


def _reason_of(error: crypto.X509StoreContextError) -> str:
    code, depth = error.errors[0], error.errors[1]
    if code in _NO_ISSUER_ERRORS:
        return "intermediate_missing" if depth == 0 else "unknown_authority"
    if code == _TOO_WEAK_DIGEST:
        who = "leaf" if depth == 0 else "intermediate"
        try:
            return _signature_shortcoming(who, error.certificate.to_cryptography()) or "path_invalid"
        except _ODD:
            return "path_invalid"
    return _OPENSSL_REASONS.get(code, "path_invalid")


# --- What OpenSSL leaves out (RULES B1)


def _shortcoming(path: tuple[x509.Certificate, ...]) -> str | None:
    leaf = path[0]
    if len(path) == 1:  # with PARTIAL_CHAIN an anchor is a path by itself
        return "leaf_is_ca" if _is_ca(leaf) else "self_signed" if leaf.issuer == leaf.subject else "leaf_is_anchor"
    if len(path) - 1 > DEEPEST:
        return "too_deep"
    reason = (
        _signature_shortcoming("leaf", leaf)
        or _key_shortcoming("leaf", leaf)
        or ("leaf_is_ca" if _is_ca(leaf) else None)
        or _key_usage_shortcoming(leaf)
        or _extended_key_usage_shortcoming("leaf", leaf)
    )
    for authority in path[1:-1]:
        reason = (
            reason
            or _signature_shortcoming("intermediate", authority)
            or _key_shortcoming("intermediate", authority)
            or _extended_key_usage_shortcoming("intermediate", authority)
        )
    # An anchor is trusted whatever signed it, but what its key signs is worth no more than the key.
    anchor = path[-1]
    return reason or _key_shortcoming("anchor", anchor) or _extended_key_usage_shortcoming("anchor", anchor)


def _signature_shortcoming(who: str, certificate: x509.Certificate) -> str | None:
    if certificate.signature_algorithm_oid in _WITHOUT_DIGEST:
        return None
    try:
        digest = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        digest = None
    if digest is not None and digest.name in _GOOD_DIGESTS:
        return None
    return (
        f"{who}_signature_{digest.name}"
        if digest is not None and digest.name in {"md5", "sha1"}
        else (f"{who}_signature_algorithm")
    )


def _key_shortcoming(who: str, certificate: x509.Certificate) -> str | None:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return f"{who}_key_type"
    match key:
        case rsa.RSAPublicKey():
            return f"{who}_key_too_small" if key.key_size < RSA_SMALLEST else None
        case ec.EllipticCurvePublicKey():
            return None if key.curve.name in _GOOD_CURVES else f"{who}_key_type"
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            return None
        case _:
            return f"{who}_key_type"


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def _key_usage_shortcoming(leaf: x509.Certificate) -> str | None:
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return None if usage.digital_signature else "leaf_key_usage"


def _extended_key_usage_shortcoming(who: str, certificate: x509.Certificate) -> str | None:
    """RFC 5280 section 4.2.1.12, more strictly: anyExtendedKeyUsage does not stand for clientAuth."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return None if ExtendedKeyUsageOID.CLIENT_AUTH in usages else f"{who}_extended_key_usage"
