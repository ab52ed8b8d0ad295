"""Everything of an SQLite database moved into an empty PostgreSQL database: `kipuka db migrate-to`.

In the room: who must be away meanwhile, what is copied, in which order, and that what is read back is what was there. Not in the room:
making tables (`kipuka.store.schema`), which value becomes which (`kipuka.store.values`), and what the audit log says
(`kipuka.audit`), which is handed in.

On each side there is one transaction. SQLite's holds its write lock, so that nothing is added that would stay behind. In PostgreSQL's the
tables are made, filled, read back and compared; any difference ends it, and the database is as empty as before.

Tables without which a server is as it was are not copied (`RUN_TIME`): they say which process is at work, and none is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice, zip_longest
from typing import Any, cast

from sqlalchemy import (
    Column,
    ColumnClause,
    ColumnElement,
    Connection,
    Integer,
    MetaData,
    Table,
    bindparam,
    collate,
    column,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy import (
    cast as sql_cast,
)
from sqlalchemy import (
    table as lightweight_table,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import JSON, Enum, String, Text

from kipuka.api.errors import KipukaError, SchemaError
from kipuka.api.storage import ReadTx, Storage
from kipuka.store.dialect import Dialect, dialect_for
from kipuka.store.events import PendingEvent, Seal, append
from kipuka.store.revisions import Owner, disagreements, owners
from kipuka.store.schema import upgrade_within
from kipuka.store.sqlite import DatabaseReplaced, SQLite
from kipuka.store.turnstile import TurnstileBlocked
from kipuka.store.values import Unfit, is_known, same, translate
from kipuka.store.writer import ReadTransaction

__all__ = ["PART", "RUN_TIME", "NotMoved", "move"]

PART = 500
"""Rows that are in memory at a time."""

RUN_TIME = frozenset({"jobs", "nodes", "writers"})
"""The host's tables that say which process is at work, and for how long. They are empty in the target."""


class NotMoved(KipukaError):
    """Why nothing was moved, with the place. The target is as it was."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Move:
    """The two transactions."""

    source: Connection
    target: Connection
    tables: tuple[Table, ...]  # as they are in PostgreSQL, a table before those that refer to it


def move(
    source_url: str,
    target_url: str,
    *,
    node: str,
    storages: Sequence[Storage],
    examine: Callable[[ReadTx], Sequence[str]],
    event: Callable[[Mapping[str, int]], PendingEvent],
    seal: Seal,
    tell: Callable[[str, int], None],
) -> Mapping[str, int]:
    """Move all rows, and return how many there are of each table.

    `examine` says what is wrong with an audit log; it is asked of both databases. `event` makes what is recorded in `node`'s chain in the
    target, of the rows by table. `tell` hears of each table that was copied. Raises `NotMoved`, `StartupError`, `SchemaError`,
    `AlreadyRunning` and `BackendUnavailable`; nothing is changed then.
    """
    if not source_url.startswith("sqlite:"):
        raise NotMoved("[db] url is PostgreSQL's already; an SQLite database can be moved")
    if not target_url.startswith("postgresql:"):
        raise NotMoved("an SQLite database can be moved to PostgreSQL only: postgresql://USER@HOST/DATABASE")
    source, target = SQLite(source_url), dialect_for(target_url)
    if not source.exists():
        raise SchemaError("there is no database yet: run `kipuka db upgrade`")
    everyone = owners(storages)
    target.exists()
    with _alone(source, node) as reading:
        _check_source(reading, everyone, storages)
        _require_intact(reading, examine, "in the SQLite database")
        with _writing(target) as writing:
            _check_target(writing, everyone)
            upgrade_within(writing, storages)
            _lock_target(writing, everyone)
            moving = _Move(source=reading, target=writing, tables=_tables(reading, writing, everyone))
            counts: dict[str, int] = {}
            for table in moving.tables:
                counts[table.name] = _copy(moving, table)
                tell(table.name, counts[table.name])
            writing.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
            for table in moving.tables:
                _compare(moving, table)
                _set_sequences(moving, table)
            append(writing, node, [event(counts)], seal)
            _require_intact(writing, examine, "in PostgreSQL, as it was read back")
    return counts


# --- the two transactions ---


@contextmanager
def _alone(source: SQLite, node: str) -> Generator[Connection]:
    """A transaction on SQLite while no server of any node runs, and nobody else writes."""
    try:
        source.claim_every_node(node)
        source.open(node=node)
        engine = source.writer_engine()
        try:
            with source.turn(), engine.connect() as connection:
                driver = cast("sqlite3.Connection", connection.connection.driver_connection)
                driver.text_factory = _text
                with connection.begin():
                    yield connection
        finally:
            engine.dispose()
    except DBAPIError as error:
        raise NotMoved(f"the SQLite database {source.path}: {_one_line(error)}") from error
    except (TurnstileBlocked, DatabaseReplaced) as error:
        raise NotMoved(str(error)) from error
    finally:
        source.close()


def _text(octets: bytes) -> str:
    """SQLite takes any octets as text. What is no UTF-8 is found with its place."""
    return octets.decode("utf-8", "surrogateescape")


@contextmanager
def _writing(target: Dialect) -> Generator[Connection]:
    """A transaction on PostgreSQL that may take its time; rolled back for whatever is raised in it."""
    engine = target.schema_engine()
    committing = False
    try:
        with engine.connect() as connection, connection.begin():
            yield connection
            committing = True
    except DBAPIError as error:
        if isinstance(error.orig, sqlite3.Error):
            raise  # it is the source's
        if committing and error.connection_invalidated:
            msg = "PostgreSQL did not answer the COMMIT: run it again; where all was moved, it says that the target has rows"
            raise NotMoved(msg) from error
        raise (target.explained(error) or NotMoved(f"PostgreSQL: {_one_line(error)}")) from error
    finally:
        engine.dispose()


# --- what must be so before ---


def _check_source(connection: Connection, everyone: Sequence[Owner], storages: Sequence[Storage]) -> None:
    problems = disagreements(connection, storages)
    if problems:
        raise SchemaError("; ".join(problems))
    strangers = _strangers(connection, everyone)
    if strangers:
        msg = f"no plugin in use owns {', '.join(strangers)} in the SQLite database: configure the plugin, or remove what is not needed"
        raise NotMoved(msg)


def _check_target(connection: Connection, everyone: Sequence[Owner]) -> None:
    strangers = _strangers(connection, everyone)
    if strangers:
        raise NotMoved(f"the PostgreSQL database is not empty: it has {', '.join(strangers)}")


def _lock_target(connection: Connection, everyone: Sequence[Owner]) -> None:
    """Tables that were there must have no rows, and get none from anybody else."""
    quote = connection.dialect.identifier_preparer.quote
    full: list[str] = []
    for name in _owned(connection, everyone):
        connection.execute(text(f"LOCK TABLE {quote(name)} IN ACCESS EXCLUSIVE MODE NOWAIT"))
        if connection.execute(select(func.count()).select_from(lightweight_table(name))).scalar_one():
            full.append(name)
    if full:
        raise NotMoved(f"the PostgreSQL database is not empty: there are rows in {', '.join(full)}")


def _owned(connection: Connection, everyone: Sequence[Owner]) -> list[str]:
    return sorted(name for name in inspect(connection).get_table_names() if any(owner.owns(name) for owner in everyone))


def _strangers(connection: Connection, everyone: Sequence[Owner]) -> list[str]:
    """Tables and views that are nobody's."""
    inspector = inspect(connection)
    versions = {owner.version_table for owner in everyone}
    named = {*inspector.get_table_names(), *inspector.get_view_names()}
    return sorted(name for name in named - versions if not any(owner.owns(name) for owner in everyone))


