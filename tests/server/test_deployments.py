"""The configurations in deploy/ are sound, and servers start with them; the wheels that the image is made of have all of kipuka."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from kipuka.testing.pki import make_csr
from kipuka.testing.server import free_port

from ..wheels import build_wheel  # noqa: TID252 - tests are no package that is installed

pytestmark = pytest.mark.server

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
EXPECTED = {  # what check warns of there, on purpose
    "systemd": set(),
    "compose": set(),
    "kubernetes": {"audit.sink"},  # stdout is what a cluster collects; the database has the events
}


@pytest.fixture(params=sorted(EXPECTED))
def shipped(request, kipuka_template, tmp_path):
    """A deployment with a shipped configuration: its folders are here, its database is SQLite, its ports are free ones."""
    deployment = kipuka_template.copy(tmp_path / "pki")
    text = (DEPLOY / request.param / "kipuka.toml").read_text()
    for folder in ("/srv/pki", "/var/lib/kipuka/pki", "/var/lib/kipuka"):
        text = text.replace(folder, str(deployment.directory))
    deployment.config_file.write_text(text)
    deployment.config_file.chmod(0o600)
    ports = {"listen": f"127.0.0.1:{free_port()}", "admin_listen": f"127.0.0.1:{free_port()}"}
    deployment.configure({"server": {**ports, "node": "est-1"}, "db": {"url": "sqlite:///kipuka.db"}})
    return request.param, deployment


def test_check_finds_nothing_in_it_but_what_is_meant(shipped):
    name, deployment = shipped
    found = json.loads(deployment.kipuka("check", "--json").stdout)
    assert found["ok"], found
    assert {finding["key"] for finding in found["findings"]} == EXPECTED[name]


def test_a_server_starts_with_it_and_issues_a_certificate(shipped):
    _name, deployment = shipped
    with deployment.serve() as server:
        assert server.client().request("GET", "/readyz").status == 200
        token = json.loads(deployment.kipuka("otp", "create", "--client-id", "device-1", "--json").stdout)["token"]
        assert server.client().enroll(make_csr(common_name="device-1"), token=token).status == 200
        server.kill()  # a clean stop would take its `drain_delay`


def test_the_commands_of_the_manifests_exist(kipuka_template):
    for command in (["serve"], ["db", "upgrade"], ["tls", "renew"]):
        kipuka_template.kipuka(*command, "--help")


PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1
UNDER_MDWE = f"""
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0):
    sys.exit(77)
os.execv(sys.argv[1], sys.argv[1:])
"""


def test_the_unit_is_right_to_allow_memory_that_is_written_and_executed(kipuka_template, tmp_path):
    """MemoryDenyWriteExecute= is left out of the unit: should a server once start without such memory, it can come in."""
    deployment = kipuka_template.copy(tmp_path / "pki")
    kipuka = Path(sys.executable).with_name("kipuka")
    done = subprocess.run(
        [sys.executable, "-c", UNDER_MDWE, str(kipuka), "serve", "-c", str(deployment.config_file)],
        env=deployment.environment(),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip("this kernel cannot deny it (PR_SET_MDWE)")
    assert "MemoryError" in done.stderr
    assert done.returncode != 0


@pytest.mark.slow
def test_the_wheels_of_the_image_are_a_whole_server(tmp_path):
    """What the Containerfile builds and installs, on this machine: the commands, the migrations and both plugins are there."""
    wheels, site, source = tmp_path / "wheels", tmp_path / "site", tmp_path / "source"
    source.mkdir()
    names = [".", "plugins/kipuka_auth_otp", "plugins/kipuka_ca_local"]
    for name in ("LICENSE", "README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, source / name)
    for name in ("kipuka", *names[1:]):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in names:
        build_wheel(source / name, wheels)
    files = sorted(wheels.glob("*.whl"))
    assert [file.name.split("-")[0] for file in files] == ["kipuka", "kipuka_auth_otp", "kipuka_ca_local"]
    for file in files:
        site.mkdir(exist_ok=True)
        with zipfile.ZipFile(file) as archive:
            archive.extractall(site)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(site), "HOME": str(tmp_path)}
    program = "import kipuka; print(kipuka.__file__); from kipuka.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "init", str(tmp_path / "pki"), "--host", "localhost"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))
    assert (tmp_path / "pki" / "kipuka.db").stat().st_size > 0
