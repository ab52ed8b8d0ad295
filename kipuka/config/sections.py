"""The host's own sections of the configuration file, as pydantic models.

In the room: every key that the host knows, its type, its default and what it means. Not in the room: reading files and
the environment (`kipuka.config.document`), what must hold between sections (`kipuka.config.load`), and the sections
of plugins, whose models come with their kinds.

`docs/reference/config.md` is rendered from these models and their docstrings (`scripts/config_reference.py`).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, model_validator

from kipuka.api.settings import ConfigPath, Seconds, Secret, Section, resolve_secret
from kipuka.x509.patterns import CertificatePattern, parse_certificate_pattern
from kipuka.x509.registration import parse_authority

__all__ = [
    "Address",
    "AdminMode",
    "AdminSection",
    "AdminTLSSection",
    "AuditSection",
    "AuthSection",
    "BearerTokenItem",
    "BearerTokenSection",
    "CAHead",
    "DatabaseSection",
    "ESTSection",
    "LabelItem",
    "LogSection",
    "PluginsSection",
    "PolicyItem",
    "ProfileItem",
    "ServerSection",
    "SinkHead",
    "TLSSection",
]


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address or a host name to listen on, and a port (0: any free one)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `ADDR:PORT`, an IPv6 address in brackets. Raises ValueError with one sentence."""
        host, separator, port = text.rpartition(":")
        if not separator or not port.isascii() or not port.isdigit():
            msg = "an address and a port are needed, as in 0.0.0.0:8443 or [::]:8443"
            raise ValueError(msg)
        if int(port) > 65535:
            msg = f"there is no port {port}: the highest is 65535"
            raise ValueError(msg)
        if host.startswith("[") and host.endswith("]"):
            try:
                return cls(str(ipaddress.IPv6Address(host[1:-1])), int(port))
            except ValueError:
                msg = f"{host[1:-1]} is not an IPv6 address"
                raise ValueError(msg) from None
        if ":" in host:
            msg = f"an IPv6 address stands in brackets: [{host}]:{port}"
            raise ValueError(msg)
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", host):
            msg = "an address and a port are needed, as in 0.0.0.0:8443 or [::]:8443"
            raise ValueError(msg)
        return cls(host, int(port))


def _to_address(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        msg = "a number of seconds above 0 is needed"
        raise ValueError(msg)
    return value


def _not_negative(value: timedelta) -> timedelta:
    if value < timedelta(0):
        msg = "a number of seconds, 0 or more, is needed"
        raise ValueError(msg)
    return value


_WITHIN_IPV6 = ipaddress.IPv6Network("::ffff:0:0/96")


def _to_network(value: object) -> object:
    """An address is a network of one. Raises ValueError with one sentence."""
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    if not isinstance(value, str):  # a number, or true, would be an address to Python
        msg = "a string is needed, as in 10.0.0.7 or 10.0.0.0/24"
        raise ValueError(msg)  # noqa: TRY004 - the form of pydantic
    if "%" in value:
        msg = "peers are compared without the zone of their address: leave it out"
        raise ValueError(msg)
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        msg = "an IP address or a network is needed, as in 10.0.0.7 or 10.0.0.0/24"
        raise ValueError(msg) from None
    if "/" in value and ipaddress.ip_address(value.partition("/")[0]) != network.network_address:
        msg = f"an address is not a network: write {network} for all of it"
        raise ValueError(msg)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_WITHIN_IPV6):
        msg = "an IPv4 address within IPv6 is written as IPv4"
        raise ValueError(msg)
    return network


ListenAddress = Annotated[Address, BeforeValidator(_to_address), PlainSerializer(str, return_type=str)]
ProxyNetwork = Annotated[
    ipaddress.IPv4Network | ipaddress.IPv6Network,
    BeforeValidator(_to_network),
    PlainSerializer(str, return_type=str),
]
PositiveSeconds = Annotated[Seconds, AfterValidator(_positive)]
ReplayWindow = Annotated[Seconds, Field(ge=timedelta(0), le=timedelta(days=30))]

Operations = tuple[Literal["cacerts", "csrattrs", "simpleenroll", "simplereenroll", "serverkeygen"], ...]