def _tables(source: Connection, target: Connection, everyone: Sequence[Owner]) -> tuple[Table, ...]:
    """The tables to copy. Raises `NotMoved` for one that cannot be copied whole."""
    names = [name for name in _owned(target, everyone) if name not in RUN_TIME]
    metadata = MetaData()
    metadata.reflect(target, only=names)
    here = {name for name in _owned(source, everyone) if name not in RUN_TIME}
    there = {name: table for name, table in metadata.tables.items() if name in names}
    if here != there.keys():
        raise NotMoved(f"not in both databases: {', '.join(sorted(here ^ there.keys()))}")
    inspector = inspect(source)
    for name, table in there.items():
        columns = {one["name"] for one in inspector.get_columns(name)}
        if columns != {one.name for one in table.columns}:
            others = ", ".join(sorted(columns ^ {one.name for one in table.columns}))
            raise NotMoved(f"table {name}: the columns are not those of this version: {others}")
        if not table.primary_key.columns:
            raise NotMoved(f"table {name}: it has no primary key, so that its rows cannot be compared")
        for one in table.columns:
            if not is_known(one.type):
                raise NotMoved(f"table {name}, column {one.name}: values of type {one.type} cannot be moved")
    return tuple(table for table in metadata.sorted_tables if table.name in there)


def _require_intact(connection: Connection, examine: Callable[[ReadTx], Sequence[str]], where: str) -> None:
    findings = examine(ReadTransaction(connection, datetime.now(UTC)))
    if findings:
        raise NotMoved("\n".join([*findings, f"the audit log is not intact {where} (`kipuka audit verify`)"]))


# --- copying ---


def _rows_of_source(moving: _Move, table: Table) -> Generator[dict[str, Any]]:
    """The rows as PostgreSQL is given them, in the order of the primary key."""
    names = [one.name for one in table.columns]
    keys = [one.name for one in table.primary_key.columns]
    statement = (
        select(*(_raw(name) for name in names))
        .select_from(lightweight_table(table.name))
        .order_by(*(collate(_raw(key), "BINARY") for key in keys))
    )
    with moving.source.execute(statement) as result:
        for row in result.yield_per(PART):
            raw = dict(zip(names, row, strict=True))
            yield {name: _translated(table, raw, table.columns[name]) for name in names}


