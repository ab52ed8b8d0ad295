"""What an enrolment's request is known by, should its answer be asked for again (RULES D4)."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the digest. Enrolments of before have none: their answers are not given again."""
    op.add_column("enrolments", sa.Column("replay_sha256", sa.String(64)))
    op.create_index(
        "ix_enrolments_replay",
        "enrolments",
        ["replay_sha256"],
        unique=True,
        sqlite_where=sa.text("state = 'issued'"),
        postgresql_where=sa.text("state = 'issued'"),
    )