def _check_certificate_pattern(value: str) -> str:
    try:
        parse_certificate_pattern(value)
    except ValueError as error:
        msg = f"it is no pattern of a subject or alternative name: {error}; write one such as CN=*,OU=Admins,O=Example"
        raise ValueError(msg) from error
    return value


CertificatePatternText = Annotated[str, Field(max_length=1024), AfterValidator(_check_certificate_pattern)]

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
Identifier = Annotated[str, Field(pattern=_NAME, max_length=64)]


def _node_name() -> str:
    name = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64].lstrip("._-")
    return name or "node"


def _workers() -> int:
    return min(len(os.sched_getaffinity(0)), 4)


class ServerSection(Section):
    """Where the server listens, and how long it waits."""

    listen: ListenAddress = Address("0.0.0.0", 8443)  # noqa: S104 - devices come from everywhere; the tutorial's server is bound narrower
    """Address and port of the EST listener, `ADDR:PORT`; an IPv6 address in brackets."""

    admin_listen: ListenAddress | None = None
    """Address and port of a listener for `/admin` of its own. Without it `/admin` is on the EST listener."""

    proxy_protocol_from: tuple[ProxyNetwork, ...] = ()
    """Addresses and networks of the TCP load balancers in front of both listeners. Each of their connections must begin with a header of
    the PROXY protocol, version 2, that says whose it is; nobody else may send one. Name the balancers and nobody else: the header is believed."""

    node: Identifier = Field(default_factory=_node_name)
    """Name of this server in the audit log and beside the database. Each server that shares a database needs another one.
    Default: the host name."""

    workers: int = Field(default_factory=_workers, ge=1, le=64)
    """How many processes take connections. Default: one for each core, but no more than four: they take turns to write to one
    database, and each needs memory of its own."""

    max_body_size: int = Field(default=65536, ge=1024, le=16 * 1024 * 1024)
    """Largest request body, in bytes. A CSR with an RSA-8192 key and fifty names takes about 6000."""

    max_header_size: int = Field(default=16384, ge=4096, le=256 * 1024)
    """Largest request header, in bytes. Where it is not written and Kerberos is on (`[gssapi]`), it is 73728: tickets can be
    large."""

    max_connections: int = Field(default=4096, ge=1, le=1_000_000)
    """How many connections may be open at once, in all. When there is no more room, a connection without a request is closed for
    a new one: one of the address that has most."""

    max_connections_per_address: int = Field(default=512, ge=1, le=1_000_000)
    """How many connections may be open at once from one address (of IPv6: from one /64 network). Further ones are closed at once.
    Many devices behind one NAT have one address."""

    max_requests_per_minute_per_address: int = Field(default=12000, ge=0, le=100_000_000)
    """How many requests one address (of IPv6: one /64 network) may send in a minute, all at once or one by one. Further ones are
    answered 429. 0: any number."""

    http2: bool = False
    """Whether clients that offer HTTP/2 get it (ALPN). No EST client needs it."""

    shutdown_timeout: PositiveSeconds = timedelta(seconds=30)
    """How long requests under way may take to end when the server is told to stop, in seconds."""

    drain_delay: Annotated[Seconds, AfterValidator(_not_negative)] = timedelta(0)
    """How long the server goes on as before when it is told to stop, with `/readyz` answering 503, in seconds. Behind a load
    balancer: as long as it takes to notice that. 0: no connection is taken any more at once."""

    handshake_timeout: PositiveSeconds = timedelta(seconds=10)
    """How long a TLS handshake may take, in seconds."""

    header_timeout: PositiveSeconds = timedelta(seconds=10)
    """How long a request's whole header may take to arrive, in seconds."""

    body_timeout: PositiveSeconds = timedelta(seconds=30)
    """How long a request's whole body may take to arrive, in seconds."""

    idle_timeout: PositiveSeconds = timedelta(seconds=60)
    """How long a connection may stay open without a request, in seconds."""

    write_timeout: PositiveSeconds = timedelta(seconds=30)
    """How long a client may take nothing of an answer before its connection is closed, in seconds."""