def _raw(name: str) -> ColumnClause[Any]:
    """A column of no type: its values are as the driver has them."""
    return column(name)


def _translated(table: Table, raw: Mapping[str, Any], of: Column[Any]) -> Any:
    try:
        value = translate(raw[of.name], of.type)
    except Unfit as error:
        raise NotMoved(f"{_place(table, raw)}, column {of.name}: {error}") from None
    if value is None and not of.nullable:
        raise NotMoved(f"{_place(table, raw)}, column {of.name}: there must be a value")
    return value


def _copy(moving: _Move, table: Table) -> int:
    """Insert all rows, some at a time."""
    values = {one.name: _parameter(one) for one in table.columns}
    statement = insert(table).values(values)
    copied = 0
    with closing(_rows_of_source(moving, table)) as rows:
        while part := [{f"v_{name}": value for name, value in row.items()} for row in islice(rows, PART)]:
            _insert(moving, table, statement, part)
            copied += len(part)
    return copied


def _parameter(one: Column[Any]) -> ColumnElement[Any]:
    if isinstance(one.type, JSON):  # as text, so that NULL and JSON's null stay two things
        return sql_cast(bindparam(f"v_{one.name}", type_=Text()), one.type)
    return bindparam(f"v_{one.name}", type_=one.type)


def _insert(moving: _Move, table: Table, statement: Any, part: Sequence[dict[str, Any]]) -> None:
    try:
        with moving.target.begin_nested():
            moving.target.execute(statement, part)
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        if len(part) > 1:  # to name the row
            for row in part:
                _insert(moving, table, statement, [row])
        raw = {name.removeprefix("v_"): value for name, value in part[0].items()}
        raise NotMoved(f"{_place(table, raw)}: PostgreSQL refuses it: {_one_line(error)}") from error


# --- comparing ---


def _rows_of_target(moving: _Move, table: Table) -> Generator[dict[str, Any]]:
    """What PostgreSQL has, in the order of SQLite."""
    columns = [_read_back(one).label(one.name) for one in table.columns]
    keys = [_sorted_as_octets(one) for one in table.primary_key.columns]
    names = [one.name for one in table.columns]
    statement = select(*columns).order_by(*keys)
    with moving.target.execute(statement, execution_options={"stream_results": True}) as result:
        for row in result.yield_per(PART):
            yield dict(zip(names, row, strict=True))


def _read_back(one: Column[Any]) -> ColumnElement[Any]:
    return sql_cast(one, Text()) if isinstance(one.type, JSON | Enum) else one


def _sorted_as_octets(one: Column[Any]) -> ColumnElement[Any]:
    if isinstance(one.type, Enum):
        return collate(sql_cast(one, Text()), "C")
    return collate(one, "C") if isinstance(one.type, String) else one


def _compare(moving: _Move, table: Table) -> None:
    """Every row and value of both databases."""
    with closing(_rows_of_source(moving, table)) as wanted, closing(_rows_of_target(moving, table)) as found:
        for number, (here, there) in enumerate(zip_longest(wanted, found), start=1):
            if here is not None and there is not None:
                _compare_row(table, number, here, there)
            elif here is not None:
                raise NotMoved(f"{_place(table, here)}, row number {number}: it is not in PostgreSQL")
            elif there is not None:
                raise NotMoved(f"{_place(table, there)}, row number {number}: in PostgreSQL there is one row too many")


def _compare_row(table: Table, number: int, here: Mapping[str, Any], there: Mapping[str, Any]) -> None:
    keys = [one.name for one in table.primary_key.columns]
    wrong = [one.name for one in table.columns if not same(here[one.name], there[one.name], one.type)]
    if any(name in keys for name in wrong):
        raise NotMoved(f"{_place(table, here)}, row number {number}: in PostgreSQL another row stands in its place")
    if wrong:
        raise NotMoved(f"{_place(table, here)}, column {wrong[0]}: PostgreSQL has another value")


def _set_sequences(moving: _Move, table: Table) -> None:
    """What counts by itself goes on after the highest number that there was."""
    quote = moving.target.dialect.identifier_preparer.quote
    for one in table.columns:
        if not isinstance(one.type, Integer):
            continue
        sequence = moving.target.execute(select(func.pg_get_serial_sequence(quote(table.name), one.name))).scalar_one()
        highest = moving.target.execute(select(func.max(one))).scalar_one()
        if sequence is not None and highest is not None and highest > 0:
            moving.target.execute(select(func.setval(sequence, highest)))


def _place(table: Table, row: Mapping[str, Any]) -> str:
    """A row's key. Its other values may be nobody's business."""
    keys = ", ".join(f"{one.name} {_short(row[one.name])}" for one in table.primary_key.columns)
    return f"table {table.name}, {keys}"


def _short(value: object) -> str:
    shown = value.hex() if isinstance(value, bytes) else str(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."


def _one_line(error: DBAPIError) -> str:
    """What PostgreSQL says, without the details, which quote values."""
    return str(error.orig).strip().partition("\n")[0]
