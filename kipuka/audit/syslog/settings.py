"""The keys of an `[[audit.sink]]` item with `type = "syslog"`, and what `kipuka check` says of them.

In the room: the model, what must hold between its keys, the TLS context they stand for. Not in the room: connections
(`kipuka.audit.syslog.transport`).
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from kipuka.api import ConfigPath, Finding, Seconds, Secret, Section
from kipuka.audit.syslog.message import MIN_SIZE

__all__ = ["SyslogSettings", "check_syslog", "host_and_port", "tls_context"]

Severity = Literal["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"]
Facility = Literal[
    "kern",
    "user",
    "mail",
    "daemon",
    "auth",
    "syslog",
    "lpr",
    "news",
    "uucp",
    "cron",
    "authpriv",
    "ftp",
    "ntp",
    "audit",
    "alert",
    "clock",
    "local0",
    "local1",
    "local2",
    "local3",
    "local4",
    "local5",
    "local6",
    "local7",
]

_PRINTABLE = re.compile(r"[!-~]+")
_LOCAL = "/dev/log"
_DATAGRAM = 2048  # what every receiver should take (RFC 5424, 6.1)
_LARGEST = 65507  # what an IPv4 datagram has room for


def _printable(value: str) -> str:
    if not _PRINTABLE.fullmatch(value):
        msg = "printable ASCII without spaces is needed"
        raise ValueError(msg)
    return value


class SyslogSettings(Section):
    """Audit events as syslog messages (RFC 5424). docs/how-to/audit-log.md tells how they look and what each transport can lose."""

    transport: Literal["udp", "tcp", "tls", "unix"] = "unix"
    """`tls`: encrypted, to a collector whose certificate is verified (RFC 5425). `tcp`: in the clear (RFC 6587, octet counting). `udp`: a
    datagram each, which may get lost (RFC 5426). `unix`: the socket of this machine's own syslog daemon."""

    address: str = ""
    """Where the collector is: `HOST:PORT`, an IPv6 address in brackets; with `unix` the absolute path of the socket. Default there: `/dev/log`."""

    facility: Facility = "authpriv"
    """The messages' facility."""

    severity_success: Severity = "info"
    """Severity of events whose outcome is `success`."""

    severity_failure: Severity = "warning"
    """Severity of events whose outcome is `failure`."""

    severity_unknown: Severity = "notice"
    """Severity of events whose outcome is `unknown`."""

    app_name: Annotated[str, AfterValidator(_printable)] = Field(default="kipuka", max_length=48)
    """The messages' APP-NAME."""

    hostname: Annotated[str, AfterValidator(_printable)] | None = Field(default=None, max_length=255)
    """The messages' HOSTNAME. Default: the name of this machine."""

    enterprise_number: int = Field(default=32473, ge=1, le=4294967295)
    """The private enterprise number in the structured data's name, `kipuka@NUMBER`. Write your organisation's own, where it has one: the
    default is the number that IANA keeps for examples (RFC 5612)."""

    max_size: int | None = Field(default=None, ge=MIN_SIZE, le=_LARGEST)
    """Octets that a message may have; the event's JSON is cut at its end where it does not fit. Default: 2048 with `udp`, 65507 else."""

    anchors: ConfigPath | None = None
    """With `tls`, needed: PEM file of the CA certificates that the collector's certificate is verified with. None is implied."""

    server_name: str | None = None
    """With `tls`: the name or IP address that the collector's certificate must be for. Default: the host of `address`."""

    cert: ConfigPath | None = None
    """With `tls`: PEM file of the certificate that this server shows the collector, with its chain."""

    key: ConfigPath | None = None
    """With `tls`: PEM file of that certificate's key."""

    key_password: Secret | None = None
    """Password of an encrypted `key`."""

    connect_timeout: Seconds = Field(default=timedelta(seconds=5), gt=timedelta(0), le=timedelta(seconds=20))
    """Seconds that connecting may take, and again the TLS handshake."""

    write_timeout: Seconds = Field(default=timedelta(seconds=5), gt=timedelta(0), le=timedelta(seconds=20))
    """Seconds that the collector may take nothing before the connection is given up."""

    @model_validator(mode="after")
    def _keys_fit_the_transport(self) -> SyslogSettings:
        if self.transport != "unix":
            host_and_port(self.address)
        elif not self.path.startswith("/"):
            msg = "address is to be an absolute path, as of /dev/log; write it so"
            raise ValueError(msg)
        if self.transport == "tls":
            if self.anchors is None:
                msg = 'transport "tls" needs anchors, a PEM file of CA certificates; write it'
                raise ValueError(msg)
            if (self.cert is None) != (self.key is None):
                msg = "cert and key go together; write both, or neither"
                raise ValueError(msg)
            if self.key_password is not None and self.key is None:
                msg = "key_password is of no use without key; take it out"
                raise ValueError(msg)
            return self
        written = [name for name in ("anchors", "server_name", "cert", "key", "key_password") if getattr(self, name)]
        if written:
            msg = f'{" and ".join(written)} of no use with transport "{self.transport}"; take it out, or write transport = "tls"'
            raise ValueError(msg)
        return self

    @property
    def path(self) -> str:
        """The socket, with `unix`."""
        return self.address or _LOCAL

    @property
    def size(self) -> int:
        """Octets that a message may have."""
        return self.max_size or (_DATAGRAM if self.transport == "udp" else _LARGEST)


