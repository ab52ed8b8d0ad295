"""On which kind of file system a path is.

In the room: reading the kernel's table of mounts (proc(5), mountinfo). Not in the room: what a database may lie on
(`kipuka.cli.check`).
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["MOUNTS", "NETWORK", "file_system_of"]

MOUNTS = Path("/proc/self/mountinfo")

NETWORK = frozenset(
    {
        "afs",
        "ceph",
        "cifs",
        "drvfs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "fuse.vmhgfs-fuse",
        "glusterfs",
        "lustre",
        "nfs",
        "nfs4",
        "smb3",
        "smbfs",
        "vboxsf",
    }
)
"""Kinds whose files are another machine's: locks and shared memory, which SQLite's journal rests on, end at its border."""

_OCTAL = re.compile(r"\\([0-7]{3})")


def file_system_of(path: Path, mounts: str) -> str | None:
    """The kind of the mount that an absolute path without symbolic links is in, or None where the table has none."""
    found: tuple[int, str] | None = None
    for line in mounts.splitlines():
        place, separator, file_system = line.partition(" - ")
        columns = place.split(" ")
        if not separator or len(columns) < 5:
            continue
        point = Path(_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), columns[4]))
        # of two mounts on one point the later one is seen
        if path.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            found = len(point.parts), file_system.split(" ")[0]
    return None if found is None else found[1]
