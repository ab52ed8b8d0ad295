"""What carries syslog messages: datagrams (RFC 5426, /dev/log) and streams (RFC 6587, RFC 5425).

In the room: connecting, framing, noticing that the peer has gone, and sending again what it may have missed. Not in the room: what is
in a message (`kipuka.audit.syslog.message`), and threads: everything here blocks.

Syslog has no receipts. What a stream was given may lie in a buffer on either side when the connection breaks, so a link keeps the last
messages it sent and begins the next connection with them: a collector gets some twice rather than one never. A datagram that nobody
took is gone, unless this machine itself says so at once.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kipuka.audit.syslog.message import MIN_SIZE

__all__ = ["Link", "connect_local", "connect_tcp", "connect_tls", "connect_udp", "end_with_nul", "octet_counted"]

KEPT_OCTETS = 512 * 1024
"""How much of what was sent is sent again after a connection was lost; more than the buffers on the way hold together."""

SEND_BUFFER = 64 * 1024
_READS = 64
SETTLING_SECONDS = 0.25
"""How long a new connection is watched after its first messages: a relay without a collector behind it, and a TLS 1.3 server that does not
like our certificate, take them and hang up.
"""


class Link:
    """Messages to one collector. Connects when there is something to send, and anew after any trouble."""

    def __init__(
        self, connect: Callable[[], socket.socket], *, frame: Callable[[bytes], bytes], timeout: float
    ) -> None:
        """`connect` gives a connected socket; `frame` wraps a message for a stream; `timeout` is in seconds, for one `send`."""
        self._connect = connect
        self._frame = frame
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._kept: deque[bytes] = deque()  # the last frames that a stream was given
        self._kept_octets = 0

    def send(self, messages: Sequence[bytes]) -> None:
        """Return when the operating system has taken all of them, and the peer is still there. Raises OSError else."""
        if not messages:
            return
        try:
            if self._socket is not None and self._socket.type == socket.SOCK_STREAM and _is_lost(self._socket):
                self.close()
            is_new = self._socket is None
            if self._socket is None:
                self._socket = self._connect()
                self._socket.settimeout(self._timeout)
            if self._socket.type == socket.SOCK_STREAM:
                self._send_stream(self._socket, [self._frame(message) for message in messages], is_new=is_new)
            else:
                _send_datagrams(self._socket, messages)
        except BaseException:
            self.close()  # what arrived of a frame is not known: the next begins on a connection of its own
            raise

    def close(self) -> None:
        """End the connection, where there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send_stream(self, connection: socket.socket, frames: Sequence[bytes], *, is_new: bool) -> None:
        if is_new and self._kept:
            connection.sendall(b"".join(self._kept))
        connection.sendall(b"".join(frames))
        if _is_lost(connection) or (is_new and _hangs_up(connection)):
            msg = "the collector has closed the connection"
            raise ConnectionResetError(msg)
        self._keep(frames)

    def _keep(self, frames: Sequence[bytes]) -> None:
        self._kept.extend(frames)
        self._kept_octets += sum(map(len, frames))
        while self._kept_octets > KEPT_OCTETS:
            self._kept_octets -= len(self._kept.popleft())


def octet_counted(message: bytes) -> bytes:
    """The frame of RFC 6587, 3.4.1 and RFC 5425, 4.3: the message's length, a space, the message."""
    return b"%d %s" % (len(message), message)


def end_with_nul(message: bytes) -> bytes:
    """How the C library's syslog() ends a message on a local stream socket."""
    return message + b"\0"


def connect_udp(host: str, port: int, timeout: float) -> socket.socket:
    """A socket for datagrams to the first address of the host. Raises OSError."""
    del timeout  # nothing is waited for
    (family, kind, protocol, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    return _connected(family, kind, protocol, address, None)


def connect_tcp(host: str, port: int, timeout: float) -> socket.socket:
    """A connection to the first address of the host that takes it. Raises OSError."""
    connection = socket.create_connection((host, port), timeout)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # what may be lost in it is kept
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # milliseconds: a peer that acknowledges nothing has gone
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000))
    return connection


def connect_tls(host: str, port: int, timeout: float, *, context: ssl.SSLContext, server_name: str) -> socket.socket:
    """A TLS connection whose peer has shown a certificate for `server_name` (RFC 5425, 5.2). Raises OSError (ssl.SSLError is one)."""
    plain = connect_tcp(host, port, timeout)
    try:
        plain.settimeout(timeout)
        return context.wrap_socket(plain, server_hostname=server_name)
    except BaseException:
        plain.close()
        raise


def connect_local(path: str, timeout: float) -> socket.socket:
    """A connection to the machine's own syslog daemon, whichever of the two kinds of socket it has there. Raises OSError."""
    try:
        return _connected(socket.AF_UNIX, socket.SOCK_DGRAM, 0, path, timeout)
    except OSError as error:
        if error.errno != errno.EPROTOTYPE:
            raise
        return _connected(socket.AF_UNIX, socket.SOCK_STREAM, 0, path, timeout)


def _connected(
    family: int, kind: int, protocol: int, address: tuple[Any, ...] | str, timeout: float | None
) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        made.settimeout(timeout)
        made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def _send_datagrams(connection: socket.socket, messages: Sequence[bytes]) -> None:
    for message in messages:
        try:
            connection.send(message)
        except OSError as error:
            if error.errno != errno.EMSGSIZE or len(message) <= MIN_SIZE:
                raise
            connection.send(message[:MIN_SIZE])  # this way takes no more: a cut message is better than none, ever again
    # On this machine a port where nobody listens answers before `send` returns.
    refused = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if refused:
        raise OSError(refused, os.strerror(refused))


def _is_lost(connection: socket.socket) -> bool:
    """Whether the peer has ended the connection. What it sends is thrown away: syslog has no answers."""
    before = connection.gettimeout()
    connection.settimeout(0.0)
    try:
        for _ in range(_READS):
            if not connection.recv(16384):
                return True
    except (BlockingIOError, ssl.SSLWantReadError):
        return False
    except OSError:
        return True
    else:
        return False  # it talks and talks, but it is there
    finally:
        connection.settimeout(before)


def _hangs_up(connection: socket.socket) -> bool:
    """Whether the peer ends the connection while it settles."""
    end = time.monotonic() + SETTLING_SECONDS
    while (left := end - time.monotonic()) > 0:
        readable, _, _ = select.select([connection], [], [], left)
        if readable and _is_lost(connection):
            return True
    return False
