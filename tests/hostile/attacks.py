"""Attacks as values: what one hostile client does on one connection, and how that is done to a server.

In the room: the attacks with their strategies, clients that can do what no library lets one do, and certificates that nobody
should show. Not in the room: what is said in HTTP/2 (`http2`), and whether the server bore it well (`siege`).
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.x509.oid import NameOID
from hypothesis import strategies as st
from OpenSSL import SSL

from kipuka.testing.hostile.damage import Edit, damaged, edits, mend_lengths
from kipuka.testing.hostile.http import HTTPRequest, requests, torn
from kipuka.testing.pki import Credential, make_root

from .http2 import conversations

PATIENCE = 20.0
"""Seconds within which a server has answered or hung up, whatever it was sent; its own deadlines are a tenth of it."""

NO_AUTO_CHAIN = 0x8
TLS_VERSIONS = {
    "1.0": SSL.TLS1_VERSION,
    "1.1": SSL.TLS1_1_VERSION,
    "1.2": SSL.TLS1_2_VERSION,
    "1.3": SSL.TLS1_3_VERSION,
}
CIPHERS = (
    b"DEFAULT:@SECLEVEL=0", b"DEFAULT:@SECLEVEL=0", b"DEFAULT:@SECLEVEL=0", b"AES128-SHA:@SECLEVEL=0", b"ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0",
    b"ALL:eNULL:aNULL:@SECLEVEL=0", b"eNULL:aNULL:@SECLEVEL=0", b"ECDHE-RSA-AES128-GCM-SHA256",
)  # fmt: skip
PROTOCOLS = (
    (),
    (),
    (b"http/1.1",),
    (b"h2",),
    (b"h2", b"http/1.1"),
    (b"x" * 255,),
    (b"\xff", b"acme-tls/1"),
    (b"a",) * 100,
)
SERVER_NAMES = (b"localhost", b"", b"127.0.0.1", b"..", b"a" * 250, b"\xff\xfe", b"evil.example\r\n")
GREETINGS = (
    b"", b"\x16", b"\x16\x03\x01", b"\x16\x03\x01\x00\x00", b"\x16\x03\x01\xff\xff" + bytes(70_000), b"\x15\x03\x03\x00\x02\x02\x28",
    b"\x17\x03\x03\x00\x05hello", b"\x14\x03\x03\x00\x01\x01" * 50, b"\x80\x2e\x01\x03\x01" + bytes(43), b"SSH-2.0-x\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST /.well-known/est/simpleenroll HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n", b"\r\n\r\n\x00\r\nQUIT\n" + bytes(4), b"\0" * 20_000,
)  # fmt: skip

Ending = Literal["notify", "fin", "reset", "stay"]
Pieces = Literal["whole", "halves", "octets"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Speech:
    """Octets over a good TLS connection, as an HTTP client might send them; which HTTP, ALPN has settled."""

    certificate: str | None
    tls_version: Literal["1.2", "1.3"]
    protocol: Literal["http/1.1", "h2"] = "http/1.1"
    octets: bytes
    pieces: Pieces
    ending: Ending
    is_head: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Greeting:
    """Octets over TCP, without TLS or in its stead."""

    octets: bytes
    pieces: Pieces
    ending: Ending


@dataclass(frozen=True, kw_only=True, slots=True)
class Handshake:
    """A handshake with odd wishes, an odd certificate, or something done to one of the client's flights."""

    certificate: str | None
    versions: tuple[str, str]
    ciphers: bytes
    protocols: tuple[bytes, ...]
    server_name: bytes
    flight: int  # which of ours is touched: 0 has the ClientHello; in TLS 1.2 the next has the certificate, in clear
    touch: Literal["nothing", "damage", "cut", "never sent", "twice", "octets"]
    changes: tuple[Edit, ...] = ()
    ending: Ending = "fin"


Attack = Speech | Greeting | Handshake

_endings = st.sampled_from(("notify",) * 40 + ("fin",) * 5 + ("reset",) * 4 + ("stay",))
_abrupt = st.sampled_from(("fin",) * 20 + ("reset",) * 9 + ("stay",))
_pieces = st.sampled_from(("whole",) * 8 + ("halves", "octets"))


