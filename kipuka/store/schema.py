"""Bringing the tables to the newest revision: `kipuka db upgrade` and `kipuka db status`.

In the room: running Alembic for the host and for each plugin, and holding plugins to their own tables. Not in the room: the
check at start, which must not import Alembic (`kipuka.store.revisions`).

Everything runs in one transaction in this process's turn: either all tables are brought up, or none is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, inspect
from sqlalchemy.exc import DBAPIError

from kipuka.api.errors import SchemaError
from kipuka.api.storage import Storage
from kipuka.store.dialect import dialect_for
from kipuka.store.revisions import Owner, current, newest, owners

__all__ = ["SchemaStatus", "differences", "status", "upgrade", "upgrade_within"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SchemaStatus:
    """At which revision an owner's tables are, None for not yet made, and which is the newest."""

    owner: str  # "kipuka", or a plugin's prefix
    current: str | None
    newest: str

    @property
    def is_newest(self) -> bool:
        """Whether there is nothing to do."""
        return self.current == self.newest


def status(url: str, storages: Sequence[Storage] = ()) -> list[SchemaStatus]:
    """How the tables stand, host first. Changes nothing; a database that is not there has no tables."""
    everyone = owners(storages)
    dialect = dialect_for(url)
    if not dialect.exists():
        return [SchemaStatus(owner=one.name, current=None, newest=newest(one)[0]) for one in everyone]
    engine = dialect.reader_engine(1)
    try:
        with engine.connect() as connection, connection.begin():
            return [
                SchemaStatus(owner=one.name, current=current(connection, one), newest=newest(one)[0])
                for one in everyone
            ]
    finally:
        engine.dispose()


def upgrade(url: str, storages: Sequence[Storage] = ()) -> list[SchemaStatus]:
    """Make the database where it is missing, and run every migration that has not been run. Returns what was there before.

    Raises `SchemaError` when a plugin breaks the rules of `kipuka.api.Storage`, or when the database is newer than the scripts.
    """
    owners(storages)  # what breaks the rules is told before anything is made
    dialect = dialect_for(url)
    dialect.create()
    dialect.open()
    try:
        engine = dialect.schema_engine()
        try:
            with dialect.turn(), engine.connect() as connection, connection.begin():
                return upgrade_within(connection, storages)
        except DBAPIError as error:
            raise (dialect.explained(error) or error) from error
        finally:
            engine.dispose()
    finally:
        dialect.close()


def upgrade_within(connection: Connection, storages: Sequence[Storage] = ()) -> list[SchemaStatus]:
    """The same in a transaction that somebody else has begun. Raises `SchemaError`."""
    return [_bring_up(connection, one) for one in owners(storages)]


def differences(url: str, storages: Sequence[Storage] = ()) -> list[str]:
    """Where tables in the database differ from what their owner's metadata says: types, indexes, constraints too.

    For tests, of the host's tables and of plugins'; empty when all agree.
    """
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    dialect = dialect_for(url)
    engine = dialect.reader_engine(1)
    found: list[str] = []
    try:
        for owner in owners(storages):

            def is_of_owner(name: str | None, kind: str, _parents: Any, owner: Owner = owner) -> bool:
                return kind != "table" or (name is not None and owner.owns(name))

            with engine.connect() as connection, connection.begin():
                options = {"include_name": is_of_owner, "compare_type": True, "compare_server_default": True}
                context = MigrationContext.configure(connection, opts=options)
                found += [f"{owner.name}: {one!r}" for one in compare_metadata(context, owner.metadata)]
    finally:
        engine.dispose()
    return found


def _bring_up(connection: Connection, owner: Owner) -> SchemaStatus:
    wanted, known = newest(owner)
    before = SchemaStatus(owner=owner.name, current=current(connection, owner), newest=wanted)
    if before.current is not None and before.current not in known:
        msg = f"the tables of {owner.name} are at revision {before.current}, which is newer than this version knows ({wanted})"
        raise SchemaError(msg)
    foreign = _foreign_tables(connection, owner)
    if not before.is_newest:
        _run_scripts(connection, owner)
    if _foreign_tables(connection, owner) != foreign:
        msg = f"the migrations of {owner.name} touch tables that do not start with {owner.name}_"
        raise SchemaError(msg)
    _compare_names(connection, owner)
    return before


def _run_scripts(connection: Connection, owner: Owner) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", _escaped(Path(__file__).parent / "migrations"))
    config.set_main_option("version_locations", _escaped(owner.scripts))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["version_table"] = owner.version_table
    config.attributes["metadata"] = owner.metadata
    command.upgrade(config, "head")


def _escaped(path: Path) -> str:
    return str(path).replace("%", "%%")


def _foreign_tables(connection: Connection, owner: Owner) -> dict[str, list[str]]:
    """Every table that is not the owner's, with its columns."""
    inspector = inspect(connection)
    return {
        name: [one["name"] for one in inspector.get_columns(name)]
        for name in inspector.get_table_names()
        if not owner.owns(name) and name != owner.version_table
    }


def _compare_names(connection: Connection, owner: Owner) -> None:
    inspector = inspect(connection)
    there = {
        name: {one["name"] for one in inspector.get_columns(name)}
        for name in inspector.get_table_names()
        if owner.owns(name)
    }
    described = {name: {one.name for one in table.columns} for name, table in owner.metadata.tables.items()}
    if there != described:
        wrong = sorted(name for name in there.keys() | described.keys() if there.get(name) != described.get(name))
        msg = f"the migrations of {owner.name} do not make the tables its metadata describes: {', '.join(wrong)}"
        raise SchemaError(msg)
