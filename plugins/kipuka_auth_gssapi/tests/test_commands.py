"""`kipuka gssapi test`, over a deployment without a KDC, a ticket or a keytab."""

from __future__ import annotations

import json

import pytest

SECTION = {
    "keytab": "none.keytab",
    "service_principal": "HTTP/est.example.com@EXAMPLE.COM",
    "principal_mapping": {
        "user@EXAMPLE.COM": "CN=User,OU=People,DC=example,DC=com",
        "default_template": "CN={principal},OU=Users,DC=example,DC=com",
    },
}


@pytest.fixture(name="look", scope="module")
def _look(template, tmp_path_factory):
    deployment = template.copy(tmp_path_factory.mktemp("command") / "kipuka")
    deployment.configure({"gssapi": SECTION})

    def look(principal, *more, expect=0):
        return deployment.kipuka("gssapi", "test", "--principal", principal, *more, expect=expect)

    return look


def test_a_user_is_shown_with_subject_and_names(look):
    assert look("alice@EXAMPLE.COM").stdout.splitlines() == [
        "subject  CN=alice@EXAMPLE.COM,OU=Users,DC=example,DC=com",
        "name     UPN:alice@EXAMPLE.COM",
        "name     KRB5PrincipalName:alice@EXAMPLE.COM",
    ]


def test_scripts_get_a_document(look):
    assert json.loads(look("user@EXAMPLE.COM", "--json").stdout) == {
        "principal": "user@EXAMPLE.COM",
        "subject": "CN=User,OU=People,DC=example,DC=com",
        "names": ["UPN:user@EXAMPLE.COM", "KRB5PrincipalName:user@EXAMPLE.COM"],
        "host_name": None,
    }
    assert json.loads(look("WS42$@EXAMPLE.COM", "--json").stdout)["host_name"] == "ws42"


def test_a_host_is_shown_with_its_name(look):
    lines = look("host/web.example.com@EXAMPLE.COM").stdout.splitlines()
    assert lines[1] == "name     DNS:web.example.com"
    machine = look("WS42$@EXAMPLE.COM").stdout
    assert "DNS:ws42, and that followed by a domain" in machine


@pytest.mark.parametrize(
    ("principal", "code", "words"),
    [("alice@PARTNER.COM", 1, "principal not mapped: alice@PARTNER.COM"), ("alice", 2, "with its realm")],
)
def test_who_is_not_mapped_is_told_why(look, principal, code, words):
    assert words in look(principal, expect=code).stderr
