"""An EST client for tests: a true TLS socket, and everything the server sent as it was sent.

In the room: `ESTClient` (who calls, from where, with which certificate and TLS version), `ESTConnection` (one TLS
connection: bytes, requests, channel bindings), `Response`, and the ways a request body may be written. Not in the
room: conveniences that hide what went over the wire (no redirects, no retries, no pooling).

A fault of the connection is a `ConnectionError`; where the peer said why in an alert it is a `TLSAlert`.
"""

from __future__ import annotations

import base64
import contextlib
import select
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email import message_from_bytes
from email.message import Message
from types import TracebackType
from typing import Literal, Self, TypeVar, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7
from OpenSSL import SSL, crypto

from kipuka.testing.pki import Credential, Request
from kipuka.testing.proxy_protocol import proxy_header

__all__ = [
    "BASE_PATH",
    "BODY_ENCODINGS",
    "BodyEncoding",
    "ESTClient",
    "ESTConnection",
    "Response",
    "TLSAlert",
    "TLSVersion",
    "basic",
    "bearer",
    "encode_body",
    "est_path",
]

BASE_PATH = "/.well-known/est"

TLSVersion = Literal["TLSv1.2", "TLSv1.3"]
BodyEncoding = Literal["one-line", "64-lf", "64-crlf", "76-lf", "76-crlf", "der", "pem"]
BODY_ENCODINGS: tuple[BodyEncoding, ...] = ("one-line", "64-lf", "64-crlf", "76-lf", "76-crlf", "der", "pem")

T = TypeVar("T")

_PROTOCOLS: Mapping[str, int] = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}
_NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN: else OpenSSL fills in a missing intermediate from the trusted ones
_NO_EXTENDED_MASTER_SECRET = 0x1  # SSL_OP_NO_EXTENDED_MASTER_SECRET
_EXPORTER_LABEL = b"EXPORTER-Channel-Binding"  # RFC 9266, section 2


class TLSAlert(ConnectionError):
    """The peer ended the connection with an alert; the text is OpenSSL's name of it."""


def basic(secret: str, user: str = "") -> str:
    """The Authorization value of the Basic scheme (RFC 7617), in UTF-8."""
    return "Basic " + base64.b64encode(f"{user}:{secret}".encode()).decode("ascii")


def bearer(token: str) -> str:
    """The Authorization value of the Bearer scheme."""
    return f"Bearer {token}"


def encode_body(content: bytes, encoding: BodyEncoding, *, label: str = "CERTIFICATE REQUEST") -> bytes:
    """Write DER in one of the forms that clients in the field send: base64 in lines or in one, DER, PEM."""
    if encoding == "der":
        return content
    text = base64.b64encode(content)
    if encoding == "one-line":
        return text
    if encoding == "pem":
        return f"-----BEGIN {label}-----\n".encode() + _wrap(text, 64, b"\n") + f"-----END {label}-----\n".encode()
    width, ending = encoding.split("-")
    return _wrap(text, int(width), b"\r\n" if ending == "crlf" else b"\n")


def _wrap(text: bytes, width: int, ending: bytes) -> bytes:
    return b"".join(text[start : start + width] + ending for start in range(0, len(text), width))


