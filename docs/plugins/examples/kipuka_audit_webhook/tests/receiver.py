"""A receiver on a real socket: it verifies, keeps what is new, and can be away, slow, or in a bad mood."""

from __future__ import annotations

import ssl
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from kipuka_audit_webhook.message import IDEMPOTENCY_KEY, verify

SECRET = "a secret of the tests, long enough for a signature"


class Receiver:
    """What it has taken outlives a stop."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.batches: dict[str, bytes] = {}
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.location: str | None = None
        self.may_answer = threading.Event()
        self.may_answer.set()
        self._context = context
        self._port = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.may_answer.set()
        self.stop()

    @property
    def url(self) -> str:
        return f"{'http' if self._context is None else 'https'}://127.0.0.1:{self._port}/events?source=kipuka"

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), type("Handler", (Handler,), {"receiver": self}))
        self._port = self._server.server_port
        if self._context is not None:
            self._server.socket = self._context.wrap_socket(self._server.socket, server_side=True)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that refuses our certificate
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def lines(self) -> list[str]:
        return [line for body in self.batches.values() for line in body.decode().split("\n")[:-1]]


class Handler(BaseHTTPRequestHandler):
    receiver: Receiver

    def do_POST(self) -> None:
        receiver, headers = self.receiver, dict(self.headers.items())
        body = self.rfile.read(int(headers["Content-Length"]))
        receiver.requests.append((headers, body))
        status = receiver.status
        if not verify(headers, body, secret=SECRET, now=datetime.now(UTC)):
            status = 401
        if 200 <= status < 300:
            receiver.batches.setdefault(headers[IDEMPOTENCY_KEY], body)
        receiver.may_answer.wait()
        self.send_response(status)
        if receiver.location is not None:
            self.send_header("Location", receiver.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""
