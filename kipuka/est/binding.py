"""Whether a request was signed for this TLS connection: linking identity and proof of possession (RFC 7030, section 3.5).

In the room: the comparison of a challenge with the connection's channel bindings. Not in the room: computing those
(`kipuka.http.tls`), reading the challenge out of the request (`kipuka.est.csr`), whether a profile demands it.

**When a challengePassword is a channel binding.** RFC 7030 says that the presence of a challengePassword means a binding,
and that a binding given must be verified. But the attribute has other uses (RFC 7894, section 1): a SCEP-style password, or
whatever somebody typed when `openssl req` asked for one. So it is told by its form: base64 of as many octets as a binding
can have. What has the form must be this connection's binding, or the request is refused: a request signed for
another connection always has the form, so it is never taken for a password. What has not the form cannot
have been a binding of any connection, so nothing was linked: that is the same as no challengePassword at all, which only
`required` refuses. A password that happens to have the form is refused too; 16 letters and figures are enough for that.

estIdentityLinking (RFC 7894, section 3.3) has no other use: whatever it holds is verified. The other two attributes of RFC 7894 are no
bindings, and nothing here can process them with success, as section 4 demands of each that is there.
"""

from __future__ import annotations

import binascii
import hmac
from enum import StrEnum

from kipuka.api.errors import BadCSR, ProofOfPossessionFailed
from kipuka.api.values import Connection
from kipuka.est.csr import CertificateRequest

__all__ = ["MISMATCH", "Binding", "check_binding", "refuse_foreign_challenges"]

MISMATCH = "binding_mismatch"
"""The audit reason of a request that is linked to another connection."""

# Octets of a tls-unique (12, or 36 in SSL 3: RFC 5929, section 3; RFC 5246, 7.4.9), of a tls-exporter (32: RFC 9266,
# section 2), and of the TLS 1.3 Finished message (32 or 48), which some clients take for tls-unique.
_LENGTHS = frozenset({12, 32, 36, 48})


class Binding(StrEnum):
    """Which channel binding linked a request to its connection."""

    TLS_UNIQUE = "tls-unique"
    """RFC 5929, section 3: TLS 1.2 with extended master secret."""
    TLS_EXPORTER = "tls-exporter"
    """RFC 9266: TLS 1.3. The connection must be closed after its use (RFC 9266, section 4.1; RULES G2)."""


def check_binding(
    challenge: str | bytes | None,
    connection: Connection,
    *,
    identity_linking: str | bytes | None = None,
    required: bool = False,
) -> Binding | None:
    """Which binding of `connection` the request carries; None where it carries none and none is `required`.

    `challenge` is its challengePassword, `identity_linking` its estIdentityLinking; each that is there is verified on its
    own (RFC 7894, section 4). Raises ProofOfPossessionFailed, with the reasons `binding_mismatch`, `binding_unavailable`
    (this connection has none: TLS 1.2 without extended master secret) and `binding_missing`.
    """
    own = _own_binding(connection)
    binding: Binding | None = None
    if identity_linking is not None:
        binding = _verify(_octets(identity_linking), own)
    if challenge is not None:
        octets = _octets(challenge)
        if octets is not None and (len(octets) in _LENGTHS or _is(octets, own)):
            binding = _verify(octets, own)
    if binding is None and required and own is None:
        raise ProofOfPossessionFailed(
            "the linking of identity and proof of possession is required, but this connection has no channel binding; use TLS 1.3, "
            "or TLS 1.2 with extended master secret",
            reason="binding_unavailable",
            rule="channel_binding",
        )
    if binding is None and required:
        # RFC 7030, section 3.5: the text should say that linking is required
        raise ProofOfPossessionFailed(
            "the linking of identity and proof of possession is required: put this connection's tls-unique (TLS 1.2) or "
            "tls-exporter (TLS 1.3) into the challengePassword",
            reason="binding_missing",
            rule="channel_binding",
        )
    return binding


def refuse_foreign_challenges(csr: CertificateRequest) -> None:
    """Raise BadCSR for an otpChallenge or a revocationChallenge (RFC 7894, sections 3.1, 3.2 and 4).

    A client that sends one believes that it will be checked, or that its certificate can be revoked by it: to say nothing would leave it in
    that belief. Nothing asks for them: they are in no answer of csrattrs.
    """
    if csr.has_otp_challenge:
        raise BadCSR(
            "an otpChallenge in the request is not taken: present a one-time password in the Authorization field (Basic)",
            reason="otp_challenge",
        )
    if csr.has_revocation_challenge:
        raise BadCSR(
            "a revocationChallenge is not taken: no certificate is revoked by a password here, leave it out",
            reason="revocation_challenge",
        )


def _octets(challenge: str | bytes) -> bytes | None:
    """What the challenge is the base64 of (RFC 4648, section 4); None where it is no base64."""
    try:
        text = challenge.encode("ascii") if isinstance(challenge, str) else challenge
        text = text.translate(None, b" \t\r\n").rstrip(b"=")  # some clients leave out the padding or add a line break
        return binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error):
        return None


def _own_binding(connection: Connection) -> tuple[Binding, bytes] | None:
    """The one binding that the connection's version has: tls-unique is not defined for TLS 1.3 (RFC 9266, section 3)."""
    if connection.tls_version == "TLSv1.2" and connection.tls_unique:
        return Binding.TLS_UNIQUE, connection.tls_unique
    if connection.tls_version == "TLSv1.3" and connection.tls_exporter:
        return Binding.TLS_EXPORTER, connection.tls_exporter
    return None


def _is(octets: bytes, own: tuple[Binding, bytes] | None) -> bool:
    return own is not None and hmac.compare_digest(octets, own[1])


def _verify(octets: bytes | None, own: tuple[Binding, bytes] | None) -> Binding:
    if own is None:
        raise ProofOfPossessionFailed(
            "the request is linked to a TLS connection, but this one has no channel binding; use TLS 1.3, or TLS 1.2 with "
            "extended master secret",
            reason="binding_unavailable",
            rule="channel_binding",
        )
    if octets is None or not _is(octets, own):
        raise ProofOfPossessionFailed(
            "the challengePassword or estIdentityLinking of the request is not the channel binding of this connection",
            reason=MISMATCH,
        )
    return own[0]