class TLSSection(Section):
    """The server's own certificate. Client certificates have their own section, `[tls.client_auth]`."""

    cert: ConfigPath
    """PEM file with the server's certificate, followed by the intermediate certificates up to but without the root."""

    key: ConfigPath
    """PEM file with the private key of `cert`. It should be readable by the server's account only."""

    key_password: Secret | None = None
    """Passphrase of `key`, where it is encrypted."""

    min_version: Literal["1.2", "1.3"] = "1.2"
    """Lowest TLS version that is accepted."""


_SQLITE = "sqlite:///"
_POSTGRESQL = "postgresql://"


def _check_url(value: str) -> str:
    if not value.isprintable():
        msg = "it has a control character"
        raise ValueError(msg)
    if value.startswith(_POSTGRESQL):
        return _check_postgresql_url(value)
    if value.startswith(("postgresql", "postgres:")):
        msg = "PostgreSQL's URL is written postgresql://USER@HOST/DATABASE"
        raise ValueError(msg)
    if not value.startswith(_SQLITE) or value == _SQLITE or value.startswith("sqlite:///:memory:"):
        msg = "the URL of an SQLite file is needed, as in sqlite:///kipuka.db, or of PostgreSQL (postgresql://USER@HOST/DATABASE)"
        raise ValueError(msg)
    if "?" in value or "#" in value:
        msg = "the URL takes no options: kipuka sets what SQLite needs"
        raise ValueError(msg)
    try:
        Path(value.removeprefix(_SQLITE)).expanduser()
    except RuntimeError as error:  # there is no such user, or no home directory
        msg = "the ~ of the path stands for no directory"
        raise ValueError(msg) from error
    return value


def _check_postgresql_url(value: str) -> str:
    """What can be said without the driver, and without repeating what may be a password."""
    before_options = value.partition("?")[0]
    options = value[len(before_options) + 1 :].split("&")
    path = before_options.removeprefix(_POSTGRESQL).partition("/")[2]
    if not path and not any(option.startswith("dbname=") for option in options):
        msg = "the URL names no database, as in postgresql://USER@HOST/DATABASE"
        raise ValueError(msg)
    if "#" in value or " " in value:
        msg = "a # or a space in a password is written %23 or %20"
        raise ValueError(msg)
    return value


class DatabaseSection(Section):
    """Where certificates, tokens and audit events are kept."""

    url: Annotated[str, BeforeValidator(resolve_secret), AfterValidator(_check_url)] = Field(
        default="sqlite:///kipuka.db", repr=False
    )
    """`sqlite:///PATH`, or `postgresql://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full&sslrootcert=PATH` for several nodes that share
    a database. A relative path of SQLite is relative to this file; an absolute one has four slashes. A URL with a password in it is best
    written as `file:PATH` or `env:NAME`.
    """

    commit_timeout: Annotated[Seconds, Field(ge=timedelta(seconds=1), le=timedelta(minutes=5))] = timedelta(seconds=20)
    """How long what is to be written waits, and then takes at most; after that the client hears 503."""

    queue_limit: int = Field(default=1000, ge=1, le=100_000)
    """How many requests may wait for the database in one worker. Whoever comes when so many wait hears 503 at once."""


class CAHead(Section):
    """A certification authority. The further keys of an item are those of its backend."""

    id: Identifier
    """Name of this CA, for labels, the record and the audit log."""

    backend: str
    """Name of the plugin that signs, for instance `local`."""

    validity_days: float = Field(default=365, ge=0.001, le=36500)
    """How long certificates are valid where the profile does not say, in days."""


def _check_authority(value: str) -> str:
    try:
        parse_authority(value)
    except ValueError as error:
        msg = f"it is no registration authority: {error}; write a pattern such as CN=*,OU=RA,O=Example, or sha256: and a fingerprint"
        raise ValueError(msg) from error
    return value


AuthorityPattern = Annotated[str, Field(max_length=1024), AfterValidator(_check_authority)]


