"""Bodies on the wire: from what a client sends to DER, and from DER to what it can read.

In the room: base64 with any white space (RFC 8951, section 3.1), PEM, raw DER, the lines of answers, content types. Not in
the room: what the DER says (`kipuka.est.csr`, `kipuka.est.cms`), headers and status codes (`kipuka.http`).

RFC 8951, section 3 wants base64 in both directions and tells receivers to ignore Content-Transfer-Encoding, so nothing
here asks for that header: the form of a body is read off the body. Raw DER and PEM are taken besides, since that is what
people have in their files and give to curl.
"""

from __future__ import annotations

import base64
import binascii
import re
from enum import StrEnum

from kipuka.api.errors import MalformedRequest

__all__ = [
    "CA_CERTS",
    "CERTS_ONLY",
    "CSRATTRS",
    "MAX_BODY",
    "PKCS10",
    "Base64Lines",
    "decode_request",
    "encode_response",
    "one_line",
]

PKCS10 = "application/pkcs10"
"""The content type of an enrolment request (RFC 7030, section 4.2.1)."""

CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"
"""The content type of an issued certificate (RFC 7030, section 4.2.3)."""

CA_CERTS = "application/pkcs7-mime"
"""The content type of the CA certificates, without a parameter (RFC 7030, section 4.1.3; RFC 8951, section 3.2.1).

The message is the same certs-only one, but older BouncyCastle clients compare this value letter by letter."""

CSRATTRS = "application/csrattrs"
"""The content type of the CSR attributes (RFC 8951, section 4)."""

MAX_BODY = 256 * 1024
"""The longest body in bytes that is looked at: base64 of the largest request, with room for what `openssl req -text` adds."""

_WHITE_SPACE = b" \t\r\n"  # RFC 8951, section 3.1: these four and no others
_SEQUENCE = b"\x30"
_PEM_MARK = b"-----BEGIN "
_PEM_LABELS = (
    b"CERTIFICATE REQUEST",
    b"NEW CERTIFICATE REQUEST",
)  # RFC 7468, section 7; the second as Windows writes it
# A line of its own. Each part can match in one way only, so that a body made of boundaries costs no more than any other.
_PEM_BOUNDARY = re.compile(rb"^[ \t]*-----(BEGIN|END) ([A-Z0-9 #]{0,64})-----[ \t\r]*$", re.MULTILINE)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # Windows editors put it before text
_LINE = 64  # columns, as in PEM (RFC 7468, section 2)


class Base64Lines(StrEnum):
    """`[est] base64_lines`: whether answers are broken into lines.

    No form suits all clients. strongSwan cannot read line breaks; clients that decode with OpenSSL (libest,
    `openssl base64 -d`) cannot read one long line. RFC 8951, section 3.1 leaves it to the sender.
    """

    AUTO = "auto"  # one line for a client that does not name itself, which is how strongSwan shows
    ALWAYS = "always"  # lines of 64
    NEVER = "never"  # one line


def one_line(policy: Base64Lines, user_agent: str | None) -> bool:
    """Whether the answer to a request with this `User-Agent` field (None: it has none) is one line of base64."""
    match policy:
        case Base64Lines.AUTO:
            return not user_agent
        case Base64Lines.ALWAYS:
            return False
        case Base64Lines.NEVER:
            return True


def encode_response(der: bytes, *, one_line: bool) -> bytes:
    r"""DER as the base64 of an answer (RFC 8951, section 3).

    Either one line without any line break, also at its end, or lines of 64 characters, each ended by LF. LF, and not
    MIME's CRLF, because RFC 8951 took MIME out of EST: every reader that takes CRLF takes LF, `\n` is what OpenSSL and
    the servers that clients were tried against write, and CR would be one more byte that a simple decoder must know.
    """
    text = base64.b64encode(der)
    if one_line:
        return text
    return b"".join(text[start : start + _LINE] + b"\n" for start in range(0, len(text), _LINE))


def decode_request(body: bytes) -> bytes:
    """The DER in the body of an enrolment request, which is base64 (RFC 8951, section 3), PEM (RFC 7468) or DER.

    Of the DER only the first octet is looked at; `CertificateRequest.from_der` reads the rest. Raises MalformedRequest
    for everything else: an empty or too long body, letters that are not base64, a wrong or missing PEM boundary.
    """
    if len(body) > MAX_BODY:
        raise MalformedRequest(f"the body is longer than {MAX_BODY} bytes", reason="body_too_long")
    if not body.strip(_WHITE_SPACE):
        raise MalformedRequest("the body is empty", reason="body_empty")
    body = body.removeprefix(_BYTE_ORDER_MARK)
    # As base64 an octet 0x30, the figure 0, can never begin a SEQUENCE; but it can begin the text before a PEM block,
    # where an octet beyond ASCII (a length in the long form, which all but the very smallest requests have) cannot follow.
    if body.startswith(_SEQUENCE) and (body[1:2] >= b"\x80" or _PEM_MARK not in body):
        return body
    der = _decode_base64(_pem_content(body) if _PEM_MARK in body else body)
    if not der.startswith(_SEQUENCE):
        if der.startswith(_PEM_MARK):
            raise MalformedRequest("the body is PEM that was encoded in base64 once more", reason="body_not_der")
        raise MalformedRequest("the body is base64, but not of a DER structure", reason="body_not_der")
    return der


def _pem_content(body: bytes) -> bytes:
    """The base64 between the boundaries of the one PEM block, with or without explanatory text around it."""
    boundaries = list(_PEM_BOUNDARY.finditer(body))
    if [mark[1] for mark in boundaries] != [b"BEGIN", b"END"]:
        raise MalformedRequest("the body is not exactly one PEM block", reason="body_not_one_pem_block")
    begin, end = boundaries
    if begin[2] != end[2] or begin[2] not in _PEM_LABELS:
        # The label is not repeated in the text: it is the client's, and this text reaches log and audit.
        raise MalformedRequest("the PEM block is not a CERTIFICATE REQUEST", reason="body_wrong_pem_label")
    return body[begin.end() : end.start()]


def _decode_base64(text: bytes) -> bytes:
    letters = text.translate(None, _WHITE_SPACE)
    try:
        octets = binascii.a2b_base64(letters, strict_mode=True)
    except binascii.Error as error:
        raise MalformedRequest("the body is neither base64 nor PEM nor DER", reason="body_not_base64") from error
    if letters.endswith(b"==="):  # Python's strict mode lets a whole group of padding pass
        raise MalformedRequest("the body is neither base64 nor PEM nor DER", reason="body_not_base64")
    return octets
