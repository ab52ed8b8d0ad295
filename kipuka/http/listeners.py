"""What each listener asks of its clients in the handshake (RULES A1, A2).

In the room: pure functions from what EST and the admin interface may do with a client certificate to what a listener that
serves them asks for. Not in the room: contexts and sockets (`kipuka.http.tls`, `kipuka.http.server`), and whose
certificate is good for what: that is decided for each request, by the anchors of its purpose alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from kipuka.http.tls import ClientCertificates

__all__ = ["CertificateRequest", "Purpose", "certificate_request"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Purpose:
    """What one kind of request may do with a client certificate.

    `required`: nothing goes without one. `anchors`: whose certificates are of use; none, where no certificate is looked at.
    """

    required: bool
    anchors: tuple[x509.Certificate, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateRequest:
    """What a listener asks for, and the anchors by whose names a client may choose: with `require` one of them must have
    signed what it presents.
    """

    wanted: ClientCertificates
    anchors: tuple[x509.Certificate, ...]


def certificate_request(*, est: Purpose | None, admin: Purpose | None) -> CertificateRequest:
    """What a listener asks for that serves EST, the admin interface, or both (None: it does not serve that).

    Where both are served, EST alone decides whether a handshake fails: an administrator's duty to have a certificate must not
    turn devices away that have none yet.
    """
    served = [purpose for purpose in (est, admin) if purpose is not None and purpose.anchors]
    anchors = tuple(dict.fromkeys(anchor for purpose in served for anchor in purpose.anchors))
    if not anchors:
        return CertificateRequest(wanted="none", anchors=())
    decides = est if est is not None else admin
    demanded = decides is not None and decides.required and bool(decides.anchors)
    return CertificateRequest(wanted="require" if demanded else "ask", anchors=anchors)
