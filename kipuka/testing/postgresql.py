"""A PostgreSQL server of the tests' own: made in a folder, reached by a password over loopback, killed at will.

In the room: the cluster's life, its databases, and a look beside kipuka at what is in one. Not in the room: the fixtures
(`kipuka.testing.fixtures`). The programs are the ones of the machine's package `postgresql`; PostgreSQL refuses to run as root, so
that root runs it as the user of that package.

Its text sorts as people's does (ICU), not by octets: what depends on the order of octets shows here.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

from kipuka.testing.server import free_port, lives, wait_until

__all__ = ["Database", "PostgreSQLServer", "find_programs"]

_STOP_TIMEOUT = 30.0
_FOLDERS = "/usr/lib/postgresql"


def find_programs() -> Path | None:
    """The folder with `initdb` and `postgres`: the newest that Debian has, or wherever the PATH has them. None without."""
    versions = Path(_FOLDERS).glob("*/bin/initdb")
    newest = max(versions, key=lambda file: float(file.parent.parent.name), default=None)
    found = newest or shutil.which("initdb")
    return None if found is None else Path(found).resolve().parent


class Database:
    """One database of the server. Every method has a connection of its own, as the test's eyes beside kipuka."""

    def __init__(self, server: PostgreSQLServer, name: str) -> None:
        self.server = server
        self.name = name

    @property
    def url(self) -> str:
        """For `[db] url`."""
        return f"postgresql://kipuka:{self.server.password}@127.0.0.1:{self.server.port}/{self.name}"

    def execute(self, statement: str, *arguments: object) -> list[tuple[Any, ...]]:
        """Run one statement in a transaction of its own; its rows."""
        import psycopg

        with psycopg.connect(self.url, connect_timeout=30) as connection:
            cursor = connection.execute(cast("Any", statement), arguments or None)
            return [] if cursor.description is None else cursor.fetchall()

    @contextmanager
    def transaction(self) -> Generator[Any]:
        """A psycopg connection with a transaction that is rolled back at the end of the block, unless it was committed."""
        import psycopg

        with psycopg.connect(self.url, connect_timeout=30) as connection:
            yield connection
            connection.rollback()

    def terminate_backends(self, application_name: str = "kipuka%") -> int:
        """`pg_terminate_backend` for every connection whose application is named so (LIKE); how many there were."""
        rows = self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = %s AND application_name LIKE %s AND pid <> pg_backend_pid()",
            self.name,
            application_name,
        )
        return len(rows)


