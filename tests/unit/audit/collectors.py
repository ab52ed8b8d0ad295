"""Syslog collectors on real sockets, each in a thread: they keep the messages they were sent, and can be stopped and started again."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading

from kipuka.testing.ports import free_port
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
        self.port = 0 if path is not None else free_port()
        self._listener = None
        self._lock = threading.Lock()  # of what is open, and of who serves it
        self._open = []
        self._serving = []
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
        self._listener.listen()
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def stop(self):
        """Close everything, as a process that was killed: what was not read is lost, and the peer hears of it."""
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.hang_up()

    def hang_up(self):
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()

    def wait_for_the_end(self):
        """Return when nobody reads any more of what was hung up."""
        with self._lock:
            serving, self._serving = self._serving, []
        for thread in serving:
            thread.join(30)
            assert not thread.is_alive()

    def _accept(self, listener):
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:
                return
            serving = threading.Thread(target=self._serve, args=(plain,), daemon=True)
            with self._lock:
                if self._listener is not listener:  # it was stopped meanwhile
                    plain.close()
                    return
                self._open.append(plain)
                self._serving.append(serving)
            serving.start()

    def _serve(self, plain):
        with contextlib.suppress(OSError), plain:
            connection = plain
            if self._context is not None:
                connection = self._context.wrap_socket(plain, server_side=True)
                with self._lock:
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
        self.port = 0 if path is not None else free_port()

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
        self._socket.settimeout(0.05)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(self._socket,), daemon=True)
        self._thread.start()

    def stop(self):
        self._stopped.set()
        self._thread.join()
        self._socket.close()

    def _read(self, receiving):
        while True:
            try:
                self.messages.append(receiving.recv(70000))
                self.connections = 1
            except TimeoutError:
                if self._stopped.is_set():
                    return
            except OSError:
                return
