"""The section `[ldap]`: what is refused, and by which words; what `kipuka check` warns of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from kipuka_auth_ldap.config import LDAPSettings
from kipuka_auth_ldap.findings import check_settings
from pydantic import ValidationError

from kipuka.testing.pki import make_root

GOOD = {
    "servers": ["ldaps://ldap.example.com"],
    "ca_file": "ca.pem",
    "bind_dn": "cn=kipuka,dc=example,dc=com",
    "bind_password": "secret-of-the-server",
    "user_base": "ou=people,dc=example,dc=com",
    "require_group": "cn=est,ou=groups,dc=example,dc=com",
}


def settings(tmp_path, **changes) -> LDAPSettings:
    section = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    return LDAPSettings.model_validate(section, context={"base": tmp_path})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"servers": []}, "at least 1 item"),
        ({"servers": ["http://ldap.example.com"]}, "is no server"),
        ({"servers": ["ldaps://"]}, "is no server"),
        ({"servers": ["ldaps://a b"]}, "is no server"),
        ({"servers": ["ldaps://user@host"]}, "is no server"),
        ({"servers": ["ldaps://host:0"]}, "is no server"),
        ({"servers": ["ldaps://host:port"]}, "is no server"),
        ({"servers": ["ldaps://host/dc=example"]}, "is no server"),
        ({"servers": ["ldapi://%2Fvar%2Frun%2Fldapi"]}, "is no server"),
        ({"servers": ["ldaps://host", "ldaps://host:636/"]}, "names one server twice"),
        ({"ca_file": None}, "ca_file is missing"),
        ({"ca_file": None, "allow_plaintext": True}, "ca_file is missing"),
        ({"bind_password": None}, "go together"),
        ({"bind_dn": None}, "go together"),
        ({"bind_password": ""}, "anonymous"),
        ({"bind_password": "env:KIPUKA_NO_SUCH"}, "not set"),
        ({"user_base": None}, "user_base is missing"),
        ({"user_base": "people"}, "not a distinguished name"),
        ({"user_filter": "(uid=x)"}, "has no {user}"),
        ({"user_filter": "(uid={user}"}, "not a search filter"),
        ({"user_dn": "uid={user},dc=example"}, "user_dn and user_base"),
        ({"user_dn": "uid=x,dc=example", "user_base": None}, "has no {user}"),
        ({"user_dn": "{user}", "user_base": None}, "not a distinguished name"),
        ({"require_group": "est"}, "neither the name of a group"),
        ({"require_group": "(memberOf=x"}, "neither the name of a group"),
        ({"subject": "CN=fixed"}, "no field"),
        ({"subject": "{user}"}, "RFC 4514"),
        ({"subject": "CN={user"}, "brace"),
        ({"subject": ""}, "is empty"),
        ({"email_attribute": "mail address"}, "not the name of an attribute"),
        ({"timeout": 60}, "less than or equal"),
        ({"pool_size": 0}, "greater than or equal"),
        ({"no_such_key": 1}, "Extra inputs"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_write(tmp_path, changes, words):
    with pytest.raises(ValidationError) as caught:
        settings(tmp_path, **changes)
    assert words in str(caught.value)
    assert "secret-of-the-server" not in str(caught.value)


def test_servers_get_their_port_and_their_encryption(tmp_path):
    ready = settings(tmp_path, servers=["ldaps://a", "ldap://b", "ldap://[::1]:3389"])
    assert [(one.uri, one.start_tls, one.ca_file is not None) for one in ready.endpoints] == [
        ("ldaps://a:636", False, True),
        ("ldap://b:389", True, True),
        ("ldap://[::1]:3389", True, True),
    ]
    plain = settings(tmp_path, servers="ldap://127.0.0.1", allow_plaintext=True, ca_file=None)
    assert [(one.uri, one.start_tls, one.ca_file) for one in plain.endpoints] == [("ldap://127.0.0.1:389", False, None)]


def test_the_password_is_in_no_repr(tmp_path):
    ready = settings(tmp_path)
    assert "secret-of-the-server" not in repr(ready) + str(ready.model_dump())


def found(tmp_path, **changes):
    return [(one.severity, one.key) for one in check_settings(settings(tmp_path, **changes))]


def test_a_good_section_has_no_findings(tmp_path):
    (tmp_path / "ca.pem").write_bytes(make_root().pem)
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "finding"),
    [
        ({"servers": ["ldap://ldap.example.com"], "allow_plaintext": True}, ("warning", "allow_plaintext")),
        ({"allow_plaintext": True}, ("warning", "allow_plaintext")),
        ({"bind_dn": None, "bind_password": None}, ("warning", "bind_dn")),
        ({"require_group": None}, ("warning", "require_group")),
        ({"ca_file": "absent.pem"}, ("error", "ca_file")),
        ({"ca_file": "empty.pem"}, ("error", "ca_file")),
        ({"ca_file": "old.pem"}, ("error", "ca_file")),
    ],
)
def test_what_is_weak_or_cannot_work_is_told(tmp_path, changes, finding):
    long_ago = datetime.now(UTC) - timedelta(days=9)
    (tmp_path / "ca.pem").write_bytes(make_root().pem)
    (tmp_path / "empty.pem").write_bytes(b"")
    (tmp_path / "old.pem").write_bytes(make_root(not_before=long_ago, not_after=long_ago + timedelta(days=1)).pem)
    assert found(tmp_path, **changes) == [finding]
