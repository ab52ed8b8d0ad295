"""Several nodes on one database: who a node belongs to, and what was committed last. Numbers that do not run out."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_COUNTERS = (
    ("audit_events", "sequence"),
    ("audit_heads", "sequence"),
    ("audit_cursors", "sequence"),
    ("lockout_failures", "id"),
)


def upgrade() -> None:
    """Make the tables; widen what counts, which on SQLite is wide already."""
    counter = sa.BigInteger().with_variant(sa.Integer, "sqlite")
    op.create_table(
        "nodes",
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("since", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_nodes")),
    )
    op.create_table(
        "writers",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("node", sa.String(255), nullable=False),
        sa.Column("run", sa.String(64)),
        sa.Column("number", counter, nullable=False),
        sa.Column("since", sa.String(27), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_writers")),
    )
    if op.get_bind().dialect.name == "postgresql":
        for table, column in _COUNTERS:
            op.alter_column(table, column, type_=sa.BigInteger, existing_type=sa.Integer, existing_nullable=False)
        op.execute("ALTER SEQUENCE lockout_failures_id_seq AS bigint")