class PostgreSQLServer:
    """A cluster in a folder of its own. A context manager: made and started, stopped and removed.

    The folder is made in `parent`, else where the system has its temporary files; PostgreSQL's user must be let in there. `environ` is laid over
    the environment of the server.
    """

    def __init__(
        self,
        *,
        settings: dict[str, str] | None = None,
        parent: Path | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        programs = find_programs()
        if programs is None:
            msg = "there is no PostgreSQL on this machine; as root run: apt install postgresql"
            raise LookupError(msg)
        self._programs = programs
        self._settings = settings or {}
        self._user = _unprivileged()
        self._environ = dict(environ or {})
        self._folder = Path(tempfile.mkdtemp(prefix="kipuka-pg-", dir=parent))
        self._process: subprocess.Popen[Any] | None = None
        self._databases = 0
        self.port = free_port()
        self.password = secrets.token_hex(12)

    def __enter__(self) -> Self:
        try:
            self._make()
            return self.start()
        except BaseException:
            self._remove()
            raise

    def __exit__(
        self, _type: type[BaseException] | None, _value: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        try:
            if self.is_running:
                self.stop()
        finally:
            self._remove()

    @property
    def log(self) -> str:
        """What the server has written."""
        file = self._folder / "log"
        return file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""

    @property
    def is_running(self) -> bool:
        """Whether the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def socket_folder(self) -> Path:
        """Where its Unix socket is."""
        return self._folder

    def start(self) -> Self:
        """Start, and wait until it takes connections."""
        with (self._folder / "log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - the tests' own arguments
                [self._programs / "postgres", "-D", self._folder / "data"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._environ,
                start_new_session=True,
                **self._as_user(),
            )
        self._process = process
        try:
            wait_until(self._takes_connections, timeout=60, what="the start of PostgreSQL")
        except TimeoutError:
            raise TimeoutError(self.log) from None
        return self

    def stop(self) -> None:
        """Disconnect everybody and stop (a "fast" stop)."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop at once, without a checkpoint: as after a crash, the next start recovers (an "immediate" stop)."""
        self._end(signal.SIGQUIT)

    def destroy(self) -> None:
        """SIGKILL to every process of it."""
        process = self._running()
        os.kill(process.pid, signal.SIGSTOP)  # first, so that it starts no more
        others = _children(process.pid)
        for pid in (process.pid, *others):
            os.kill(pid, signal.SIGKILL)
        process.wait(_STOP_TIMEOUT)
        wait_until(lambda: not any(map(lives, others)), what="the end of PostgreSQL's processes")

    @contextmanager
    def frozen(self) -> Generator[None]:
        """Every process stopped by SIGSTOP for the block: connections stand, and nobody answers."""
        process = self._running()
        os.kill(process.pid, signal.SIGSTOP)  # first, so that it starts no more
        others = _children(process.pid)
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in (*others, process.pid):
                os.kill(pid, signal.SIGCONT)

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """Change settings while it runs (ALTER SYSTEM, and a reload); None takes one back."""
        for name, value in settings.items():
            self._maintain(f"ALTER SYSTEM RESET {name}" if value is None else f"ALTER SYSTEM SET {name} = '{value}'")
        self._maintain("SELECT pg_reload_conf()")

    def create_database(self, *, template: str | None = None) -> Database:
        """A new database, as a copy of another where one is named."""
        self._databases += 1
        name = f"test{self._databases}"
        self.database("postgres")  # the maintenance database
        self._maintain(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
        return Database(self, name)

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever is still connected."""
        self._maintain(f"DROP DATABASE {name} WITH (FORCE)")

    def database(self, name: str) -> Database:
        """The database of that name."""
        return Database(self, name)

    def _maintain(self, statement: str) -> None:
        import psycopg

        with psycopg.connect(self.database("postgres").url, autocommit=True) as connection:
            connection.execute(cast("Any", statement))

    def _make(self) -> None:
        password_file = self._folder / "password"
        password_file.write_text(self.password, encoding="ascii")
        if self._user is not None:
            for path in (self._folder, password_file):
                os.chown(path, self._user.pw_uid, self._user.pw_gid)
        command = [self._programs / "initdb", "-D", self._folder / "data", "--username=kipuka", "--encoding=UTF8"]
        command += ["--auth=scram-sha-256", f"--pwfile={password_file}", "--locale=C.UTF-8"]
        command += ["--locale-provider=icu", "--icu-locale=en-US", "--no-instructions"]
        done = subprocess.run(  # noqa: S603 - the tests' own arguments
            command, capture_output=True, text=True, check=False, **self._as_user()
        )
        if done.returncode:
            raise RuntimeError(done.stdout + done.stderr)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "fsync": "on",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "log_min_messages": "warning",
            **self._settings,
        }
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self._folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as file:
            file.writelines(lines)

    def _takes_connections(self) -> bool:
        import psycopg

        if not self.is_running:
            raise RuntimeError(self.log)
        try:
            psycopg.connect(self.database("postgres").url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, number: signal.Signals) -> None:
        process = self._running()
        os.kill(process.pid, number)
        process.wait(_STOP_TIMEOUT)

    def _running(self) -> subprocess.Popen[Any]:
        if self._process is None or self._process.poll() is not None:
            msg = "PostgreSQL is not running"
            raise RuntimeError(msg)
        return self._process

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": self._folder}
        return {
            "cwd": self._folder,
            "user": self._user.pw_uid,
            "group": self._user.pw_gid,
            "extra_groups": [],
            "umask": 0o077,
        }

    def _remove(self) -> None:
        if self.is_running:
            self._end(signal.SIGQUIT)
        for _ in range(50):  # the last of its processes may still write a file
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._folder.exists():
                return
            time.sleep(0.1)


def _unprivileged() -> pwd.struct_passwd | None:
    """The user to run PostgreSQL as where this process is root's; None where it runs as we do."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()]
