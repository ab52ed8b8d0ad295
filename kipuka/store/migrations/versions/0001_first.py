"""The tables of the first version."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make every table."""
    op.create_table(
        "certificates",
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("ca", sa.String(255), nullable=False),
        sa.Column("serial", sa.String(40), nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("names", sa.Text, nullable=False),
        sa.Column("spki_sha256", sa.String(64), nullable=False),
        sa.Column("holder_sha256", sa.String(64), nullable=False),
        sa.Column("not_before", sa.String(27), nullable=False),
        sa.Column("not_after", sa.String(27), nullable=False),
        sa.Column("der", sa.LargeBinary, nullable=False),
        sa.Column("label", sa.String(255)),
        sa.Column("profile", sa.String(255), nullable=False),
        sa.Column("method", sa.String(255), nullable=False),
        sa.Column("identity_name", sa.Text, nullable=False),
        sa.Column("enrolment", sa.String(64), nullable=False),
        sa.Column("issued_at", sa.String(27), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("revoked_at", sa.String(27)),
        sa.Column("revocation_reason", sa.String(32)),
        sa.Column("invalidity_date", sa.String(27)),
        sa.Column("untold_reason", sa.String(32)),
        sa.PrimaryKeyConstraint("fingerprint", name=op.f("pk_certificates")),
        sa.UniqueConstraint("ca", "serial", name=op.f("uq_certificates_ca_serial")),
        sa.CheckConstraint(
            "(state = 'revoked') = (revoked_at IS NOT NULL)", name=op.f("ck_certificates_revoked_has_time")
        ),
    )
    op.create_index(op.f("ix_certificates_serial"), "certificates", ["serial"])
    for column in ("holder_sha256", "revocation_reason"):
        op.create_index(op.f(f"ix_certificates_spki_sha256_{column}"), "certificates", ["spki_sha256", column])
    op.create_index(op.f("ix_certificates_issued_at_fingerprint"), "certificates", ["issued_at", "fingerprint"])
    op.create_index(
        "ix_certificates_untold",
        "certificates",
        ["ca"],
        sqlite_where=sa.text("untold_reason IS NOT NULL"),
        postgresql_where=sa.text("untold_reason IS NOT NULL"),
    )

    op.create_table(
        "enrolments",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("operation", sa.String(32), nullable=False),
        sa.Column("label", sa.String(255)),
        sa.Column("method", sa.String(255), nullable=False),
        sa.Column("identity_name", sa.Text, nullable=False),
        sa.Column("claim_plugin", sa.String(255)),
        sa.Column("claim_ref", sa.Text),
        sa.Column("ca", sa.String(255), nullable=False),
        sa.Column("profile", sa.String(255), nullable=False),
        sa.Column("request_sha256", sa.String(64), nullable=False),
        sa.Column("csr", sa.LargeBinary, nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("process", sa.String(64), nullable=False),
        sa.Column("lease_until", sa.String(27)),
        sa.Column("reference", sa.Text),
        sa.Column("reason", sa.String(64)),
        sa.Column("certificate", sa.String(64)),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("settled_at", sa.String(27)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_enrolments")),
        sa.ForeignKeyConstraint(
            ["certificate"],
            ["certificates.fingerprint"],
            name=op.f("fk_enrolments_certificate"),
            deferrable=True,
            initially="DEFERRED",
        ),
        sa.CheckConstraint(
            "(state = 'issued') = (certificate IS NOT NULL)", name=op.f("ck_enrolments_issued_has_certificate")
        ),
        sa.CheckConstraint("(claim_plugin IS NULL) = (claim_ref IS NULL)", name=op.f("ck_enrolments_claim_is_whole")),
    )
    op.create_index(op.f("ix_enrolments_request_sha256"), "enrolments", ["request_sha256"])
    op.create_index(
        "ix_enrolments_open",
        "enrolments",
        ["state", "lease_until"],
        sqlite_where=sa.text("settled_at IS NULL"),
        postgresql_where=sa.text("settled_at IS NULL"),
    )

    op.create_table(
        "audit_events",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False, autoincrement=False),
        sa.Column("time", sa.String(27), nullable=False),
        sa.Column("event", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("node", "sequence", name=op.f("pk_audit_events")),
    )
    op.create_index(op.f("ix_audit_events_time"), "audit_events", ["time"])
    op.create_table(
        "audit_heads",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_audit_heads")),
    )
    op.create_table(
        "audit_cursors",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("sink", sa.String(255), nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("failing_since", sa.String(27)),
        sa.PrimaryKeyConstraint("node", "sink", name=op.f("pk_audit_cursors")),
    )

    op.create_table(
        "lockout_failures",
        sa.Column("id", sa.Integer, nullable=False),
        sa.Column("counter", sa.String(255), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("time", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lockout_failures")),
    )
    op.create_index(
        op.f("ix_lockout_failures_counter_address_time"), "lockout_failures", ["counter", "address", "time"]
    )
    op.create_index(op.f("ix_lockout_failures_counter_time"), "lockout_failures", ["counter", "time"])
    op.create_table(
        "lockouts",
        sa.Column("counter", sa.String(255), nullable=False),
        sa.Column("address", sa.String(64), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("since", sa.String(27), nullable=False),
        sa.Column("until", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("counter", "address", name=op.f("pk_lockouts")),
    )

    op.create_table(
        "admin_tokens",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("revoked_at", sa.String(27)),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_admin_tokens")),
        sa.UniqueConstraint("sha256", name=op.f("uq_admin_tokens_sha256")),
    )
    op.create_table(
        "jobs",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(255), nullable=False),
        sa.Column("lease_until", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_jobs")),
    )
