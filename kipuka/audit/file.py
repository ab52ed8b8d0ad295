"""The audit sink `file`: a file of JSON lines, one event each.

In the room: appending, durably, and following a file that was rotated away by renaming. Not in the room: rotation itself.

A built-in that is a plugin like any other: it imports `kipuka.api` only.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kipuka.api import AuditRecord, AuditSinkKind, ConfigPath, Finding, Section, Services, hookimpl

__all__ = ["FileSink", "FileSinkSettings", "kipuka_audit_sinks"]

KIPUKA_API = "1.0"


class FileSinkSettings(Section):
    """Audit events as JSON lines in a file."""

    path: ConfigPath
    """File the events are appended to. Made with mode 0600 where it is missing; when it is renamed, as by log rotation, a new one is made."""


class FileSink:
    """Appends records to a file; each `write` is on disk when it returns."""

    def __init__(self, path: Path, services: Services) -> None:
        self._path = path
        self._services = services
        self._descriptor: int | None = None
        # A `write` that ran into its time limit may still be at work in its thread when the next one comes. That one fails at
        # once: were it to wait, a disk that hangs would take one thread of the host's pool after another.
        self._turn = threading.Lock()

    async def write(self, records: Sequence[AuditRecord], /) -> None:
        """Append the records and sync. Raises OSError; then the file has none of them, or the tail of one line at most."""
        data = "".join(f"{record.to_json()}\n" for record in records).encode("utf-8")
        await self._services.run_blocking(self._append, data)

    def close(self) -> None:
        """Close the file, unless a `write` hangs in it."""
        if self._turn.acquire(blocking=False):
            try:
                self._close()
            finally:
                self._turn.release()

    def _append(self, data: bytes) -> None:
        if not self._turn.acquire(blocking=False):
            msg = f"the write before to {self._path} has not come to its end"
            raise OSError(msg)
        try:
            descriptor = self._open()
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # a crash tore the last line; its record comes again
            try:
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]
                os.fsync(descriptor)
            except OSError:
                self._close()  # what was written is found out anew when the file is opened again
                raise
        finally:
            self._turn.release()

    def _open(self) -> int:
        if self._descriptor is not None and not self._is_current(self._descriptor):
            self._close()
        if self._descriptor is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(self._path, flags, 0o600)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                os.close(descriptor)
                msg = f"{self._path} is not a regular file"
                raise OSError(msg)
            self._descriptor = descriptor
            _sync_folder(self._path.parent)
        return self._descriptor

    def _is_current(self, descriptor: int) -> bool:
        try:
            there = self._path.stat()
        except FileNotFoundError:
            return False
        held = os.fstat(descriptor)
        return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)

    def _close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _sync_folder(folder: Path) -> None:
    """A new file is there after a power cut only once its folder is on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def open_file_sink(settings: FileSinkSettings, services: Services) -> AsyncGenerator[FileSink]:
    """The sink. A path that cannot be opened is seen at once, rather than at the first event."""
    sink = FileSink(settings.path, services)
    await sink.write(())
    try:
        yield sink
    finally:
        sink.close()


def check_file_sink(settings: FileSinkSettings) -> Iterable[Finding]:
    """What `kipuka check` says of the file and its folder."""
    try:
        mode = settings.path.stat().st_mode
    except FileNotFoundError:
        if not settings.path.parent.is_dir():
            problem = f"the folder {settings.path.parent} does not exist"
            yield Finding(
                severity="error", key="path", problem=problem, remedy="make it, for the server's account only"
            )
        elif not os.access(settings.path.parent, os.W_OK | os.X_OK):
            problem = f"no file can be made in {settings.path.parent}"
            yield Finding(severity="error", key="path", problem=problem, remedy="let the server's account write there")
        return
    except OSError as error:
        yield Finding(
            severity="error", key="path", problem=f"{settings.path}: {error.strerror}", remedy="name another file"
        )
        return
    if not stat.S_ISREG(mode):
        problem = f"{settings.path} is not a regular file"
        yield Finding(severity="error", key="path", problem=problem, remedy="name a file, or use the sink stdout")
        return
    if not os.access(settings.path, os.R_OK | os.W_OK):
        problem = f"{settings.path} cannot be written"
        yield Finding(
            severity="error", key="path", problem=problem, remedy="let the server's account read and write it"
        )
    if mode & 0o077:
        problem = f"others may read or write {settings.path}"
        yield Finding(severity="warning", key="path", problem=problem, remedy=f"chmod 600 {settings.path}")


@hookimpl
def kipuka_audit_sinks() -> list[AuditSinkKind[FileSinkSettings]]:
    """The sink `file`."""
    return [AuditSinkKind(name="file", config=FileSinkSettings, open=open_file_sink, check=check_file_sink)]