@st.composite
def _speeches(draw: st.DrawFn, known: tuple[str, ...], certificates: tuple[str, ...]) -> Speech:
    one = requests(known=known, labels=("factory",), admin=("/admin/otp", "/admin/certificates", "/admin/lockouts"))
    some: list[HTTPRequest] = draw(
        st.one_of(*[st.lists(one, min_size=1, max_size=1)] * 3, st.lists(one, min_size=2, max_size=3))
    )
    # only the first may be HEAD: its answer alone has a length and no body
    octets = some[0].octets + b"".join(
        replace(one, method=one.method.replace(b"HEAD", b"GET")).octets for one in some[1:]
    )
    if draw(st.integers(0, 9)) == 0:
        octets = draw(torn(st.just(octets)))
    return Speech(
        certificate=draw(st.sampled_from((None, None, *certificates))),
        tls_version=draw(st.sampled_from(("1.2", "1.3"))),
        octets=octets,
        pieces=draw(_pieces),
        ending=draw(_endings),
        is_head=octets.startswith(b"HEAD "),
    )


def attacks(*, known: tuple[str, ...], certificates: tuple[str, ...]) -> st.SearchStrategy[Attack]:
    """All of them; most speak HTTP, since there is most to be got wrong."""
    greetings = st.builds(
        Greeting,
        octets=st.one_of(st.sampled_from(GREETINGS), st.binary(max_size=600)),
        pieces=_pieces,
        ending=_abrupt,
    )
    handshakes = st.builds(
        Handshake,
        certificate=st.sampled_from((None, *certificates)),
        versions=st.sampled_from(
            (("1.2", "1.2"), ("1.2", "1.2"), ("1.3", "1.3"), ("1.2", "1.3"), ("1.0", "1.0"), ("1.0", "1.1"))
        ),
        ciphers=st.sampled_from(CIPHERS),
        protocols=st.sampled_from(PROTOCOLS),
        server_name=st.sampled_from(SERVER_NAMES),
        flight=st.integers(0, 2),
        touch=st.sampled_from(
            ("nothing", "nothing", "damage", "damage", "damage", "cut", "never sent", "twice", "octets")
        ),
        changes=edits(most=3).map(tuple),
        ending=_abrupt,
    )
    speeches = _speeches(known, certificates)
    return st.integers(0, 9).flatmap(lambda dice: greetings if dice == 0 else handshakes if dice < 4 else speeches)


def attacks_in_http2(*, known: tuple[str, ...], certificates: tuple[str, ...]) -> st.SearchStrategy[Attack]:
    """Those on a server that speaks HTTP/2 too, in which all of these are."""
    return st.builds(
        Speech,
        certificate=st.sampled_from((None, None, *certificates)),
        tls_version=st.sampled_from(("1.2", "1.3")),
        protocol=st.just("h2"),
        octets=conversations(known=known),
        pieces=_pieces,
        ending=_endings,
    )


