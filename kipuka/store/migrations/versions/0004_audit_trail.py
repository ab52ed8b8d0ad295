"""What pruning leaves of the audit log's beginning."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table of stubs, whose numbers are as wide as those of events."""
    counter = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "audit_stubs",
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("sequence", counter, nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.Column("count", counter, nullable=False),
        sa.Column("pruned_at", sa.String(27), nullable=False),
        sa.Column("key", sa.String(64), nullable=False),
        sa.Column("signature", sa.String(88), nullable=False),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_audit_stubs")),
    )
