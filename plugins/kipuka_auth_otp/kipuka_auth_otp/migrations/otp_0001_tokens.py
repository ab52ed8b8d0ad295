"""The table of tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "otp_0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "otp_tokens",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("lookup", sa.String(8), nullable=False),
        sa.Column("hash", sa.String(255), nullable=False),
        sa.Column("client_id", sa.String(255), nullable=False),
        sa.Column("label", sa.String(64)),
        sa.Column("subject", sa.Text()),
        sa.Column("san", sa.Text(), nullable=False),
        sa.Column("max_uses", sa.Integer(), nullable=False),
        sa.Column("used", sa.Integer(), nullable=False),
        sa.Column("held", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(27), nullable=False),
        sa.Column("expires_at", sa.String(27), nullable=False),
        sa.Column("last_used_at", sa.String(27)),
        sa.Column("revoked_at", sa.String(27)),
        sa.CheckConstraint("used >= 0 AND held >= 0 AND used + held <= max_uses", name="otp_tokens_uses"),
    )
    op.create_index("otp_tokens_lookup", "otp_tokens", ["lookup"])
    op.create_index("otp_tokens_client_id", "otp_tokens", ["client_id"])


def downgrade() -> None:
    """Drop the table, and all tokens with it."""
    op.drop_table("otp_tokens")
