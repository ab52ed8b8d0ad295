"""HTTP requests that are odd, torn or deceitful.

In the room: strategies of Authorization values, targets, fields, framing and JSON, and `HTTPRequest`, which is all of them in
one. Not in the room: bodies of enrolments (`kipuka.testing.hostile.requests`), and whoever sends them.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from kipuka.testing.client import BASE_PATH
from kipuka.testing.contract import GARBAGE
from kipuka.testing.hostile.damage import beginning, damaged, edits
from kipuka.testing.hostile.requests import bodies

__all__ = ["HTTPRequest", "authorizations", "fields", "json_bodies", "requests", "targets", "torn"]

OPERATIONS = ("cacerts", "csrattrs", "simpleenroll", "simplereenroll", "serverkeygen", "fullcmc")
METHODS = (
    b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"get", b"G\x00T", b"",
    b"POST" * 50, b"!#$%&'*+-.^_`|~",
)  # fmt: skip
SEGMENTS = (
    "", ".", "..", "%2e", "%2e%2e", "%2E%2E", "%2f", "%5c", "\\", "%00", "%0d%0a", "%", "%zz", "%c0%ae", "%ff", "%e2%80%ae", ";x",
    "admin", "admin;x", "ADMIN", "Admin", "otp", "certificates", "lockouts", "factory", "FACTORY", "cacerts;x", "cacerts.", "cacerts%20",
    "simpleenroll%2f", "*", "~", "a" * 300, "%41" * 100, ".well-known", "est", "\u00e9",
)  # fmt: skip
FIELD_NAMES: tuple[bytes, ...] = (
    b"Host", b"Content-Type", b"Content-Length", b"Transfer-Encoding", b"Content-Encoding", b"Connection", b"Expect", b"Upgrade", b"TE",
    b"Authorization", b"Cookie", b"Origin", b"Sec-Fetch-Site", b"Accept", b"User-Agent", b"X-Forwarded-For", b"Forwarded", b"X-Real-IP",
    b"X-Original-URL", b"X-HTTP-Method-Override", b"X-Client-Cert", b"X-SSL-Client-Verify", b"Range", b"If-None-Match", b"Trailer",
    b"Content-Transfer-Encoding", b"X-Request-Id", b"Bad Name", b"bad:name", b"",
)  # fmt: skip
FIELD_VALUES: tuple[bytes, ...] = (
    b"", b" ", b"x", b"0", b"-1", b"+5", b"5, 5", b"0x10", b"1e3", b"99999999999999999999", b"chunked", b"Chunked", b"chunked, chunked",
    b"gzip, chunked", b"identity", b"\x0bchunked", b"100-continue", b"close", b"keep-alive, upgrade", b"h2c", b"websocket", b"127.0.0.1",
    b"for=127.0.0.1", b"localhost", b"evil.example", b"null", b"https://localhost", b"cross-site", b"application/pkcs10",
    b"application/json", b"application/pkcs10; charset=\xff", b"multipart/form-data; boundary=x", b"bytes=0-1", b"\xff\xfe", b"a\x00b",
    b"a\rb", b"a\nb: c", b"a\r\n folded", b"\x1b[2J", b"x" * 5_000, b"x" * 20_000, b"https://[", b"http://[::1", b"[", b"a:b:c", b"." * 300, b"a" * 64, b"a@b", b"xn--a", b"gzip, identity", b"/admin/otp", b"DELETE", b"SUCCESS",
)  # fmt: skip
ODD_TEXTS = (
    "\x00", "a\r\nb", "\x1b[31m", "CN=x,O=y", "../../etc/passwd", "device-1", "2026-06-30T23:59:59Z", "a" * 5_000,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class HTTPRequest:
    """A request as its parts, so that a failure can be read; `octets` is what goes over the wire."""

    method: bytes
    target: bytes
    version: bytes = b"HTTP/1.1"
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes = field(default=b"", repr=False)
    line_end: bytes = b"\r\n"

    @property
    def octets(self) -> bytes:
        """Request line, fields, an empty line, the body."""
        lines = [b" ".join((self.method, self.target, self.version))]
        lines += [name + b": " + value for name, value in self.fields]
        return self.line_end.join((*lines, b"", b"")) + self.body


def authorizations(*, known: Sequence[str] = ()) -> st.SearchStrategy[bytes]:
    """Values of the Authorization field; `known` are credentials that are good, or were, to be sent in wrong places too."""
    schemes = st.sampled_from(
        ("Basic", "basic", "Bearer", "Negotiate", "Digest", "X", "Basic:", "Basic\t", "Bearer  ", "")
    )
    user = st.text(max_size=20).map(lambda text: base64.b64encode(text.encode("utf-8", "surrogatepass")).decode())
    parameters = st.one_of(st.sampled_from(GARBAGE[:17]), st.text(max_size=40), user, st.sampled_from(("", *known)))
    values = st.builds(_authorization, schemes, parameters)
    good = st.sampled_from([value.encode() for value in known]) if known else st.nothing()
    return st.one_of(values, good, good, good, st.builds(damaged, values, edits(most=2)))


def _authorization(scheme: str, value: str) -> bytes:
    return f"{scheme} {value}".encode("utf-8", "surrogatepass")


def _target(head: str, parts: Sequence[str], query: str) -> bytes:
    return ("/".join((head, *parts)) + query).encode("utf-8")


def targets(*, labels: Sequence[str] = (), admin: Sequence[str] = ()) -> st.SearchStrategy[bytes]:
    """Targets around the EST and admin paths: encoded, doubled, dotted, absolute, very long, and labels that are none."""
    heads = st.sampled_from(
        (BASE_PATH, "/admin", "", "/", f"/{BASE_PATH}", "https://localhost" + BASE_PATH, "*", "/ADMIN", "//admin")
    )
    segment = st.sampled_from((*SEGMENTS, *OPERATIONS, *labels))
    queries = st.sampled_from(
        (
            "",
            "",
            "?",
            "?limit=-1",
            "?limit=1&limit=2",
            "?subject=%00",
            "?after=%ff",
            "?state[]=x",
            "#x",
            "?" + "a" * 2_000,
        )
    )
    wild = st.builds(_target, heads, st.lists(segment, max_size=5), queries)
    good = st.sampled_from([*(f"{BASE_PATH}/{name}" for name in OPERATIONS), *admin])
    right = st.builds(_target, good, st.just(()), st.just(""))
    return st.one_of(right, right, st.builds(_target, good, st.just(()), queries), wild)


def fields() -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    """Further fields, odd ones, perhaps by the hundred."""
    value = st.one_of(st.sampled_from(FIELD_VALUES), st.binary(max_size=30))
    few = st.lists(st.tuples(st.sampled_from(FIELD_NAMES), value), max_size=3)
    return st.one_of(few, few, st.builds(_many_times, few))


def _many_times(some: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return some * 60


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def json_bodies() -> st.SearchStrategy[bytes]:
    """What is sent where the admin interface wants a JSON object: other values, odd members, deep and torn ones."""
    names = st.sampled_from(
        ("client_id", "max_uses", "expires_at", "label", "subject", "san", "token", "ttl", "__proto__", "")
    )
    leaf: st.SearchStrategy[object] = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(ODD_TEXTS),
    )

    def around(inner: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
        return st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)

    tree = st.recursive(leaf, around, max_leaves=8)
    whole = st.builds(_json, st.one_of(st.dictionaries(names, tree, max_size=5), tree))
    return st.one_of(
        whole,
        st.builds(damaged, whole, edits(most=2)),
        st.sampled_from(
            (
                b"",
                b"[" * 50_000,
                b'{"a":' * 20_000,
                b'{"client_id":"a","client_id":"b"}',
                b'"\\ud800"',
                b"1" * 5_000,
                b"NaN",
            )
        ),
    )


def _smuggled(body: bytes) -> list[tuple[list[tuple[bytes, bytes]], bytes]]:
    """Framings of a body on which two servers in a row might disagree, or that are none."""
    length = (b"Content-Length", str(len(body)).encode())
    chunked = (b"Transfer-Encoding", b"chunked")
    chunk = b"%x\r\n%s\r\n" % (len(body), body)
    hidden = b"GET /admin/certificates HTTP/1.1\r\nHost: localhost\r\n\r\n"
    return [
        ([length, chunked], chunk + b"0\r\n\r\n" + hidden),
        ([chunked, length], b"0\r\n\r\n" + hidden),
        ([length, (b"Content-Length", b"0")], body),
        ([(b"Content-Length", b"0")], body + hidden),
        ([(b"Content-Length", str(len(body) + 10).encode())], body),
        ([chunked], chunk + b"0\r\nTrailer: x\r\nAuthorization: Bearer x\r\n\r\n"),
        *(
            ([chunked], bad)
            for bad in (b"zz\r\n", b"-1\r\nx\r\n", b"f" * 18 + b"\r\n", b"1\nx\n0\n\n", b"5;" + b"x" * 30_000)
        ),
        *(([(b"Transfer-Encoding", value)], chunk) for value in FIELD_VALUES),
    ]


@st.composite
def _framed(draw: st.DrawFn, body: bytes) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """The fields that frame a body, and the octets after the header: mostly right, otherwise as a smuggler would."""
    match draw(st.integers(0, 9)):
        case 0 | 1:
            return draw(st.sampled_from(_smuggled(body)))
        case 2:
            return [(b"Transfer-Encoding", b"chunked")], b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        case _:
            return [(b"Content-Length", str(len(body)).encode())], body


@st.composite
def requests(
    draw: st.DrawFn, *, known: Sequence[str] = (), labels: Sequence[str] = (), admin: Sequence[str] = ()
) -> HTTPRequest:
    """Whole requests; each part is as it should be more often than not, so that every later check is reached too."""
    mostly = st.sampled_from((True,) * 9 + (False,))
    target = draw(targets(labels=labels, admin=admin))
    for_admin = b"/admin" in target.lower()
    operation = target.partition(b"?")[0].rpartition(b"/")[2]
    usual = b"GET" if operation in {b"cacerts", b"csrattrs"} or (for_admin and operation != b"otp") else b"POST"
    method = usual if draw(mostly) else draw(st.sampled_from(METHODS))
    headers = [(b"Host", b"localhost")] if draw(mostly) else []
    body = b""
    if method == b"POST" or draw(st.booleans()):
        body = draw(json_bodies() if for_admin else bodies())
        if draw(mostly):
            headers.append((b"Content-Type", b"application/json" if for_admin else b"application/pkcs10"))
        framing, body = draw(_framed(body))
        headers += framing
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 1, 1, 1, 1, 1, 2)))):
        headers.append((b"Authorization", draw(authorizations(known=known))))
    headers += draw(fields()) if draw(st.integers(0, 3)) == 0 else []
    return HTTPRequest(
        method=method,
        target=target,
        version=b"HTTP/1.1"
        if draw(mostly)
        else draw(st.sampled_from((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1", b"HTTP/9", b""))),
        fields=tuple(headers),
        body=body,
        line_end=b"\r\n" if draw(mostly) else draw(st.sampled_from((b"\n", b"\r", b"\r\n ", b"\n\r"))),
    )


def torn(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """The beginning of it only, or with octets damaged."""
    return st.one_of(
        st.builds(beginning, whole, st.floats(0, 1, exclude_max=True)),
        st.builds(damaged, whole, edits(most=4)),
    )