class LabelItem(Section):
    """An EST label: a further path, `<base_path>/<name>/`, with its own CA, profile and methods (RFC 7030, 3.2.2)."""

    name: str = Field(max_length=64)
    """The path segment. Letters, digits, `.`, `_`, `~` and `-`; not the name of an EST operation."""

    ca: str | None = None
    """The `id` of a `[[ca]]` item. Default: `default_ca`."""

    profile: str | None = None
    """The `name` of a `[[profile]]` item. Default: `default_profile`."""

    auth: tuple[str, ...] | None = None
    """The methods that may be used here, for instance `["mtls", "otp"]`. Default: those of `[est]`."""

    require: tuple[tuple[str, ...], ...] | None = None
    """The same as `require` of `[est]`, for this label; `[]` where one method is enough. Default: that one, unless `auth` is written here."""

    operations: Operations | None = Field(default=None, min_length=1)
    """The same as `operations` of `[est]`, for this label. Default: that one."""

    foreign_clients: tuple[CertificatePatternText, ...] | None = None
    """The same as `foreign_clients` of `[est]`, for this label; `[]` lets in all. Default: that one."""

    client_anchors: ConfigPath | None = None
    """PEM file of the CA certificates whose client certificates are accepted here.
    Default: `trust_anchors` of `[tls.client_auth]`."""

    replay_window: ReplayWindow | None = None
    """The same as `replay_window` of `[est]`, for this label. Default: that one."""

    serverkeygen: bool | None = None
    """The same as `serverkeygen` of `[est]`, for this label. Default: that one."""
    registration_authorities: tuple[AuthorityPattern, ...] = ()
    """The same as `registration_authorities` of `[est]`, for this label. Default: none, whatever `[est]` has."""


class ESTSection(Section):
    """The EST service (RFC 7030)."""

    base_path: str = Field(default="/.well-known/est", pattern=r"^(/[A-Za-z0-9._~-]+)+$")
    """Path of the EST operations. RFC 7030 names the default one; clients may know no other."""

    default_ca: str | None = None
    """The `id` of the `[[ca]]` item that serves the path without a label. Needed where there is more than one."""

    default_profile: str = "default"
    """The `name` of the `[[profile]]` item for the path without a label. A profile `default` exists without being written."""

    auth: tuple[str, ...] | None = None
    """The methods that may be used on the path without a label, and at labels that do not say: for instance `["mtls", "otp"]`. Default:
    all that are on."""

    require: tuple[tuple[str, ...], ...] = ()
    """Methods that must all succeed on one request, where one is not enough: `[["mtls", "otp"]]`. Of several sets one must be met. A set has `mtls` and
    one other method, since a request has one Authorization field, or one method alone. Whose name counts is the first of the set. A renewal needs the
    certificate only. For the path without a label, and for labels that do not say."""

    operations: Operations | None = Field(default=None, min_length=1)
    """The EST operations that are on: `cacerts`, `csrattrs`, `simpleenroll`, `simplereenroll`, `serverkeygen`. Others are answered 404.
    Default: all. For the path without a label, and for labels that do not say."""

    foreign_clients: tuple[CertificatePatternText, ...] = ()
    """Which client certificates of other CAs than the label's own are accepted: patterns of a whole subject, such as
    `CN=*,OU=Devices,O=Maker`, or of an alternative name: `dns:*.example.com`, `email:*@example.com`, `uri:urn:example:*`, as in `[admin.tls] allow`.
    Default: all that the anchors let in. For the path without a label, and for labels that do not say."""

    base64_lines: Literal["auto", "always", "never"] = "auto"
    """Whether answers are wrapped into lines of 64 characters (RFC 8951, 3.1). `auto`: one line for clients that send no
    User-Agent (strongSwan cannot read more), else lines."""

    ca_timeout: PositiveSeconds = timedelta(seconds=30)
    """How long a CA may take to sign, in seconds."""

    replay_window: ReplayWindow = timedelta(0)
    """How long, in seconds, a lost answer can be asked for again: the same token or client certificate with the same request gets the
    certificate that was issued for it, and no use is spent. `0`: never. Up to 30 days; 600 is enough for bad links."""

    serverkeygen: bool = True
    """Whether the server makes a private key for clients that ask for one (RFC 7030, 4.4). Where not, `serverkeygen` is answered 404."""
    registration_authorities: tuple[AuthorityPattern, ...] = ()
    """Whose client certificates may ask for certificates in others' names, at the path without a label: patterns of a whole subject, such as `CN=*,OU=RA,O=Example`, or of an
    alternative name (`dns:*.ra.example.com`, `email:`, `uri:`), or `sha256:` and a certificate's fingerprint. Such a certificate must also have the
    extended key usage `cmcRA`, be issued by the label's CA and stand in this server's record (RFC 7030, 3.7)."""

    serverkeygen_recipients: ConfigPath | None = None
    """PEM file of certificates that a client may have its private key encrypted to, beside its own TLS certificate: it names one by its
    subject key identifier (AsymmetricDecryptKeyIdentifier)."""

    serverkeygen_signer_cert: ConfigPath | None = None
    """PEM file with the certificate of whoever answers for the private keys that are sent encrypted, followed by its chain. Their message is
    signed with it. Default: the server's own certificate, `cert` of `[tls]`."""

    serverkeygen_signer_key: ConfigPath | None = None
    """PEM file with the private key of `serverkeygen_signer_cert`: RSA, ECDSA or Ed25519."""

    serverkeygen_signer_key_password: Secret | None = None
    """Passphrase of `serverkeygen_signer_key`, where it is encrypted."""

    label: tuple[LabelItem, ...] = ()
    """The labels, one `[[est.label]]` each."""

    @model_validator(mode="after")
    def _signer_is_whole(self) -> ESTSection:
        if (self.serverkeygen_signer_cert is None) != (self.serverkeygen_signer_key is None):
            msg = "serverkeygen_signer_cert and serverkeygen_signer_key belong together; write both, or neither"
            raise ValueError(msg)
        if self.serverkeygen_signer_key is None and self.serverkeygen_signer_key_password is not None:
            msg = "serverkeygen_signer_key_password is of no use without serverkeygen_signer_key; take it out, or write the key"
            raise ValueError(msg)
        return self


