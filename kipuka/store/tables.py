"""The host's tables, as the newest migration leaves them.

In the room: SQLAlchemy Core tables and how times are read back. Not in the room: statements, and the tables of plugins, which each
have a prefix of their own. A test holds the migrations to this description.

Times are text in the form of `kipuka.api.timestamp`, which sorts as they do. Lists are JSON text.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

__all__ = [
    "admin_tokens",
    "audit_cursors",
    "audit_events",
    "audit_heads",
    "audit_stubs",
    "certificates",
    "enrolments",
    "jobs",
    "lockout_failures",
    "lockouts",
    "metadata",
    "moment",
    "name_changes",
    "nodes",
    "writers",
]

# SQLite's integers have 64 bits anyway, and count by themselves only where they are called INTEGER.
_Counter = BigInteger().with_variant(Integer, "sqlite")


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def moment(stored: str) -> datetime:
    """Read back what `kipuka.api.timestamp` wrote: aware, in UTC."""
    return datetime.fromisoformat(stored)


certificates = Table(
    "certificates",
    metadata,
    Column("fingerprint", String(64), primary_key=True),  # SHA-256 of the DER, lower-case hexadecimal
    Column("ca", String(255), nullable=False),
    Column("serial", String(40), nullable=False),  # lower-case hexadecimal without leading zeros
    Column("subject", Text, nullable=False),  # RFC 4514
    Column("names", Text, nullable=False),  # JSON list of formatted general names
    Column("spki_sha256", String(64), nullable=False),
    Column("holder_sha256", String(64), nullable=False),  # kipuka.x509.names.holder_digest
    Column("not_before", String(27), nullable=False),
    Column("not_after", String(27), nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("label", String(255)),  # NULL is the default label
    Column("profile", String(255), nullable=False),
    Column("method", String(255), nullable=False),
    Column("identity_name", Text, nullable=False),
    Column("enrolment", String(64), nullable=False),
    Column("issued_at", String(27), nullable=False),
    Column("state", String(16), nullable=False),
    Column("revoked_at", String(27)),
    Column("revocation_reason", String(32)),
    Column("invalidity_date", String(27)),  # since when the key is thought to be compromised (RFC 5280, 5.3.2)
    Column("untold_reason", String(32)),  # what the CA has still to be told, as the last revocation's reason
    Column("replaces", String(64)),  # the fingerprint of the certificate that this one renewed
    Column("revoke_at", String(27)),  # when it is to be revoked as replaced (kipuka.store.replaced)
    UniqueConstraint("ca", "serial"),
    CheckConstraint("(state = 'revoked') = (revoked_at IS NOT NULL)", name="revoked_has_time"),
    Index(None, "serial"),
    # A key may have very many certificates: neither question about it may read them all.
    Index(None, "spki_sha256", "holder_sha256"),
    Index(None, "spki_sha256", "revocation_reason"),
    Index(None, "issued_at", "fingerprint"),
    Index(None, "holder_sha256"),
    Index(
        "ix_certificates_revoke_at",
        "revoke_at",
        sqlite_where=text("revoke_at IS NOT NULL"),
        postgresql_where=text("revoke_at IS NOT NULL"),
    ),
    Index(
        "ix_certificates_replaces",
        "replaces",
        sqlite_where=text("replaces IS NOT NULL"),
        postgresql_where=text("replaces IS NOT NULL"),
    ),
    Index(
        "ix_certificates_untold",
        "ca",
        sqlite_where=text("untold_reason IS NOT NULL"),
        postgresql_where=text("untold_reason IS NOT NULL"),
    ),
)

name_changes = Table(
    "name_changes",
    metadata,
    Column("certificate", String(64), primary_key=True),  # its fingerprint
    Column("subject", Text, nullable=False),  # RFC 4514
    Column("names", Text, nullable=False),  # JSON list of formatted general names
    Column("until", String(27), nullable=False),
)

enrolments = Table(
    "enrolments",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("state", String(16), nullable=False),
    Column("operation", String(32), nullable=False),
    Column("label", String(255)),
    Column("method", String(255), nullable=False),
    Column("identity_name", Text, nullable=False),
    Column("claim_plugin", String(255)),
    Column("claim_ref", Text),
    Column("ca", String(255), nullable=False),
    Column("profile", String(255), nullable=False),
    Column("request_sha256", String(64), nullable=False),
    Column("csr", LargeBinary, nullable=False),
    Column("node", String(255), nullable=False),
    Column("process", String(64), nullable=False),  # which life of which worker of the node (`Incarnation`)
    Column("lease_until", String(27)),
    Column("reference", Text),  # the CA's own name for a pending request
    Column("reason", String(64)),  # why it was refused or failed
    # Deferred, so that the certificates of a whole batch can go out in one statement before the commit.
    Column("certificate", String(64), ForeignKey("certificates.fingerprint", deferrable=True, initially="DEFERRED")),
    Column("created_at", String(27), nullable=False),
    Column("settled_at", String(27)),
    Column("replay_sha256", String(64)),  # kipuka.store.replay; NULL where no window was open
    Column("replaces", String(64)),  # the fingerprint of the certificate that is renewed, as far as it is known
    CheckConstraint("(state = 'issued') = (certificate IS NOT NULL)", name="issued_has_certificate"),
    CheckConstraint("(claim_plugin IS NULL) = (claim_ref IS NULL)", name="claim_is_whole"),
    Index(None, "request_sha256"),
    Index(
        "ix_enrolments_open",
        "state",
        "lease_until",
        sqlite_where=text("settled_at IS NULL"),
        postgresql_where=text("settled_at IS NULL"),
    ),
    Index(
        "ix_enrolments_replay",
        "replay_sha256",
        unique=True,
        sqlite_where=text("state = 'issued'"),
        postgresql_where=text("state = 'issued'"),
    ),
)

audit_events = Table(
    "audit_events",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("sequence", _Counter, primary_key=True, autoincrement=False),
    Column("time", String(27), nullable=False),
    Column("event", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("line", Text, nullable=False),  # the canonical JSON that is hashed; all else is read from it
    Index(None, "time"),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("sequence", _Counter, nullable=False),
    Column("hash", String(64), nullable=False),
)

audit_cursors = Table(
    "audit_cursors",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("sink", String(255), primary_key=True),
    Column("sequence", _Counter, nullable=False),  # the last event that the sink has safely
    Column("failing_since", String(27)),  # the first attempt that failed since the last that did not
)

audit_stubs = Table(
    "audit_stubs",
    metadata,
    Column("node", String(255), primary_key=True),
    Column("sequence", _Counter, nullable=False),  # the last event that was pruned
    Column("hash", String(64), nullable=False),  # its hash, which the first event that is left follows
    Column("count", _Counter, nullable=False),
    Column("pruned_at", String(27), nullable=False),
    Column("key", String(64), nullable=False),
    Column("signature", String(88), nullable=False),  # Ed25519, base64
)

lockout_failures = Table(
    "lockout_failures",
    metadata,
    Column("id", _Counter, primary_key=True),
    Column("counter", String(255), nullable=False),
    Column("address", String(64), nullable=False),
    Column("time", String(27), nullable=False),
    Index(None, "counter", "address", "time"),
    Index(None, "counter", "time"),
)

lockouts = Table(
    "lockouts",
    metadata,
    Column("counter", String(255), primary_key=True),
    Column("address", String(64), primary_key=True),
    Column("failures", Integer, nullable=False),
    Column("since", String(27), nullable=False),
    Column("until", String(27), nullable=False),
)

admin_tokens = Table(
    "admin_tokens",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("sha256", String(64), nullable=False),  # of the token, which has 256 random bits (RULES E3)
    Column("description", Text, nullable=False),
    Column("created_at", String(27), nullable=False),
    Column("revoked_at", String(27)),
    UniqueConstraint("sha256"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(255), nullable=False),
    Column("lease_until", String(27), nullable=False),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", String(255), primary_key=True),
    Column("run", String(64), nullable=False),  # which start of its server the node belongs to
    Column("since", String(27), nullable=False),
)

writers = Table(
    "writers",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("node", String(255), nullable=False),
    Column("run", String(64)),  # NULL: a command, which no other start of the server puts an end to
    Column("number", _Counter, nullable=False),  # of the last transaction that was committed (`kipuka.store.journal`)
    Column("since", String(27), nullable=False),
)
