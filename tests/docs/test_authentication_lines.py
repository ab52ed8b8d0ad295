"""The curl lines of docs/reference/authentication.md, run as they stand but for the server's address, the sample token and its end."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta

import pytest

from kipuka.distinguished_names import parse_dn
from kipuka.testing.pki import make_csr, make_root

from .pages import ROOT, blocks

pytestmark = pytest.mark.server

PAGE = ROOT / "docs" / "reference" / "authentication.md"
SAMPLE_TOKEN = "q7RkT2mZx9Lw4VbN8sHc"
SAMPLE_END = "2030-06-30T23:59:59Z"
LINES = [
    block.text
    for block in blocks(PAGE)
    # Those with a ticket need a KDC: the plugin's own tests run them.
    if block.language == "sh" and "curl" in block.text and "--negotiate" not in block.text
]


def is_for_admins(line):
    return "/admin/" in line


def needs_both(line):
    return is_for_admins(line) and "--cert" in line and "Authorization" in line


@pytest.fixture(scope="module")
def administrators():
    return make_root("Administrators")


@pytest.fixture(scope="module")
def start(kipuka_servers, administrators):
    """A server whose [admin.tls] has that mode, once for each."""
    started = {}

    def server(mode):
        if mode not in started:
            section = {"mode": mode, "trust_anchors": "admin-ca-bundle.pem", "allow": ["CN=*,OU=Admins,O=Example"]}
            made = kipuka_servers({"admin": {"tls": section}}, start=False)
            (made.deployment.directory / "admin-ca-bundle.pem").write_bytes(administrators.pem)
            started[mode] = made.start()
        return started[mode]

    return server


@pytest.fixture
def folder(tmp_path, start, administrators):
    """The files that the lines name."""
    server = start("optional")
    factory = server.deployment.authority().issue_client("workstation-42")
    admin = administrators.issue_client(parse_dn("CN=alice,OU=Admins,O=Example"))
    (tmp_path / "trust.pem").write_bytes(server.deployment.trust)
    for name, holder in (("client", factory), ("admin", admin)):
        (tmp_path / f"{name}.pem").write_bytes(holder.pem)
        (tmp_path / f"{name}.key").write_bytes(holder.key_pem())
    (tmp_path / "current.pem").write_bytes(factory.pem)
    (tmp_path / "current.key").write_bytes(factory.key_pem())
    for name in ("request", "renewal"):
        csr = make_csr(common_name="workstation-42", key=factory.key)
        (tmp_path / f"{name}.csr").write_bytes(csr.pem)
    return tmp_path


def run(line, server, folder):
    """The line as a reader would paste it; curl is told to fail where the server refuses."""
    token = server.make_token("workstation-42").value if SAMPLE_TOKEN in line else ""
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}"
    text = line.replace("est.example.com:8443", f"localhost:{server.port}")
    text = text.replace(SAMPLE_TOKEN, token).replace(SAMPLE_END, tomorrow)
    return subprocess.run(
        ["bash", "-euc", text.replace("curl ", "curl -sS --fail-with-body ", 1)],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "ADMIN_TOKEN": server.deployment.admin_token},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_there_are_lines_of_every_sort():
    """A page that loses them would pass unseen."""
    assert [needs_both(line) for line in LINES].count(True) == 1
    assert sum("--cert" in line and is_for_admins(line) for line in LINES) == 2
    assert sum("/simpleenroll" in line or "/simplereenroll" in line for line in LINES) == 3
    assert sum("--cert" not in line and is_for_admins(line) for line in LINES) == 2


@pytest.mark.parametrize("line", LINES)
def test_a_line_works_under_the_mode_that_it_stands_under(start, folder, line):
    """RULES E1: docs' curl lines match the mode they stand under."""
    done = run(line, start("required" if needs_both(line) else "optional"), folder)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


@pytest.mark.parametrize("line", [line for line in LINES if is_for_admins(line) and "--cert" not in line])
def test_a_line_with_a_bearer_token_alone_is_told_the_way_out_in_mode_required(start, folder, line):
    """RULES E1."""
    done = run(line, start("required"), folder)
    assert done.returncode == 22, f"{done.stdout}\n{done.stderr}"
    assert "client certificate required" in done.stdout
    assert 'mode = \\"optional\\"' in done.stdout
