"""The history of the plugin's tables, as Alembic scripts."""