_Glob = Annotated[str, Field(min_length=1, max_length=512)]
SignatureHash = Literal["sha256", "sha384", "sha512", "sha3-256", "sha3-384", "sha3-512"]


class PolicyItem(Section):
    """A policy under which certificates of the profile are issued (RFC 5280, 4.2.1.4). Several stand in one line too:
    `certificate_policies = [{ oid = "1.3.6.1.4.1.99999.1", cps = "http://pki.example.com/cps" }, { oid = "1.3.6.1.4.1.99999.2" }]`.
    """

    oid: str
    """The policy's object identifier, dotted."""

    cps: str | None = None
    """URI of its practice statement."""


class ProfileItem(Section):
    """What a certificate may contain, and what a request must be like. A refusal names the key that it comes from: `(rule san_patterns)`."""

    name: Identifier
    """Name of this profile. `default` replaces the built-in one."""

    names: Literal["identity", "csr"] = "identity"
    """Whose names go into the certificate. `identity`: those of whom the client proved to be. `csr`: those that the request
    asks for, within the patterns."""

    san_domains: tuple[str, ...] = ()
    """Domains that an identity's host name may be followed by: with `["example.com"]` the client `ws42` may have
    `ws42.example.com`."""

    identity_sans: tuple[Literal["dns", "ip", "email", "uri", "upn", "krb5"], ...] = ()
    """With `names = "identity"`: the forms of alternative names that a certificate gets whenever the identity has them, also where the
    request does not ask: `dns` (a host name without a dot takes each of `san_domains`), `ip`, `email`, `uri`, and of Kerberos
    principals `upn` and `krb5`."""

    wildcards: bool = False
    """Whether a DNS name may start with `*.`, where the identity has that very name or a pattern allows it."""

    reenrol_names: Literal["must-match", "from-certificate"] = "must-match"
    """At re-enrolment: `must-match` refuses a request whose names are not those of the client certificate;
    `from-certificate` issues the certificate's names whatever the request says."""

    change_subject_name: bool = False
    """Whether a renewal may ask for other names by the attribute `ChangeSubjectName` (RFC 6402, 2.8). The request itself has the names of the certificate. The new
    ones must be such as this client would get at `simpleenroll`, or are asked for by a registration authority."""

    key_types: tuple[Literal["rsa", "p256", "p384", "p521", "ed25519", "ed448"], ...] = Field(
        default=("rsa", "p256", "p384", "p521", "ed25519"), min_length=1
    )
    """The kinds of public keys that are accepted."""

    min_rsa_bits: int = Field(default=2048, ge=2048, le=8192)
    """Smallest RSA key, in bits."""

    max_rsa_bits: int = Field(default=8192, ge=2048, le=8192)
    """Largest RSA key, in bits. Many devices take none above 4096."""

    csr_signature_hashes: tuple[SignatureHash, ...] | None = Field(default=None, min_length=1)
    """The hashes that a request may be signed with: `sha256`, `sha384`, `sha512`, `sha3-256`, `sha3-384`, `sha3-512`. Signatures that have a hash of
    their own, as of Ed25519, are always accepted. Default: all of these. What certificates are signed with is the CA's affair."""
    serverkeygen_key: Literal["rsa-2048", "rsa-3072", "rsa-4096", "p256", "p384", "p521", "ed25519", "ed448"] | None = (
        None
    )
    """The kind of private key that `serverkeygen` makes where the key in the request is not of a kind that this profile accepts.
    Default: the first of `p256`, `p384`, `p521`, `ed25519`, `rsa` that it accepts."""

    require_encrypted_key: bool = False
    """Whether a private key that the server makes is handed out only encrypted to a key of the client's, besides TLS: a request that names
    none is refused."""

    validity_days: float | None = Field(default=None, ge=0.001, le=36500)
    """How long certificates are valid, in days. Default: `validity_days` of the CA. A CA never goes beyond the end of its own certificate."""

    max_validity_days: float | None = Field(default=None, ge=0.001, le=36500)
    """How long certificates are valid at most, in days, however long `validity_days` of the CA is. Default: as long as that."""

    backdate_minutes: int = Field(default=5, ge=0, le=1440)
    """How far a certificate's start is set back for clients whose clock is behind, in minutes."""

    allow_expired_for: Annotated[Seconds, Field(ge=timedelta(0), le=timedelta(days=365))] = timedelta(0)
    """How long after its end a certificate can still be renewed, in seconds: by `simplereenroll`, where this server has recorded it at the same
    label and it is not revoked. Up to 365 days. `0`: an expired certificate proves nothing."""

    channel_binding: Literal["optional", "required"] = "optional"
    """Whether a request must be linked to its TLS connection (RFC 7030, 3.5): its `challengePassword` or `estIdentityLinking` is the connection's
    `tls-unique` (TLS 1.2) or `tls-exporter` (TLS 1.3). `optional`: one that is there is verified. `required`: without one the request is refused."""

    revoke_replaced_after: Annotated[Seconds, Field(ge=timedelta(minutes=1), le=timedelta(days=365))] | None = None
    """How long after a renewal the certificate that was renewed is revoked (reason `superseded`), in seconds, from 60 up to 365 days. Only where this server
    has recorded it, and while the new one is not revoked itself. Default: never."""

    unique_keys: bool = True
    """Whether a public key that is recorded for one identity is refused to every other."""

    key_usage: (
        tuple[
            Literal["digitalSignature", "contentCommitment", "keyEncipherment", "dataEncipherment", "keyAgreement"], ...
        ]
        | None
    ) = Field(default=None, min_length=1)
    """What the key may be used for: `digitalSignature`, `contentCommitment` (also called nonRepudiation), `keyEncipherment`, `dataEncipherment`,
    `keyAgreement`. What a key cannot do is left out: encipherment with EC and Ed25519 keys, agreement with RSA and Ed25519 keys.
    Default: `digitalSignature`, and `keyEncipherment` for RSA. Certificates sign neither certificates nor CRLs."""

    extended_key_usage: tuple[str, ...] = ("clientAuth",)
    """What a certificate is for: `clientAuth`, `serverAuth`, `codeSigning`, `emailProtection`, `timeStamping`,
    `ipsecIKE`, or a dotted object identifier; `cmcRA`, with `clientAuth`, makes certificates of registration authorities."""

    extended_key_usage_critical: bool = False
    """Whether software that does not know extended key usage has to refuse the certificate. `timeStamping` needs it (RFC 3161, 2.3)."""

    subject: str | None = None
    """The certificate's subject, put together: `CN={CN},O=Example,C=DE`. `{CN}`, `{OU}` and so on stand for that attribute of the subject that would be
    granted without this key; `{name}` for the name by which the client is known: a token's client id, a Kerberos principal. A value stays one value,
    whatever characters it has. A renewal keeps the subject of its certificate. Default: the subject that is granted."""

    subject_required: tuple[str, ...] = ()
    """Attributes that the certificate's subject must have (`CN`, `O`, `serialNumber`, ...)."""

    subject_patterns: dict[str, tuple[_Glob, ...]] = Field(default_factory=dict[str, tuple[str, ...]])
    """With `names = "csr"`: for each attribute of the subject (`CN`, `O`, `OU`, ...) the patterns it may match, with `*`
    for any characters. An attribute that is not listed is refused."""

    san_required: tuple[Literal["dns", "ip", "email", "uri", "upn", "krb5"], ...] = ()
    """Forms of alternative names of which the certificate must have at least one each."""

    san_patterns: dict[Literal["dns", "ip", "email", "uri"], tuple[_Glob, ...]] = Field(
        default_factory=dict[Literal["dns", "ip", "email", "uri"], tuple[str, ...]]
    )
    """With `names = "csr"`: for each form of alternative name (`dns`, `ip`, `email`, `uri`) the patterns it may match. A `*`
    crosses no dot of a DNS name, no `@` and no delimiter of a URI; `ip` takes networks such as `10.0.0.0/8`. A form that is
    not listed is refused."""

    certificate_policies: tuple[PolicyItem, ...] = Field(default=(), max_length=8)
    """Policies under which certificates are issued."""

    ca_issuers: tuple[_Glob, ...] = Field(default=(), max_length=4)
    """Where the CA's certificate is to be had: URIs, for verifiers that miss it (authority information access)."""

    ocsp: tuple[_Glob, ...] = Field(default=(), max_length=4)
    """URIs of the CA's OCSP responder (authority information access)."""

    crl_distribution_points: tuple[_Glob, ...] = Field(default=(), max_length=4)
    """URIs of the CA's CRL: the same one at each."""

    copy_extensions: tuple[str, ...] = Field(default=(), max_length=8)
    """Extensions that are copied from a request that asks for them: `tlsFeature`, `msTemplate`, `msTemplateName`, or dotted object identifiers.
    Their content is the client's word. At most 1024 bytes each, and never critical. What decides whose certificate it is, what it is good for, or
    what only a CA knows is never copied."""


