"""TLS by pyOpenSSL between an asyncio transport and a stream reader and writer.

In the room: the server's context, the PROXY header before a handshake, the handshake with its deadline and its reasons for failing, what is known of a
connection afterwards (the presented certificate as it is, channel bindings), back-pressure in both directions and
the end of a connection. Not in the room: HTTP (`kipuka.http.server`), and whether a client certificate is good
(`kipuka.x509`): beyond "an anchor has signed it" where a certificate is required, a handshake judges nothing.

Python's own `ssl` module cannot do this: there an invalid client certificate ends the handshake in every mode that
asks for one, and neither tls-exporter (RFC 9266) nor what the client really sent can be had.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from OpenSSL import SSL
from OpenSSL.crypto import FILETYPE_ASN1, X509, X509StoreFlags, load_privatekey
from OpenSSL.crypto import Error as OpenSSLError

from kipuka.api.errors import StartupError
from kipuka.api.values import Connection, PresentedCertificate
from kipuka.http.proxy_protocol import HeaderReader, HeaderRefused, Proxies

__all__ = [
    "ClientCertificates",
    "HandshakeFailure",
    "OpenConnections",
    "TLSMaterial",
    "TLSProtocol",
    "TLSTimeouts",
    "TLSWriter",
    "build_context",
    "failure_reason",
    "tls_server_end_point",
]

ClientCertificates = Literal["none", "ask", "require"]

# AEAD with forward secrecy only. There are no parameters for finite-field Diffie-Hellman, so its suites could not be
# chosen; suites with CBC, static RSA, 3DES, NULL, PSK or anonymous keys are not in the list (RULES A6).
_TLS12_CIPHERS = b"ECDHE+AESGCM:ECDHE+CHACHA20"
_TLS13_CIPHERS = b"TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256"
_VERSIONS = {"1.2": SSL.TLS1_2_VERSION, "1.3": SSL.TLS1_3_VERSION}
_MODE_NO_AUTO_CHAIN = 0x00000008  # SSL_MODE_NO_AUTO_CHAIN of openssl/ssl.h, which pyOpenSSL does not name
_HTTP11 = b"http/1.1"
_HTTP2 = b"h2"

_RECORD = 16 * 1024  # the most that one TLS record carries (RFC 8446, 5.1)
_CHUNK = 64 * 1024
_SEND_BUFFER = (
    64 * 1024
)  # octets; answers are small, and the kernel would hold megabytes for a client that does not read
_LEAST_PROGRESS = 16 * 1024  # octets a reader must take in each write time-out
_MOST_UNASKED = 8 * 1024  # octets that we send a client without the application's having written anything

_openssl = Binding()
_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSMaterial:
    """What the server shows of itself: a PEM file with its certificate and then the chain, and a PEM private key."""

    certificate: Path
    key: Path
    password: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TLSTimeouts:
    """Deadlines of a connection, in seconds."""

    handshake: float = 10.0  # for all of it
    write: float = 30.0  # for each 16 KiB of progress of a client that does not read
    close: float = 3.0  # for the client to end its side, once we have ended ours


@dataclass(frozen=True, kw_only=True, slots=True)
class HandshakeFailure:
    """A handshake that did not come to its end.

    `reason` is a stable snake_case word for log and audit (`failure_reason` has them); `detail` is OpenSSL's own text,
    which changes between its versions.
    """

    listener: str
    client_address: str
    client_port: int
    reason: str
    detail: str


# --- the context ------------------------------------------------------------------------------------------------------


def build_context(
    material: TLSMaterial,
    *,
    min_version: Literal["1.2", "1.3"] = "1.2",
    client_certificates: ClientCertificates = "none",
    anchors: Sequence[x509.Certificate] = (),
    http2: bool = False,
) -> SSL.Context:
    """A server context. One that has served a connection cannot be changed: to reload, build another and swap.

    With `client_certificates="require"` a handshake fails when no certificate is presented or none of `anchors` signed
    it (RULES A2); any other shortcoming lets it finish. With `"ask"` any certificate, and none, lets it finish
    (RULES A3). The names of `anchors` are sent to the client as a hint in both. With `http2` a client that offers it gets it
    (ALPN, RFC 7301). Raises `StartupError`, naming the file.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[min_version])
    context.set_cipher_list(_TLS12_CIPHERS)
    context.set_tls13_ciphersuites(_TLS13_CIPHERS)
    context.set_options(
        SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    # No resumption (RULES A6): it would skip the checks of the client certificate.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"kipuka")  # else OpenSSL refuses a client that offers a session of another server
    # Without NO_AUTO_CHAIN the client anchors would be sent as part of our own chain.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS | _MODE_NO_AUTO_CHAIN)
    context.set_alpn_select_callback(_choose_http2_first if http2 else _choose_http1)
    _load_material(context, material)
    _ask_for_certificate(context, client_certificates, anchors)
    return context


def _load_material(context: SSL.Context, material: TLSMaterial) -> None:
    try:
        chain = x509.load_pem_x509_certificates(material.certificate.read_bytes())
    except OSError as error:
        raise StartupError(f"cannot read the TLS certificate {material.certificate}: {error.strerror}") from error
    except ValueError as error:
        raise StartupError(f"{material.certificate} holds no PEM certificate that can be read: {error}") from error
    try:
        key = load_pem_private_key(material.key.read_bytes(), material.password)
    except OSError as error:
        raise StartupError(f"cannot read the TLS key {material.key}: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # TypeError: a password is missing, or one is given for a key that is not encrypted
        raise StartupError(f"{material.key} holds no PEM private key that can be read: {error}") from error
    try:
        context.use_certificate(chain[0])
        for certificate in chain[1:]:
            context.add_extra_chain_cert(certificate)
    except SSL.Error as error:  # for instance a key that is too short for OpenSSL's security level
        raise StartupError(f"OpenSSL refuses {material.certificate}: {_error_text(error)}") from error
    try:
        _use_key(context, key)
        context.check_privatekey()
    except (SSL.Error, OpenSSLError) as error:
        raise StartupError(f"the key {material.key} does not belong to {material.certificate}") from error
    context.set_app_data(tls_server_end_point(chain[0]))


def _use_key(context: SSL.Context, key: PrivateKeyTypes) -> None:
    try:
        context.use_privatekey(cast("Any", key))  # which types it takes depends on OpenSSL; it says so itself
    except TypeError:
        # pyOpenSSL takes no ML-DSA key over from cryptography. One that OpenSSL has read it takes, and calls deprecated.
        der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.use_privatekey(load_privatekey(FILETYPE_ASN1, der))


def _ask_for_certificate(context: SSL.Context, mode: ClientCertificates, anchors: Sequence[x509.Certificate]) -> None:
    if mode == "none":
        context.set_verify(SSL.VERIFY_NONE)
        return
    for anchor in anchors:
        context.add_client_ca(anchor)
    if mode == "ask":
        # The store stays empty: what OpenSSL would find out here is decided per request, against one purpose's anchors.
        context.set_verify(SSL.VERIFY_PEER, _accept_anything)
        return
    store = context.get_cert_store()
    if store is None:  # pragma: no cover - OpenSSL makes one with the context
        raise StartupError("OpenSSL has given no certificate store")
    for anchor in anchors:
        store.add_cert(X509.from_cryptography(anchor))
    store.set_flags(X509StoreFlags.PARTIAL_CHAIN)  # an issuing CA alone may be an anchor
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_if_signed_by_anchor)


_Codes = SSL.X509VerificationCodes
# What OpenSSL says when there is no chain of good signatures up to an anchor, or when it could not find out.
_NO_PATH = frozenset(
    {
        1,  # X509_V_ERR_UNSPECIFIED
        _Codes.ERR_UNABLE_TO_GET_ISSUER_CERT,
        _Codes.ERR_UNABLE_TO_DECRYPT_CERT_SIGNATURE,
        _Codes.ERR_UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY,
        _Codes.ERR_CERT_SIGNATURE_FAILURE,
        _Codes.ERR_OUT_OF_MEM,
        _Codes.ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
        _Codes.ERR_SELF_SIGNED_CERT_IN_CHAIN,
        _Codes.ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY,
        _Codes.ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE,
        _Codes.ERR_CERT_CHAIN_TOO_LONG,
        _Codes.ERR_CERT_UNTRUSTED,
        _Codes.ERR_CERT_REJECTED,
        _Codes.ERR_SUBJECT_ISSUER_MISMATCH,
        _Codes.ERR_AKID_SKID_MISMATCH,
        _Codes.ERR_AKID_ISSUER_SERIAL_MISMATCH,
        _Codes.ERR_KEYUSAGE_NO_CERTSIGN,
    }
)


def _accept_anything(_connection: SSL.Connection, _certificate: X509, _error: int, _depth: int, _ok: int) -> bool:
    return True


def _accept_if_signed_by_anchor(
    connection: SSL.Connection, _certificate: X509, error: int, _depth: int, ok: int
) -> bool:
    if ok or error not in _NO_PATH:
        return True
    connection.set_app_data(error)  # OpenSSL's own error text is only "certificate verify failed"
    return False


class _NoSharedProtocol(SSL.Error):
    """The client insists on an application protocol that is not ours."""


def _choose_http1(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    # A client without the extension never comes here, and speaks HTTP/1.1.
    if _HTTP11 in offered:
        return _HTTP11
    # pyOpenSSL's NO_OVERLAPPING_PROTOCOLS would go on without a protocol; an exception sends the alert that
    # RFC 7301 (section 3.2) asks for, and comes out of do_handshake.
    raise _NoSharedProtocol([("SSL routines", "", "no application protocol")])


def _choose_http2_first(connection: SSL.Connection, offered: list[bytes]) -> bytes:
    return _HTTP2 if _HTTP2 in offered else _choose_http1(connection, offered)


# --- what is known of a connection ------------------------------------------------------------------------------------


def tls_server_end_point(certificate: x509.Certificate) -> bytes | None:
    """The tls-server-end-point channel binding of a server with this certificate (RFC 5929, section 4.1).

    None where it is undefined: the signature uses no single hash function (Ed25519, Ed448, ML-DSA).
    """
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    if isinstance(algorithm, hashes.MD5 | hashes.SHA1):
        algorithm = hashes.SHA256()
    return certificate.fingerprint(algorithm)


def _presented(tls: SSL.Connection) -> PresentedCertificate | None:
    leaf = tls.get_peer_certificate()
    if leaf is None:
        return None
    # On the server's side the chain is what came with the leaf, without it. A member that cannot be parsed can be part
    # of no path; without it the path check says what is missing.
    members = [_parsed(member) for member in tls.get_peer_cert_chain() or ()]
    chain = tuple(member for member in members if isinstance(member, x509.Certificate))
    parsed = _parsed(leaf)
    if isinstance(parsed, x509.Certificate):
        return PresentedCertificate(leaf=parsed, chain=chain)
    return PresentedCertificate(leaf=None, chain=chain, error=parsed)


def _parsed(certificate: X509) -> x509.Certificate | str:
    """The certificate, or why it cannot be parsed."""
    try:
        return certificate.to_cryptography()
    except Exception as odd:  # noqa: BLE001 - an odd certificate is an invalid one, not a dead connection (RULES A3)
        return str(odd) or type(odd).__name__


def _has_extended_master_secret(tls: SSL.Connection) -> bool:
    # pyOpenSSL has no name for it, the library underneath has. Where it had not, tls-unique would be given to nobody.
    query = getattr(_openssl.lib, "SSL_get_extms_support", None)
    return query is not None and query(tls._ssl) == 1  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]


def _describe(tls: SSL.Connection, *, listener: str, client_address: str, client_port: int) -> Connection:
    version = tls.get_protocol_version_name()
    tls_unique = tls_exporter = None
    if version == "TLSv1.3":
        tls_exporter = tls.export_keying_material(b"EXPORTER-Channel-Binding", 32)  # RFC 9266, section 2
    elif _has_extended_master_secret(tls):
        # The first Finished of a full handshake is the client's, and there is no resumption (RFC 5929, section 3.1).
        tls_unique = tls.get_peer_finished()
    name = tls.get_servername()
    return Connection(
        id=secrets.token_hex(8),
        listener=listener,
        client_address=client_address,
        client_port=client_port,
        tls_version=version,
        cipher=tls.get_cipher_name() or "",
        group=tls.get_group_name(),
        server_name=None if name is None else name.decode("ascii", "backslashreplace"),
        presented=_presented(tls),
        tls_unique=tls_unique,
        tls_exporter=tls_exporter,
        tls_server_end_point=tls.get_context().get_app_data(),
    )


def _client(transport: asyncio.BaseTransport) -> tuple[str, int]:
    """Address and port; an IPv4 client of a dual-stack socket has its IPv4 address, and no address has a zone."""
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return "", 0
    host, port = cast("tuple[str, int]", peer[:2])
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(address), port


# --- why a handshake failed -------------------------------------------------------------------------------------------

# OpenSSL's reason texts, by a part of each, and our words; the first that fits counts.
_REASONS: tuple[tuple[str, str], ...] = (
    ("http request", "plain_http_request"),
    ("https proxy request", "plain_http_request"),
    ("peer did not return a certificate", "certificate_required"),
    ("no shared cipher", "no_shared_cipher"),
    ("unsupported protocol", "no_shared_protocol_version"),
    ("version too low", "no_shared_protocol_version"),
    ("wrong ssl version", "no_shared_protocol_version"),
    ("bad legacy version", "no_shared_protocol_version"),
    ("no application protocol", "no_shared_application_protocol"),
    ("no suitable signature algorithm", "no_shared_signature_algorithm"),
    ("no shared signature algorithms", "no_shared_signature_algorithm"),
    ("no suitable key share", "no_shared_group"),
    ("no shared group", "no_shared_group"),
    ("inappropriate fallback", "inappropriate_fallback"),
    ("bad signature", "bad_signature"),
    (" alert ", "refused_by_client"),  # the client has sent one
    ("wrong version number", "not_tls"),
    ("unknown protocol", "not_tls"),
    ("bad record", "bad_record"),
    ("record layer failure", "bad_record"),
    ("record too", "bad_record"),
    ("packet length", "bad_record"),
    ("decryption failed", "bad_record"),
    ("data length too long", "bad_record"),
    ("encrypted length too long", "bad_record"),
    ("length mismatch", "malformed_message"),
    ("length too", "malformed_message"),
    ("decode error", "malformed_message"),
    ("bad extension", "malformed_message"),
    ("bad packet", "malformed_message"),
    ("bad key share", "malformed_message"),
    ("unexpected message", "malformed_message"),
    ("excessive message size", "malformed_message"),
    ("asn1", "malformed_certificate"),
    ("certificate type", "malformed_certificate"),
)


def failure_reason(error: SSL.Error, verify_error: int | None = None) -> tuple[str, str]:
    """The reason word of a failed handshake, and OpenSSL's text. `handshake_failed` is the word where no other fits.

    `verify_error` is OpenSSL's verification code where the client's certificate was refused. Besides the words from
    OpenSSL there are `unknown_authority`, those of `kipuka.http.proxy_protocol`, and those of the connection: `timeout`, `closed_by_client`,
    `closed_without_data` (not an octet came: a port check), `displaced` (to make room for another) and `server_stopping`.
    """
    text = _error_text(error)
    if verify_error is not None:
        return "unknown_authority", f"{text} (verification error {verify_error})"
    for part, word in _REASONS:
        if part in text:
            return word, text
    return "handshake_failed", text


def _error_text(error: BaseException) -> str:
    """What OpenSSL says, oldest first: `[(library, function, reason), ...]` is what pyOpenSSL makes of its queue."""
    entries = cast("object", error.args[0]) if error.args else None
    if isinstance(entries, list):
        texts = [str(entry[-1]) for entry in cast("list[tuple[str, ...]]", entries)]
        # OpenSSL has no words for a close_notify that is fatal, with which strongSwan ends each connection.
        return (
            "; ".join(text or "an alert without a name, or a fatal close_notify" for text in texts) or "no reason given"
        )
    return "; ".join(str(part) for part in error.args) or type(error).__name__


class OpenConnections(Protocol):
    """Who keeps count of the connections (`kipuka.http.connections`)."""

    def enter(self, guest: TLSProtocol, address: str, /) -> bool:
        """Whether it may stay. It is asked before anything is spent on TLS."""
        ...

    def expect(self, guest: TLSProtocol, proxy: str, /) -> bool:
        """Whether it may stay until it is known whose it is, when `enter` is asked."""
        ...

    def leave(self, guest: TLSProtocol, /) -> None:
        """Its transport is gone."""
        ...


# --- the protocol -----------------------------------------------------------------------------------------------------


class TLSProtocol(asyncio.Protocol):
    """One connection, from accept to its end. Turns ciphertext into a `StreamReader`'s octets and back.

    `on_connected` is called once, after a good handshake, and starts whoever serves the connection. `on_failure` is
    called once, when there will be no good handshake. `connections` says whether there is room for it, and hears when it
    has gone; where there is none, the connection is closed at once, and nobody else hears of it. A connection from one of
    `proxies` begins with a PROXY header, and is that of the client it names from then on.
    """

    def __init__(
        self,
        context: SSL.Context,
        *,
        listener: str,
        timeouts: TLSTimeouts,
        on_connected: Callable[[asyncio.StreamReader, TLSWriter, Connection], None],
        on_failure: Callable[[HandshakeFailure], None],
        connections: OpenConnections,
        proxies: Proxies,
    ) -> None:
        self._context = context
        self._listener = listener
        self._timeouts = timeouts
        self._on_connected = on_connected
        self._on_failure = on_failure
        self._connections = connections
        self._proxies = proxies
        self._header: HeaderReader | None = None  # while a PROXY header is to come
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._tls: SSL.Connection
        self.reader: asyncio.StreamReader
        self._address, self._port = "", 0
        self._timer: asyncio.TimerHandle | None = None
        self._handshaken = False
        self._reported = False
        self._heard = False  # at least one octet
        self._read_all = False  # the reader has its end
        self._unasked = 0
        self._closing = False  # our side is ended: nothing is written or decrypted any more
        self._client_ended = False  # TCP FIN
        self._lost = False
        self._lingering = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._closed: asyncio.Future[None] = self._loop.create_future()

    # the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The TCP connection is there: from now on the handshake has its deadline, if there is room for it."""
        self._transport = cast("asyncio.Transport", transport)
        self._address, self._port = _client(transport)
        is_forwarded = self._address in self._proxies
        admit = self._connections.expect if is_forwarded else self._connections.enter
        if not admit(self, self._address):
            self._turn_away()
            return
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        self.reader = asyncio.StreamReader(limit=_CHUNK, loop=self._loop)
        self.reader.set_transport(transport)  # else nothing would pause a client that sends faster than it is served
        self._timer = self._loop.call_later(self._timeouts.handshake, self._handshake_expired)
        if is_forwarded:
            self._header = HeaderReader()
        else:
            self._begin_tls()

    def data_received(self, data: bytes) -> None:
        """Ciphertext came, or what must come before it."""
        if self._closing:
            return  # the client goes on although we have ended; see `close`
        self._heard = True
        if self._header is not None:
            data = self._introduce(self._header, data)
            if not data:
                return
        try:
            self._tls.bio_write(data)
            if self._handshaken or self._handshake():
                self._decrypt()
        except SSL.Error as error:
            self._fail(error)

    def eof_received(self) -> bool:
        """TCP FIN. True keeps our own direction open: a client may end its side and still read the answer."""
        self._client_ended = True
        if self._closing:
            return False
        if not self._handshaken:
            self._report_closed("the connection ended during the handshake")
            self._closing = True
            return False
        self._feed_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone: nobody may wait for it any longer."""
        self._connections.leave(self)
        self._lost = self._closing = True
        self._cancel_timer()
        if not self._handshaken:
            self._report_closed("the connection ended during the handshake" if exc is None else str(exc))
        self._feed_eof()
        self._writable.set()
        if not self._closed.done():
            self._closed.set_result(None)

    def pause_writing(self) -> None:
        """The client reads more slowly than we write."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Enough, or when closing all, has been taken."""
        self._writable.set()
        if self._lingering:
            self._end_our_side()

    # the beginning

    def _introduce(self, header: HeaderReader, data: bytes) -> bytes:
        """Learn from a PROXY header whose connection it is; gives what came after it, where all that is settled."""
        try:
            found = header.feed(data)
        except HeaderRefused as refused:
            self._report(refused.reason, str(refused))
            self.abort()
            return b""
        if found is None:
            return b""
        self._header = None
        whole, rest = found
        if whole.client is not None:
            self._address, self._port = whole.client
        if not self._connections.enter(self, self._address):
            self._turn_away()
            return b""
        self._begin_tls()
        return rest

    def _begin_tls(self) -> None:
        self._tls = SSL.Connection(self._context, None)  # None: memory BIOs
        self._tls.set_accept_state()

    def _turn_away(self) -> None:
        """There is no room."""
        self._cancel_timer()
        self._closing = self._reported = self._read_all = True
        self._transport.abort()

    # reading

    def _handshake(self) -> bool:
        """Go on with the handshake; whether it is finished."""
        _forget_errors()
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return False
        self._flush()
        connection = _describe(self._tls, listener=self._listener, client_address=self._address, client_port=self._port)
        self._cancel_timer()
        self._handshaken = True
        self._on_connected(self.reader, TLSWriter(self), connection)
        return True

    def _decrypt(self) -> None:
        _forget_errors()
        while not self._read_all:
            try:
                plain = self._tls.recv(_RECORD)
            except SSL.WantReadError:
                break
            except SSL.ZeroReturnError:  # close_notify: the client sends no more, but may still read (RFC 8446, 6.1)
                self._feed_eof()
                break
            self.reader.feed_data(plain)
        # Refusals of renegotiation, answers to key updates. They are a few octets each; a client that makes us send
        # them by the thousand and does not read them would fill our memory.
        self._unasked += self._flush()
        if self._unasked > _MOST_UNASKED:
            _log.info("tls_flood", listener=self._listener, client_address=self._address)
            self.abort()

    def _fail(self, error: SSL.Error) -> None:
        """OpenSSL will not go on with this connection: send its alert, say why, end."""
        if self._handshaken:
            _log.info(
                "tls_connection_failed",
                listener=self._listener,
                client_address=self._address,
                detail=_error_text(error),
            )
        else:
            self._report(*failure_reason(error, self._tls.get_app_data()))
        self._flush()
        # A client that still sends would get a reset, and lose the alert, if the socket were closed at once.
        self._finish(linger=True)

    def _feed_eof(self) -> None:
        if not self._read_all:
            self._read_all = True
            self.reader.feed_eof()

    # failure of the handshake

    def _handshake_expired(self) -> None:
        self._report("timeout", f"no complete handshake in {self._timeouts.handshake:g} seconds")
        self.abort()

    def _report_closed(self, detail: str) -> None:
        self._report("closed_by_client" if self._heard else "closed_without_data", detail)

    def _report(self, reason: str, detail: str) -> None:
        if self._reported:
            return
        self._reported = True
        failure = HandshakeFailure(
            listener=self._listener,
            client_address=self._address,
            client_port=self._port,
            reason=reason,
            detail=detail,
        )
        try:
            self._on_failure(failure)
        except Exception:  # noqa: BLE001 - whoever is told may fail; the connection must still be ended
            _log.exception("handshake_failure_not_reported", reason=reason)

    # writing

    def write(self, data: bytes) -> None:
        """Encrypt and send. Raises ConnectionResetError when the connection is closing or gone."""
        if self.is_closing():
            raise ConnectionResetError("the connection is closed")
        _forget_errors()
        try:
            self._tls.sendall(data)
        except SSL.Error as error:  # whoever writes knows OSError, not OpenSSL
            raise ConnectionResetError(_error_text(error)) from error
        self._flush()

    async def drain(self) -> None:
        """Wait until the client has taken enough. Raises ConnectionResetError when it is gone, or too slow."""
        while not self._writable.is_set():
            before = self._transport.get_write_buffer_size()
            try:
                async with asyncio.timeout(self._timeouts.write):
                    await self._writable.wait()
            except TimeoutError:
                if before - self._transport.get_write_buffer_size() >= _LEAST_PROGRESS:
                    continue
                _log.info("client_reads_too_slowly", listener=self._listener, client_address=self._address)
                self.abort()
                raise ConnectionResetError("the client does not read") from None
        if self._lost:
            raise ConnectionResetError("the connection is lost")

    def _flush(self) -> int:
        """Hand to the transport what OpenSSL has to send; how many octets that were."""
        sent = 0
        while True:
            try:
                data = self._tls.bio_read(_CHUNK)
            except SSL.WantReadError:
                return sent
            if not self._transport.is_closing():
                self._transport.write(data)
            sent += len(data)
            if len(data) < _CHUNK:
                return sent

    # the end

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._closing or self._transport.is_closing()

    def close(self, *, linger: bool = True) -> None:
        """End the connection with close_notify, once; what was written before is still sent.

        With `linger` the client is given `timeouts.close` seconds to end its side; what it still sends is thrown away.
        Were the socket closed at once, a client in the middle of a body would get a reset instead of the answer.
        """
        if self._closing:
            return
        if self._handshaken and not self._transport.is_closing():
            _forget_errors()
            with contextlib.suppress(SSL.Error):  # a broken connection has no close_notify
                self._tls.shutdown()
            self._flush()
        self._finish(linger=linger)

    def stop(self) -> None:
        """The server stops. A handshake ends here; a connection that is served is its server's business."""
        if not self._handshaken and not self._closing:
            self._report("server_stopping", "the server is being stopped")
            self.abort()

    def dismiss(self) -> bool:
        """End a connection that is waiting, to make room for another; see `kipuka.http.connections.Guest`."""
        if not self._handshaken and not self._closing:
            self._report("displaced", "the connection had to make room for another")
        if self._closing or not self._handshaken:
            self.abort()
            return True
        self.close(linger=False)
        return self._transport.get_write_buffer_size() == 0

    def abort(self) -> None:
        """Drop the connection now, with whatever was still to be sent."""
        self._closing = True
        self._feed_eof()
        self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when the transport is gone."""
        await asyncio.shield(self._closed)

    def _finish(self, *, linger: bool) -> None:
        self._closing = True
        self._cancel_timer()
        self._feed_eof()
        if not linger or self._client_ended or self._transport.is_closing():
            self._transport.close()  # sends what it holds, then closes
        else:
            self._lingering = True
            self._transport.resume_reading()  # the reader may have paused it
            self._transport.set_write_buffer_limits(high=0)  # resume_writing now means: all is sent
            if self._transport.get_write_buffer_size() == 0:
                self._end_our_side()
        if not self._lost:
            self._watch_end()

    def _end_our_side(self) -> None:
        self._lingering = False
        try:
            self._transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        except OSError:  # it is gone already
            self._transport.abort()
            return
        self._watch_end()

    def _watch_end(self) -> None:
        self._cancel_timer()
        left = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(
            self._timeouts.write if left else self._timeouts.close, self._end_expired, left
        )

    def _end_expired(self, left_before: int) -> None:
        left = self._transport.get_write_buffer_size()
        if left and left_before - left >= _LEAST_PROGRESS:
            self._watch_end()
        else:
            self._transport.abort()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # what a writer shows

    @property
    def is_http2(self) -> bool:
        """Whether the handshake has settled on HTTP/2."""
        return self._tls.get_alpn_proto_negotiated() == _HTTP2

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """The transport's extra information; the peer is the client, also where a load balancer stands between."""
        if name == "peername":
            return self._address, self._port
        return self._transport.get_extra_info(name, default)


def _forget_errors() -> None:
    """Empty this thread's error queue of OpenSSL.

    What another use of OpenSSL in this thread has left there (a path check that failed, a certificate that could not be
    read) would be taken for a failure of the next connection that has nothing to read (SSL_get_error(3)).
    """
    _openssl.lib.ERR_clear_error()


class TLSWriter:
    """The part of `asyncio.StreamWriter` that Hypercorn's TCPServer uses."""

    def __init__(self, protocol: TLSProtocol) -> None:
        self._protocol = protocol

    @property
    def protocol(self) -> TLSProtocol:
        """The connection."""
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the transport has it; `ssl_object` is asked for the negotiated protocol only."""
        return self if name == "ssl_object" else self._protocol.get_extra_info(name, default)

    def selected_alpn_protocol(self) -> str:
        """HTTP/1.1, always: Hypercorn shall not begin its own HTTP/2 (`kipuka.http.http2`)."""
        return _HTTP11.decode()

    @property
    def is_http2(self) -> bool:
        """Whether the client has chosen HTTP/2 (ALPN)."""
        return self._protocol.is_http2

    def write(self, data: bytes) -> None:
        """See `TLSProtocol.write`."""
        self._protocol.write(data)

    async def drain(self) -> None:
        """See `TLSProtocol.drain`."""
        await self._protocol.drain()

    def can_write_eof(self) -> bool:
        """TLS ends both directions from our side at once."""
        return False

    def write_eof(self) -> None:
        """TCPServer expects exactly this of a TLS connection."""
        raise NotImplementedError

    def is_closing(self) -> bool:
        """Whether nothing can be written any more."""
        return self._protocol.is_closing()

    def close(self, *, linger: bool = True) -> None:
        """See `TLSProtocol.close`."""
        self._protocol.close(linger=linger)

    def abort(self) -> None:
        """See `TLSProtocol.abort`."""
        self._protocol.abort()

    async def wait_closed(self) -> None:
        """See `TLSProtocol.wait_closed`."""
        await self._protocol.wait_closed()
