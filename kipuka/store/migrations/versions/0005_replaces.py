"""Which certificate another one has renewed, and the certificates of one holder."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the link from a renewed certificate to the one before, and when that is to be revoked. What was renewed earlier has none, and so is never revoked for it."""
    op.add_column("certificates", sa.Column("replaces", sa.String(64)))
    op.add_column("certificates", sa.Column("revoke_at", sa.String(27)))
    op.create_index("ix_certificates_holder_sha256", "certificates", ["holder_sha256"])
    op.create_index(
        "ix_certificates_revoke_at",
        "certificates",
        ["revoke_at"],
        sqlite_where=sa.text("revoke_at IS NOT NULL"),
        postgresql_where=sa.text("revoke_at IS NOT NULL"),
    )
    op.create_index(
        "ix_certificates_replaces",
        "certificates",
        ["replaces"],
        sqlite_where=sa.text("replaces IS NOT NULL"),
        postgresql_where=sa.text("replaces IS NOT NULL"),
    )
