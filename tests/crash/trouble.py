"""Trouble with the disk under an SQLite database.

In the room: `Trouble`, which a test begins and ends at will, and its kinds: a true small file system that fills up or goes away (which
root can make), a file that is moved, and a library under the server (`trouble.c`) that answers as the kernel does for a disk that is
full, broken, read-only or slow. Not in the room: what a server should do about it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from . import sites

_SIZE = 24 * 1024 * 1024
_FAMILY = ("", "-wal", "-shm")


@dataclass
class Trouble:
    """A site whose disk can be put into trouble, and what its log then says."""

    site: sites.Site
    begin: Callable[[], None]
    end: Callable[[], None]
    says: str

    @contextmanager
    def going_on(self) -> Iterator[None]:
        self.begin()
        try:
            yield
        finally:
            self.end()


@dataclass
class Scene:
    """What the kinds are made with: how servers are started, and folders of the test's own."""

    kipuka_servers: Callable
    scratch: Path
    stack: contextlib.ExitStack
    changes: Mapping[str, object] = field(default_factory=dict)

    def mounted(self) -> Path:
        """An empty file system of its own, as a folder. Only root can have one: others skip, but not where everything is to be tried."""
        folder = self.scratch / "mount"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "kipuka-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = f"no file system of its own: {done.stderr.strip().splitlines()[0]}"
            if os.environ.get("CI"):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        self.stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True, capture_output=True)
        return folder

    def site_on(self, folder: Path) -> sites.Site:
        """A site whose database is in that folder."""

        def move(deployment) -> None:
            shutil.move(deployment.database, folder / "kipuka.db")
            deployment.configure({"db": {"url": f"sqlite:///{folder / 'kipuka.db'}"}})

        return sites.sqlite(self.kipuka_servers, self.changes, prepare=move)

    def site_over_library(self) -> tuple[sites.Site, Path]:
        """A site whose server has the library under it, and the file by which that is ruled."""
        library, control = self.scratch / "trouble.so", self.scratch / "trouble"
        source = Path(__file__).with_name("trouble.c")
        command = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        environ = {"LD_PRELOAD": str(library), "TROUBLE_CONTROL": str(control)}
        return sites.sqlite(self.kipuka_servers, self.changes, environ=environ), control


def full(scene: Scene) -> Trouble:
    """A small file system, filled by a file."""
    folder = scene.mounted()
    ballast = folder / "ballast"

    def fill() -> None:
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert shutil.disk_usage(folder).free < 4096

    return Trouble(scene.site_on(folder), fill, ballast.unlink, "database or disk is full")


def unmounted(scene: Scene) -> Trouble:
    """The file system is gone from where it was, and comes back there."""
    disk = scene.mounted()
    folder = scene.scratch / "data"
    folder.mkdir()

    def mount() -> None:
        subprocess.run(["mount", "--bind", str(disk), str(folder)], check=True)

    def unmount() -> None:
        subprocess.run(["umount", "-l", str(folder)], check=True)

    mount()
    scene.stack.callback(unmount)
    return Trouble(scene.site_on(folder), unmount, mount, "is not the file that was opened")


def moved(scene: Scene) -> Trouble:
    """The database and its log are moved away, and back."""
    site = sites.sqlite(scene.kipuka_servers, scene.changes)
    (server,) = site.servers
    here, there = server.deployment.database, scene.scratch / "elsewhere.db"

    def move(source: Path, target: Path) -> None:
        for end in _FAMILY:
            Path(f"{source}{end}").rename(f"{target}{end}")

    return Trouble(site, lambda: move(here, there), lambda: move(there, here), "is not the file that was opened")


def _library(scene: Scene, *, error: int = 0, milliseconds: int = 0, says: str = "") -> Trouble:
    site, control = scene.site_over_library()

    def begin() -> None:
        draft = control.with_suffix(".new")
        draft.write_text(f"{error} {milliseconds}\n", encoding="ascii")
        draft.rename(control)

    return Trouble(site, begin, control.unlink, says)


def no_space(scene: Scene) -> Trouble:
    """Every write fails with ENOSPC."""
    return _library(scene, error=errno.ENOSPC, says="database or disk is full")


def read_only(scene: Scene) -> Trouble:
    """Every write, and every opening to write, fails with EROFS, as when the kernel has made a file system read-only."""
    return _library(scene, error=errno.EROFS, says="attempt to write a readonly database")


def broken(scene: Scene) -> Trouble:
    """Every write fails with EIO."""
    return _library(scene, error=errno.EIO, says="disk I/O error")


def slow(scene: Scene) -> Trouble:
    """Each commit takes two seconds longer."""
    return _library(scene, milliseconds=2000)
