"""Which certificate an enrolment renews, for as long as it has no certificate of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Add the link. What is under way meanwhile has none, and what it leads to replaces nothing."""
    op.add_column("enrolments", sa.Column("replaces", sa.String(64)))
