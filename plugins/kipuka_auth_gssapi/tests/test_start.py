"""What is said at the start, by `kipuka serve` as by `kipuka check`, of a `[gssapi]` that cannot work or is weak."""

from __future__ import annotations

import shutil

import pytest

from kipuka.testing.pki import make_csr, make_root
from kipuka.testing.server import ServerDied

from .conftest import SERVICE
from .kdc import REALM, negotiate

pytestmark = [pytest.mark.kerberos, pytest.mark.server]


def refused(deployment, *words):
    """By both, in the same words."""
    said = deployment.kipuka("check", expect=3).stdout
    with pytest.raises(ServerDied) as died:
        deployment.serve().start()
    for word in words:
        assert word in said
        assert word in str(died.value)


def test_without_a_keytab_nothing_starts(deploy):
    refused(deploy(gssapi={"keytab": "no.keytab"}), "gssapi.keytab", "is not there")


def test_a_keytab_must_have_a_key_of_each_service_principal(deploy):
    other = f"HTTP/other@{REALM}"
    refused(
        deploy(gssapi={"service_principal": [SERVICE, other]}), "gssapi.service_principal", f"has no key of {other}"
    )


def test_a_keytab_that_others_can_read_is_warned_about(deploy, realm):
    deployment = deploy(gssapi={"keytab": "loose.keytab"})
    keytab = deployment.directory / "loose.keytab"
    shutil.copyfile(realm.keytab, keytab)
    keytab.chmod(0o644)
    said = deployment.kipuka("check").stdout
    assert "gssapi.keytab" in said
    assert "mode 0644" in said
    with deployment.serve() as server:
        assert "gssapi.keytab" in server.wait_for_audit("configuration_loaded")["data"]["permissive"]
    keytab.chmod(0o600)
    assert "gssapi.keytab" not in deployment.kipuka("check").stdout


def test_a_section_that_is_switched_off_takes_no_tickets(deploy, alice):
    """RULES K4: nor does anybody look for its keytab."""
    with deploy(gssapi={"enabled": False, "keytab": "no.keytab"}).serve() as server:
        for fields in ({}, {"authorization": negotiate(alice.token())}):
            answer = server.client().enroll(make_csr(), **fields)
            assert (answer.status, answer.text) == (401, "")
            assert [challenge.split()[0] for challenge in answer.all("WWW-Authenticate")] == ["Basic"]


def test_a_channel_binding_cannot_be_required_where_it_is_undefined(deploy):
    """RFC 5929, 4.1: by `kipuka check` and by the start, with a server certificate whose signature has no hash."""
    deployment = deploy(gssapi={"channel_binding": "required"})
    deployment.kipuka("check")
    server, tls = make_root(key="mldsa65").issue_server("localhost", "127.0.0.1"), deployment.settings["tls"]
    (deployment.directory / tls["cert"]).write_bytes(server.pem)
    (deployment.directory / tls["key"]).write_bytes(server.key_pem())
    refused(deployment, "gssapi.channel_binding", "tls-server-end-point is undefined")
    deployment.configure({"gssapi": {"channel_binding": "when_sent"}})
    deployment.kipuka("check")
