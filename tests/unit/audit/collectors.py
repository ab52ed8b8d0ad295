"""Syslog collectors on real sockets, each in a thread: they keep the messages they were sent, and can be stopped and started again."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading

from kipuka.testing.server import wait_until

from .rfc5424_abnf import parse


class Collector:
    """What every collector has: messages, in the order they came."""

    def __init__(self):
        self.messages: list[bytes] = []
        self.connections = 0

    @property
    def numbers(self):
        """The `pid` of each event, by which the tests tell them apart."""
        return [json.loads(parse(message).msg)["data"]["pid"] for message in list(self.messages)]

    def wait_for(self, count):
        wait_until(lambda: len(self.messages) >= count, what=f"{count} messages")


class StreamCollector(Collector):
    """TCP or TLS with octet counting (RFC 6587, RFC 5425), or a local stream socket with NUL. `port` stays over restarts."""

    def __init__(self, *, context: ssl.SSLContext | None = None, path=None):
        super().__init__()
        self._context = context
        self._path = path
        self.port = 0
        self._listener = None
        self._open = []
        self.reading = threading.Event()
        self.reading.set()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(str(self._path))
        else:
            self._listener = socket.socket()
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listener.bind(("127.0.0.1", self.port))
            self.port = self._listener.getsockname()[1]
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self):
        """Close everything, as a process that was killed: what was not read is lost, and the peer hears of it."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self.hang_up()

    def hang_up(self):
        for connection in self._open:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def _accept(self, listener):
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain):
        with contextlib.suppress(OSError), plain:
            self._open.append(plain)
            connection = plain
            if self._context is not None:
                connection = self._context.wrap_socket(plain, server_side=True)
                self._open.append(connection)
            self.connections += 1
            with connection, connection.makefile("rb") as stream:
                self._read(stream)

    def _read(self, stream):
        while True:
            self.reading.wait()
            if self._path is not None:
                message = b""
                while (octet := stream.read(1)) not in {b"", b"\0"}:
                    message += octet
                if not octet:
                    return
            else:
                count = b""
                while (octet := stream.read(1)) not in {b"", b" "}:
                    assert octet.isdigit()
                    count += octet
                if not octet:
                    return
                message = stream.read(int(count))
                if len(message) < int(count):
                    return
            self.messages.append(message)


class DatagramCollector(Collector):
    """UDP, or a local datagram socket."""

    def __init__(self, *, path=None):
        super().__init__()
        self._path = path
        self.port = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.bind(str(self._path))
        else:
            self._socket = socket.socket(type=socket.SOCK_DGRAM)
            self._socket.bind(("127.0.0.1", self.port))
            self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._thread.start()

    def stop(self):
        self._socket.settimeout(0.01)
        self._thread.join()
        self._socket.close()

    def _read(self, receiving):
        receiving.settimeout(0.05)
        while True:
            try:
                self.messages.append(receiving.recv(70000))
                self.connections = 1
            except TimeoutError:
                if receiving.gettimeout() == 0.01:
                    return
            except OSError:
                return
