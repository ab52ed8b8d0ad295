"""Trouble with the disk under a database, and with a database across a network.

In the room: `Trouble`, which a test begins and ends at will, and its kinds. For SQLite: a true small file system that fills up or goes away (which
root can make), a file that is moved, and a library under the server (`trouble.c`) that answers as the kernel does for a disk that is
full, broken, read-only or slow. For PostgreSQL: it is stopped, does not answer, takes no writes, has a disk that fills up, or a slow one (the same
library). Not in the room: what a server should do about it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from kipuka.store.turnstile import Turnstile
from kipuka.testing.postgresql import PostgreSQLServer

from . import sites

_SIZE = 24 * 1024 * 1024
_SIZE_OF_POSTGRESQL = 144 * 1024 * 1024
_PATIENCE = timedelta(seconds=60)
_FAMILY = ("", "-wal", "-shm")


@dataclass
class Trouble:
    """A site whose database can be put into trouble, and what its log then says.

    `turn` is a block in which no server can write. `some_writes_succeed`: what fits into the space that is left. `is_slow`: to refuse takes seconds.
    """

    site: sites.Site
    begin: Callable[[], object]
    end: Callable[[], object]
    says: str = ""
    turn: Callable[[], AbstractContextManager[object]] = contextlib.nullcontext
    some_writes_succeed: bool = False
    is_slow: bool = False

    @contextmanager
    def going_on(self) -> Iterator[None]:
        self.begin()
        try:
            yield
        finally:
            self.end()


@dataclass
class Scene:
    """What the kinds are made with: the ground of the site, and what is different in its configuration."""

    ground: sites.Ground
    changes: Mapping[str, object] = field(default_factory=dict)

    def mounted(self, folder: Path, size: int = _SIZE, mode: str = "0700") -> Path:
        """An empty file system of its own there. Only root can have one: others skip, but not where everything is to be tried."""
        command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode={mode}", "kipuka-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = f"no file system of its own: {done.stderr.strip().splitlines()[0]}"
            if os.environ.get("CI"):
                pytest.fail(reason, pytrace=False)
            pytest.skip(reason)
        self.ground.stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True, capture_output=True)
        return folder

    def folder(self, name: str) -> Path:
        """A new folder of the test's own."""
        folder = self.ground.folder / name
        folder.mkdir()
        return folder

    def folder_for_postgresql(self) -> Path:
        """A new folder into which another user is let: that of a test is not."""
        folder = Path(tempfile.mkdtemp(prefix="kipuka-trouble-"))
        self.ground.stack.callback(shutil.rmtree, folder)
        folder.chmod(0o755)
        return folder

    def site_on(self, folder: Path) -> sites.Site:
        """A site whose database is in that folder."""

        def move(deployment) -> None:
            shutil.move(deployment.database, folder / "kipuka.db")
            deployment.configure({"db": {"url": f"sqlite:///{folder / 'kipuka.db'}"}})

        return sites.sqlite(self.ground, self.changes, prepare=move)

    def library(self, folder: Path) -> tuple[Mapping[str, str], Path]:
        """The environment of a process that has the library under it, and the file by which that is ruled."""
        library, control = folder / "trouble.so", folder / "trouble"
        source = Path(__file__).with_name("trouble.c")
        command = ["gcc", "-Wall", "-Werror", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
        subprocess.run(command, check=True)
        return {"LD_PRELOAD": str(library), "TROUBLE_CONTROL": str(control)}, control

    def postgresql(self, **more) -> tuple[PostgreSQLServer, sites.Site]:
        """A PostgreSQL of the scene's own, and a site on it."""
        server = self.ground.stack.enter_context(PostgreSQLServer(**more))
        return server, sites.postgresql(self.ground, self.changes, server=server)


def _filled(folder: Path) -> Path:
    """Fill the file system there with one file."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return ballast


def full(scene: Scene) -> Trouble:
    """A small file system, filled by a file."""
    folder = scene.mounted(scene.folder("mount"))

    def fill() -> None:
        _filled(folder)
        assert shutil.disk_usage(folder).free < 4096

    return Trouble(scene.site_on(folder), fill, (folder / "ballast").unlink, "database or disk is full")


def unmounted(scene: Scene) -> Trouble:
    """The file system is gone from where it was, and comes back there."""
    disk = scene.mounted(scene.folder("mount"))
    folder = scene.folder("data")

    def mount() -> None:
        subprocess.run(["mount", "--bind", str(disk), str(folder)], check=True)

    def unmount() -> None:
        subprocess.run(["umount", "-l", str(folder)], check=True)

    mount()
    scene.ground.stack.callback(unmount)
    return Trouble(scene.site_on(folder), unmount, mount, "is not the file that was opened")


def moved(scene: Scene) -> Trouble:
    """The database and its log are moved away, and back."""
    site = sites.sqlite(scene.ground, scene.changes)
    (server,) = site.servers
    here, there = server.deployment.database, scene.ground.folder / "elsewhere.db"

    def move(source: Path, target: Path) -> None:
        for end in _FAMILY:
            Path(f"{source}{end}").rename(f"{target}{end}")

    return Trouble(site, lambda: move(here, there), lambda: move(there, here), "is not the file that was opened")


def _ruled(control: Path, *, error: int = 0, milliseconds: int = 0) -> Callable[[], None]:
    """What begins a trouble of the library; to remove the file ends it."""

    def begin() -> None:
        draft = control.with_suffix(".new")
        draft.write_text(f"{error} {milliseconds}\n", encoding="ascii")
        draft.rename(control)

    return begin


def _library(scene: Scene, *, error: int, says: str) -> Trouble:
    environ, control = scene.library(scene.ground.folder)
    site = sites.sqlite(scene.ground, scene.changes, environ=environ)
    return Trouble(site, _ruled(control, error=error), control.unlink, says)


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
    environ, control = scene.library(scene.ground.folder)
    site = sites.sqlite(scene.ground, scene.changes, environ=environ)
    (server,) = site.servers
    turnstile = scene.ground.stack.enter_context(
        contextlib.closing(Turnstile(server.deployment.database, limit=_PATIENCE))
    )
    return Trouble(site, _ruled(control, milliseconds=2000), control.unlink, turn=turnstile.turn)


# --- PostgreSQL ---


def stopped(scene: Scene) -> Trouble:
    """PostgreSQL is stopped, and started again."""
    server, site = scene.postgresql()
    return Trouble(site, server.stop, server.start, "Connection refused")


def hanging(scene: Scene) -> Trouble:
    """Nothing of PostgreSQL answers any more, and no connection is closed: as when its machine is cut off."""
    server, site = scene.postgresql()
    frozen = contextlib.ExitStack()
    return Trouble(site, lambda: frozen.enter_context(server.frozen()), frozen.close, "no answer within", is_slow=True)


def takes_no_writes(scene: Scene) -> Trouble:
    """PostgreSQL says that it is read-only, as one that follows another does."""
    server, site = scene.postgresql()
    return Trouble(
        site,
        lambda: server.configure({"default_transaction_read_only": "on"}),
        lambda: server.configure({"default_transaction_read_only": None}),
        "read-only transaction",
    )


def full_disk(scene: Scene) -> Trouble:
    """The file system of PostgreSQL fills up, with its log in it. Where that stopped it, its service manager starts it again, with space."""
    folder = scene.mounted(scene.folder_for_postgresql(), _SIZE_OF_POSTGRESQL, "0755")
    server, site = scene.postgresql(parent=folder, settings={"max_wal_size": "32MB"})

    def empty() -> None:
        (folder / "ballast").unlink()
        if not server.is_running:
            server.start()

    return Trouble(site, lambda: _filled(folder), empty, "No space left on device", some_writes_succeed=True)


def slow_postgresql(scene: Scene) -> Trouble:
    """PostgreSQL needs two seconds to sync its log."""
    environ, control = scene.library(scene.folder_for_postgresql())
    server, site = scene.postgresql(environ=environ)
    name = site.database_url.rpartition("/")[2]

    @contextmanager
    def turn() -> Iterator[None]:
        with server.database(name).transaction() as connection:
            connection.execute("LOCK TABLE writers IN EXCLUSIVE MODE")
            yield

    return Trouble(site, _ruled(control, milliseconds=2000), control.unlink, turn=turn)
