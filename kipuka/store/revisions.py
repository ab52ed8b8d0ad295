"""Which revision the tables are at and which one they should be at, without Alembic.

In the room: reading version scripts as text, and comparing them with the version tables. Not in the room: running them
(`kipuka.store.schema`), for which alone Alembic is imported: that would double the time to start the server.
"""

from __future__ import annotations

import ast
import importlib.util
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, MetaData, String, column, inspect, select
from sqlalchemy import table as lightweight_table

from kipuka.api.errors import SchemaError
from kipuka.api.storage import Storage
from kipuka.store import tables

__all__ = ["HOST", "Owner", "current", "disagreements", "newest", "owners"]

HOST = "kipuka"
_PREFIX = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_UPGRADE = "run `kipuka db upgrade`"


@dataclass(frozen=True, kw_only=True, slots=True)
class Owner:
    """The host or a plugin: who has tables, where the scripts are that make them, and where their revision is kept."""

    name: str  # the prefix; `HOST` for the host
    metadata: MetaData
    scripts: Path

    @property
    def version_table(self) -> str:
        """The table with the revision its tables are at."""
        return f"alembic_version_{self.name}"

    def owns(self, table_name: str) -> bool:
        """Whether a table of that name is this owner's to make and change."""
        if self.name == HOST:
            return table_name in self.metadata.tables
        return table_name.startswith(f"{self.name}_")


def owners(storages: Sequence[Storage]) -> list[Owner]:
    """The host and the plugins with tables. Raises `SchemaError` for prefixes, tables and packages that break the rules."""
    host = Owner(name=HOST, metadata=tables.metadata, scripts=Path(__file__).parent / "migrations" / "versions")
    found = [host]
    for storage in storages:
        _check_prefix(storage, found)
        found.append(Owner(name=storage.prefix, metadata=storage.metadata, scripts=_scripts_of(storage)))
    return found


def newest(owner: Owner) -> tuple[str, frozenset[str]]:
    """The last revision of an owner's scripts, and all of them.

    Raises `SchemaError` unless the scripts are one line.
    """
    parents: dict[str, str | None] = {}
    for path in sorted(owner.scripts.glob("*.py")):
        if path.name == "__init__.py":
            continue
        assigned = _literals(path)
        revision, parent = assigned.get("revision"), assigned.get("down_revision")
        if not isinstance(revision, str) or not isinstance(parent, str | None):
            msg = f"{path}: a migration assigns the literals `revision` (text) and `down_revision` (text or None)"
            raise SchemaError(msg)
        if revision in parents:
            msg = f"{path}: the revision {revision} is there twice"
            raise SchemaError(msg)
        parents[revision] = parent
    heads = set(parents) - set(parents.values())
    firsts = [revision for revision, parent in parents.items() if parent is None]
    unknown = {parent for parent in parents.values() if parent is not None} - set(parents)
    if len(heads) != 1 or len(firsts) != 1 or unknown or len(set(parents.values())) != len(parents):
        msg = f"{owner.scripts}: the migrations must be one line, from one without a down_revision to one newest"
        raise SchemaError(msg)
    return heads.pop(), frozenset(parents)


def current(connection: Connection, owner: Owner) -> str | None:
    """The revision the owner's tables are at, None before the first upgrade."""
    if not inspect(connection).has_table(owner.version_table):
        return None
    version = lightweight_table(owner.version_table, column("version_num", String))
    return connection.execute(select(version.c.version_num)).scalar_one_or_none()


def disagreements(connection: Connection, storages: Sequence[Storage]) -> list[str]:
    """One sentence for each owner whose tables are not at its newest revision."""
    found: list[str] = []
    for owner in owners(storages):
        wanted, known = newest(owner)
        at = current(connection, owner)
        if at == wanted:
            continue
        if at is None:
            found.append(f"the database has no tables of {owner.name} yet: {_UPGRADE}")
        elif at in known:
            found.append(f"the tables of {owner.name} are at revision {at}, this version needs {wanted}: {_UPGRADE}")
        else:
            found.append(
                f"the tables of {owner.name} are at revision {at}, which is newer than this version knows ({wanted}): "
                f"install the version that ran `kipuka db upgrade`"
            )
    return found


def _check_prefix(storage: Storage, earlier: Sequence[Owner]) -> None:
    prefix = storage.prefix
    if not _PREFIX.fullmatch(prefix):
        msg = f"the table prefix {prefix!r} is not made of small letters, digits and single underscores"
        raise SchemaError(msg)
    reserved = {HOST, "alembic", "sqlite", "pg"}
    of_host = [name for name in tables.metadata.tables if f"{name}_".startswith(f"{prefix}_")]
    if prefix.partition("_")[0] in reserved or of_host:
        msg = f"the table prefix {prefix!r} is the host's"
        raise SchemaError(msg)
    for other in earlier[1:]:
        if f"{prefix}_".startswith(f"{other.name}_") or f"{other.name}_".startswith(f"{prefix}_"):
            msg = f"the table prefixes {other.name!r} and {prefix!r} of two plugins overlap"
            raise SchemaError(msg)
    foreign = sorted(name for name in storage.metadata.tables if not name.startswith(f"{prefix}_"))
    if foreign:
        msg = f"the tables {', '.join(foreign)} do not start with their plugin's prefix {prefix}_"
        raise SchemaError(msg)


def _scripts_of(storage: Storage) -> Path:
    try:
        spec = importlib.util.find_spec(storage.migrations)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        msg = f"the package {storage.migrations} with the migrations of the tables {storage.prefix}_* cannot be found"
        raise SchemaError(msg)
    return Path(next(iter(spec.submodule_search_locations)))


def _literals(path: Path) -> dict[str, object]:
    """What a script assigns at its top level, as far as it is a literal."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    except (OSError, SyntaxError, ValueError) as error:
        msg = f"{path}: the migration cannot be read: {error}"
        raise SchemaError(msg) from error
    assigned: dict[str, object] = {}
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=value)):
                assigned[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.Constant(value=value)):
                assigned[name] = value
            case _:
                pass
    return assigned