class AuthSection(Section):
    """The order of the methods of proving identity."""

    order: tuple[str, ...] | None = None
    """Names of the methods, first the one that is asked first. Default: `["mtls", "gssapi", "otp"]`. Needed, naming all that are
    on, where another method is on."""


class PluginsSection(Section):
    """Switching plugins off."""

    disabled: tuple[str, ...] = ()
    """Plugins that are not loaded, whatever else this file says. Their sections and items are treated as if they were not
    there."""


_TOKEN_HASH = re.compile(r"sha256:[0-9a-fA-F]{64}")


def _check_token_hash(value: str) -> str:
    if not _TOKEN_HASH.fullmatch(value):
        msg = "sha256: and 64 hexadecimal digits are needed"
        raise ValueError(msg)
    return value.lower()


class BearerTokenItem(Section):
    """An administrator's token, by its hash."""

    token_hash: Annotated[str, AfterValidator(_check_token_hash)]
    """`sha256:` and the SHA-256 of the token in hexadecimal. Tokens made by `kipuka admin token create` need no item here."""

    description: str = Field(min_length=1, max_length=200)
    """Whose token it is, for the audit log."""


class BearerTokenSection(Section):
    """Administrators who present a bearer token (RFC 6750)."""

    enabled: bool = True
    """Whether bearer tokens are accepted."""

    tokens: tuple[BearerTokenItem, ...] = ()
    """Tokens given here, beside those made by `kipuka admin token create`."""


