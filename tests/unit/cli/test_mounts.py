"""Reading the table of mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kipuka.cli.mounts import MOUNTS, file_system_of

TABLE = r"""
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:40 / /srv rw,relatime shared:2 master:7 - nfs4 filer:/srv rw,vers=4.2
24 23 0:41 / /srv/with\040space rw - fuse.sshfs me@host: rw
25 22 0:42 / /mnt rw - tmpfs tmpfs rw
26 22 0:43 / /mnt rw - cifs //host/share rw
a line that is none
27 22 0:44 / /odd
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/var/lib/kipuka", "ext4"),
        ("/srv", "nfs4"),
        ("/srv/kipuka", "nfs4"),
        ("/srvx", "ext4"),
        ("/srv/with space/kipuka", "fuse.sshfs"),
        ("/mnt/kipuka", "cifs"),
        ("/odd", "ext4"),
    ],
)
def test_a_path_is_on_the_innermost_and_latest_mount(path, kind):
    assert file_system_of(Path(path), TABLE) == kind


def test_of_an_empty_table_nothing_is_known():
    assert file_system_of(Path("/"), "") is None


def test_this_machines_own_table_is_read():
    assert file_system_of(Path("/"), MOUNTS.read_text()) is not None
