"""The commands in the documents, run as a reader would paste them: those in blocks marked `run`."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from kipuka.testing.server import free_port

from .pages import PAGES, ROOT, blocks, name_of
from .shell import run

RUNNABLE = [page for page in PAGES if any(block.marked("run") for block in blocks(page))]
NEED_KERBEROS = {"docs/how-to/kerberos.md"}
"""Pages whose commands come with the plugin for Kerberos, which is compiled."""

NEED_POSTGRESQL = {"docs/how-to/postgresql.md"}
"""Pages whose reader has a PostgreSQL server, and its address in the environment."""

NEED_DIRECTORY = {"docs/how-to/ldap.md"}
"""Pages whose reader has a directory; its commands come with the plugin for LDAP, which is compiled."""


def with_tools(page):
    """The page as a parameter; a block marked `needs:pki` uses that tool."""
    words = {word for block in blocks(page) for word in block.info if word.startswith("needs:")}
    marks = [pytest.mark.needs(*(word[len("needs:") :] for word in words))]
    if name_of(page) in NEED_KERBEROS:
        marks.append(pytest.mark.kerberos)
    if name_of(page) in NEED_DIRECTORY:
        marks.append(pytest.mark.needs("slapd", "ldap.h", "sasl.h"))
    return pytest.param(page, id=name_of(page), marks=marks)


# A second server of a page is the first one started again: whoever reads has stopped it.
START = """
[ -z "${{SERVER:-}}" ] || {{ kill $SERVER; wait $SERVER || true; mv server.log server.log.$SERVER; }}
{command} >server.log 2>&1 &
SERVER=$!
trap 'kill $SERVER 2>/dev/null; wait $SERVER || true' EXIT
until grep -q listening server.log; do kill -0 $SERVER || {{ cat server.log; exit 1; }}; sleep 0.05; done
"""


def script(page):
    """The page's commands as one script: a server goes to the background, everything else must succeed."""
    parts = ["set -euo pipefail\n"]
    for block in blocks(page):
        if block.marked("run"):
            assert block.language == "sh"
            parts.append(START.format(command=block.text.strip()) if block.marked("server") else block.text)
    text = "".join(parts)
    for port in ("8443", "8444"):
        text = text.replace(f":{port}", f":{free_port()}")
    return text


def test_the_pages_that_must_be_run_are_run():
    """A page that loses its marks would pass unseen."""
    names = {name_of(page) for page in RUNNABLE}
    assert {"README.md", "docs/tutorial/first-certificate.md"} <= names
    assert {name_of(page) for page in PAGES if page.parent.name == "how-to"} <= names
    assert "docs/reference/clients.md" in names


@pytest.fixture(name="directory")
def _directory(tmp_path_factory):
    """The directory of the plugin's own tests, which has the people that the page speaks of."""
    file = ROOT / "plugins" / "kipuka_auth_ldap" / "tests" / "slapd.py"
    spec = importlib.util.spec_from_file_location("kipuka_docs_slapd", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.Slapd(tmp_path_factory.mktemp("directory")) as directory:
        yield directory


@pytest.mark.server
@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", [with_tools(page) for page in RUNNABLE])
def test_the_commands_of_a_page_work_as_written(page, tmp_path, request):
    environment = {}
    if name_of(page) in NEED_POSTGRESQL:
        server = request.getfixturevalue("kipuka_postgresql")
        environment |= {"PGHOST": "127.0.0.1", "PGPORT": f"{server.port}"}
        environment |= {"PGUSER": "kipuka", "PGPASSWORD": server.password}
    text = script(page)
    if name_of(page) in NEED_DIRECTORY:
        directory = request.getfixturevalue("directory")
        environment |= {"DIRECTORY_PASSWORD": directory.service_password, "ALICES_PASSWORD": directory.password}
        text = text.replace("ldaps://ldap.example.com", directory.encrypted)
        text = text.replace("/etc/kipuka/directory-ca.pem", str(directory.ca_file))
    done = run(text, tmp_path, environment)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    for log in tmp_path.glob("server.log*"):
        assert "Traceback" not in log.read_text(encoding="utf-8")


@pytest.mark.server
@pytest.mark.needs("postgres")
def test_the_lines_of_the_move_to_postgresql_work_as_written(tmp_path, kipuka_postgresql):
    """They are run beside a configuration that the reader has already."""
    [lines] = [block.text for page in PAGES for block in blocks(page) if block.marked("move")]
    target = kipuka_postgresql.create_database()
    done = run("set -e\nkipuka init .; set -x\n" + lines, tmp_path, {"DB_URL": target.url})
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "the audit log is intact" in done.stdout
    assert (tmp_path / "before-the-move.db").is_file()
    assert target.execute("SELECT count(*) FROM audit_events") >= [(1,)]
    kipuka_postgresql.drop_database(target.name)