AdminMode = Literal["required", "optional", "none"]


class AdminTLSSection(Section):
    """Administrators who present a client certificate. Their anchors have nothing to do with those of `[tls.client_auth]`:
    neither stand in for the other.
    """

    trust_anchors: ConfigPath | None = None
    """PEM file of the CA certificates whose client certificates are administrators'. Never implied."""

    mode: AdminMode = "none"
    """`required`: a good certificate is needed, and a bearer token too where `[admin.bearer_token]` is on. `optional`: either is
    enough. `none`: certificates are not looked at."""

    allow: tuple[CertificatePatternText, ...] = ()
    """Which certificates under the anchors are administrators': patterns of a whole subject, such as
    `CN=*,OU=Admins,O=Example`, or of an alternative name: `dns:*.ops.example.com`, `email:*@example.com`,
    `uri:spiffe://example.com/admin/*`. A `*` stands for any characters within one value or one part of a name. Default: all
    of them, which is refused where a CA of this server is below one of the anchors."""

    @property
    def patterns(self) -> tuple[CertificatePattern, ...]:
        """`allow`, read."""
        return tuple(parse_certificate_pattern(text) for text in self.allow)

    @model_validator(mode="after")
    def _anchors_where_they_are_needed(self) -> AdminTLSSection:
        if self.mode != "none" and self.trust_anchors is None:
            msg = f'mode "{self.mode}" needs trust_anchors, a PEM file of CA certificates; write it, or mode = "none"'
            raise ValueError(msg)
        return self


