"""Posting batches to a web hook.

In the room: the settings, one delivery, and what counts as one. Not in the room: the request itself (`kipuka_audit_webhook.message`), and
trying again: kipuka does so, from where the sink stopped, for as long as it takes.
"""

from __future__ import annotations

import http.client
import ssl
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from ipaddress import ip_address
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Field, SecretStr, field_validator

from kipuka.api import AuditRecord, ConfigPath, Finding, Seconds, Secret, Section, Services, StartupError
from kipuka_audit_webhook.message import body_of, headers_of

__all__ = ["NotTaken", "WebhookSettings", "WebhookSink", "check_webhook", "open_webhook"]

LEAST_SECRET = 32


class NotTaken(Exception):
    """The receiver did not say that it has the events."""


class WebhookSettings(Section):
    """Audit events to a web hook, signed."""

    url: str = Field(pattern=r"^https?://[^/?#@]+(/[^#]*)?$")
    """Where events are posted: `https://`, without a name or password in it."""

    secret: Secret
    """What requests are signed with, 32 characters or more, best as `file:PATH` or `env:NAME`."""

    anchors: ConfigPath | None = None
    """PEM file of the roots that the receiver's certificate is checked against, where those of the system will not do."""

    timeout: Seconds = timedelta(seconds=8)
    """How long one request may take, connecting and reading each. Below the ten seconds after which an `on_failure = "block"` sink counts as down."""

    batch: int = Field(default=100, ge=1, le=500)
    """Events in one request."""

    @field_validator("secret")
    @classmethod
    def _is_long_enough(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value()) < LEAST_SECRET:
            raise ValueError(f"the secret has fewer than {LEAST_SECRET} characters")
        return secret

    @field_validator("url")
    @classmethod
    def _has_a_host(cls, url: str) -> str:
        parts = urlsplit(url)
        if not parts.hostname or not url.isascii() or not url.isprintable() or " " in url:
            raise ValueError("there is no host in it, or a character that no address has")
        _ = parts.port  # raises ValueError for one that is none
        return url


class WebhookSink:
    """Returns when the receiver has said 2xx to every event, and raises otherwise."""

    def __init__(self, settings: WebhookSettings, context: ssl.SSLContext | None, services: Services) -> None:
        self._settings = settings
        self._context = context
        self._services = services
        # A `write` that was given up may still be at work in its thread. The next one fails at once and comes again: it neither
        # overtakes the other nor takes one more thread of kipuka's pool.
        self._turn = threading.Lock()
        self._problem: str | None = None

    async def write(self, records: Sequence[AuditRecord], /) -> None:
        """Post them, a batch at a time, in order. Raises NotTaken; what was posted before that comes again, under the same keys."""
        size = self._settings.batch
        for begin in range(0, len(records), size):
            await self._services.run_blocking(self._post, records[begin : begin + size])

    async def health(self) -> str | None:
        """What became of the last request."""
        return self._problem

    def _post(self, batch: Sequence[AuditRecord]) -> None:
        if not self._turn.acquire(blocking=False):
            raise NotTaken("the request before has not come to its end")
        try:
            self._deliver(batch)
            self._problem = None
        except (OSError, http.client.HTTPException, NotTaken) as error:
            # Nothing that the receiver sent is in it: its answers are not ours to log.
            said = str(error) if isinstance(error, NotTaken) else type(error).__name__
            self._problem = f"the web hook took nothing: {said}"
            raise NotTaken(self._problem) from error
        finally:
            self._turn.release()

    def _deliver(self, batch: Sequence[AuditRecord]) -> None:
        body = body_of(batch)
        secret = self._settings.secret.get_secret_value()
        headers = headers_of(batch, body, secret=secret, now=self._services.clock())
        parts = urlsplit(self._settings.url)
        connection = _connection(parts, self._settings.timeout.total_seconds(), self._context)
        try:
            connection.request("POST", parts._replace(scheme="", netloc="").geturl() or "/", body, dict(headers))
            response = connection.getresponse()
            response.read(65536)  # an answer ends; whatever is beyond this is not waited for
            if not 200 <= response.status < 300:  # also 3xx: events go where the configuration says, and nowhere else
                raise NotTaken(f"it answered {response.status}")
        finally:
            connection.close()


def _connection(parts: SplitResult, timeout: float, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
    return http.client.HTTPSConnection(parts.hostname or "", parts.port, timeout=timeout, context=context)


def _tls(settings: WebhookSettings) -> ssl.SSLContext | None:
    if urlsplit(settings.url).scheme != "https":
        return None
    context = ssl.create_default_context(cafile=settings.anchors)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


@asynccontextmanager
async def open_webhook(settings: WebhookSettings, services: Services) -> AsyncGenerator[WebhookSink, None]:
    """The sink. The server starts also while the receiver is away; anchors that cannot be read are seen at once."""
    try:
        context = await services.run_blocking(_tls, settings)
    except OSError as error:
        raise StartupError(f"anchors: {settings.anchors} cannot be used: {type(error).__name__}") from error
    yield WebhookSink(settings, context, services)


def check_webhook(settings: WebhookSettings) -> Iterable[Finding]:
    """What `kipuka check` says: events in the clear, and anchors that cannot be read."""
    parts = urlsplit(settings.url)
    if parts.scheme == "http":
        severity: Literal["error", "warning"] = "warning" if _is_this_machine(parts.hostname or "") else "error"
        problem = "events would go over the network in the clear, to whoever answers there"
        if severity == "warning":
            problem = "events go in the clear; whoever runs programs on this machine may read them"
        yield Finding(severity=severity, key="url", problem=problem, remedy="write https://")
    try:
        _tls(settings)
    except OSError as error:
        problem = f"{settings.anchors} cannot be used: {error.strerror or type(error).__name__}"
        yield Finding(severity="error", key="anchors", problem=problem, remedy="name a PEM file with root certificates")


def _is_this_machine(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