def odd_certificates(authority: Credential) -> Mapping[str, Credential]:
    """Certificates by what is odd about them; some of this authority, so that all but the oddity is good."""
    stranger = make_root("Stranger Root")
    deep = make_root("Deep Root")
    for number in range(30):
        deep = deep.issue_ca(f"Deep {number}")
    wide: Credential | None = None
    for number in range(60):  # certificates that have nothing to do with each other, sent as a chain
        other = make_root(f"Wide {number}")
        wide = Credential(key=other.key, der=other.der, issuer=wide or other)
    device = authority.issue_client("device-1")
    found = {
        "good": device,
        "stranger's": stranger.issue_client("device-1"),
        "self-signed": make_root("device-1", ca=False),
        "a CA": authority.issue_ca("device-1"),
        "for servers": authority.issue_server("device-1"),
        "SHA-1": authority.issue_client("device-1", signature="sha1"),
        "version 1": authority.issue("device-1", version=0),
        "version 9": authority.issue("device-1", version=9),
        "bad signature": authority.issue_client("device-1", break_signature=True),
        "serial 0": authority.issue("device-1", serial=0),
        "negative serial": authority.issue("device-1", serial=-5),
        "empty subject": authority.issue_client(x509.Name([])),
        "line breaks and escapes in the subject": authority.issue_client(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, 'x\r\nevent=forged "\x1b[2J\u202e,O=y+CN=z')])
        ),
        "two thousand names": authority.issue_client("device-1", dns=tuple(f"n{number}.example" for number in range(2_000))),
        "deep chain": deep.issue_client("device-1"),
        "wide chain": Credential(key=device.key, der=device.der, issuer=Credential(key=device.key, der=authority.der, issuer=wide)),
        "unknown extension, critical": authority.issue(
            "device-1", extensions=(x509.Extension(x509.ObjectIdentifier("1.2.3.4"), critical=True, value=x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x")),)
        ),
        "Ed448": authority.issue_client("device-1", key="ed448"),
        "RSA of 1024": authority.issue_client("device-1", key="rsa1024"),
    }  # fmt: skip
    return found | _damaged_certificates(device)


def _damaged_certificates(device: Credential) -> Mapping[str, Credential]:
    """Damaged certificates that OpenSSL can still send: the key's octets are whole, and so the handshake goes on."""
    dice = random.Random(5280)
    found: dict[str, Credential] = {}
    while len(found) < 25:
        changes = [
            Edit(
                where=dice.random(),
                action=dice.choice(("set", "insert", "delete")),
                octets=dice.randbytes(dice.randint(1, 2)),
            )
            for _ in range(dice.randint(1, 3))
        ]
        content = mend_lengths(damaged(device.der, changes))
        if content != device.der and sendable(Credential(key=device.key, der=content)):
            found[f"damaged {len(found)}"] = Credential(key=device.key, der=content)
    return found


def sendable(credential: Credential) -> bool:
    """Whether this machine's OpenSSL takes it as a client certificate."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    Binding().lib.ERR_clear_error()
    try:
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(credential.pem)
            file.flush()
            context.use_certificate_chain_file(file.name)
        context.use_privatekey(credential.key)
    except SSL.Error:
        return False
    return True


# --- carrying them out


class Hang(AssertionError):
    """The server neither answered nor hung up within `PATIENCE`."""


@dataclass(kw_only=True)
class Attacker:
    """Carries attacks out, from an address of its own."""

    host: str
    port: int
    source: str
    certificates: Mapping[str, Path]  # PEM: leaf, chain and key
    _contexts: dict[object, SSL.Context] = field(default_factory=dict)

    def carry_out(self, attack: Attack) -> bytes:
        """Do it; what the server answered in the end, decrypted, and all of it unless the attack left before."""
        with contextlib.closing(self._socket()) as plain:
            try:
                match attack:
                    case Greeting():
                        _send(plain, attack.octets, attack.pieces)
                        _end(plain, attack.ending)
                        return b"" if attack.ending == "reset" else _until_closed(plain) and b""
                    case Speech():
                        return self._speak(plain, attack)
                    case Handshake():
                        return self._shake_hands(plain, attack)
            except (ConnectionError, SSL.Error):
                return b""
            except TimeoutError:
                msg = f"no answer and no end within {PATIENCE:g} s"
                raise Hang(msg) from None

    def _socket(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=PATIENCE, source_address=(self.source, 0))

    def context(
        self,
        certificate: str | None,
        *,
        versions: tuple[str, str],
        ciphers: bytes = CIPHERS[0],
        protocols: tuple[bytes, ...] = (),
    ) -> SSL.Context:
        """A client's context, kept for the next attack that wants the same."""
        key = (certificate, versions, ciphers, protocols)
        if key not in self._contexts:
            context = self._contexts[key] = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.set_cipher_list(ciphers)
            context.set_mode(NO_AUTO_CHAIN)
            context.set_min_proto_version(TLS_VERSIONS[versions[0]])
            context.set_max_proto_version(TLS_VERSIONS[versions[1]])
            if protocols:
                context.set_alpn_protos(list(protocols))
            if certificate is not None:
                file = str(self.certificates[certificate])
                context.use_certificate_chain_file(file)
                context.use_privatekey_file(file)
        return self._contexts[key]

    def _speak(self, plain: socket.socket, attack: Speech) -> bytes:
        protocols = (b"h2",) if attack.protocol == "h2" else ()
        context = self.context(attack.certificate, versions=(attack.tls_version,) * 2, protocols=protocols)
        tls = SSL.Connection(context, None)
        tls.set_connect_state()
        while not _step(tls):
            plain.sendall(_outgoing(tls))
            tls.bio_write(_incoming(plain))
        plain.sendall(_outgoing(tls))
        assert tls.get_alpn_proto_negotiated() == b"".join(protocols), "another protocol than was asked for"
        received = b""
        for piece in _cut(attack.octets, attack.pieces):
            tls.sendall(piece)
            try:
                plain.sendall(_outgoing(tls))
            except ConnectionError:  # it has heard enough, and perhaps said so
                break
        if attack.ending == "notify":
            with contextlib.suppress(SSL.Error):
                tls.shutdown()
            with contextlib.suppress(ConnectionError):
                plain.sendall(_outgoing(tls))
        else:
            _end(plain, attack.ending)
            if attack.ending == "reset":
                return b""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                received += tls.recv(65536)
            except SSL.ZeroReturnError:
                return received
            except SSL.WantReadError:
                data = plain.recv(65536)
                if not data:
                    return received
                tls.bio_write(data)
        raise TimeoutError

    def _shake_hands(self, plain: socket.socket, attack: Handshake) -> bytes:
        context = self.context(
            attack.certificate, versions=attack.versions, ciphers=attack.ciphers, protocols=attack.protocols
        )
        tls = SSL.Connection(context, None)
        with contextlib.suppress(SSL.Error):
            tls.set_tlsext_host_name(attack.server_name)
        tls.set_connect_state()
        flight, done = 0, False
        while not done:
            done = _step(tls)
            data = _outgoing(tls)
            if data and flight == attack.flight and attack.touch != "nothing":
                return self._touch(plain, attack, data)
            plain.sendall(data)
            flight += bool(data)
            if not done:
                tls.bio_write(_incoming(plain))
        tls.sendall(b"GET /.well-known/est/cacerts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        plain.sendall(_outgoing(tls))
        received = b""
        with contextlib.suppress(SSL.ZeroReturnError):
            while True:
                try:
                    received += tls.recv(65536)
                except SSL.WantReadError:
                    tls.bio_write(_incoming(plain))
        return received

    def _touch(self, plain: socket.socket, attack: Handshake, data: bytes) -> bytes:
        """Send the flight as it is not; nothing that follows could still be understood."""
        match attack.touch:
            case "damage":
                _send(plain, damaged(data, attack.changes), "whole")
            case "cut":
                _send(plain, data[: int(attack.changes[0].where * len(data))], "whole")
            case "twice":
                _send(plain, data * 2, "whole")
            case "octets":
                _send(plain, data, "octets")
            case _:
                pass
        _end(plain, attack.ending)
        if attack.ending != "reset":
            _until_closed(plain)
        return b""


def _step(tls: SSL.Connection) -> bool:
    """Go on with the handshake; whether it is finished. Raises SSL.Error with the server's alert."""
    try:
        tls.do_handshake()
    except SSL.WantReadError:
        return False
    return True


def _outgoing(tls: SSL.Connection) -> bytes:
    sent = b""
    with contextlib.suppress(SSL.WantReadError):
        while True:
            sent += tls.bio_read(65536)
    return sent


def _incoming(plain: socket.socket) -> bytes:
    data = plain.recv(65536)
    if not data:
        raise ConnectionResetError
    return data


def _cut(octets: bytes, pieces: Pieces) -> list[bytes]:
    if pieces == "halves":
        return [octets[: len(octets) // 2], octets[len(octets) // 2 :]]
    if pieces == "octets":
        return [octets[at : at + 1] for at in range(min(len(octets), 1_500))] + [octets[1_500:]]
    return [octets]


def _send(plain: socket.socket, octets: bytes, pieces: Pieces) -> None:
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for piece in _cut(octets, pieces):
        plain.sendall(piece)


def _end(plain: socket.socket, ending: Ending) -> None:
    if ending == "reset":
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif ending == "fin":
        plain.shutdown(socket.SHUT_WR)


def _until_closed(plain: socket.socket) -> bytes:
    received = b""
    deadline = time.monotonic() + PATIENCE
    while data := plain.recv(65536):
        received += data
        if time.monotonic() > deadline:
            raise TimeoutError
    return received