class AdminSection(Section):
    """The admin API. Without this section there is none."""

    tls: AdminTLSSection | None = None
    """Administrators who present a client certificate."""

    bearer_token: BearerTokenSection | None = None
    """Administrators who present a bearer token."""

    @property
    def certificates(self) -> AdminMode:
        """`[admin.tls] mode`."""
        return "none" if self.tls is None else self.tls.mode

    @property
    def takes_bearer_tokens(self) -> bool:
        """Whether `[admin.bearer_token]` is on."""
        return self.bearer_token is not None and self.bearer_token.enabled


OnFailure = Literal["continue", "block"]
"""What the server does while a sink does not take its events."""


class SinkHead(Section):
    """A place that audit events are sent to. The further keys of an item are those of its type."""

    type: str
    """Name of the plugin that takes the events, for instance `file`, `syslog` or `stdout`."""

    id: Identifier | None = None
    """Name under which the server remembers how far this sink has come. Default: its type. Needed where one type is
    used twice."""

    on_failure: OnFailure = "continue"
    """What happens while this sink does not take its events. `continue`: they wait in the database. `block`: they wait too, and
    after five seconds enrolments and changes by the admin API are answered 503, until it has taken them."""


class AuditSection(Section):
    """Where audit events go beside the database, which always has them."""

    sink: tuple[SinkHead, ...] = ()
    """The sinks, one `[[audit.sink]]` each."""

    flood_threshold: int = Field(default=20, ge=1, le=100_000)
    """How many failed requests of one address (of IPv6: one /64 network) and reason are audited one by one in a minute. Further ones are one
    event with their number."""

    node_key: ConfigPath | None = None
    """This server's Ed25519 key (PEM), which signs how far its audit log goes; `kipuka audit key create` makes one. Without it whoever can write the
    database can write the log anew, and nothing can be pruned."""

    trusted_keys: tuple[ConfigPath, ...] = ()
    """Public keys (PEM) whose signatures `kipuka audit verify` accepts beside the one of `node_key`: of the other servers that share the database, and those
    this server had earlier."""

    head_interval: PositiveSeconds = timedelta(seconds=60)
    """Seconds between two signatures of `node_key`, while there are new events. What was recorded since the last one is not covered yet."""


class LogSection(Section):
    """The server's own log, on stderr."""

    format: Literal["console", "json"] = "console"
    """`console`: lines for people. `json`: one JSON object a line."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Lowest level that is logged."""