@dataclass(frozen=True, kw_only=True, slots=True)
class Response:
    """One HTTP response: every header as it came, in its order, and the body's octets."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = field(repr=False)
    head: bytes = field(repr=False)  # the status line and headers, as received, with the empty line

    def all(self, name: str) -> list[str]:
        """The values of every header of that name, in order."""
        return [value for other, value in self.headers if other.lower() == name.lower()]

    def header(self, name: str) -> str | None:
        """The value of the header of that name. Raises ValueError where there are several."""
        values = self.all(name)
        if len(values) > 1:
            msg = f"{len(values)} fields named {name}: {values}"
            raise ValueError(msg)
        return values[0] if values else None

    def parts(self) -> list[tuple[str, bytes]]:
        """The parts of a multipart body, decoded: content type and octets (RFC 7030, 4.4.2)."""
        message = message_from_bytes(f"Content-Type: {self.header('Content-Type')}\r\n\r\n".encode() + self.body)
        if message.defects or not message.is_multipart():
            msg = f"not a sound multipart body: {message.defects or self.header('Content-Type')}"
            raise ValueError(msg)
        return [
            (str(part["Content-Type"]), cast("bytes", part.get_payload(decode=True)))
            for part in cast("list[Message]", message.get_payload())
        ]

    @property
    def text(self) -> str:
        """The body as text, without the white space around it."""
        return self.body.decode("utf-8").strip()

    def certificates(self) -> list[x509.Certificate]:
        """The certificates of a base64 certs-only CMS body (RFC 7030, 4.1.3)."""
        return pkcs7.load_der_pkcs7_certificates(base64.b64decode(self.body))

    @property
    def certificate(self) -> x509.Certificate:
        """The only certificate of the body; raises ValueError with the whole answer where that is not what came."""
        if self.status != 200:
            msg = f"no certificate: {self.status} {self.text}"
            raise ValueError(msg)
        (certificate,) = self.certificates()
        return certificate


class ESTConnection:
    """One TLS connection; a context manager. Every wait ends after `timeout` seconds with TimeoutError."""

    def __init__(self, plain: socket.socket, connection: SSL.Connection, *, host: str, timeout: float) -> None:
        self._socket = plain
        self._connection = connection
        self._host = host
        self._timeout = timeout
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def tls_version(self) -> str:
        """The negotiated version, "TLSv1.2" or "TLSv1.3"."""
        return self._connection.get_protocol_version_name()

    @property
    def cipher(self) -> str:
        """OpenSSL's name of the negotiated suite."""
        return self._connection.get_cipher_name() or ""

    @property
    def tls_unique(self) -> bytes:
        """The first Finished message of this full handshake (RFC 5929, section 3): the client's."""
        return self._connection.get_finished() or b""

    @property
    def tls_exporter(self) -> bytes:
        """The exporter value of RFC 9266, section 2, also on versions where nobody may use it."""
        return self._connection.export_keying_material(_EXPORTER_LABEL, 32, b"")

    @property
    def channel_binding(self) -> str:
        """The binding of RFC 7030, 3.5 for this version, in base64, as it goes into challengePassword."""
        value = self.tls_exporter if self.tls_version == "TLSv1.3" else self.tls_unique
        return base64.b64encode(value).decode("ascii")

    @property
    def local_port(self) -> int:
        """The client's own port."""
        return int(self._socket.getsockname()[1])

    @property
    def server_certificate(self) -> x509.Certificate | None:
        """What the server presented."""
        return self._connection.get_peer_certificate(as_cryptography=True)

    def handshake(self) -> None:
        """Finish the handshake; `ESTClient.connect` has done so."""
        self._retry(self._connection.do_handshake, self._deadline())

    def send(self, data: bytes) -> None:
        """Send octets as they are."""
        view, deadline = memoryview(data), self._deadline()
        while view:
            sent = self._retry(lambda part=view[:16384]: self._connection.send(bytes(part)), deadline)
            view = view[sent:]

    def receive(self, timeout: float | None = None) -> bytes:
        """Whatever comes next; empty when the peer has closed, properly or not."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            return data
        try:
            return self._retry(lambda: self._connection.recv(65536), self._deadline(timeout))
        except ConnectionResetError:
            return b""

    def receive_until_closed(self, timeout: float | None = None) -> bytes:
        """Everything until the peer closes."""
        parts: list[bytes] = []
        while part := self.receive(timeout):
            parts.append(part)
        return b"".join(parts)

    def is_closed(self, timeout: float = 20) -> bool:
        """True when the peer closes within that time without a further octet."""
        try:
            return not self.receive(timeout)
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        chunked: bool = False,
    ) -> Response:
        """Send one request and read its response."""
        self.send(self.format_request(method, target, headers=headers, body=body, chunked=chunked))
        return self.read_response(method)

    def format_request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        chunked: bool = False,
    ) -> bytes:
        """The octets of a request. Host and Content-Length are added unless they are given."""
        fields = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        present = {name.lower() for name, _ in fields}
        if "host" not in present:
            fields.insert(0, ("Host", self._host))
        if chunked:
            fields.append(("Transfer-Encoding", "chunked"))
            body = (
                b"".join(f"{len(part):x}\r\n".encode() + part + b"\r\n" for part in _pieces(body or b"")) + b"0\r\n\r\n"
            )
        elif body is not None and "content-length" not in present:
            fields.append(("Content-Length", str(len(body))))
        head = "".join(f"{name}: {value}\r\n" for name, value in fields)
        return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")

    def read_response(self, method: str = "GET") -> Response:
        """Read one final response; interim ones (1xx) are passed over. Raises ConnectionError when the peer closes first."""
        while True:
            head = self._read_until(b"\r\n\r\n")
            line, *lines = head[:-4].decode("latin-1").split("\r\n")
            _, status, *reason = line.split(" ", 2)
            if not status.startswith("1"):
                break
        headers: list[tuple[str, str]] = []
        for text in lines:
            name, _, value = text.partition(":")
            headers.append((name, value.strip()))
        known = {name.lower(): value for name, value in headers}
        if method == "HEAD" or status in {"204", "304"}:
            body = b""
        elif known.get("transfer-encoding", "").lower() == "chunked":
            body = self._read_chunks()
        elif "content-length" in known:
            body = self._read_exactly(int(known["content-length"]))
        else:
            body = self.receive_until_closed()
        return Response(
            status=int(status), reason=reason[0] if reason else "", headers=tuple(headers), body=body, head=head
        )

    def shutdown(self) -> None:
        """Say that nothing more will be sent (close_notify), and go on reading."""
        with contextlib.suppress(SSL.Error):
            self._connection.shutdown()

    def close(self) -> None:
        """Close properly."""
        self.shutdown()
        self._socket.close()

    def abort(self) -> None:
        """Vanish: the peer gets a TCP reset."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def renegotiate(self) -> bool:
        """Ask for a renegotiation (TLS 1.2); True when the peer went along with it."""
        self._connection.renegotiate()
        try:
            self._retry(self._connection.do_handshake, self._deadline())
        except ConnectionError:
            return False
        return self._connection.total_renegotiations() > 0

    def _deadline(self, timeout: float | None = None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _retry(self, act: Callable[[], T], deadline: float) -> T:
        """Run a TLS operation until it does not want the socket any more; turn its faults into ConnectionError."""
        while True:
            try:
                return act()
            except SSL.WantReadError:
                self._wait(deadline, write=False)
            except SSL.WantWriteError:
                self._wait(deadline, write=True)
            except SSL.ZeroReturnError as error:
                msg = "the server closed the connection"
                raise ConnectionResetError(msg) from error
            except SSL.SysCallError as error:
                raise ConnectionResetError(str(error)) from error
            except SSL.Error as error:
                reason = _reason(error)
                if "alert" in reason:
                    raise TLSAlert(reason) from error
                raise ConnectionResetError(reason) from error

    def _wait(self, deadline: float, *, write: bool) -> None:
        remaining = deadline - time.monotonic()
        waiting = select.poll()  # select() takes no file number above 1023, which a test with a crowd of clients has
        waiting.register(self._socket, select.POLLOUT if write else select.POLLIN)
        if not waiting.poll(max(0, remaining) * 1000):
            msg = "the server did nothing in time"
            raise TimeoutError(msg)

    def _read_until(self, mark: bytes) -> bytes:
        data = b""
        while mark not in data:
            part = self.receive()
            if not part:
                msg = f"the server closed the connection after {len(data)} octets of a response"
                raise ConnectionResetError(msg)
            data += part
        end = data.index(mark) + len(mark)
        self._buffer = data[end:]
        return data[:end]

    def _read_exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self.receive()
            if not part:
                msg = f"the server closed the connection after {len(data)} of {count} octets"
                raise ConnectionResetError(msg)
            data += part
        self._buffer = data[count:] + self._buffer
        return data[:count]

    def _read_chunks(self) -> bytes:
        parts: list[bytes] = []
        while size := int(self._read_until(b"\r\n").split(b";")[0], 16):
            parts.append(self._read_exactly(size))
            self._read_until(b"\r\n")
        while self._read_until(b"\r\n") != b"\r\n":
            pass  # trailers
        return b"".join(parts)


@dataclass(frozen=True, kw_only=True)
class ESTClient:
    """Who calls: the address, the trusted roots, and the certificate and TLS version that are shown.

    `trust` is PEM, or None to believe any server. With `send_chain=False` the leaf goes alone. Each of the methods
    below opens a connection of its own; `connect()` gives one to keep.
    """

    host: str
    port: int
    trust: bytes | None = field(default=None, repr=False)
    certificate: Credential | None = None
    tls_version: TLSVersion | None = None
    server_name: str = "localhost"
    user_agent: str | None = "kipuka-testing"
    extended_master_secret: bool = True  # RFC 7627, for TLS 1.2; without it there is no usable tls-unique
    source: str | None = None  # a local address to call from, for instance 127.0.0.2: it has lock-outs of its own
    send_chain: bool = True
    preamble: bytes = field(default=b"", repr=False)  # what goes before TLS, as a load balancer's PROXY header does
    timeout: float = 20

    def with_certificate(self, certificate: Credential | None, *, send_chain: bool = True) -> ESTClient:
        """The same caller with another certificate."""
        return replace(self, certificate=certificate, send_chain=send_chain)

    def with_tls(self, version: TLSVersion) -> ESTClient:
        """The same caller on that version of TLS alone."""
        return replace(self, tls_version=version)

    def calling_from(self, source: str) -> ESTClient:
        """The same caller from another local address."""
        return replace(self, source=source)

    def forwarded_for(self, address: str, port: int = 40000) -> ESTClient:
        """The same caller as a load balancer would forward it for a client at that address."""
        return replace(self, preamble=proxy_header((address, port)))

    def connect(self) -> ESTConnection:
        """Open a connection and finish its handshake.

        In TLS 1.3 the client is done before the server has looked at the client's certificate, so a refusal of it
        comes out of the first read, not out of here.
        """
        context = self._context()
        source = None if self.source is None else (self.source, 0)
        plain = socket.create_connection((self.host, self.port), timeout=self.timeout, source_address=source)
        plain.sendall(self.preamble)
        plain.setblocking(False)  # noqa: FBT003 - the socket module's own signature
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = SSL.Connection(context, plain)
        connection.set_tlsext_host_name(self.server_name.encode("ascii"))
        connection.set_connect_state()
        opened = ESTConnection(plain, connection, host=f"{self.server_name}:{self.port}", timeout=self.timeout)
        try:
            opened.handshake()
        except BaseException:
            plain.close()
            raise
        return opened

    def _context(self) -> SSL.Context:
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        # Level 0: a client that may show an MD5 signature or a small key is what a server has to be tested with.
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        context.set_mode(_NO_AUTO_CHAIN)
        if not self.extended_master_secret:
            context.set_options(_NO_EXTENDED_MASTER_SECRET)
        if self.tls_version is not None:
            context.set_min_proto_version(_PROTOCOLS[self.tls_version])
            context.set_max_proto_version(_PROTOCOLS[self.tls_version])
        if self.trust is not None:
            store = context.get_cert_store()
            if store is None:  # pragma: no cover - a context has had one since it was made
                msg = "the TLS context has no certificate store"
                raise RuntimeError(msg)
            for certificate in x509.load_pem_x509_certificates(self.trust):
                store.add_cert(crypto.X509.from_cryptography(certificate))
            context.set_verify(SSL.VERIFY_PEER)
        if self.certificate is not None:
            # From a file, by OpenSSL's own reader: the certificate may be too odd for cryptography's, on purpose.
            with tempfile.NamedTemporaryFile(suffix=".pem") as file:
                file.write(self.certificate.chain_pem if self.send_chain else self.certificate.pem)
                file.flush()
                context.use_certificate_chain_file(file.name)
            with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # so may the key: ML-DSA
                file.write(self.certificate.key_pem())
                file.flush()
                context.use_privatekey_file(file.name)
        return context

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        chunked: bool = False,
        connection: ESTConnection | None = None,
    ) -> Response:
        """One request, on a connection of its own unless one is given."""
        fields = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if self.user_agent is not None and not any(name.lower() == "user-agent" for name, _ in fields):
            fields.append(("User-Agent", self.user_agent))
        if connection is not None:
            return connection.request(method, target, headers=fields, body=body, chunked=chunked)
        with self.connect() as own:
            return own.request(method, target, headers=fields, body=body, chunked=chunked)

    def cacerts(self, label: str | None = None) -> Response:
        """GET cacerts (RFC 7030, 4.1)."""
        return self.request("GET", est_path("cacerts", label))

    def csrattrs(self, label: str | None = None) -> Response:
        """GET csrattrs (RFC 7030, 4.5)."""
        return self.request("GET", est_path("csrattrs", label))

    def enroll(
        self,
        csr: Request | bytes,
        *,
        operation: str = "simpleenroll",
        label: str | None = None,
        token: str | None = None,
        authorization: str | None = None,
        encoding: BodyEncoding = "64-lf",
        content_type: str | None = "application/pkcs10",
        headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
        chunked: bool = False,
        connection: ESTConnection | None = None,
    ) -> Response:
        """POST a certification request (RFC 7030, 4.2). `token` goes as Basic; octets go as they are, unencoded."""
        fields = list(headers.items()) if isinstance(headers, Mapping) else list(headers)
        if content_type is not None:
            fields.append(("Content-Type", content_type))
        if token is not None:
            fields.append(("Authorization", basic(token)))
        if authorization is not None:
            fields.append(("Authorization", authorization))
        body = csr if isinstance(csr, bytes) else encode_body(csr.der, encoding)
        return self.request(
            "POST", est_path(operation, label), headers=fields, body=body, chunked=chunked, connection=connection
        )

    def reenroll(
        self,
        csr: Request | bytes,
        *,
        label: str | None = None,
        encoding: BodyEncoding = "64-lf",
        connection: ESTConnection | None = None,
    ) -> Response:
        """POST simplereenroll (RFC 7030, 4.2.2)."""
        return self.enroll(csr, operation="simplereenroll", label=label, encoding=encoding, connection=connection)


def est_path(operation: str, label: str | None = None, *, base: str = BASE_PATH) -> str:
    """The path of an operation, under a label where one is given (RFC 7030, 3.2.2)."""
    return f"{base}/{operation}" if label is None else f"{base}/{label}/{operation}"


def _reason(error: SSL.Error) -> str:
    """OpenSSL's own words for what went wrong."""
    details = error.args[0] if error.args else ()
    return "; ".join(str(entry[-1]) for entry in details) or repr(error)


def _pieces(body: bytes, size: int = 100) -> Iterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]
