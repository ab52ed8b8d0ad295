"""`make run` after its environment is there: the deployment, the printed lines, Ctrl-C, and the next run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from kipuka.testing.server import free_port, wait_until

from .pages import ROOT

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

PATIENCE = 90


class Run:
    """One run of scripts/run.py in a folder that stands for a clone."""

    def __init__(self, clone, port, out):
        self.out = out
        with self.out.open("w", encoding="utf-8") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "scripts/run.py", "--port", str(port)],
                cwd=clone,
                env={name: value for name, value in os.environ.items() if not name.startswith("KIPUKA_")},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )

    @property
    def text(self):
        return self.out.read_text(encoding="utf-8")

    def lines(self):
        """The printed commands, once the server is ready."""
        wait_until(
            lambda: "Ctrl-C stops it" in self.text or self.process.poll() is not None,
            timeout=PATIENCE,
            what="the printed lines",
        )
        assert self.process.poll() is None, self.text
        return [line for line in self.text.splitlines() if line.startswith(("curl ", "openssl "))]

    def interrupt(self):
        """Ctrl-C: the signal goes to everything in the terminal's foreground."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(PATIENCE)


@pytest.fixture
def clone(tmp_path):
    folder = tmp_path / "clone"
    (folder / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "run.py", folder / "scripts" / "run.py")
    return folder


@pytest.fixture
def start(clone):
    """Starts runs; none is left behind."""
    runs = []

    def begin(port):
        runs.append(Run(clone, port, clone.with_name(f"out-{len(runs)}.txt")))
        return runs[-1]

    yield begin
    for run in runs:
        if run.process.poll() is None:
            os.killpg(run.process.pid, signal.SIGKILL)
            run.process.wait(PATIENCE)


def paste(clone, lines):
    """The lines, pasted one after the other into a second terminal."""
    for line in lines:
        done = subprocess.run(["bash", "-c", line], cwd=clone, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"


def test_the_printed_lines_work_ctrl_c_ends_cleanly_and_the_next_run_goes_on(clone, start):
    first = start(free_port())
    lines = first.lines()
    assert re.search(r"kipuka is ready after \d+\.\d s", first.text)
    assert [line.split("/")[-1] for line in lines if line.startswith("curl")] == [
        "cacerts",
        "simpleenroll",
        "simplereenroll",
    ]
    paste(clone, lines)
    for name in ("device", "renewed"):
        shown = subprocess.run(
            ["openssl", "x509", "-in", f"run/client/{name}.pem", "-noout", "-subject"],
            cwd=clone,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert "device-1" in shown.stdout
    assert first.interrupt() == 0
    assert "Traceback" not in first.text
    trusted = (clone / "run" / "trust.pem").read_bytes()

    second = start(1)  # the port of the deployment counts, not this one
    again = second.lines()
    assert "using the deployment in run/" in second.text
    assert (clone / "run" / "trust.pem").read_bytes() == trusted
    token = re.search(r"-u (:\w+)", " ".join(again))
    assert token is not None
    assert token[1] not in first.text
    paste(clone, again)
    assert second.interrupt() == 0


def test_a_server_runs_without_what_has_to_be_compiled():
    """`make run` installs neither the plugin for Kerberos nor what it is compiled against."""
    program = "import environment; print(*[folder.name for folder in environment.own_projects('run')])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT / "scripts", capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.split() == [ROOT.name, "kipuka_auth_otp", "kipuka_ca_local"]
    pinned = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    assert "gssapi==" not in pinned
    assert "gssapi==" in (ROOT / "requirements" / "headers.txt").read_text(encoding="utf-8")
