"""A wire between kipuka and PostgreSQL that can be cut at a COMMIT.

In the room: a TCP proxy on loopback that hands octets through, and what befalls the next COMMIT that passes. Not in the
room: the protocol, of which it knows no more than how a COMMIT looks (so that the connection must not be encrypted).
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

__all__ = ["Fate", "Wire"]

Fate = Literal["lost", "unanswered", "unfinished"]
"""Of a COMMIT: it never arrives; it is carried out, and its answer does not arrive; or the connection breaks before it is carried
out. The connection breaks in all cases.
"""


class _Cut:
    """How far the end of one connection has come."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.answered = threading.Event()


class Wire:
    """Connections to `port` of this machine are handed on to PostgreSQL. A context manager."""

    def __init__(self, to_port: int) -> None:
        self._to = to_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._fate: Fate | None = None
        self._then: Callable[[], object] | None = None
        self._refuses = False
        self._lock = threading.Lock()
        self._ends: set[socket.socket] = set()
        self.commits = 0  # that passed, or were to
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._accepting.join(10)

    def next_commit(self, fate: Fate, *, then: Callable[[], object] | None = None) -> None:
        """What befalls the next COMMIT; `then` is called when it has."""
        with self._lock:
            self._fate, self._then = fate, then

    def refuse(self, refuses: bool = True) -> None:  # noqa: FBT001, FBT002 - one switch
        """Whether new connections are closed at once."""
        self._refuses = refuses

    def cut(self) -> None:
        """Break every connection."""
        with self._lock:
            ends, self._ends = self._ends, set()
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                client.close()
                continue
            with self._lock:
                self._ends |= {client, server}
            cut = _Cut()
            threading.Thread(target=self._ask, args=(client, server, cut), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client, cut), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket, cut: _Cut) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                fate, then = self._fate_of(data)
                if fate is None:
                    server.sendall(data)
                    continue
                cut.begun.set()
                if fate != "lost":
                    server.sendall(data)
                if fate == "unanswered":
                    cut.answered.wait(30)
                if then is not None:
                    then()
                break
        self._close(client, server)

    def _fate_of(self, data: bytes) -> tuple[Fate | None, Callable[[], object] | None]:
        if b"COMMIT\0" not in data:  # not "BEGIN ISOLATION LEVEL READ COMMITTED"
            return None, None
        with self._lock:
            fate, then, self._fate, self._then = self._fate, self._then, None, None
            self.commits += 1
        return fate, then

    def _answer(self, server: socket.socket, client: socket.socket, cut: _Cut) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if cut.begun.is_set():
                    cut.answered.set()
                else:
                    client.sendall(data)
        if not cut.begun.is_set():
            self._close(server, client)

    def _close(self, *ends: socket.socket) -> None:
        with self._lock:
            self._ends -= {*ends}
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