def host_and_port(address: str) -> tuple[str, int]:
    """The parts of HOST:PORT. Raises ValueError."""
    matched = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]/]+)):([0-9]{1,5})", address)
    if matched is None or not 0 < int(matched[3]) < 65536:
        msg = "address is to be HOST:PORT, with an IPv6 address in brackets; write it so"
        raise ValueError(msg)
    return matched[1] or matched[2], int(matched[3])


def tls_context(settings: SyslogSettings) -> ssl.SSLContext:
    """What the collector is verified with, and what it is shown. Raises OSError (ssl.SSLError is one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies chain and name, by the anchors below alone
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=settings.anchors)
    if settings.cert is not None and settings.key is not None:
        password = "" if settings.key_password is None else settings.key_password.get_secret_value()
        # A function, since OpenSSL would ask on the terminal where there is none and the key is encrypted.
        context.load_cert_chain(settings.cert, settings.key, lambda: password)
    return context


def check_syslog(settings: SyslogSettings) -> Iterator[Finding]:
    """What `kipuka check` says: what may be lost or read on the way, and files that are no good. Nothing is sent."""
    match settings.transport:
        case "udp":
            problem = "a datagram that is lost is lost unnoticed, and its event does not come again"
            yield Finding(severity="warning", key="transport", problem=problem, remedy='write transport = "tls"')
        case "tcp" if not _is_this_machine(settings.address):
            problem = "audit events go over the network in the clear, to whoever answers there"
            yield Finding(severity="warning", key="transport", problem=problem, remedy='write transport = "tls"')
        case "unix" if not Path(settings.path).is_socket():
            problem = f"{settings.path} is no socket: no syslog daemon listens there"
            yield Finding(severity="warning", key="address", problem=problem, remedy="start one, or write its address")
        case "tls":
            yield from _check_tls(settings)
        case _:
            pass


def _check_tls(settings: SyslogSettings) -> Iterator[Finding]:
    files = {"anchors": settings.anchors, "cert": settings.cert, "key": settings.key}
    readable = True
    for key, path in files.items():
        if path is None:
            continue
        try:
            path.read_bytes()
        except OSError as error:
            readable = False
            problem = f"{path} cannot be read: {error.strerror}"
            yield Finding(severity="error", key=key, problem=problem, remedy="name a file that the server can read")
    if not readable:
        return
    try:
        tls_context(settings)
    except OSError as error:
        problem = f"they cannot be used: {getattr(error, 'reason', None) or error.strerror or error}"
        remedy = "give PEM files, the key that belongs to cert, and its password"
        yield Finding(
            severity="error", key="anchors" if settings.cert is None else "cert", problem=problem, remedy=remedy
        )
    if settings.key is not None and settings.key.stat().st_mode & 0o077:
        problem = f"others may read or write {settings.key}"
        yield Finding(severity="warning", key="key", problem=problem, remedy=f"chmod 600 {settings.key}")


def _is_this_machine(address: str) -> bool:
    host, _ = host_and_port(address)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
