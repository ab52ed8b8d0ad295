"""A copy of an SQLite database that is in use: `kipuka db backup`.

In the room: one consistent copy, examined and on disk before it has its name. Not in the room: PostgreSQL, which has tools for that.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from kipuka.api.errors import KipukaError

__all__ = ["back_up"]


def back_up(database: Path, target: Path) -> int:
    """Copy `database` as it is at this moment to `target`, which must be new; the copy's size in octets.

    Servers go on writing meanwhile, and are not held up: the copy is one read transaction on the write-ahead log. Raises
    `KipukaError`, and OSError.
    """
    unfinished = target.with_name(f"{target.name}.part")
    os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        try:
            _copy(database, unfinished)
        except sqlite3.Error as error:
            raise KipukaError(f"{database} cannot be copied: {error}") from error
        _sync(unfinished)
        os.link(unfinished, target)  # unlike a rename it overwrites nothing
    finally:
        with contextlib.suppress(FileNotFoundError):
            unfinished.unlink()
    _sync(target.parent)
    return target.stat().st_size


def _copy(database: Path, to: Path) -> None:
    with (
        closing(sqlite3.connect(f"file:{quote(str(database.absolute()))}?mode=rw", uri=True, timeout=20)) as source,
        closing(sqlite3.connect(to)) as copy,
    ):
        source.execute("PRAGMA query_only=ON").close()
        source.backup(copy)  # in one step: between steps a writer would make it begin anew
        copy.execute(
            "PRAGMA journal_mode=DELETE"
        ).close()  # one file; whoever opens it for writing sets its log up again
        found = [row for (row,) in copy.execute("PRAGMA integrity_check")]
        if found != ["ok"]:
            raise KipukaError(f"the copy of {database} is damaged, and so may the database be: {found[0]}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
