"""A plugin's own tables in the host's database, and the transaction its functions are given.

In the room: `Storage` (what a plugin declares), `Tx` (what a function of a transaction may do), and the SQLAlchemy Core
names tables are made of. Not in the room: engines, connections and threads, which are the host's.

Functions given to `Services.write` run in the host's writer thread, together with others, and may be run again from
the start when the batch is rolled back: they are pure functions of the transaction and their arguments, do no I/O of
their own, check first and write after, and answer an expected refusal with a value instead of an exception.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    CursorResult,
    Executable,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    delete,
    func,
    insert,
    select,
    update,
)

from kipuka.api.events import AuditEvent

__all__ = [
    "Boolean",
    "CheckConstraint",
    "Column",
    "ForeignKey",
    "Index",
    "Integer",
    "LargeBinary",
    "MetaData",
    "ReadTx",
    "Storage",
    "String",
    "Table",
    "Text",
    "Tx",
    "UniqueConstraint",
    "delete",
    "func",
    "insert",
    "select",
    "timestamp",
    "update",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Storage:
    """A plugin's tables: every name starts with `prefix` and an underscore.

    `migrations` names an importable package (for instance "kipuka_auth_otp.migrations") whose own folder holds the plugin's
    Alembic version scripts, flat: `__init__.py` and one file per revision, such as `0001_tokens.py`. They are one line of
    ordinary scripts: each assigns the literals `revision` and `down_revision` (the first one None) and defines `upgrade()`.
    There is no env.py and no `versions` folder: the host owns the environment, runs the scripts in `kipuka db upgrade` and
    keeps the revision in the table `alembic_version_<prefix>`. The host reads revisions from the files' text, without importing them,
    so the package's `__init__.py` must not import Alembic.

    `metadata` describes the tables as the newest script leaves them; `kipuka db upgrade` refuses a plugin where names of tables or
    columns differ, or whose scripts touch a table outside its prefix.

    Since API 1.0.
    """

    prefix: str
    metadata: MetaData
    migrations: str


def timestamp(moment: datetime) -> str:
    """The form in which times are stored and compared: UTC, ISO 8601, microseconds, trailing Z.

    Text of one width sorts as the times do, on SQLite and PostgreSQL alike.

    Since API 1.0.
    """
    if moment.tzinfo is None:
        msg = "a time without a time zone cannot be stored"
        raise ValueError(msg)
    from datetime import UTC

    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


class ReadTx(Protocol):
    """A read-only view of the database, for functions given to `Services.read`.

    Since API 1.0.
    """

    @property
    def now(self) -> datetime:
        """The host's clock, aware, in UTC."""
        ...

    def execute(
        self, statement: Executable, parameters: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None, /
    ) -> CursorResult[Any]:
        """Run one statement of SQLAlchemy Core."""
        ...


class Tx(ReadTx, Protocol):
    """A transaction of the writer.

    Since API 1.0.
    """

    @property
    def node(self) -> str:
        """The name of this server among those that share the database (`[server] node`)."""
        ...

    def add(self, table: Table, row: Mapping[str, Any], /) -> None:
        """Insert a row, set-wise with others of the batch; visible to every later `execute` that reads that table."""
        ...

    def lock(self, name: str, /) -> None:
        """Wait until no other transaction holds `name`, on this node or another, and hold it until this one ends.

        For a decision that rests on rows that are not there, or on a number of rows: others that decide the same lock the same name
        first. What rests on one row is better decided by an UPDATE with a condition.
        """
        ...

    def audit(self, event: AuditEvent, /) -> None:
        """Record an event in this transaction: both become durable, or neither."""
        ...
