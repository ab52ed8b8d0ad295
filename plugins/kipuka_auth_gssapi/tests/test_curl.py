"""curl and kinit are the clients, openssl reads the answer: the chapter's lines."""

from __future__ import annotations

import subprocess

import pytest

from .conftest import HOST, MACHINE, STRANGE

pytestmark = [pytest.mark.kerberos, pytest.mark.server, pytest.mark.interop]


def run(directory, *command, environ=None):
    done = subprocess.run(command, cwd=directory, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(name="directory")
def _directory(tmp_path, server):
    (tmp_path / "est-server-ca.pem").write_bytes(server.deployment.trust)
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "client.key"]
    run(tmp_path, "openssl", "req", "-new", *key, "-subj", "/CN=whatever", "-out", "request.csr")
    return tmp_path


@pytest.mark.parametrize(
    ("principal", "subject"),
    [
        ("alice", "CN=alice@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
        ("bob", "CN=User,OU=People,DC=example,DC=com"),
        (HOST, "CN=host/web.example.com@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
        (MACHINE, "CN=WS42$@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
        (STRANGE, r"CN=we\,ird\+\"na=me\\@\;\<x\>@EXAMPLE.COM,OU=Users,DC=example,DC=com"),
    ],
)
def test_the_line_of_the_chapter_enrols(server, realm, directory, principal, subject):
    """`curl --negotiate -u :` after `kinit`."""
    tickets = realm.kdc.kinit(principal)
    run(
        directory,
        *("curl", "--silent", "--show-error", "--fail-with-body", "--negotiate", "-u", ":"),
        *("--cacert", "est-server-ca.pem", "-H", "Content-Type: application/pkcs10"),
        *("--data-binary", "@request.csr", "-o", "answer"),
        f"https://localhost:{server.port}/.well-known/est/simpleenroll",
        environ=tickets.environment,
    )
    run(directory, "openssl", "base64", "-d", "-in", "answer", "-out", "answer.p7")
    run(directory, "openssl", "pkcs7", "-inform", "DER", "-in", "answer.p7", "-print_certs", "-out", "client.crt")
    shown = run(directory, "openssl", "x509", "-in", "client.crt", "-noout", "-subject", "-nameopt", "RFC2253")
    assert shown == f"subject={subject}\n"


def test_without_a_ticket_curl_is_told_what_may_be_presented(server, realm, directory):
    run(
        directory,
        *("curl", "--silent", "--show-error", "--negotiate", "-u", ":", "--cacert", "est-server-ca.pem"),
        *("-H", "Content-Type: application/pkcs10", "--data-binary", "@request.csr", "-o", "answer", "-D", "headers"),
        f"https://localhost:{server.port}/.well-known/est/simpleenroll",
        environ=realm.kdc.environment(cache=directory / "no-cache"),
    )
    headers = (directory / "headers").read_text()
    assert headers.startswith("HTTP/1.1 401")
    assert headers.lower().index("www-authenticate: basic") < headers.lower().index("www-authenticate: negotiate")
