"""Alembic's environment, for the host's scripts and for plugins'. Runs in the connection that `kipuka.store.schema` gives it."""

from __future__ import annotations

from alembic import context

_attributes = context.config.attributes

context.configure(
    connection=_attributes["connection"],
    target_metadata=_attributes["metadata"],
    version_table=_attributes["version_table"],
    # SQLite changes a table by making another in its place.
    render_as_batch=True,
)
# The caller holds the transaction: all owners' scripts take effect together.
context.run_migrations()
