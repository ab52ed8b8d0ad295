"""The table of coupons that were shown."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "coupon_0001"
down_revision = None


def upgrade():
    op.create_table(
        "coupon_uses",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(8), nullable=False),
    )
