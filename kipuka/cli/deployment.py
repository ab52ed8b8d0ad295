"""The text of a new deployment's `kipuka.toml`.

In the room: a pure function from a few choices to a commented file. Not in the room: keys, certificates and the database
(`kipuka.cli.init`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Choices", "configuration_text"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """What a new deployment is made with. Paths are relative to the configuration file."""

    version: str
    hosts: Sequence[str]
    listen: str
    workers: int
    admin_listen: str | None
    db: str
    ca_id: str
    ca_settings: Mapping[str, str]
    otp: bool  # the plugin is installed
    audit_key: str


def quoted(value: str) -> str:
    """The value as a TOML basic string, which for text without lone surrogates is what JSON writes."""
    return json.dumps(value)


def configuration_text(choices: Choices) -> str:
    """The whole file."""
    ca = "\n".join(f"{key} = {quoted(value)}" for key, value in choices.ca_settings.items())
    if choices.admin_listen is None:
        admin_listen = '# admin_listen = "127.0.0.1:8444"  # the admin API on a port of its own, not on the one above'
    else:
        admin_listen = f"admin_listen = {quoted(choices.admin_listen)}  # the admin API, and only there"
    return _TEXT.format(
        version=choices.version,
        hosts=", ".join(choices.hosts),
        listen=quoted(choices.listen),
        workers=choices.workers,
        admin_listen=admin_listen,
        db=quoted(choices.db),
        ca_id=quoted(choices.ca_id),
        ca=ca,
        otp=_OTP if choices.otp else _NO_OTP,
        audit_key=quoted(choices.audit_key),
    )


_TEXT = """\
# The configuration of kipuka, an EST server (RFC 7030), written by `kipuka init` of version {version}.
#
# Relative paths are relative to this file. After a change: `kipuka check -c kipuka.toml`, then send the server SIGHUP;
# [server], [db] and the set of plugins need a restart. Any key can be set from the environment too: KIPUKA_SERVER__LISTEN is
# `listen` of [server]. A secret may be written as "file:PATH" or "env:NAME". Every key is explained in
# docs/reference/config.md.

[server]
listen = {listen}
{admin_listen}
workers = {workers}  # processes that take connections; about one for each core, and seldom more than four
max_body_size = 65536  # bytes; a request with an RSA-8192 key and fifty names takes about 6000
shutdown_timeout = 30  # seconds that requests under way have to end when the server is stopped

# The server's own certificate, for: {hosts}
# It was issued by the CA below, so clients verify it with trust.pem.
[tls]
cert = "tls/server.pem"
key = "tls/server.key"
min_version = "1.2"

# Client certificates. The anchors are the CA certificates whose client certificates are accepted; this is the issuing CA
# below, so that devices renew with the certificate they have.
#   optional              a certificate is taken where there is one; a first enrolment may use another method
#   required_for_reenroll the same, and a renewal needs a certificate that this server has recorded
#   required              the TLS handshake fails without a certificate: for when every device has one
#   none                  no certificate is asked for, and nothing can be renewed
[tls.client_auth]
mode = "optional"
trust_anchors = "client-anchors.pem"

[db]
url = {db}

# Who signs.
[[ca]]
id = {ca_id}
backend = "local"
validity_days = 365
{ca}

[est]
default_ca = {ca_id}

# What a certificate may contain. names = "identity" issues the names of whom the client proved to be (a token's client id,
# a certificate's subject), whatever the request says.
[[profile]]
name = "default"
names = "identity"
# san_domains = ["example.com"]  # the client "ws42" may then also have the DNS name ws42.example.com
key_types = ["rsa", "p256", "p384", "p521", "ed25519"]
min_rsa_bits = 2048
extended_key_usage = ["clientAuth"]
unique_keys = true  # a key that is recorded for one identity is refused to every other

{otp}
# The admin API, for bearer tokens made by `kipuka admin token create`. One is in admin.token. Administrators can present
# client certificates too, with a section [admin.tls]: see docs/how-to/administrators.md.
[admin.bearer_token]
enabled = true

# Signs how far the audit log goes, once a minute. Auditors check it with audit.pub: kipuka audit verify --node-key audit.pub
[audit]
node_key = {audit_key}

# The database always has the audit events; this file gets a copy, a line of JSON each.
[[audit.sink]]
type = "file"
path = "audit.jsonl"

# What operators read, on stderr. format = "json" suits a log collector.
[log]
format = "console"
level = "info"
"""

_OTP = """\
# One-time passwords for a device's first certificate: `kipuka otp create --client-id NAME`, or POST /admin/otp.
[otp]
enabled = true
hash_algorithm = "argon2id"
token_length = 20
max_uses = 1
max_failures = 5        # more failures of one address than this ...
failure_window = 300    # ... within so many seconds ...
lockout_duration = 900  # ... lock it out for so many seconds
lookup_key = "otp.key"  # tokens are worthless without this file: back it up with the database
"""

_NO_OTP = """\
# One-time passwords for a device's first certificate need the plugin kipuka-auth-otp, which is not installed here.
"""
