"""Reading a file of audit records while it is being written, or after its writer was killed.

In the room: `read_records`, for the files of the sink `file` and of a collector. Not in the room: whether what is read is true and
complete (`kipuka audit verify`, `kipuka.audit.verify`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

__all__ = ["read_records"]


def read_records(path: Path) -> list[dict[str, Any]]:
    """The whole records in a file of JSON lines (UTF-8), in its order, repeats among them; none where there is no file.

    Left out is what follows the last line end, since it is being written, and a line that is no JSON: a writer that was killed in the
    middle of a line ends it when it is back, and writes its record once more. Who asks whether a record is missing looks at the
    numbers of those that are there.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")  # a character may be torn, too
    except FileNotFoundError:
        return []
    *lines, _being_written = text.split("\n")
    records: list[dict[str, Any]] = []
    for line in lines:
        try:
            records.append(cast("dict[str, Any]", json.loads(line)))
        except ValueError:  # torn
            continue
    return records
